"""What the connections of a sender carry: followed, judged live, and taken into memory.

Nothing is refused: whatever is wrong is noted, and the rest of the connection is read on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, MainInfo, MainReceived, main_events
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiving import Receiving
from multifd_proto.wire.main_records import STREAM_MAGIC, StreamEnd, VmDescription
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamZero

from .memory import Memory, Sink
from .wirelog import WireLog

_TLS = b"\x16\x03"


class Hearing:
    """What all connections of a migration share.

    Args:
        parameters: what is known of the migration beforehand.
    """

    def __init__(self, parameters: MigrationParameters) -> None:
        self.parameters = parameters
        self.checker = Checker(parameters)
        self.memory = Memory()
        self.log = WireLog()
        self.receiving = Receiving(parameters)
        self.pages_seen = False
        """A packet with pages has come."""
        self.revise: Callable[[bytes], bytes] = bytes
        """Makes of each answer on the return path what is sent; by default it is the answer."""
        self._clock = 0

    def now(self) -> int:
        """Return the time in nanoseconds since the epoch, never the same twice."""
        self._clock = max(self._clock + 1, time.time_ns())
        return self._clock


class Stream:
    """One connection: what it is, its first bytes tell; what is no main stream is a channel."""

    def __init__(self, hearing: Hearing, number: int) -> None:
        self.kind = "unknown"
        """`main`, `channel`, `tls`, or `unknown` until the first bytes have come."""
        self.name = f"connection {number}"
        """What the wire log calls it: `main`, or the number of the channel."""
        self._hearing, self._number = hearing, number
        self._opened = hearing.now()
        self._head = b""
        self._ended = False
        self._machine: Channel | MainStream | None = None
        self._peer: ChannelInfo | MainInfo | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what is to be answered."""
        if self.kind == "unknown":
            data = self._head = self._head + data
            # a channel with a wrong magic, or with less than that, is a channel all the same
            if len(data) < len(STREAM_MAGIC):
                return b""
            self._identify()
        return self._take(data)

    def end(self, *, reset: bool = False, excused: bool = False) -> None:
        """Take note that the connection has ended.

        Args:
            reset: it was broken off.
            excused: we have given the sender a reason to, so that nothing is demanded.
        """
        if self.kind == "unknown" and (self._number if excused else self._head):
            # of a connection that could not say what it is, its place among the others tells
            self._become("channel")
            self._take(self._head)
        if isinstance(self._machine, Channel):
            self._machine.receive_eof(time.time_ns(), reset=reset or excused, by_peer=excused)
        elif self._machine and not excused:
            self._machine.receive_eof()
        self._drain()

    def _identify(self) -> None:
        if self._head.startswith(STREAM_MAGIC):
            self._become("main")
        else:
            self._become("tls" if self._head.startswith(_TLS) else "channel")

    def _become(self, kind: str) -> None:
        hearing, checker, known = self._hearing, self._hearing.checker, self._hearing.parameters
        self.kind = kind
        if kind == "tls":
            checker.add_tls(self._number)
        elif kind == "main":
            self.name = kind
            self._machine = MainStream()
            self._peer = checker.add_main(self._number, opened=self._opened)
        else:
            self._peer = checker.add_channel(self._number, opened=self._opened)
            self._machine = Channel(
                page_size=known.page_size, dialect=known.dialect, sink=Sink(hearing.memory)
            )

    def _take(self, data: bytes) -> bytes:
        if isinstance(self._machine, Channel):
            self._machine.receive_data(data, time.time_ns())
        elif self._machine:
            self._machine.receive_data(data)
        return self._drain()

    def _drain(self) -> bytes:
        if isinstance(self._machine, Channel) and isinstance(self._peer, ChannelInfo):
            self._peer.page_size = self._machine.page_size
            for event in self._machine.events():
                self._judge(event)
                self._note(event)
            return b""
        answer = b""
        if isinstance(self._machine, MainStream) and isinstance(self._peer, MainInfo):
            for event in main_events(self._peer, self._machine.records(), time.time_ns()):
                self._judge(event)
                answer += self._note_record(event)
        return answer

    def _judge(self, event: Event) -> None:
        assert self._peer
        self._hearing.checker.judge(self._peer, (event,))
        if isinstance(self._peer, ChannelInfo) and self._peer.id is not None:
            self.name = str(self._peer.id)
        self._hearing.log.note_event(self.name, event)

    def _note(self, event: Event) -> None:
        if isinstance(event, PacketReceived) and event.pages:
            self._hearing.pages_seen = True
            zeros = event.page_offsets[event.packet.normal_pages :]
            self._hearing.memory.clear(event.ramblock, zeros, event.round or 0)

    def _note_record(self, event: MainReceived) -> bytes:
        hearing, record = self._hearing, event.record
        if isinstance(record, RamZero):
            hearing.memory.clear(record.block or b"", record.offsets, event.round)
        answer = hearing.receiving.take(record)
        if isinstance(record, StreamEnd):
            self._ended = True
        elif isinstance(record, VmDescription):
            return self.farewell()
        return hearing.revise(answer) if answer else b""

    def farewell(self) -> bytes:
        """Return the last answer, if it is owed: when nothing follows the end of a main stream.

        Before the description of the machine has come, it is too early: QEMU 7.2 fails if it gets
        its SHUT while it writes that.
        """
        if not self._ended:
            return b""
        self._ended = False
        answer = self._hearing.receiving.farewell()
        return self._hearing.revise(answer) if answer else b""
