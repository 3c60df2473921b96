"""File names for RAM blocks."""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import count


def file_name(block: bytes, taken: Container[str] = ()) -> str:
    """Return the name of the file that a block's memory is saved in: `NAME.ram`.

    The name is a peer's and must not leave its folder: slashes, and what else is no part of a
    plain file name, become underscores.

    Args:
        block: QEMU's `idstr` of the block.
        taken: names in use; the result is none of them.
    """
    text = re.sub(r"[^\w.@+-]", "_", block.decode("latin-1"), flags=re.ASCII)[:200]
    text = text.lstrip(".") or "_"
    names = (f"{text}.ram" if n == 1 else f"{text}~{n}.ram" for n in count(1))
    return next(name for name in names if name not in taken)
