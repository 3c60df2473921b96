"""A destination that takes whatever comes, and sources that send it: real sockets, no QEMU."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from multifd_proto.capture.events import Data, Opened
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.endpoint import Listener, dial
from multifd_proto.peers.proxy.proxy import Outcome, Proxy

CAPTURES = Path(__file__).parents[2] / "spec" / "captures"
ANYWHERE = parse_address("tcp:127.0.0.1:0")
DEADLINE = 10.0


def wait_for(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not happened"
        time.sleep(0.002)


def reset(sock: socket.socket) -> None:
    """Close a socket by a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Sink:
    """Accepts connections and keeps what comes. Use it as a context manager.

    Args:
        address: where it listens.
        answer: what it sends on each connection when the stream has ended.
        reading: it reads; otherwise it only accepts.
    """

    def __init__(
        self, address: Address = ANYWHERE, *, answer: bytes = b"", reading: bool = True
    ) -> None:
        self.received: list[bytearray] = []
        self.ends: list[str] = []
        """`eof` or `reset`, of each connection; empty while it lasts."""
        self.sockets: list[socket.socket] = []
        self._answer, self._reading = answer, reading
        self._listener = Listener(address, 512)
        self.address = self._listener.address
        self._over = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._threads[0].join()
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self.sockets:
            sock.close()
        self._listener.close()

    def wait(self, number: int, count: int) -> bytes:
        """Wait until a connection has brought so many bytes."""
        wait_for(
            lambda: len(self.received) > number and len(self.received[number]) >= count,
            f"byte {count} of connection {number}",
        )
        return bytes(self.received[number])

    def wait_end(self, number: int) -> str:
        """Wait until a connection has ended, and return how."""
        wait_for(lambda: len(self.ends) > number and bool(self.ends[number]), "the end")
        return self.ends[number]

    def _accept(self) -> None:
        while not self._over:
            if sock := self._listener.accept(0.01):
                sock.settimeout(None)
                self.received.append(bytearray())
                self.ends.append("")
                self.sockets.append(sock)
                if self._reading:
                    thread = threading.Thread(target=self._read, args=(len(self.sockets) - 1,))
                    self._threads.append(thread)
                    thread.start()

    def _read(self, number: int) -> None:
        sock = self.sockets[number]
        try:
            while data := sock.recv(1 << 16):
                self.received[number] += data
            self.ends[number] = "eof"
            if self._answer:
                sock.sendall(self._answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ends[number] = self.ends[number] or "reset"


class Running:
    """A proxy at work in a thread."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._outcomes.append(proxy.run()))
        self._thread.start()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.proxy.address

    @property
    def over(self) -> bool:
        """It has returned."""
        return not self._thread.is_alive()

    def dial(self) -> socket.socket:
        """Connect to it."""
        sock = dial(self.address, 0, DEADLINE)
        sock.settimeout(DEADLINE)
        return sock

    def outcome(self) -> Outcome:
        """Wait for its end."""
        self._thread.join(DEADLINE)
        assert self._outcomes, "the proxy has not come to an end"
        return self._outcomes[0]


@contextmanager
def running(proxy: Proxy) -> Iterator[Running]:
    """Run a proxy, and stop it at the end if it still runs."""
    with proxy:
        run = Running(proxy)
        try:
            yield run
        finally:
            proxy.stop()
            run.outcome()


def recorded(name: str) -> list[bytes]:
    """Return what the source sent on each connection of a capture, the main stream first."""
    streams: list[bytearray] = []
    halves: dict[object, int] = {}
    for event in CaptureReader([CAPTURES / f"{name}.pcap.zst"]):
        if isinstance(event, Opened):
            halves[event.half] = len(streams)
            streams.append(bytearray())
        elif isinstance(event, Data) and event.half in halves:
            streams[halves[event.half]] += event.data
    return [bytes(stream) for stream in streams]


class Ongoing(Protocol):
    """A proxy at work, wherever it works."""

    @property
    def proxy(self) -> Proxy: ...
    @property
    def over(self) -> bool: ...
    def dial(self) -> socket.socket: ...


def replay(run: Ongoing, streams: Sequence[bytes]) -> None:
    """Be a source: open all connections in order, send all streams at once, then close."""
    sockets = [run.dial() for _ in streams]

    def send(sock: socket.socket, stream: bytes) -> None:
        with suppress(OSError):
            sock.sendall(stream)

    threads = [
        threading.Thread(target=send, args=pair) for pair in zip(sockets, streams, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _wait_for_all(run, sum(map(len, streams)))
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    for sock in sockets:
        with suppress(OSError):
            while sock.recv(1 << 16):
                pass
        sock.close()


def _wait_for_all(run: Ongoing, total: int) -> None:
    """Wait until all has gone on, or no more does, as a fault keeps it."""
    seen, steady = -1, 0
    while seen < total and steady < 20 and not run.over:
        before, seen = seen, run.proxy.forwarded
        steady = steady + 1 if seen == before else 0
        time.sleep(0.005)


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
