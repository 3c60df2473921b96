"""Keeps the chapters of `spec/` true: what stands between markers is written by the code.

A chapter marks a place, each marker a line of its own:

    <!-- render: flags -->
    <!-- end render -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from multifd_proto.errors import CatalogueError
from multifd_proto.views import tables, wireshark
from multifd_proto.views.worked_example import worked_example
from multifd_proto.wire.schema import (
    MappedRamHeader,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
)

RENDERERS: dict[str, Callable[[], str]] = {
    "layout MultiFDInit_t": partial(tables.layout, MultiFDInit),
    "layout MultiFDPacketHdr_t": partial(tables.layout, MultiFDPacketHdr),
    "layout MultiFDPacket_t": partial(tables.layout, MultiFDPacket),
    "layout MultiFDPacket_t before 9.0": partial(tables.layout, MultiFDPacketBefore9),
    "layout MultiFDPacketDeviceState_t": partial(tables.layout, MultiFDPacketDeviceState),
    "layout MappedRamHeader": partial(tables.layout, MappedRamHeader),
    "page-sizes": tables.page_sizes,
    "flags": tables.flags,
    "methods": tables.methods,
    "dialects": tables.dialects,
    "changes": tables.changes,
    "quirks": tables.quirks,
    "states": tables.states,
    "commands": tables.commands,
    "requirements": tables.requirements,
    "worked-example": worked_example,
}
"""What can stand in a marker, and what writes it."""

END = "<!-- end render -->"
"""The line that ends a rendered place."""
_MARKER = re.compile(r"^<!-- (?:render: (?P<name>.+)|end render) -->$", re.MULTILINE)
_PLACE = re.compile(rf"^(<!-- render: (?P<name>.+) -->\n)(?:.*\n)*?{END}$", re.MULTILINE)


def render_all(spec_dir: Path) -> dict[Path, str]:
    """Return the text that each chapter of a folder must have, and its dissector.

    Raises:
        CatalogueError: a marker names nothing that is rendered, or has no end, or is only an end.
    """
    chapters = {
        path: render(path.name, path.read_text(encoding="utf-8"))
        for path in sorted(spec_dir.glob("*.md"))
    }
    return {**chapters, spec_dir / wireshark.SCRIPT: wireshark.dissector()}


def render(name: str, text: str) -> str:
    """Return the text of the chapter `name` with its marked places rendered.

    Raises:
        CatalogueError: as for `render_all`.
    """
    _check(name, text)
    return _PLACE.sub(lambda place: f"{place[1]}\n{RENDERERS[place['name']]()}\n\n{END}", text)


def _check(name: str, text: str) -> None:
    opened: tuple[str, str] | None = None
    for marker in _MARKER.finditer(text):
        place, what = f"{name}:{text.count(chr(10), 0, marker.start()) + 1}", marker["name"]
        if what is None and opened is None:
            raise CatalogueError(f"{place}: end render without a render before it")
        if what is not None and opened is not None:
            break
        if what is not None and what not in RENDERERS:
            names = ", ".join(RENDERERS)
            raise CatalogueError(f"{place}: render is {what!r}, must be one of: {names}")
        opened = (place, what) if what is not None else None
    if opened is not None:
        raise CatalogueError(f"{opened[0]}: render {opened[1]!r} has no {END!r} after it")
