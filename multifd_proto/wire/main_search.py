"""Finding the next boundary of a main stream where nothing tells how long the data before it are.

Device data have no length, and a gap hides lengths; what is left is to look for a section's
footer. Those five bytes may turn up in any data, so they count only if a record that makes sense
follows them, or nothing at all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Container

from multifd_proto.wire.main_records import COMMANDS, Footer, RecordType, SectionStart
from multifd_proto.wire.ram_records import RamEos

_SECTION = struct.Struct(">BIB")
_COMMAND = struct.Struct(">BH")
_PRINTABLE = re.compile(rb"[ -~]+")
_PLAUSIBLE = 0x10000
"""QEMU numbers sections from 0, and no device has come near as many versions."""
_RAM_END = re.escape(RamEos().build()) + rb"\x7e(?P<part>.{4})"
_RAM_START = rb"\x01(?P<start>\0\0..)\x03ram\0{7}."
_LAST_FOOTER = rb"\x7e(?P<last>\0\0..)\0\x06.{4}\{"
_BOUNDARY = re.compile(b"|".join((_RAM_END, _RAM_START, _LAST_FOOTER)), re.DOTALL)
_LONGEST = 17
"""Bytes of the longest of the three patterns."""
Boundary = type[RamEos] | type[SectionStart] | type[Footer]
_KINDS: dict[str, Boundary] = {"part": RamEos, "start": SectionStart, "last": Footer}

Sections = Container[int]
"""Numbers of sections."""


def _part(data: bytearray, at: int, sections: Sections | None) -> bool:
    return sections is None or int.from_bytes(data[at + 1 : at + 5], "big") in sections


def _start(data: bytearray, at: int, _sections: Sections | None) -> bool | None:
    _, section_id, length = _SECTION.unpack_from(data, at)
    if section_id >= _PLAUSIBLE or not length:
        return False
    name = at + _SECTION.size
    version = name + length + 4
    if len(data) < version + 4:
        return None
    printable = _PRINTABLE.fullmatch(data, name, name + length)
    return bool(printable) and int.from_bytes(data[version : version + 4], "big") < _PLAUSIBLE


def _command(data: bytearray, at: int, _sections: Sections | None) -> bool:
    return _COMMAND.unpack_from(data, at)[1] in COMMANDS


def _end(data: bytearray, at: int, _sections: Sections | None) -> bool | None:
    if data[at + 1] != RecordType.VMDESCRIPTION:
        return False
    return data[at + 6] == ord("{") if len(data) > at + 6 else None


_FOLLOWERS: dict[int, tuple[int, Callable[[bytearray, int, Sections | None], bool | None]]] = {
    RecordType.SECTION_PART: (5, _part),
    RecordType.SECTION_END: (5, _part),
    RecordType.SECTION_START: (_SECTION.size, _start),
    RecordType.SECTION_FULL: (_SECTION.size, _start),
    RecordType.COMMAND: (_COMMAND.size, _command),
    RecordType.EOF: (2, _end),
}
"""Records that can follow a section: the bytes that a look at them takes, and the look.

The end of the stream is told from a stray zero by the JSON, or nothing, behind it.
"""
_PART_OR_COMMAND = (RecordType.SECTION_PART, RecordType.SECTION_END, RecordType.COMMAND)


def record_at(data: bytearray, at: int, sections: Sections | None) -> bool | None:
    """Tell whether a record that can follow a section begins at `data[at]`.

    Args:
        data: what is there of the stream.
        at: index in `data`.
        sections: those that can have another part; None if any can.

    Returns:
        The answer, or None if it depends on bytes that are not there.
    """
    if at >= len(data):
        return None
    size, look = _FOLLOWERS.get(data[at], (0, None))
    if look is None:
        return False
    return look(data, at, sections) if len(data) - at >= size else None


def find_footer(
    data: bytearray, start: int, section_id: int, sections: Sections | None, *, ended: bool
) -> tuple[int, bool]:
    """Look for the footer of a section.

    Args:
        data: what is there of the stream.
        start: index in `data` to begin at.
        section_id: the section.
        sections: as in `record_at`.
        ended: nothing will follow `data`.

    Returns:
        Where the footer is, and True; or where it can be at the earliest, and False.
    """
    footer = Footer(section_id).build()
    at = data.find(footer, start)
    while at >= 0:
        verdict = record_at(data, at + len(footer), sections)
        if verdict is not False:
            return at, verdict or ended
        at = data.find(footer, at + 1)
    return max(start, len(data) - len(footer) + 1), False


def _ram_end_at(data: bytearray, at: int, section: int, ram: Sections | None) -> bool | None:
    """Tell whether the footer before `data[at]` ends a part of `ram`, as far as is known of it.

    While the number of `ram` is unknown, the data of any device that end like the word pass for
    it; but these stand at the end of the stream, where no part follows any more, nor a command.
    """
    if ram is not None:
        return section in ram and record_at(data, at, None)
    more = at >= len(data) or data[at] in _PART_OR_COMMAND
    return section < _PLAUSIBLE and more and record_at(data, at, None)


def find_boundary(
    data: bytearray, start: int, ram: Sections | None, *, ended: bool
) -> tuple[int, Boundary | None, int]:
    """Look for a record at which a stream can be followed again.

    That is the START of the `ram` section, the last word of a part of it with the footer behind,
    or the last footer of all, before the end of the stream and its description.

    Args:
        data: what is there of the stream.
        start: index in `data` to begin at.
        ram: numbers that sections of `ram` are known to have; None if none is known.
        ended: nothing will follow `data`.

    Returns:
        Where that is, the type of the record there, and the section's number; or where it can be
        at the earliest, None, and 0.
    """
    found = _BOUNDARY.search(data, start)
    while found:
        kind = _KINDS[found.lastgroup or ""]
        section = int.from_bytes(found[found.lastgroup or ""], "big")
        verdict: bool | None = True
        if kind is RamEos:
            verdict = _ram_end_at(data, found.end(), section, ram)
        if verdict or (verdict is None and ended):
            return found.start(), kind, section
        if verdict is None:
            return found.start(), None, 0
        found = _BOUNDARY.search(data, found.start() + 1)
    return max(start, len(data) - _LONGEST + 1), None, 0
