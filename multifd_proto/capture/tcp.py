"""Reassembly of one direction of a TCP connection.

Sequence numbers become stream offsets without bound; bytes come out once, in order, and uncopied
where they arrive in order. What arrives early is kept, within limits, until the hole before it is
filled or declared lost. Of overlapping bytes the first copy wins.
"""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.capture.events import Data, End, Gap, Half, Skipped, StreamEvent
from multifd_proto.capture.pieces import PIECE, Absent, Held, Payload, Pieces

MODULUS = 1 << 32
NEVER = -1
"""No sequence number."""

_BEHIND = 1 << 30  # the largest window (RFC 7323): what seems to be older than that is newer
_START_SEGMENTS = 16
_START_BYTES = 256 << 10


class Direction:
    """One direction of a connection. The iterators that it returns must be exhausted.

    Attributes:
        half: What the consumer knows of it.
        expected: Sequence number of a segment that is simply the next one; `NEVER` if none can be.
        position: Offset of the first byte that is not delivered or passed over.
        reported: Offset up to which there were events: the bytes from here to `position` are
            unwanted, passed over, and become one `Skipped`.
        clock: Time of the last byte before `position`.
        ended: `End` was given.
    """

    __slots__ = (
        "_fin", "_limits", "_origin", "_pieces", "_settled", "_syn",
        "clock", "ended", "expected", "half", "position", "reported",
    )  # fmt: skip

    def __init__(self, half: Half, held_by_all: Held) -> None:
        self.half = half
        self.expected = NEVER
        self.position = self.reported = 0
        self.clock = half.opened
        self.ended = False
        self._limits = held_by_all.limits
        self._pieces = Pieces(held_by_all)
        self._syn = NEVER  # sequence number of the SYN
        self._origin = NEVER  # sequence number of offset 0
        self._settled = False  # whether the origin is final
        self._fin: int | None = None  # offset of the FIN

    def can_begin(self, seq: int) -> bool:
        """Tell whether a SYN is of this connection: a repeat, or all that is known follows it."""
        if self._syn != NEVER:
            return seq == self._syn
        if self._settled:
            return False
        ahead = self._pieces[0][0] - self._offset_of(seq + 1) if self._pieces else 0
        return 0 <= ahead <= self._limits.window

    def begin(self, seq: int, time: int) -> None:
        """Anchor the stream at a SYN that `can_begin`."""
        if self._syn == NEVER:
            self._syn = seq
            # the file may have it behind what it came before
            self.half.opened = min(self.half.opened, time)
            self.half.anchored = True
            self._settle(self._offset_of(seq + 1))

    def segment(
        self, time: int, seq: int, data: memoryview, missing: int, fin: bool
    ) -> Iterator[StreamEvent]:
        """Take any segment.

        Of `missing` bytes behind `data` see `Segment`: the snap length cut them off, or they were
        there and not kept.
        """
        kept_out = max(-missing, 0)
        self.half.bytes += len(data) + kept_out
        if self.ended:
            return
        offset = self._offset_of(seq)
        if not self._settled:
            offset = self._begin_without_syn(offset, len(data) + kept_out, fin)
        stop, end = offset + len(data), offset + len(data) + abs(missing)
        yield from self._place(time, offset, stop, data)
        if missing:
            absent = Absent.NOT_KEPT if kept_out else Absent.SNAPPED
            yield from self._place(time, stop, end, absent)
        if fin and self._fin is None:
            self._fin = end
        if self._pieces:
            yield from self._drain()
        if self._fin is not None and self.position >= self._fin:
            yield from self.end(time, reset=False, by_peer=False)
        plain = self._settled and not self._pieces and self._fin is None
        self.expected = (self._origin + self.position) % MODULUS if plain else NEVER

    def pass_to(self, end: int, clock: int, *, reported: bool) -> None:
        """Move on to an offset: the bytes before it are somebody else's, or unwanted.

        Args:
            end: the offset; only where `expected` is one of a next segment.
            clock: time of the byte before it.
            reported: somebody else has told of these bytes; otherwise they become `Skipped`.
        """
        self.expected = (self.expected + end - self.position) % MODULUS
        self.position, self.clock = end, max(clock, self.clock)
        if reported:
            self.reported = end

    def flush(self) -> Iterator[StreamEvent]:
        """Give out all that is held: nothing that could fill the holes will come any more."""
        if self._pieces and not self._settled:
            self._settle(self._pieces[0][0])
        yield from self._drain()
        while self._pieces:
            yield from self._lose(self._pieces[0][0], self._pieces[0][2])
        if self._fin is not None and not self.ended:
            yield from self._gap(self.clock, self._fin, "lost")
            yield from self.end(self.clock, reset=False, by_peer=False)
        yield from self.report_passed()

    def end(self, time: int, *, reset: bool, by_peer: bool) -> Iterator[StreamEvent]:
        """End the half, if it has not ended."""
        if not self.ended:
            yield from self.report_passed()
            self.ended = True
            self.expected = NEVER
            self._pieces.forget(len(self._pieces))
            yield End(max(time, self.clock), self.half, self.position, reset, by_peer)

    def deliver(self, time: int, end: int, payload: Payload) -> Iterator[StreamEvent]:
        """Give out the bytes from `position` to `end`, or pass over those that are unwanted."""
        if payload is Absent.SNAPPED:
            yield from self._gap(time, end, "snapped")
            return
        half, start = self.half, self.position
        wanted = end
        if isinstance(payload, memoryview):
            wanted = min(max(start, half.unwanted_until), end)
        self.clock = max(time, self.clock)
        self.position = wanted
        if wanted >= half.unwanted_until:
            yield from self.report_passed()
        if isinstance(payload, memoryview) and wanted < end:
            self.position = self.reported = end
            yield Data(self.clock, half, wanted, payload[wanted - start :])

    def report_passed(self) -> Iterator[StreamEvent]:
        """Give the `Skipped` of the bytes that were passed over, if any."""
        start, self.reported = self.reported, self.position
        if start < self.position:
            yield Skipped(self.clock, self.half, start, self.position - start)

    def _offset_of(self, seq: int) -> int:
        """Unwrap a sequence number; the first one of all gets room before it."""
        if self._origin == NEVER:
            self._origin = (seq - _BEHIND) % MODULUS
        ahead = (seq - self._origin - self.position) % MODULUS
        return self.position + (ahead if ahead < MODULUS - _BEHIND else ahead - MODULUS)

    def _settle(self, lowest: int) -> None:
        """Make what is now offset `lowest` offset 0."""
        self._origin = (self._origin + lowest) % MODULUS
        self._pieces.shift(lowest)
        self._settled = True
        self.half.origin = self._origin

    def _begin_without_syn(self, offset: int, size: int, fin: bool) -> int:
        """Settle the origin once enough is held; return `offset`, which moves with the origin."""
        count = len(self._pieces) + 1
        cost = size + PIECE * (count + 1)
        enough = count >= _START_SEGMENTS or self._pieces.held + cost > _START_BYTES or fin
        if not enough and not self._pieces.exceed(cost):
            return offset
        lowest = min(offset, self._pieces[0][0]) if self._pieces else offset
        self._settle(lowest)
        return offset - lowest

    def _place(self, time: int, offset: int, end: int, payload: Payload) -> Iterator[StreamEvent]:
        """Deliver or keep what is new of the bytes from `offset` to `end`."""
        parts = self._pieces.new_parts(max(offset, self.position), end)
        if payload is not Absent.SNAPPED:
            again = end - offset - sum(b - a for a, b in parts)
            self.half.retransmitted += again
            if again and self._pieces and isinstance(payload, memoryview):
                self.half.conflicts += self._pieces.conflicts(offset, payload)
            if parts and self._pieces and parts[0][0] < self._pieces[-1][0]:
                self.half.reordered += 1
        if parts and self._settled and parts[0][0] > self.position:
            yield from self._make_room(time, parts)
        for start, stop in parts:
            part = payload
            if isinstance(payload, memoryview):
                part = payload[start - offset : stop - offset]
            if start == self.position and self._settled:
                yield from self.deliver(time, stop, part)
                yield from self._drain()
            else:
                # before the origin is settled, offsets are too large, never too small
                if stop <= self.half.unwanted_until and part is not Absent.SNAPPED:
                    part = Absent.UNWANTED
                self._pieces.keep(time, start, stop, part)

    def _make_room(self, time: int, parts: list[tuple[int, int]]) -> Iterator[StreamEvent]:
        """Declare holes lost until there is room to keep the parts, or no need to."""
        cost = sum(PIECE + end - start for start, end in parts)
        first = parts[0][0]
        while self.position < first and self._pieces.exceed(cost):
            if self._pieces and self._pieces[0][0] < first:
                yield from self._lose(self._pieces[0][0], self._pieces[0][2])
            else:
                yield from self._lose(first, time)

    def _lose(self, until: int, time: int) -> Iterator[StreamEvent]:
        """Give up waiting for the bytes before `until`."""
        yield from self._gap(time, until, "lost")
        yield from self._drain()

    def _gap(self, time: int, end: int, reason: str) -> Iterator[StreamEvent]:
        if end > self.position:
            yield from self.report_passed()
            start, self.position, self.reported = self.position, end, end
            self.clock = max(time, self.clock)
            self.half.missing += end - start
            yield Gap(self.clock, self.half, start, end - start, reason)

    def _drain(self) -> Iterator[StreamEvent]:
        """Deliver the pieces that are next in order."""
        count = 0
        while self._settled and count < len(self._pieces):
            start, end, time, payload = self._pieces[count]
            if start != self.position:
                break
            count += 1
            yield from self.deliver(time, end, payload)
        if count:
            self._pieces.forget(count)
