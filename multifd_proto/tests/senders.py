"""Sources for the tests of the receiver: scripts that say every message, right or wrong."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.receive.receiver import Received, Receiver
from multifd_proto.peers.tls import wrap
from multifd_proto.wire.dialect import FLAG_SYNC, dialect_of
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.ram_records import RamBlockEntry, RamEos, RamFlush, RamSetup
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacketDeviceState, page_count

METHOD = {method.name: method for method in METHODS}
BLOCK = b"pc.ram"
PAGE = 4096
TIMEOUT = 0.2
"""Of the receivers of hostile sources, in seconds."""
SLACK = 2.0
"""Seconds that a loaded machine may take beyond what was configured."""


def parameters(**options: Any) -> MigrationParameters:
    """Return what a receiver is configured for: as little as it can be."""
    values: dict[str, Any] = {"page_size": PAGE, "channels": 2} | options
    dialect, method = values.pop("dialect", "10.0"), values.pop("method", "none")
    return MigrationParameters(dialect=dialect_of(dialect), compression=METHOD[method], **values)


def page(number: int, size: int = PAGE) -> bytes:
    """Return the content of a page that is not zero."""
    return struct.pack(">I", number + 1) * (size // 4)


class Wire:
    """One connection of a source."""

    def __init__(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(5)
        self.socket, self.script = sock, script
        self.sent = bytearray()

    def send(self, *parts: bytes) -> Self:
        """Send bytes, whether or not there still is somebody who takes them."""
        data = b"".join(parts)
        self.sent += data
        with suppress(ConnectionError, ssl.SSLError):
            self.socket.sendall(data)
        return self

    def receive(self) -> bytes:
        """Return all that comes until the other end closes."""
        data = b""
        with suppress(ConnectionError, ssl.SSLError):
            while more := self.socket.recv(4096):
                data += more
        return data

    def close(self, *, notify: bool = True) -> None:
        """Close; inside TLS with a close_notify, but without waiting for the other end's."""
        if isinstance(self.socket, ssl.SSLSocket):
            with suppress(OSError, ValueError):
                self.socket.settimeout(0)
                self.socket.recv(4096)  # tickets that nobody has read would make it a reset
            with suppress(OSError, ValueError):
                self.socket.unwrap() if notify else None
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class ChannelWire(Wire):
    """A multifd channel."""

    encoder: Any = None

    def init(self, number: int, **values: Any) -> Self:
        return self.send(MultiFDInit(**{"id": number} | values).build())

    def head(self, **values: Any) -> bytes:
        """Return the head of a packet: an empty one but for `values`."""
        count = page_count(self.script.page_size)
        offsets = values.pop("offset", ())
        fields = {"pages_alloc": count, "packet_num": self.script.number()} | values
        fields["offset"] = (*offsets, *(0,) * (count - len(offsets)))
        return self.script.dialect.packet(**fields).build()

    def sync(self, **values: Any) -> Self:
        alloc = page_count(self.script.page_size) if self.script.dialect.sync_alloc else 0
        return self.send(self.head(**{"flags": FLAG_SYNC, "pages_alloc": alloc} | values))

    def pages(
        self, normal: Sequence[int], zero: Sequence[int] = (), salt: int = 0, **values: Any
    ) -> Self:
        """Send pages of a block, named by their numbers; `salt` makes another content."""
        return self.send(*self.packet(normal, zero, salt, **values))

    def packet(
        self, normal: Sequence[int], zero: Sequence[int] = (), salt: int = 0, **values: Any
    ) -> tuple[bytes, bytes]:
        """Return the head and the payload that `pages` sends."""
        size, method = self.script.page_size, METHOD[self.script.method]
        self.encoder = self.encoder or method.encoder()
        payload = self.encoder.encode([page(number + salt, size) for number in normal])
        fields = {
            "flags": method.flag,
            "normal_pages": len(normal),
            "next_packet_size": len(payload),
            "ramblock": BLOCK.ljust(256, b"\0"),
            "offset": tuple(number * size for number in (*normal, *zero)),
        }
        if zero:
            fields["zero_pages"] = len(zero)
        return self.head(**fields | values), payload

    def device_state(self, data: bytes, name: bytes = b"vfio", **values: Any) -> Self:
        fields: dict[str, Any] = {
            "idstr": name.ljust(256, b"\0"),
            "next_packet_size": len(data),
        } | values
        return self.send(MultiFDPacketDeviceState(**fields).build(), data)


class MainWire(Wire):
    """A main stream."""

    def records(self, *records: MainRecord) -> Self:
        return self.send(*(record.build() for record in records))

    def start(self, *commands: MainRecord) -> Self:
        """Send what comes before the first mark."""
        blocks = tuple(RamBlockEntry(name, size) for name, size in self.script.blocks.items())
        setup = RamSetup(sum(self.script.blocks.values()), blocks)
        head = MainHeader(), Configuration(b"none"), *commands, SectionStart(1, b"ram", 0, 4)
        return self.records(*head, setup)

    def mark(self) -> Self:
        flush = (RamFlush(),) if self.script.modern else ()
        return self.records(*flush, RamEos(), Footer(1))

    def part(self) -> Self:
        return self.records(SectionPart(1))

    def end(self) -> Self:
        return self.records(SectionEnd(1))

    def finish(self) -> Self:
        return self.records(StreamEnd(), VmDescription(20))


OPEN_RETURN_PATH = Command(1)
PING = Command(2, b"\0\0\0\1")


class Script:
    """A source, connection by connection and message by message."""

    def __init__(
        self,
        address: Address,
        *,
        dialect: str = "10.0",
        page_size: int = PAGE,
        method: str = "none",
        modern: bool = True,
        blocks: dict[bytes, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address, self.tls = address, tls
        self.dialect, self.page_size, self.method = dialect_of(dialect), page_size, method
        self.modern = modern and self.dialect.flush_mark
        self.blocks = blocks or {BLOCK: 64 * page_size}
        self.wires: list[Wire] = []
        self.leader: MainWire | None = None
        self.channels: list[ChannelWire] = []
        self._number = 0

    def number(self) -> int:
        self._number += 1
        return self._number - 1

    def open(self) -> Wire:
        """Open a connection that says nothing."""
        return self._add(Wire(self._dial(), self))

    def main(self) -> MainWire:
        """Open the main stream."""
        self.leader = MainWire(self._dial(), self)
        self._add(self.leader)
        return self.leader

    def channel(self, number: int, **values: Any) -> ChannelWire:
        """Open a channel, and send its init message."""
        wire = ChannelWire(self._dial(), self)
        self._add(wire)
        self.channels.append(wire)
        return wire.init(number, **values)

    def setup(self, count: int = 2, *commands: MainRecord) -> tuple[MainWire, list[ChannelWire]]:
        """Open all connections, and go as far as the first mark."""
        main = self.main()
        channels = [self.channel(number) for number in range(count)]
        main.start(*commands)
        self.mark()
        return main, channels

    def mark(self) -> None:
        """Send a SYNC on each channel, and the mark."""
        for channel in self.channels:
            channel.sync()
        assert self.leader
        self.leader.mark()

    def finish(self) -> None:
        """Send the last round, which is empty, and the end of everything."""
        assert self.leader
        self.leader.end()
        self.mark()
        self.leader.finish()
        self.close()

    def close(self, *, notify: bool = True) -> None:
        for wire in self.wires:
            wire.close(notify=notify)

    def _add(self, wire: Wire) -> Wire:
        self.wires.append(wire)
        return wire

    def _dial(self) -> socket.socket:
        sock = dial(self.address, len(self.wires), 5)
        return wrap(sock, self.tls, "client", 5, "localhost") if self.tls else sock


class Run:
    """A receiver that runs in its own thread."""

    def __init__(self, receiver: Receiver, script: Script) -> None:
        self.receiver, self.script = receiver, script
        self.address = script.address
        self.seconds = 0.0
        self.memory: dict[bytes, bytes] = {}
        self._received: Received | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        start = time.monotonic()
        self._received = self.receiver.run()
        self.seconds = time.monotonic() - start

    def join(self) -> Received:
        """Wait for the receiver."""
        self._thread.join(20)
        assert not self._thread.is_alive(), "the receiver hangs"
        return self.received

    @property
    def received(self) -> Received:
        assert self._received
        return self._received

    @property
    def error(self) -> str | None:
        return self.received.failure.message if self.received.failure else None

    @property
    def requirement(self) -> str | None:
        failure = self.received.failure
        return failure.violation.requirement.id if failure and failure.violation else None


@contextmanager
def serving(
    uri: str = "tcp:127.0.0.1:0",
    *,
    timeout: float = 5.0,
    script: dict[str, Any] | None = None,
    given: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Run]:
    """Run a receiver, and hand out a script for it; afterwards both have ended.

    Args:
        uri: where to listen.
        timeout: of the receiver, in seconds.
        script: what the source is; what both ends have to agree on is taken from here.
        given: what the receiver is configured for, if that is something else.
        options: of `Receiver`.
    """
    script = script or {}
    shared = {key: script[key] for key in ("dialect", "page_size", "method") if key in script}
    configured = parameters(**shared | (given or {}))
    with Receiver(parse_address(uri), configured, timeout=timeout, **options) as receiver:
        source = Script(receiver.address, **script)
        run = Run(receiver, source)
        try:
            yield run
        finally:
            try:
                run.join()
                blocks = receiver.memory.blocks
                run.memory = {n: bytes(b.view) for n, b in blocks.items() if b.length < 1 << 24}
            finally:
                source.close()


def descriptors() -> set[str]:
    """Return the open descriptors of this process, and what they are."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(f"{path.name} {path.readlink()}")
    return found


@contextmanager
def nothing_left(then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Prove that no thread and no descriptor is left."""
    threads, files = set(threading.enumerate()), descriptors()
    yield
    then()
    assert set(threading.enumerate()) <= threads  # those of other tests may end
    assert descriptors() - files == set()
