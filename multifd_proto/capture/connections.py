"""Which segment belongs to which connection, and when connections open, end and are forgotten."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from heapq import nsmallest
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from multifd_proto.capture.events import Data, Endpoint, Half, Opened, StreamEvent
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import Segment
from multifd_proto.capture.pieces import Held
from multifd_proto.capture.tcp import MODULUS, NEVER, Direction

if TYPE_CHECKING:
    from multifd_proto.capture.columns.runs import Run
    from multifd_proto.capture.columns.segments import Segments

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_EVENTFUL = _FIN | _SYN | _RST


class Taker(Protocol):
    """Who takes the bytes of directions as columns."""

    packets: int
    """How many packets there were in the last columns."""

    def takes(self, half: Half) -> bool | None:
        """Tell whether a direction is looked at; None where columns will not do for now."""


class Connection:
    """Two directions; `first` is the one that was seen first, with this key."""

    __slots__ = ("first", "key", "opened", "second")

    def __init__(self, number: int, time: int, key: bytes, held: Held, record: int) -> None:
        source, destination = _endpoints(key)
        self.key = key
        self.opened = False
        first = Half(number, True, source, destination, time, False, record=record)
        second = Half(number, False, destination, source, time, False, record=record)
        self.first, self.second = Direction(first, held), Direction(second, held)

    def open(self, forward: Direction) -> Iterator[Opened]:
        """Announce the connection as opened by the sender of `forward`, if it is not announced."""
        if not self.opened:
            self.opened = True
            reverse = self.other(forward)
            forward.half.forward, reverse.half.forward = True, False
            yield Opened(forward.half.opened, forward.half, reverse.half)

    def other(self, direction: Direction) -> Direction:
        """Return the opposite direction."""
        return self.second if direction is self.first else self.first

    def last(self) -> int:
        """Return the time of the last byte."""
        return max(self.first.clock, self.second.clock)

    def flush(self) -> Iterator[StreamEvent]:
        """Give out all that is held of both directions."""
        yield from self.open(self.first)
        yield from self.first.flush()
        yield from self.second.flush()

    def reset(self, time: int, sender: Direction) -> Iterator[StreamEvent]:
        """End both directions."""
        yield from self.flush()
        yield from sender.end(time, reset=True, by_peer=False)
        yield from self.other(sender).end(time, reset=True, by_peer=True)


class Connections:
    """All connections of an input."""

    def __init__(self, info: CaptureInfo, limits: Limits) -> None:
        self.held = Held(limits)
        self._info = info
        self._limits = limits
        self._count = 0
        self._connections: dict[int, Connection] = {}
        self._directions: dict[bytes, Direction] = {}

    def next_number(self) -> int:
        """Number a new stream."""
        self._count += 1
        return self._count - 1

    def events(self, segments: Iterable[Segment]) -> Iterator[StreamEvent]:
        """Yield what the segments say about their streams."""
        find = self._directions.get
        for segment in segments:
            time, key, seq, flags, view, start, stop, missing = segment
            direction = find(key)
            if not direction or seq != direction.expected or missing or flags & _EVENTFUL:
                yield from self._closer_look(segment)
                continue
            half = direction.half
            half.segments += 1
            size = stop - start
            if not size:
                continue
            # the same as `Direction.segment` does, for what nearly all segments are
            half.bytes += size
            direction.expected = (seq + size) % MODULUS
            if time < direction.clock:
                time = direction.clock
            offset = direction.position
            end = offset + size
            if half.unwanted_until <= offset == direction.reported:
                direction.clock, direction.position, direction.reported = time, end, end
                yield Data(time, half, offset, view[start:stop])
            elif end < half.unwanted_until:
                direction.clock, direction.position = time, end
            else:
                yield from direction.deliver(time, end, view[start:stop])

    def columns(self, segments: Segments, taker: Taker) -> list[Run] | None:
        """Take segments all at once, where each is simply one of the next of its direction.

        Args:
            segments: the next ones of the input.
            taker: tells of which directions it takes columns.

        Returns:
            What they add to the directions that are looked at; None where something is not as
            simple as that: then nothing was taken.
        """
        parts = self._simple_parts(segments, taker)
        if parts is None:
            return None
        out = []
        for direction, count, run, wanted in parts:
            half = direction.half
            half.segments += count
            if run:
                half.bytes += run.stop - run.begin + run.retransmitted
                half.retransmitted += run.retransmitted
                half.reordered += run.reordered
                if wanted and run.stop > direction.position:
                    run.passed = direction.position - direction.reported
                    run.clock = direction.clock
                    out.append(run)
                direction.pass_to(run.stop, int(run.time[-1]), reported=bool(wanted))
        return out

    def _simple_parts(
        self, segments: Segments, taker: Taker
    ) -> list[tuple[Direction, int, Run | None, bool | None]] | None:
        """Return each direction, its segments, what they add, and whether it is looked at."""
        from multifd_proto.capture.columns.runs import next_run

        if (segments.flags & _EVENTFUL).any() or segments.missing.any():
            return None
        parts = []
        for key, which in segments.by_flow():
            direction = self._directions.get(key)
            if direction is None:
                return None
            run, wanted, half = None, taker.takes(direction.half), direction.half
            filled = which[segments.size[which] > 0]  # the rest tells not even a time
            if len(filled):
                if direction.expected == NEVER or wanted is None:
                    return None
                part = segments.part(filled)
                run = next_run(part, half, direction.expected, direction.position, direction.clock)
                if run is None:
                    return None
            parts.append((direction, len(which), run, wanted))
        held = [run.held for _, _, run, _ in parts if run and run.held]
        if held and self.held.exceed(max(held), sum(held)):
            return None
        return parts

    def flush(self) -> Iterator[StreamEvent]:
        """Give out all that is held: the input has ended."""
        for connection in self._connections.values():
            yield from connection.flush()

    def _closer_look(self, segment: Segment) -> Iterator[StreamEvent]:
        """Take a segment that is not simply the next one of its direction."""
        time, key, seq, flags, view, start, stop, missing = segment
        direction = self._directions.get(key)
        if not direction or (flags & _SYN and not direction.can_begin(seq)):
            direction = yield from self._new(time, key)
        connection = self._connections[direction.half.stream]
        direction.half.segments += 1
        if flags & _SYN:
            direction.begin(seq, time)
            seq += 1
            yield from connection.open(connection.other(direction) if flags & _ACK else direction)
        if flags & _RST:
            yield from connection.reset(time, direction)
            return
        if stop > start or missing:
            yield from connection.open(direction)
        elif flags & _FIN:
            yield from connection.open(connection.first)
        elif not flags & _SYN:
            return
        yield from direction.segment(time, seq, view[start:stop], missing, bool(flags & _FIN))

    def _new(self, time: int, key: bytes) -> Generator[StreamEvent, None, Direction]:
        """Follow one more connection, whose first segment has this key; return its direction."""
        if key in self._directions:
            yield from self._drop(self._connections[self._directions[key].half.stream])
        if len(self._connections) >= self._limits.streams:
            some = max(1, self._limits.streams // 8)
            for idle in nsmallest(some, self._connections.values(), key=Connection.last):
                self._info.dropped_streams += 1
                yield from self._drop(idle)
        connection = Connection(self.next_number(), time, key, self.held, self._info.records)
        self._connections[connection.first.half.stream] = connection
        self._directions[_reverse(key)] = connection.second
        self._directions[key] = connection.first
        return connection.first

    def _drop(self, connection: Connection) -> Iterator[StreamEvent]:
        yield from connection.flush()
        del self._connections[connection.first.half.stream]
        del self._directions[connection.key]
        self._directions.pop(_reverse(connection.key), None)  # the same if it is with itself


def _split(key: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return source and destination address, source and destination port."""
    size = (len(key) - 4) // 2
    return key[:size], key[size:-4], key[-4:-2], key[-2:]


def _reverse(key: bytes) -> bytes:
    source, destination, source_port, destination_port = _split(key)
    return destination + source + destination_port + source_port


def _endpoints(key: bytes) -> tuple[Endpoint, Endpoint]:
    source, destination, source_port, destination_port = _split(key)
    return (
        Endpoint(str(ip_address(source)), int.from_bytes(source_port, "big")),
        Endpoint(str(ip_address(destination)), int.from_bytes(destination_port, "big")),
    )
