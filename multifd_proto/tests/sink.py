"""A destination for tests that keeps what it is sent, and misbehaves where it is told to."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from multifd_proto.tests.sent_streams import SentStreams
from multifd_proto.wire.main_records import STREAM_MAGIC, Command, StreamEnd
from multifd_proto.wire.main_stream import MainStream

PONG = struct.pack(">HHI", 2, 4, 1)
SHUT = struct.pack(">HHI", 1, 4, 0)
_PING = 2
_WAIT = 20.0

Handler = Callable[["Sink", socket.socket, int], None]
"""What is done with a connection: the sink, the socket, how many were accepted before it."""


@dataclass
class Sink:
    """Listens, and hands each connection to `handler` in a thread of its own."""

    handler: Handler
    family: socket.AddressFamily = socket.AF_INET
    window: int | None = None
    """Bytes of the receive buffer."""
    streams: list[bytearray] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def uri(self) -> str:
        name = self.listener.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"

    def sent(self) -> SentStreams:
        """Return what came, channels in the order of their ids."""
        main = next((s for s in self.streams if s.startswith(STREAM_MAGIC)), b"")
        channels = [s for s in self.streams if not s.startswith(STREAM_MAGIC)]
        return SentStreams(bytes(main), [bytes(s) for s in sorted(channels, key=lambda s: s[24])])

    @contextmanager
    def listening(self, path: str = "") -> Iterator[Self]:
        self.listener = socket.socket(self.family)
        if self.window:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.listener.listen(256)
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()
        try:
            yield self
        finally:
            self.stopped.set()
            self._accept_the_rest()
            self.stop_listening()
            for thread in self.threads:
                thread.join()
            self.listener.close()

    def stop_listening(self) -> None:
        """Accept nothing any more; what waits to be accepted is reset."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)

    def _accept_the_rest(self) -> None:
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while poll.poll(0) == [(self.listener.fileno(), select.POLLIN)]:
            time.sleep(0.001)

    def _accept(self) -> None:
        for number in range(1000):
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            connection.settimeout(_WAIT)
            thread = threading.Thread(target=self.handle, args=(connection, number))
            self.threads.append(thread)
            thread.start()

    def handle(self, connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):
            self.handler(self, connection, number)

    def receive(self, connection: socket.socket) -> Iterator[bytearray]:
        """Keep what comes; yield all of it after each piece."""
        stream = bytearray()
        self.streams.append(stream)
        while piece := connection.recv(1 << 20):
            stream += piece
            yield stream


def take(sink: Sink, connection: socket.socket, number: int) -> None:
    """Be an orderly destination."""
    answer_by(PONG, SHUT)(sink, connection, number)


def answer_by(pong: bytes, shut: bytes) -> Handler:
    """Take everything, and answer the PING and the end of the main stream by these bytes."""

    def handler(sink: Sink, connection: socket.socket, _number: int) -> None:
        parser, fed = MainStream(), 0
        for stream in sink.receive(connection):
            if not stream.startswith(STREAM_MAGIC):
                continue
            parser.receive_data(bytes(stream[fed:]))
            fed = len(stream)
            for _, _, record in parser.records():
                if isinstance(record, Command) and record.cmd == _PING:
                    connection.sendall(pong)
                elif isinstance(record, StreamEnd):
                    connection.sendall(shut)

    return handler


def stall(sink: Sink, _connection: socket.socket, _number: int) -> None:
    """Take nothing, and say nothing."""
    sink.stopped.wait(_WAIT)


def reset(connection: socket.socket) -> None:
    """Break a connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def channels_by(misdeed: Handler) -> Handler:
    """Do something to the channels; the main stream is taken as it should be."""

    def handler(sink: Sink, connection: socket.socket, number: int) -> None:
        (misdeed if number else take)(sink, connection, number)

    return handler


def slowly(sink: Sink, connection: socket.socket, number: int) -> None:
    """Take the channels in small pieces, with pauses."""
    if not number:
        return take(sink, connection, number)
    stream = bytearray()
    sink.streams.append(stream)
    while piece := connection.recv(16 << 10):
        stream += piece
        time.sleep(0.01)
    return None
