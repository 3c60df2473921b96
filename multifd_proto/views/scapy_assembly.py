# SPDX-License-Identifier: GPL-2.0-or-later
"""From the streams of a capture to scapy packets: what is lost is a `MultiFDGap`, never zeros."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, groupby
from typing import NamedTuple

from scapy.packet import Packet
from scapy.utils import EDecimal

from multifd_proto.capture.events import Data, End, Gap, Half, StreamEvent
from multifd_proto.capture.follow import NOTHING, Follower
from multifd_proto.capture.pieces import PIECE
from multifd_proto.capture.session import Connection
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.views.scapy_layers import LAYERS, MultiFDDeviceData, MultiFDPages
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_origin import MultiFDGap, Origin, _Message
from multifd_proto.wire.main_records import MainGap
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

KEEP = 16 << 20
"""Bytes of each stream that are kept, until the message that they are of is whole."""


class _Piece(NamedTuple):
    start: int
    end: int
    data: memoryview | None
    reason: str


class _Kept:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[_Piece] = deque()
        self._size = 0

    def add(self, piece: _Piece) -> None:
        """Keep a piece; what was kept first has to make room."""
        self._pieces.append(piece)
        self._size += PIECE + len(piece.data or b"")
        while self._size > self._limit:
            self._drop()

    def take(self, start: int, end: int) -> Iterator[bytes | MultiFDGap]:
        """Yield the bytes from `start` to `end` and the gaps in them; forget those before."""
        while self._pieces and self._pieces[0].end <= start:
            self._drop()
        for missing, pieces in groupby(self._tile(start, end), lambda piece: piece.data is None):
            if missing:
                yield from (MultiFDGap(length=p.end - p.start, reason=p.reason) for p in pieces)
            else:
                yield b"".join(piece.data or b"" for piece in pieces)

    def _tile(self, start: int, end: int) -> Iterator[_Piece]:
        for piece in self._pieces:
            first, last = max(piece.start, start), min(piece.end, end)
            if first >= last:
                continue
            if first > start:
                yield _Piece(start, first, None, "not kept")
            data = piece.data
            cut = None if data is None else data[first - piece.start : last - piece.start]
            yield _Piece(first, last, cut, piece.reason)
            start = last
        if start < end:
            yield _Piece(start, end, None, "ended")

    def _drop(self) -> None:
        self._size -= PIECE + len(self._pieces.popleft().data or b"")


class _Head(NamedTuple):
    """A packet whose payload is still coming, and the gaps in it."""

    event: PacketReceived | DeviceStateReceived
    origin: Origin
    gaps: list[MultiFDGap]


class _PauseError(Exception):
    """No more for now. Stays in this module."""


class Assembly:
    """Follows the streams of a capture and makes packets of their messages."""

    def __init__(self, parameters: MigrationParameters | None = None, keep: int = KEEP) -> None:
        """Begin.

        Args:
            parameters: what is known of the migrations beforehand.
            keep: bytes of each stream that are kept until a message is whole; a payload that is
                longer has a gap.
        """
        self._follower = Follower(parameters)
        self._kept: defaultdict[Half, _Kept] = defaultdict(lambda: _Kept(keep))
        self._heads: dict[Half, _Head] = {}

    def packets(self, events: Iterable[StreamEvent]) -> Iterator[Packet]:
        """Yield the messages of all that is left of a capture."""
        for connection, event in self._follower.follow(self._keep(events)):
            yield from self._take(connection, event)
        for half in list(self._heads):
            yield from self._complete(half)

    def some(self, events: Iterable[StreamEvent]) -> Iterator[Packet]:
        """Yield the messages that are whole by now; there is more to come."""
        with suppress(_PauseError):
            # the follower takes an ordinary end for the end of every stream
            yield from self.packets(chain(events, _pause()))

    def _keep(self, events: Iterable[StreamEvent]) -> Iterator[StreamEvent]:
        for event in events:
            half = event.half
            if isinstance(event, Data):
                end = event.offset + len(event.data)
                self._kept[half].add(_Piece(event.offset, end, event.data, ""))
            elif isinstance(event, Gap):
                end = event.offset + event.length
                self._kept[half].add(_Piece(event.offset, end, None, event.reason))
            yield event
            if half.unwanted_until < NOTHING:
                half.unwanted_until = 0  # the follower could do without payloads
            if isinstance(event, End) or half.unwanted_until >= NOTHING:
                self._kept.pop(half, None)

    def _take(self, connection: Connection, event: Event) -> Iterator[Packet]:
        half = connection.half
        origin = _origin(connection, event)
        match event:
            case InitReceived():
                yield _placed(LAYERS[type(event.init)](event.init.build()), event, origin)
            case PacketReceived() | DeviceStateReceived():
                yield from self._complete(half)
                self._heads[half] = _Head(event, origin, [])
                if _failed(connection):
                    yield from self._complete(half, payload=False)
            case BytesMissing(length=length, reason=reason):
                gap = _placed(MultiFDGap(length=length, reason=reason), event, origin)
                if half in self._heads:
                    self._heads[half].gaps.append(gap)
                else:
                    yield gap
            case PayloadReceived() | Ended():
                yield from self._complete(half)
            case MainReceived():
                yield self._main(half, event, origin)

    def _complete(self, half: Half, *, payload: bool = True) -> Iterator[Packet]:
        """Yield the packet whose payload was coming, if there is one, and the gaps in it."""
        head = self._heads.pop(half, None)
        if not head:
            return
        event = head.event
        packet = _head_layer(event)
        if payload:
            begin = event.offset + len(event.packet.build())
            of = MultiFDPages if isinstance(event, PacketReceived) else MultiFDDeviceData
            for part in self._kept[half].take(begin, begin + event.payload):
                packet.add_payload(of(load=part) if isinstance(part, bytes) else part)
        yield _placed(packet, event, head.origin)
        yield from head.gaps

    def _main(self, half: Half, event: MainReceived, origin: Origin) -> _Message:
        record = event.record
        if isinstance(record, MainGap):
            return _placed(MultiFDGap(length=record.length, reason="lost"), event, origin)
        packet: _Message = QEVM(records=[record], data=b"")
        for part in self._kept[half].take(event.offset, event.offset + event.size):
            if isinstance(part, bytes) and not packet.data and not packet.payload:
                packet.data = part
            else:
                packet.add_payload(part)
        return _placed(packet, event, origin)


def _pause() -> Iterator[StreamEvent]:
    raise _PauseError
    yield


def _failed(connection: Connection) -> bool:
    machine = connection.machine
    return isinstance(machine, Channel) and machine.state is ChannelState.FAILED


def _head_layer(event: PacketReceived | DeviceStateReceived) -> _Message:
    """Return the head of a packet, with those of its fields that were seen."""
    data, layer = event.packet.build(), LAYERS[type(event.packet)]
    if isinstance(event, DeviceStateReceived):
        return layer(data)
    page_size = MULTIFD_PACKET_SIZE // len(event.packet.offset)
    packet = layer(data[: event.known], page_size=page_size)
    if event.known < len(data):
        packet.add_payload(MultiFDGap(length=len(data) - event.known, reason="lost"))
    return packet


def _origin(connection: Connection, event: Event) -> Origin:
    half = connection.half
    ends = (str(end) if end else None for end in (half.source, half.destination))
    round_ = getattr(event, "round", None)
    return Origin(half.stream, connection.channel, event.offset, round_, *ends)


def _placed(packet: _Message, event: Event, origin: Origin) -> _Message:
    packet.origin = origin
    packet.time = EDecimal(event.time) / 10**9
    return packet
