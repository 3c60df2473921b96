"""The connections of a migration as they arrive: which is which, which are too many.

Theory of operation. A connection counts from its accept on. Where the dialect peeks, the first
four bytes say what it is, and one that keeps silent keeps nobody else out: so many may be pending.
By order (old dialects, and TLS always), the first one is the main stream, and all others channels.
Surplus connections are closed at once (CHAN-9). The migration has to be complete in `timeout`
seconds from its first connection on, and says what came if it is not.
"""

from __future__ import annotations

import socket
import ssl
import time
from threading import Event, Thread
from typing import Protocol

from multifd_proto.errors import PeerError
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.connection import Connection, PeerClosedError, PeerTimeoutError
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.reception import Reception
from multifd_proto.peers.tls import wrap
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import MULTIFD_MAGIC

_TICK = 0.05
_PENDING = 16  # connections more than needed that may be open before their first bytes came
_STRAYS = 8  # that are told of one by one
_MAGIC = MULTIFD_MAGIC.to_bytes(4, "big")


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
        self.accepted = 0
        """Connections that were not surplus."""
        self.over = Event()
        """The main stream has been received to its end."""
        parameters = reception.state.parameters
        assert parameters.dialect
        self._peeks = parameters.dialect.peeks and context is None
        self._listener, self._reception = listener, reception
        self._serve, self._context = serve, context
        self._needed = 1 + reception.state.channels
        self._threads: list[Thread] = []
        self._has_main = False
        self._channels = self._pending = self._surplus = 0
        self._strays: list[str] = []

    def run(self) -> float:
        """Serve until the migration is over or has failed; return the seconds since its start."""
        begun: float | None = None
        try:
            while not self._finished(begun):
                sock = self._listener.accept(_TICK)
                if sock:
                    begun = begun or time.monotonic()
                    self._accept(sock)
                elif not self._has_main and not self._channels and not self._pending:
                    begun = None  # whoever came has gone
        except BaseException:
            self._reception.fail(PeerError("interrupted"))
            raise
        finally:
            self._listener.close()
            self._reception.close()
            for thread in self._threads:
                thread.join()
        if self._surplus:
            self._reception.warn(f"{self._surplus} surplus connections were closed")
        return time.monotonic() - begun if begun else 0.0

    def _finished(self, begun: float | None) -> bool:
        reception = self._reception
        if reception.failure:
            return True
        if self.over.is_set():
            busy = any(thread.is_alive() for thread in self._threads)
            return not busy or self._pending == sum(t.is_alive() for t in self._threads)
        late = begun is not None and time.monotonic() - begun > reception.timeout
        if late and not (self._has_main and reception.state.complete):
            reception.fail(
                PeerError(f"set-up is incomplete after {reception.timeout:g} s: {self._came}")
            )
            return True
        return False

    @property
    def _came(self) -> str:
        state = self._reception.state
        main = "the main stream" if self._has_main else "no main stream"
        came = f"{main} and {len(state.arrived)} of {state.channels} channels came"
        return "; ".join((came, *self._strays))

    # ---- one connection ------------------------------------------------------------------------

    def _accept(self, sock: socket.socket) -> None:
        known = self._has_main + self._channels
        room = self._needed - known + (_PENDING if self._peeks else 0)
        if known == self._needed or self._pending >= room:
            self._surplus += 1
            sock.close()
            return
        name = f"connection {self.accepted}{_origin(sock)}"
        self._pending += 1
        thread = Thread(target=self._greet, args=(sock, self.accepted, name), name=name)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        self.accepted += 1
        thread.start()

    def _greet(self, sock: socket.socket, stream: int, name: str) -> None:
        """Find out what a connection is, receive it, and close it, whatever happens."""
        reception = self._reception
        try:
            if self._context:
                sock = wrap(sock, self._context, name, reception.timeout)
            connection = Connection(sock, name, reception.timeout)
            reception.add(connection)
        except (PeerError, OSError) as error:
            self._settle()
            reception.fail(PeerError(str(error)))
            return
        try:
            first = self._identify(connection, stream)
            if first is not None:
                main = stream == 0 if not self._peeks else first == STREAM_MAGIC
                self._serve(connection, stream, first, main=main)
        except PeerError as error:
            reception.fail(error)
        finally:
            connection.close()

    def _identify(self, connection: Connection, stream: int) -> bytes | None:
        """Return the bytes that tell what a connection is; None if it is nothing."""
        if not self._peeks:
            self._settle(main=stream == 0, channel=stream > 0)
            return b""
        view = memoryview(bytearray(4))
        length = 0
        try:
            while length < 4:
                taken = connection.receive_into(view[length:], whole=True)
                if not taken:
                    break
                length += taken
        except (PeerTimeoutError, PeerClosedError):
            pass
        head = bytes(view[:length])
        if length < 4:
            self._settle()
            if length:
                self._stray(f"{connection.name} sent {length} of its first 4 bytes")
            return None
        main = head == STREAM_MAGIC
        if not main and head != _MAGIC:
            self._settle()
            fault = Fault("first bytes", head.hex(" "), f"{STREAM_MAGIC!r} or {_MAGIC.hex(' ')}")
            self._reception.refuse(iter([("CHAN-6", fault)]), stream, None, 0)
        if main and self._has_main:
            self._settle()
            fault = Fault("connection", "a second main stream", "a multifd channel")
            self._reception.refuse(iter([("CHAN-4", fault)]), stream, None, 0)
        self._settle(main=main, channel=not main)
        return head

    def _settle(self, *, main: bool = False, channel: bool = False) -> None:
        """A connection is no longer pending."""
        with self._reception.lock:
            self._pending -= 1
            self._has_main |= main
            self._channels += channel

    def _stray(self, text: str) -> None:
        with self._reception.lock:
            if len(self._strays) < _STRAYS:
                self._strays.append(text)


def _origin(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return f" ({name[0]}:{name[1]})" if isinstance(name, tuple) else ""
