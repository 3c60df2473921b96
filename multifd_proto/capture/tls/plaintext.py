"""The plaintext of one direction, as the events that a capture would have had without TLS."""

from __future__ import annotations

from multifd_proto.capture.events import Data, End, Gap, Half, Skipped, StreamEvent

UNSURE = 4 << 20
"""Bytes added to a gap whose length is a guess: more than any packet, so that nobody who counts
through it takes what follows for the packet that was cut."""


class Plaintext:
    """Collects the events of a half.

    Attributes:
        half: Of the plaintext.
        ended: Nothing comes after this.
        time: Of what is added next.
    """

    def __init__(self, half: Half) -> None:
        self.half = half
        self.ended = False
        self.time = 0
        self._position = 0
        self._parts: list[memoryview] = []  # those of one time, not an event yet
        self._events: list[StreamEvent] = []

    def take(self) -> list[StreamEvent]:
        """Return the events since the last time."""
        self._join()
        events, self._events = self._events, []
        return events

    def add(self, data: memoryview) -> None:
        """Add the content of a record."""
        self._parts.append(data)

    def gap(self, length: int, reason: str, *, sure: bool) -> None:
        """Add bytes that are missing; the count is a guess unless it is `sure`."""
        self._join()
        length = max(0, length) + (0 if sure else UNSURE)
        if length:
            self._events.append(Gap(self.time, self.half, self._position, length, reason))
            self._position += length
            self.half.missing += length

    def end(self, *, reset: bool = False, by_peer: bool = False) -> None:
        """Add the end, which is in order unless the connection was reset."""
        self._join()
        self.ended = True
        self._events.append(End(self.time, self.half, self._position, reset, by_peer))

    def _join(self) -> None:
        """Make an event of the records that end in the same segment."""
        if not self._parts:
            return
        data = self._parts[0] if len(self._parts) == 1 else memoryview(b"".join(self._parts))
        self._parts.clear()
        half, start = self.half, self._position
        end = self._position = start + len(data)
        half.bytes += len(data)
        wanted = min(max(start, half.unwanted_until), end)
        if start < wanted:
            self._events.append(Skipped(self.time, half, start, wanted - start))
        if wanted < end:
            self._events.append(Data(self.time, half, wanted, data[wanted - start :]))
