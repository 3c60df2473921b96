# SPDX-License-Identifier: GPL-2.0-or-later
"""What the scapy layers of captured streams have in common: where they come from, and the gap."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from scapy.packet import Packet

from multifd_proto.views.scapy_fields import NoteField


class Origin(NamedTuple):
    """Where a message of a capture comes from."""

    stream: int
    """Number of the connection."""
    channel: int | None
    """Id of the channel; None for the main stream, or where it is not known."""
    offset: int
    """Place in the connection's stream, in bytes."""
    round: int | None
    """SYNC packets, or marks of the main stream, before it; None where that is not known."""
    source: str | None
    """Sending end, as address and port; None for a raw dump."""
    destination: str | None
    """Receiving end."""


class _Message(Packet):
    """Base: a packet that remembers where it was read.

    Attributes:
        origin: that place; None for packets that come from no capture.
    """

    __slots__ = ["origin"]
    origin: Origin | None

    def __init__(self, *args: Any, **fields: Any) -> None:
        self.origin = None
        super().__init__(*args, **fields)

    def copy(self) -> Self:
        """Return a deep copy."""
        clone: Self = super().copy()
        clone.origin = self.origin
        return clone


class MultiFDGap(_Message):
    """Bytes of a stream that were not captured, or could not be followed; it builds to nothing.

    It stands in the list of messages for a loss between them, and below a message for bytes that
    are missing from its payload.
    """

    name = "multifd gap"
    fields_desc = [NoteField("length", 0), NoteField("reason", "lost")]

    def mysummary(self) -> str:
        """Say how many bytes, and why."""
        return f"MultiFDGap {self.length} bytes {self.reason}"
