"""What a channel does about bytes that it cannot see or follow: account for them, search, confirm.

Guest memory can hold anything, whole packets too. So a packet that was found by searching, and
all events after it, are held back until the packet behind it starts where it says; if it does
not, they never happened, and the search goes on.
"""

from __future__ import annotations

from multifd_proto.machine.events import BytesMissing, ChannelState, Event
from multifd_proto.machine.resync import PacketSearch

UNSYNCHRONISED = "unsynchronised"
"""Reason of bytes that were captured but passed over while looking for the next packet."""


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

    def deny(self) -> list[BytesMissing]:
        """What is held is not true; return the losses in it, which are."""
        held, self._held = self._held or [], None
        return [e for e in held if isinstance(e, BytesMissing) and e.reason != UNSYNCHRONISED]

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

    def found(self, offset: int, time: int) -> None:
        """A plausible packet starts at `offset`: hold everything until it is confirmed."""
        self._log.hold()
        begin = self._begin
        self.account(offset, time)
        self._begin = begin

    def denied(self) -> None:
        """The packet was none: the stretch goes on from where it began."""
        for gap in self._log.deny():
            self.gap(gap)
