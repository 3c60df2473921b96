"""From the connections of a capture to the migrations in it.

What a connection is, its first bytes tell, never its port: `QEVM` is a main stream, the multifd
magic a channel, a TLS record an encrypted connection. A connection whose first bytes were not
captured is tried as a channel, and becomes one with the first packet that is found in it.
Connections between the same two hosts to the same port belong to one migration, until all of
them have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from multifd_proto.capture.events import (
    Data,
    End,
    Gap,
    Half,
    Opened,
    Skipped,
    StreamEvent,
)
from multifd_proto.capture.session import Connection, Session
from multifd_proto.capture.streams import CaptureReader, Taken
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, MainInfo, main_events
from multifd_proto.machine.parameters import Bounds, MigrationParameters
from multifd_proto.machine.payload import Digest, PageSink
from multifd_proto.machine.resync import PEEK, starts_with_packet
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.schema import CHANNEL_MAGIC

if TYPE_CHECKING:
    from multifd_proto.capture.columns.hop import Single
    from multifd_proto.machine.batch import PacketBatch

NOTHING = 1 << 62
"""`unwanted_until` of a direction that is not looked at."""
TRIAL = 16 * 1024 * 1024
"""Bytes in which a packet has to be found, where the start of a connection is not known."""


SinkFactory = Callable[[Session, Connection], PageSink]
Fed = Data | Skipped | Gap | End
"""What a direction is made of, once its connection is opened."""


class Follower:
    """Follows every connection of a capture, and sorts them into migrations."""

    def __init__(
        self,
        parameters: MigrationParameters | None = None,
        *,
        bounds: Bounds | None = None,
        decode: bool = False,
        judge: bool = True,
        sinks: SinkFactory | None = None,
        digest: Callable[[], Digest] | None = None,
    ) -> None:
        """Make a follower.

        Args:
            parameters: what is known of the migrations beforehand.
            bounds: how much memory a check may take.
            decode: decode payloads, so that they are judged as well.
            judge: judge the migrations; otherwise their checkers know the connections alone.
            sinks: makes what takes the guest memory of a channel.
            digest: makes what sums up the bytes of a payload.
        """
        self._parameters = parameters or MigrationParameters()
        self._bounds = bounds or Bounds()
        self._decode = decode
        self._judges = judge
        self._sinks = sinks
        self._digest = digest
        self._between: dict[object, list[Session]] = {}
        self._shown = True
        self.packets = 0
        """Packets in the last columns that were taken."""
        self.connections: dict[int, Connection] = {}
        self.sessions: list[Session] = []

    def follow(self, stream: Iterable[StreamEvent]) -> Iterator[tuple[Connection, Event]]:
        """Yield every event of every migration, judged, in the order of the capture."""
        for piece in self.pieces(stream):
            if isinstance(piece, tuple):
                yield piece
                continue
            streams = piece.stream.tolist()
            for index, number in enumerate(streams):
                connection = self.connections[number]
                for event in piece.events(index):
                    yield connection, event

    def pieces(
        self, stream: Iterable[StreamEvent | Taken], *, shown: bool = True
    ) -> Iterator[tuple[Connection, Event] | PacketBatch]:
        """Yield the same, many packets at once where that can be: as columns, see `PacketBatch`.

        Where they are not to be `shown`, packets may come behind later records of the main stream.
        """
        self._shown = shown
        events: Iterable[StreamEvent | Taken] = stream
        if isinstance(stream, CaptureReader | Decrypted):
            events = stream.columns(self)
        for event in events:
            if isinstance(event, list):
                yield from self._take(event)
            else:
                yield from self._take_event(event)
        for connection in self.connections.values():
            yield from self._finish(connection)

    def takes(self, half: Half) -> bool | None:
        """Tell whether a direction is looked at; None where it has to be seen byte by byte."""
        connection = self.connections.get(half.stream)
        if connection and connection.peer and half is connection.half:
            # where a page goes is known with the list of blocks
            session = connection.session
            known = session and session.checker.migration.blocks is not None
            return True if known or not self._sinks else None
        return None if half.unwanted_until < NOTHING else False

    def _take_event(self, event: StreamEvent) -> Iterator[tuple[Connection, Event]]:
        if isinstance(event, Opened):
            self.connections[event.half.stream] = Connection(event.half, event.reverse)
            return
        connection = self.connections[event.half.stream]
        if isinstance(event, End):
            connection.ends.add(event.half.forward)
            connection.last = max(connection.last, event.time)
        if connection.kind == "unknown":
            self._identify(connection, event)
        if connection.machine and event.half is connection.half:
            yield from self._feed(connection, event)

    def _take(self, taken: Taken) -> Iterator[tuple[Connection, Event] | PacketBatch]:
        from multifd_proto.capture.columns.feed import feed
        from multifd_proto.capture.columns.order import InOrder, matters, shows
        from multifd_proto.machine.batch import PacketBatch

        order = InOrder(feed(self.connections, taken))
        self.packets = sum(map(len, order.packets))
        told: dict[int, tuple[Connection, Event]] = {}
        for piece in order.cut(matters):
            if isinstance(piece, PacketBatch):
                self._judge_batch(piece)
                if not self._shown:
                    yield piece
            elif self._shown:
                told[id(piece)] = self._judge_single(piece)
            else:
                yield self._judge_single(piece)
        for piece in order.cut(shows) if self._shown else ():
            yield piece if isinstance(piece, PacketBatch) else told[id(piece)]

    def _judge_single(self, single: Single) -> tuple[Connection, Event]:
        from multifd_proto.capture.columns.hop import MainPiece

        _, stream, event = single
        connection = self.connections[stream]
        if isinstance(event, MainPiece):
            assert isinstance(connection.peer, MainInfo)
            record = (event.offset, event.size, event.record)
            event = next(main_events(connection.peer, [record], event.time))
        return next(self._judge(connection, [event]))

    # ---- what a connection is --------------------------------------------------------------------

    def _identify(self, connection: Connection, event: Fed) -> None:
        if connection.machine:
            if connection.half.bytes > TRIAL:
                self._ignore(connection)
            return
        half = event.half
        head = connection.heads.get(half.forward, b"")
        if isinstance(event, Gap):
            self._try(connection, half)
        elif isinstance(event, Data | Skipped):
            # a head can come in pieces; what was not kept of it is no head of anything
            need = len(STREAM_MAGIC) if half.anchored else PEEK
            part = event.data if isinstance(event, Data) else bytes(min(event.length, need))
            whole = connection.heads[half.forward] = head + bytes(part[: need - len(head)])
            if len(whole) < need:
                return
            self._decide(connection, half, whole)
        if connection.machine:
            connection.machine.receive_data(head)

    def _decide(self, connection: Connection, half: Half, head: bytes) -> None:
        if head[:4] == STREAM_MAGIC:
            self._set_half(connection, half)
            connection.kind, connection.machine = "main", MainStream()
            session = self._join(connection)
            connection.peer = session.checker.add_main(half.stream, opened=_opened(half))
        elif head[:4] == CHANNEL_MAGIC and (half.anchored or not starts_with_packet(head)):
            self._set_half(connection, half)
            connection.machine = self._channel(started=True)
            self._adopt(connection, connection.machine, whole=True)
        elif head[:2] == b"\x16\x03":
            self._ignore(connection, "tls")
        elif half.anchored:
            self._ignore(connection)
        else:
            self._try(connection, half)

    def _try(self, connection: Connection, half: Half) -> None:
        """Follow as a channel, until a packet proves it one."""
        self._set_half(connection, half)
        connection.machine = self._channel(started=half.anchored)

    def _set_half(self, connection: Connection, half: Half) -> None:
        if half is not connection.half:
            connection.half, connection.reverse = half, connection.half
        connection.reverse.unwanted_until = NOTHING

    def _ignore(self, connection: Connection, kind: str = "other") -> None:
        connection.kind, connection.machine = kind, None
        connection.half.unwanted_until = connection.reverse.unwanted_until = NOTHING

    def _channel(self, *, started: bool) -> Channel:
        return Channel(
            page_size=self._parameters.page_size,
            dialect=self._parameters.dialect,
            decode=self._decode or self._sinks is not None,
            digest=self._digest,
            started=started,
        )

    def _adopt(self, connection: Connection, channel: Channel, *, whole: bool) -> None:
        session = self._join(connection)
        half = connection.half
        if self._sinks:
            channel.attach(self._sinks(session, connection))
        connection.kind = "multifd"
        connection.peer = session.checker.add_channel(
            half.stream, opened=_opened(half), whole=whole
        )

    def _join(self, connection: Connection) -> Session:
        if connection.session is None:
            half = connection.half
            session = self._session_of(half)
            if session is None:
                session = Session(
                    len(self.sessions),
                    half.source,
                    half.destination,
                    Checker(self._parameters, self._bounds),
                )
                self._between.setdefault(_hosts(half), []).append(session)
                self.sessions.append(session)
            session.connections.append(connection)
            connection.session = session
        return connection.session

    def _session_of(self, half: Half) -> Session | None:
        """Return the first migration between the same hosts that was not over by then.

        By when the connection was opened, that is: what it is may be known long after that.
        """
        known = self._between.get(hosts := _hosts(half), [])
        return next((s for s in known if not hosts or s.reaches(half.opened)), None)

    # ---- following it ----------------------------------------------------------------------------

    def _feed(self, connection: Connection, event: Fed) -> Iterator[tuple[Connection, Event]]:
        machine, half = connection.machine, connection.half
        assert machine is not None
        if isinstance(machine, Channel):
            _feed_channel(machine, event)
        else:
            _feed_main(machine, event)
        yield from self._drain(connection, event.time)
        if connection.machine:
            half.unwanted_until = event.offset + _length(event) + machine.unwanted()

    def _drain(self, connection: Connection, time: int) -> Iterator[tuple[Connection, Event]]:
        machine = connection.machine
        if isinstance(machine, Channel):
            events: Iterable[Event] = list(machine.events())
            if connection.peer is None:
                connection.early += events
                if not any(isinstance(e, PacketReceived) for e in events):
                    return
                events, connection.early = connection.early, []
                self._adopt(connection, machine, whole=False)
            assert isinstance(connection.peer, ChannelInfo)
            connection.peer.page_size = machine.page_size
        else:
            assert machine is not None
            assert isinstance(connection.peer, MainInfo)
            events = main_events(connection.peer, machine.records(), time)
        yield from self._judge(connection, events)

    def _judge(
        self, connection: Connection, events: Iterable[Event]
    ) -> Iterator[tuple[Connection, Event]]:
        assert connection.peer is not None
        assert connection.session is not None
        for event in events:
            if self._judges:
                connection.session.checker.judge(connection.peer, (event,))
            elif not isinstance(event, PacketReceived):
                connection.session.checker.migration.note(connection.peer, event)
            yield connection, event

    def by_session(self, batch: PacketBatch) -> Iterator[tuple[Session, PacketBatch]]:
        """Yield the packets of each migration by themselves."""
        sessions: dict[int, list[int]] = {}
        for stream in set(batch.stream.tolist()):
            session = self.connections[stream].session
            assert session
            sessions.setdefault(session.number, []).append(stream)
        for number, streams in sorted(sessions.items()):
            yield self.sessions[number], batch if len(sessions) == 1 else batch.of(streams)

    def _judge_batch(self, batch: PacketBatch) -> None:
        if self._judges:
            for session, part in self.by_session(batch):
                session.checker.judge_batch(part)

    def _finish(self, connection: Connection) -> Iterator[tuple[Connection, Event]]:
        if isinstance(connection.machine, Channel):
            connection.machine.finish()
            yield from self._drain(connection, 0)
        reverse = connection.reverse
        if isinstance(connection.peer, ChannelInfo) and reverse.segments:
            connection.peer.reverse_bytes = reverse.bytes
        half = connection.half
        if half.tls and connection.session:
            connection.session.checker.add_tls(half.stream, decrypted=True)
        if connection.kind == "tls" and half.source and half.destination:
            session = self._between.get(_hosts(half), [None])[-1]
            if session:
                session.checker.add_tls(half.stream)


def _hosts(half: Half) -> object:
    """Return what the connections of a migration have in common; None for raw dumps."""
    return half.source and half.destination and (half.source.host, half.destination)


def _opened(half: Half) -> int | None:
    """Return when a connection was opened; None where that was not captured, as of raw dumps."""
    return half.opened if half.anchored and half.source else None


def _length(event: Fed) -> int:
    if isinstance(event, Data):
        return len(event.data)
    return event.length if isinstance(event, Skipped | Gap) else 0


def _feed_channel(machine: Channel, event: Fed) -> None:
    match event:
        case Data():
            machine.receive_data(event.data, event.time)
        case Skipped():
            machine.receive_skipped(event.length, event.time)
        case Gap():
            machine.receive_gap(event.length, event.time, event.reason)
        case End():
            machine.receive_eof(event.time, reset=event.reset, by_peer=event.by_peer)


def _feed_main(machine: MainStream, event: Fed) -> None:
    match event:
        case Data():
            machine.receive_data(event.data)
        case Skipped():
            machine.receive_skipped(event.length)
        case Gap():
            machine.receive_gap(event.length)
        case End():
            # a receiver that resets the connection is no fault of the stream
            if not event.by_peer:
                machine.receive_eof()
