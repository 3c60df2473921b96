"""What a channel does about bytes that it cannot see or follow: account for them, search, confirm.

Guest memory can hold anything, whole packets too, one behind the other. So a packet that was found
by searching, and all events after it, are held back until packets have followed one another for
longer than any payload is. If they do not, it never happened: what came since is looked at again.
Where a hole or the end keeps it open, the packets' numbers have to ascend.
"""

from __future__ import annotations

from itertools import pairwise

from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    Event,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.resync import PacketSearch
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

UNSYNCHRONISED = "unsynchronised"
"""Reason of bytes that were captured but passed over while looking for the next packet."""

Again = tuple[int, int, bytes | str | None]
"""A piece to be looked at again: bytes of the stream, time, and what they are: the bytes; why they
are missing; or None if they are there, but are not handed over."""


class EventLog:
    """The events of a channel, with those that wait for confirmation."""

    def __init__(self) -> None:
        self._certain: list[Event] = []
        self._held: list[Event] | None = None

    @property
    def holding(self) -> bool:
        """Events wait for confirmation."""
        return self._held is not None

    def add(self, event: Event) -> None:
        """Add an event, certain or held."""
        (self._certain if self._held is None else self._held).append(event)

    def hold(self) -> None:
        """Hold all events from now on."""
        self._held = []

    def confirm(self) -> None:
        """What is held is true."""
        self._certain += self._held or ()
        self._held = None

    def deny(self) -> None:
        """What is held is not true."""
        self._held = None

    def in_order(self, number: int) -> bool:
        """Tell whether the numbers of the packets that are held ascend, from above `number` on.

        A packet with payload that is held alone has to have one: its claim is the larger.
        """
        heads = [e for e in self._held or () if isinstance(e, PacketReceived)]
        if len(heads) == 1 and heads[0].payload and not heads[0].knows("packet_num"):
            return False
        return all(a < b for a, b in pairwise((number, *self._numbers())))

    def last_number(self, number: int) -> int:
        """Return the number of the last packet that is held; `number` if none is."""
        return (number, *self._numbers())[-1]

    def _numbers(self) -> list[int]:
        packets = (e for e in self._held or () if isinstance(e, PacketReceived))
        return [p.packet.packet_num for p in packets if p.knows("packet_num")]

    def payloads(self) -> list[PayloadReceived]:
        """Return the payloads of guest memory that are held, also those that are empty."""
        return [
            event
            for event in self._held or ()
            if isinstance(event, PayloadReceived)
            and isinstance(event.head, PacketReceived)
            and event.method
        ]

    def drain(self) -> list[Event]:
        """Hand out what is certain."""
        events, self._certain = self._certain, []
        return events


class Loss:
    """A stretch of the stream that cannot be followed, from where it began to where it ends."""

    def __init__(self, log: EventLog, begin: int, search: PacketSearch) -> None:
        self._log = log
        self._begin = begin
        self._search = search

    def search(self, data: memoryview) -> tuple[int, bytes | None, bytes]:
        """Look at bytes, as `PacketSearch.receive_data` does."""
        return self._search.receive_data(data)

    def gap(self, gap: BytesMissing) -> None:
        """More bytes are missing inside the stretch."""
        self.account(gap.offset, gap.time)
        self._log.add(gap)
        self._begin = gap.offset + gap.length
        self._search.receive_gap()

    def pass_over(self, length: int) -> int:
        """Bytes of the stretch are not handed over: none of them is of a packet; all are taken."""
        self._search.receive_gap()
        return length

    def account(self, end: int, time: int) -> None:
        """Report what was passed over up to `end`."""
        if end > self._begin:
            length = end - self._begin
            self._log.add(
                BytesMissing(self._begin, time, length, UNSYNCHRONISED, ChannelState.LOST)
            )
        self._begin = end

    def cut_head(self) -> tuple[bytes, int] | None:
        """Return the start of a packet that a hole cuts off here, and the size of its head."""
        return self._search.cut_head()

    def found(self, offset: int, head: bytes, time: int) -> None:
        """A plausible packet starts at `offset`: hold everything until it is proved."""
        self._log.hold()
        self._found, self._kept_to = offset, offset + 1
        self._kept: list[tuple[int, Again]] = []
        self.keep(offset + 1, memoryview(head)[1:], time, None)
        begin = self._begin
        self.account(offset, time)
        self._begin = begin

    def keep(self, offset: int, piece: memoryview | int, time: int, reason: str | None) -> None:
        """Keep what came after the start of the packet that was found."""
        length = piece if isinstance(piece, int) else len(piece)
        if offset + length > self._kept_to:
            what = reason if isinstance(piece, int) else bytes(piece)
            self._kept.append((offset, (length, time, what)))
            self._kept_to = offset + length

    def kept(self, offset: int, size: int) -> bytes:
        """Return what was kept of a stretch of the stream: fewer bytes where not all of it was."""
        parts = []
        for start, (_, _, what) in self._kept:
            if isinstance(what, bytes) and start < offset + size and start + len(what) > offset:
                parts.append(what[max(offset - start, 0) : offset + size - start])
        return b"".join(parts)

    def proved(self, offset: int) -> bool:
        """Tell whether packets up to one at `offset` prove the first of them.

        Those in a payload have an end where it has.
        """
        return not self._log.holding or offset - self._found > MULTIFD_PACKET_SIZE

    def denied(self, offset: int) -> tuple[int, list[Again]]:
        """The packet was none: the stretch goes on from where it began.

        Args:
            offset: up to where the stream was taken.

        Returns:
            From where to look again, and at what.
        """
        self._log.deny()
        again = []
        for start, (length, time, what) in self._kept:
            length = min(length, offset - start)
            if length > 0:
                again.append((length, time, what[:length] if isinstance(what, bytes) else what))
        return self._found + 1, again
