"""Blocks of a pcapng file, little-endian and with times in nanoseconds, for those who write one."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from multifd_proto import __version__

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
COMMENT, APPLICATION, IF_DESCRIPTION, IF_TSRESOL, ISB_IFDROP = 1, 4, 3, 9, 5
_WORDS = struct.Struct("<7I")


def section(comment: str) -> bytes:
    """Return the header of a section, with a comment on the whole capture."""
    told = {COMMENT: comment.encode(), APPLICATION: f"multifd-proto {__version__}".encode()}
    return block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options(told))


def interface(link_type: int, description: bytes, snap: int = 0) -> bytes:
    """Return the description of an interface.

    Args:
        link_type: a LINKTYPE number.
        description: what readers show.
        snap: most bytes of a frame that are in the file; 0 for no limit.
    """
    told = {IF_DESCRIPTION: description, IF_TSRESOL: b"\x09"}
    return block(INTERFACE, struct.pack("<HHI", link_type, 0, snap) + options(told))


def packet_head(number: int, time: int, captured: int, length: int) -> bytes:
    """Return what comes before a packet's bytes; behind them comes `packet_tail`.

    Args:
        number: of the interface, from 0 in the order of their descriptions.
        time: nanoseconds since the epoch.
        captured: bytes of the packet in the file.
        length: bytes of the packet.
    """
    size = _WORDS.size + captured + -captured % 4 + 4
    return _WORDS.pack(PACKET, size, number, time >> 32, time & 0xFFFFFFFF, captured, length)


def packet_tail(captured: int) -> bytes:
    """Return what comes behind a packet's bytes."""
    size = _WORDS.size + captured + -captured % 4 + 4
    return bytes(-captured % 4) + size.to_bytes(4, "little")


def options(values: Mapping[int, bytes]) -> bytes:
    """Return a block's options, by code; empty ones are left out."""
    parts = [
        struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in values.items()
        if value
    ]
    return b"".join(parts) + bytes(4)


def block(kind: int, body: bytes) -> bytes:
    """Return a block; `body` has a multiple of 4 bytes."""
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size
