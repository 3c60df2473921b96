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
from multifd_proto.views import tables
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
_MARKER = re.compile(r"^<!-- (?:render: (?P<name>.+)|end render) -->$")


def render_all(spec_dir: Path) -> dict[Path, str]:
    """Return the text that each chapter of a folder must have.

    Raises:
        CatalogueError: a marker names nothing that is rendered, or has no end, or is only an end.
    """
    return {
        path: render(path.name, path.read_text(encoding="utf-8"))
        for path in sorted(spec_dir.glob("*.md"))
    }


def render(name: str, text: str) -> str:
    """Return the text of the chapter `name` with its marked places rendered.

    Raises:
        CatalogueError: as for `render_all`.
    """
    out: list[str] = []
    opened: tuple[int, str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        marker = _MARKER.match(line)
        if marker is None:
            if opened is None:
                out.append(line)
            continue
        if marker["name"] is None:
            if opened is None:
                raise CatalogueError(f"{name}:{number}: end render without a render before it")
            out += ["", RENDERERS[opened[1]](), "", line]
            opened = None
            continue
        _check_open(name, opened)
        if marker["name"] not in RENDERERS:
            raise CatalogueError(
                f"{name}:{number}: render is {marker['name']!r}, must be one of: "
                + ", ".join(RENDERERS)
            )
        opened = number, marker["name"]
        out.append(line)
    _check_open(name, opened)
    return "\n".join(out) + "\n"


def _check_open(name: str, opened: tuple[int, str] | None) -> None:
    if opened:
        number, what = opened
        raise CatalogueError(f"{name}:{number}: render {what!r} has no {END!r} after it")
