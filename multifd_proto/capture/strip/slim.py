"""Message by message: a record each, without the frames that it came in.

The reader's events come in order and once, so a message is whole in its record, whatever its
segments went through. What follows it and is not kept counts as the rest of the record.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from multifd_proto.capture import upper_pdu
from multifd_proto.capture.events import Data, End, Gap, Half, Opened, Skipped, StreamEvent
from multifd_proto.capture.follow import NOTHING
from multifd_proto.capture.link import UPPER_PDU
from multifd_proto.capture.session import Connection
from multifd_proto.capture.strip.headers import Addresses
from multifd_proto.capture.strip.kept import Kept
from multifd_proto.capture.strip.output import Output

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_LONGEST = 1 << 30  # bytes of a record: less than what sequence numbers tell apart


def key_of(half: Half) -> bytes:
    """Return the key of a direction, as segments have it; a raw dump gets one of its own."""
    source, destination = half.source, half.destination
    if source is None or destination is None:
        port = (40000 + half.stream % 20000).to_bytes(2, "big")
        ends = (bytes((192, 0, 2, 1)), port), (bytes((192, 0, 2, 2)), (49152).to_bytes(2, "big"))
        (a, p), (b, q) = ends if half.forward else ends[::-1]
        return a + b + p + q
    addresses = ip_address(source.host).packed + ip_address(destination.host).packed
    return addresses + source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")


class Line:
    """One direction: the message that is coming in."""

    def __init__(self, half: Half, kept: Kept, key: bytes, output: Output, *, main: bool) -> None:
        self.key = key
        self.half = half
        self.synced = False
        self._kept = kept
        self._output = output
        self._main = main
        self._begin = self._time = 0
        self._data = bytearray()
        self._told = 0  # offset up to which records tell of the stream

    def control(self, flags: int, offset: int, time: int) -> None:
        """Write a record without a byte of the stream."""
        self._write(time, offset, 0, b"", flags)

    def take(self, time: int, offset: int, data: memoryview) -> None:
        """Take bytes of the stream."""
        for start, end, begin in self._kept.find(offset, offset + len(data)):
            if not self._data or self._begin + len(self._data) != start:
                self._flush()
                self._pass(time, start)
                self._begin, self._time = start, time
            content = self._kept.contents.get(begin)
            if content is None:
                self._data += data[start - offset : end - offset]
            else:
                self._data += content[start - begin : end - begin]
            if self._main:
                self._time = time  # a record of the main stream is there with its last byte
            if end == begin + self._kept.size_at(begin):
                self._flush()
        self._pass(time, offset + len(data))

    def skip(self, time: int, offset: int, length: int) -> None:
        """Take note of bytes of the stream that were not asked for."""
        self._flush()
        self._pass(time, offset + length)

    def gap(self, time: int, gap: Gap) -> None:
        """Take note of a gap; that of a lost segment is one in sequence numbers as well."""
        self._flush()
        if gap.reason == "snapped":
            self._write(time, gap.offset, gap.length, b"", _ACK, captured=True)
        self._told = gap.offset + gap.length

    def _flush(self) -> None:
        """Write the message; what is not kept behind it is the rest of its record."""
        if self._data:
            end = self._begin + len(self._data)
            size = min(max(self._rest(end), end) - self._begin, _LONGEST)
            self._write(self._time, self._begin, size, bytes(self._data), _ACK)
            self._told = self._begin + size
            self._data.clear()

    def _pass(self, time: int, offset: int) -> None:
        """Write of bytes before `offset`, none of which are kept, unless that is done."""
        while self._told < offset and not self._data:
            size = min(max(self._rest(self._told), offset) - self._told, _LONGEST)
            self._write(time, self._told, size, b"", _ACK)
            self._told += size

    def _rest(self, offset: int) -> int:
        """Return where what is not kept, from `offset` on, ends; 0 if time will tell.

        A channel goes on with the next head, whenever that comes. In the main stream it matters
        when the last byte of a record has come.
        """
        return 0 if self._main else self._kept.boundary(offset)

    def _write(
        self, time: int, offset: int, size: int, data: bytes, flags: int, *, captured: bool = False
    ) -> None:
        seq = self.half.origin + offset
        for start in range(0, size or 1, _LONGEST):
            part = min(size - start, _LONGEST)
            record = upper_pdu.build(self.key, seq + start, part, flags, data[start:])
            length = len(record) + part - len(data)
            self._output.write(UPPER_PDU, time, record, length, captured=captured)


class Slim:
    """Writes the messages of a capture that was read before."""

    def __init__(
        self,
        halves: dict[tuple[int, bool], Kept],
        output: Output,
        addresses: Addresses | None,
        connections: dict[int, Connection],
    ) -> None:
        """Take what is known of the capture.

        Args:
            halves: what is kept, by number of the connection and direction.
            output: the file.
            addresses: that take the place of the real ones, if they are to be hidden.
            connections: all there are, by number; those of which nothing is kept get a record
                without data, so that the others keep their numbers.
        """
        self._halves = halves
        self._output = output
        self._addresses = addresses
        self._connections = connections
        self._numbered = 0
        self._lines: dict[Half, Line] = {}
        self._reset: set[int] = set()

    def write(self, events: Iterable[StreamEvent]) -> None:
        """Write the messages that the events hold."""
        for event in events:
            if isinstance(event, Opened):
                self._open(event)
                continue
            line = self._lines.get(event.half)
            if line is None:
                event.half.unwanted_until = NOTHING
                continue
            if line.half.anchored:
                self._sync(line, event.time)
            match event:
                case Data(time, _, offset, data):
                    line.take(time, offset, data)
                    event.half.unwanted_until = self._wanted(event.half, offset + len(data))
                case Skipped(time, _, offset, length):
                    line.skip(time, offset, length)
                case Gap(time):
                    line.gap(time, event)
                case End():
                    self._end(line, event)

    def _open(self, event: Opened) -> None:
        for number in range(self._numbered, event.half.stream + 1):
            half = self._connections[number].half
            if (number, half.forward) not in self._halves or number < event.half.stream:
                Line(half, Kept(), self._key(half), self._output, main=False).control(
                    _ACK, 0, event.time
                )
        self._numbered = max(self._numbered, event.half.stream + 1)
        for half in (event.half, event.reverse):
            kept = self._halves.get((half.stream, half.forward))
            if kept is None:
                half.unwanted_until = NOTHING
                continue
            main = self._connections[half.stream].kind == "main"
            self._lines[half] = Line(half, kept, self._key(half), self._output, main=main)
            half.unwanted_until = self._wanted(half, 0)
            if half.anchored:
                self._sync(self._lines[half], event.time)

    def _key(self, half: Half) -> bytes:
        key = key_of(half)
        return self._addresses.new_key(key) if self._addresses else key

    def _sync(self, line: Line, time: int) -> None:
        """Write the SYN of a direction, once."""
        if not line.synced:
            line.synced = True
            line.control(_SYN if line.half.forward else _SYN | _ACK, -1, time)

    def _end(self, line: Line, event: End) -> None:
        line.skip(event.time, event.offset, 0)
        if not event.reset:
            line.control(_FIN | _ACK, event.offset, event.time)
        elif event.half.stream not in self._reset:
            self._reset.add(event.half.stream)
            lines = [one for half, one in self._lines.items() if half.stream == event.half.stream]
            sender = line if not event.by_peer else next(o for o in lines if o is not line)
            sender.control(_RST, event.offset if sender is line else 0, event.time)

    def _wanted(self, half: Half, offset: int) -> int:
        if self._connections[half.stream].kind == "main":
            return 0  # the last byte of what is not kept can be that of a record
        return next(self._halves[half.stream, half.forward].coming(offset), NOTHING)
