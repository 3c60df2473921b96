"""The return path: what a destination answers, on the connection of the main stream.

A message is u16 type, u16 length, data; all integers are big-endian.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct(">HH")
"""Type and length of a message."""
SHUT, PONG, SWITCHOVER_ACK = 1, 2, 7
"""Types of the messages of a precopy (QEMU: `MIG_RP_MSG_*` in migration/migration.h)."""
LENGTHS = {SHUT: 4, PONG: 4, SWITCHOVER_ACK: 0}
"""Type -> bytes of data: a u32 or nothing."""
NAMES = {SHUT: "SHUT", PONG: "PONG", SWITCHOVER_ACK: "SWITCHOVER_ACK"}
"""Type -> name."""


def reply(kind: int, data: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    return HEADER.pack(kind, len(data)) + data


def shut_status(data: bytes) -> int | None:
    """Return the status of the SHUT message among answers, 0 for success; None if there is none."""
    at = 0
    while at + HEADER.size <= len(data):
        kind, length = HEADER.unpack_from(data, at)
        at += HEADER.size
        if kind == SHUT and at + 4 <= len(data):
            return int.from_bytes(data[at : at + 4], "big")
        at += length
    return None
