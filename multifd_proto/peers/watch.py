"""What a live connection is, what goes over it, and what the checker says to that.

A connection is known by its first bytes, as in captures: `QEVM` is a main stream, the multifd magic
a channel, a TLS record an encrypted connection. Whoever forwards it asks `Watch.next` before each
read how many bytes come that are to be seen, or need not be.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import (
    ChannelState,
    DeviceStateReceived,
    Event,
    InitReceived,
    PacketReceived,
)
from multifd_proto.machine.migration import ChannelInfo, MainInfo, main_events
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.wire.main_records import STREAM_MAGIC, StreamEnd
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.schema import CHANNEL_MAGIC, MultiFDInit, MultiFDPacket

_KINDS = {STREAM_MAGIC: "main", CHANNEL_MAGIC: "multifd", b"\x16\x03": "tls"}
"""What first bytes tell; those of TLS are a handshake record's, whatever its version."""
ALL = 1 << 62
"""More bytes than a connection has."""


class Watch:
    """Follows what one connection carries from the source.

    Args:
        number: number of the connection.
        follows: packets and records are to be read; otherwise only what the connection is.
        checker: judges them; that needs `follows`.
        parameters: what is known of the migration; None for what the checker knows.
        opened: when it was opened, in ns since the epoch; now if 0.
        clock: tells the time of what comes, in ns since the epoch.
    """

    def __init__(
        self,
        number: int,
        *,
        follows: bool,
        checker: Checker | None = None,
        parameters: MigrationParameters | None = None,
        opened: int = 0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.number = number
        self.kind = "unknown"
        """`multifd`, `main`, `tls`, `other`, or `unknown` until the first bytes have come."""
        self.id: int | None = None
        """The channel's id, once its init is there."""
        self.statistics: ChannelStatistics | None = None
        """What went over a channel; None where packets are not read."""
        self.main_ended: bool | None = None
        """The main stream has come to its end; None where its records are not read."""
        self._follows, self._checker = follows, checker
        known = checker.migration.parameters if checker else MigrationParameters()
        self._known = parameters or known
        self._opened, self._clock = opened or clock(), clock
        self._head = b""
        self._machine: Channel | MainStream | None = None
        self._peer: ChannelInfo | MainInfo | None = None

    def next(self) -> tuple[int, bool]:
        """Return how many bytes come next, and whether they are to be handed to `feed`.

        Those that are not can be told to `skip`; but all may be handed over, in any cut.
        """
        machine = self._machine
        if self.kind == "unknown":
            return len(CHANNEL_MAGIC) - len(self._head), True
        if machine is None:
            left = MultiFDInit.size() - len(self._head) if self.kind == "multifd" else 0
            return (left, True) if left else (ALL, False)
        unwanted = machine.unwanted()
        if unwanted:
            return unwanted, False
        if not isinstance(machine, Channel) or not machine.page_count:
            return ALL, True
        if machine.state is ChannelState.AWAIT_HEADER:
            # nearly always a RAM packet; of a shorter one, its data is seen though it need not be
            return MultiFDPacket.size(machine.page_count), True
        return machine.wanted(), True

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, in any cut."""
        if self.kind == "unknown":
            self._head += data
            if len(self._head) >= len(CHANNEL_MAGIC):
                self._identify()
        elif self._machine is None:
            self._head += data[: MultiFDInit.size() - len(self._head)]
            self._read_id()
        else:
            self._receive(self._machine, data)
            self._drain()

    def skip(self, count: int) -> None:
        """Take note of bytes that went by unseen, no more than `next` allowed."""
        if isinstance(self._machine, Channel):
            self._machine.receive_skipped(count, self._clock())
        elif self._machine:
            self._machine.receive_skipped(count)
        self._drain()

    def end(self, *, reset: bool = False, by_peer: bool = False) -> None:
        """Take note that the connection has ended.

        Args:
            reset: it was broken off.
            by_peer: by the receiver.
        """
        if isinstance(self._machine, Channel):
            self._machine.receive_eof(self._clock(), reset=reset, by_peer=by_peer)
        elif self._machine and not by_peer:
            self._machine.receive_eof()
        self._drain()

    def set_reverse(self, count: int) -> None:
        """Take note of how many bytes the receiver has written."""
        if isinstance(self._peer, ChannelInfo):
            self._peer.reverse_bytes = count

    def _identify(self) -> None:
        head, self.kind = self._head, "other"
        for start, kind in _KINDS.items():
            if head.startswith(start):
                self.kind = kind
        if self._checker:
            self._announce(self._checker)
        if self._follows and self.kind in ("main", "multifd"):
            self._machine = self._main() if self.kind == "main" else self._channel()
            self._receive(self._machine, head)
            self._drain()
        else:
            self._read_id()

    def _announce(self, checker: Checker) -> None:
        match self.kind:
            case "multifd":
                self._peer = checker.add_channel(self.number, opened=self._opened)
            case "main":
                self._peer = checker.add_main(self.number, opened=self._opened)
            case "tls":
                checker.add_tls(self.number)

    def _main(self) -> MainStream:
        self.main_ended = False
        return MainStream()

    def _channel(self) -> Channel:
        self.statistics = ChannelStatistics()
        known, decode = self._known, self._checker is not None
        return Channel(page_size=known.page_size, dialect=known.dialect, decode=decode)

    def _read_id(self) -> None:
        self._head = self._head[: MultiFDInit.size()]
        if self.kind == "multifd" and len(self._head) == MultiFDInit.size():
            self.id = MultiFDInit.parse(self._head).id

    def _receive(self, machine: Channel | MainStream, data: bytes | bytearray | memoryview) -> None:
        if isinstance(machine, Channel):
            machine.receive_data(memoryview(data), self._clock())
        else:
            machine.receive_data(memoryview(data))

    def _drain(self) -> None:
        if isinstance(self._machine, Channel):
            self._take_events(self._machine, list(self._machine.events()))
        elif self._machine:
            records = list(self._machine.records())
            if any(isinstance(record, StreamEnd) for _, _, record in records):
                self.main_ended = True
            if self._checker and isinstance(self._peer, MainInfo):
                events = main_events(self._peer, records, self._clock())
                self._checker.judge(self._peer, events)

    def _take_events(self, machine: Channel, events: list[Event]) -> None:
        if not events:
            return
        for event in events:
            self._take_event(event)
        if self._checker and isinstance(self._peer, ChannelInfo):
            self._peer.page_size = machine.page_size
            self._checker.judge(self._peer, events)

    def _take_event(self, event: Event) -> None:
        assert self.statistics
        if isinstance(event, InitReceived):
            self.id = self.statistics.id = event.init.id
        elif isinstance(event, PacketReceived | DeviceStateReceived):
            self.statistics.count(event)
