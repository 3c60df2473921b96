"""Sizes on the command line."""

from __future__ import annotations

import re
from typing import Any

import click


class SizeType(click.ParamType[int]):
    """A number of bytes, with K, M or G behind it or not."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Read a size."""
        match = re.fullmatch(r"(\d+)([KMG]?)", str(value))
        if not match or not int(match[1]):
            self.fail(f"{value!r} is no size, such as 512M", param, ctx)
        return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
