"""The connections of a migration as they arrive: which is which, which are too many.

Theory of operation. A connection counts as soon as it is known what it is: a channel, by its init
message, or the main stream. Until then it is pending, and keeps nobody else out: a few more may be
pending than are needed. Where the dialect peeks, the first four bytes say what it is. By order (old
dialects, and TLS always), the first one is the main stream, and all others are channels.
Surplus connections are closed at once (CHAN-9). The migration has to be complete in `timeout`
seconds from its first connection on, and says what came if it is not.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from threading import Event, Thread
from typing import Protocol

from multifd_proto.errors import PeerError
from multifd_proto.machine.refusal import refuse_end
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.connection import Connection, PeerClosedError, PeerTimeoutError
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.receive.reception import Reception
from multifd_proto.peers.tls import begin, shake_hands
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import CHANNEL_MAGIC, MultiFDInit

_TICK = 0.02
_PENDING = 16  # connections more than needed that may be open before their first bytes came
_TOLD = 8  # connections that are told of one by one
_INIT = MultiFDInit.size()


class Serve(Protocol):
    """Receives a connection to its end."""

    def __call__(self, connection: Connection, stream: int, first: bytes, *, main: bool) -> None:
        """Receive it; `first` are bytes of it that were read to see what it is."""


class Arrivals:
    """Accepts connections and hands each to its own thread."""

    def __init__(
        self,
        listener: Listener,
        reception: Reception,
        serve: Serve,
        context: ssl.SSLContext | None,
    ) -> None:
        """Make the arrivals of one migration.

        Args:
            listener: where they arrive.
            reception: the migration.
            serve: receives a connection, once it is known what it is.
            context: makes every connection TLS.
        """
        self._accepted = 0
        self.over = Event()
        """The main stream has been received to its end."""
        parameters = reception.state.parameters
        assert parameters.dialect
        self._peeks = parameters.dialect.peeks and context is None
        self._listener, self._reception = listener, reception
        self._serve, self._context = serve, context
        self._needed = 1 + reception.state.channels
        self._threads: list[Thread] = []
        self._running = 0
        self._has_main = False
        self._channels = self._pending = self._surplus = 0
        self._unknown: dict[int, str] = {}  # what came of connections that prove nothing
        self._begun: float | None = None
        self._ended: float | None = None

    def run(self) -> float:
        """Serve until the migration is over or has failed; return the seconds since its start."""
        try:
            while not self._finished():
                sock = self._listener.accept(_TICK)
                if sock:
                    self._begun = self._begun or time.monotonic()
                    self._accept(sock)
                elif not (self._has_main or self._channels or self._pending or self._late):
                    self._begun = None  # whoever came has gone
                    self._unknown.clear()
        except BaseException:
            self._reception.fail(PeerError("interrupted"))
            raise
        finally:
            self._reception.close()
            for thread in self._threads:
                thread.join()
            self._listener.close()
        if self._surplus:
            self._reception.warn(f"surplus connections that were closed: {self._surplus}")
        return time.monotonic() - self._begun if self._begun else 0.0

    def wake(self) -> None:
        """Have `run` look at once whether the migration has failed."""
        self._listener.wake()

    @property
    def _late(self) -> bool:
        return self._begun is not None and time.monotonic() - self._begun > self._reception.timeout

    @property
    def _complete(self) -> bool:
        return self._has_main and self._reception.state.complete

    def _finished(self) -> bool:
        reception = self._reception
        if reception.failure:
            return True
        if self.over.is_set():
            return self._wound_up()
        if self._late and not self._complete:
            message = f"set-up is incomplete after {reception.timeout:g} s: {self._came}"
            reception.fail(PeerError(message))
            return True
        return False

    def _wound_up(self) -> bool:
        """Tell whether the source has closed its connections, or will not."""
        if self._running <= self._pending:
            return True
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended < self._reception.timeout:
            return False
        inside = self._reception.inside()
        if inside:
            self._reception.fail(PeerError(inside))
        else:
            self._reception.warn("the source did not close its connections")
        return True

    @property
    def _came(self) -> str:
        state = self._reception.state
        main = "the main stream" if self._has_main else "no main stream"
        came = f"{main} and {len(state.arrived)} of {state.channels} channels came"
        with self._reception.lock:
            return "; ".join((came, *(text for _, text in sorted(self._unknown.items())[:_TOLD])))

    # ---- one connection ------------------------------------------------------------------------

    def _accept(self, sock: socket.socket) -> None:
        known = self._has_main + self._channels
        room = self._needed - known + _PENDING
        if known == self._needed or self._pending >= room:
            self._surplus += 1
            sock.close()
            return
        name, opened = f"connection {self._accepted}{_origin(sock)}", time.time_ns()
        with self._reception.lock:
            self._pending += 1
            self._running += 1
            came = "is in its TLS handshake" if self._context else "sent nothing"
            self._unknown[self._accepted] = f"{name} {came}"
        self._reception.progress()
        thread = Thread(target=self._run, args=(sock, self._accepted, name, opened))
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        self._accepted += 1
        thread.start()

    def _run(self, sock: socket.socket, stream: int, name: str, opened: int) -> None:
        """Receive a connection, and close it, whatever happens."""
        reception = self._reception
        try:
            self._greet(sock, stream, name, opened)
        except PeerError as error:
            reception.fail(error)
        except OSError as error:  # all that is about the connection itself is a PeerError
            place = error.filename or name
            reception.fail(PeerError(f"{place}: {error.strerror}"))
        except BaseException as error:
            failure = PeerError(f"{name}: its thread has failed")
            failure.__cause__ = error
            reception.fail(failure)
            raise
        finally:
            with reception.lock:
                self._running -= 1
            self._listener.wake()

    def _greet(self, sock: socket.socket, stream: int, name: str, opened: int) -> None:
        """Find out what a connection is, and receive it."""
        connection, first = None, None
        try:
            try:
                connection = self._open(sock, name)
                connection.opened = opened
                first = self._identify(connection, stream)
            except PeerError:
                if not self._complete:
                    raise
                # when all are there, whoever else has come is no part of the migration
            finally:
                main = first is not None and self._is_main(first, stream)
                self._settle(stream, None if first is None else main)
            if connection and first is not None:
                self._serve(connection, stream, first, main=main)
        finally:
            if connection:
                connection.close()

    def _open(self, sock: socket.socket, name: str) -> Connection:
        """Take in a connection, in TLS by a handshake."""
        timeout = self._reception.timeout
        if self._context is None:
            connection = Connection(sock, name, timeout)
            self._reception.add(connection)
            return connection
        secure = begin(sock, self._context, name)
        connection = Connection(secure, name, timeout)
        self._reception.add(connection)  # so that it can be interrupted
        shake_hands(secure, name, 2 * timeout)  # that it takes too long, `_finished` says before
        return connection

    def _is_main(self, first: bytes, stream: int) -> bool:
        return first == STREAM_MAGIC if self._peeks else stream == 0

    def _identify(self, connection: Connection, stream: int) -> bytes | None:
        """Return a connection's first bytes, of a channel its init; None if it is nothing."""
        first = b""
        if self._peeks:
            with suppress(PeerClosedError):
                first = self._read(connection, stream, b"", len(CHANNEL_MAGIC))
            if len(first) < len(CHANNEL_MAGIC):
                return None
            if first not in (STREAM_MAGIC, CHANNEL_MAGIC):
                demanded = f"{STREAM_MAGIC.hex(' ')} or {CHANNEL_MAGIC.hex(' ')}"
                fault = Fault("start of a connection", first.hex(" "), demanded)
                self._reception.refuse([("CHAN-6", fault)], stream, None, 0)
        if self._is_main(first, stream):
            return first
        init = self._read(connection, stream, first, _INIT)
        return init if len(init) == _INIT else None

    def _read(self, connection: Connection, stream: int, first: bytes, size: int) -> bytes:
        """Read the first `size` bytes of a connection; fewer if they do not come in time.

        Raises:
            PeerError: it ends inside an init message.
        """
        reception = self._reception
        deadline = time.monotonic() + reception.timeout
        while len(first) < size and time.monotonic() < deadline:
            view = memoryview(bytearray(size - len(first)))
            try:
                length = connection.receive_into(view)
            except PeerTimeoutError:
                break
            if not length:
                if size == _INIT:
                    reception.check()
                    refusals = refuse_end(size - len(first))
                    reception.refuse(refusals, stream, None, len(first))
                break
            first += view[:length]
            with reception.lock:
                came = f"{connection.name} sent {len(first)} of its first {size} bytes"
                self._unknown[stream] = came
        return first

    def _settle(self, stream: int, main: bool | None) -> None:
        """A connection is no longer pending: it is the main stream, a channel, or nothing."""
        with self._reception.lock:
            self._pending -= 1
            second = main and self._has_main
            self._has_main |= bool(main)
            self._channels += main is False
            if main is not None or len(self._unknown) > 2 * _TOLD:
                del self._unknown[stream]
        if second:
            fault = Fault("connection", "a second main stream", "a multifd channel")
            self._reception.refuse([("CHAN-4", fault)], stream, None, 0)


def _origin(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return f" ({name[0]}:{name[1]})" if isinstance(name, tuple) else ""
