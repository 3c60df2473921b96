"""The connections of a script: opened, written and read without ever waiting on one of them.

What does not go out at once is kept, and goes out when the peer reads on; so a peer that has
stopped to read one connection holds up none of the others.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.tls import is_ragged, wrap

from .observation import Exchange

KEPT = 1 << 20
"""Bytes of an exchange, or of a peer's answers, that are kept."""
_READ = 1 << 16
_RETRY = 0.05
_HOSTNAME = "localhost"


class Wire:
    """One connection."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.name, self.socket = name, sock
        self.pending = bytearray()
        self.answered = bytearray()
        self.ended = ""
        """How the peer ended it: `ended`, `reset`; empty while it has not."""
        self.finished = False
        """We have ended it."""

    @property
    def writable(self) -> bool:
        """It is of use to write to it."""
        return bool(self.pending) and not self.finished and self.ended != "reset"

    def write(self) -> None:
        """Write as much as goes."""
        while self.writable:
            try:
                done = self.socket.send(self.pending)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except (OSError, ValueError):
                self.pending.clear()
                self._end_by("reset")
                return
            del self.pending[:done]

    def read(self) -> bytes:
        """Return what has come, and note an end."""
        try:
            data = self.socket.recv(_READ)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        except (OSError, ValueError) as error:
            self._end_by("ended" if is_ragged(error) else "reset")
            return b""
        if not data:
            self._end_by("ended")
        self.answered += data[: KEPT - len(self.answered)]
        return data

    def _end_by(self, how: str) -> None:
        self.ended = self.ended or how

    def finish(self, *, notify: bool) -> None:
        """End the sending direction."""
        self.finished = True
        with suppress(OSError, ValueError):
            if isinstance(self.socket, ssl.SSLSocket) and notify:
                self.socket.unwrap()
        with suppress(OSError):
            # of the connection below TLS, whose own method would want an answer first
            socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def reset(self) -> None:
        """Break it."""
        self.finished, self.ended = True, self.ended or "broken by us"
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Wires(Owner):
    """All connections of a script, and the log of what went over them."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, timeout: float) -> None:
        self._address, self._tls, self._timeout = address, tls, timeout
        self._selector = selectors.DefaultSelector()
        self._begun = time.monotonic()
        self.wires: dict[str, Wire] = {}
        self.refused: set[str] = set()
        """Wires that the peer did not let in."""
        self.log: list[Exchange] = []

    def close(self) -> None:
        """Close all connections."""
        for wire in self.wires.values():
            wire.socket.close()
        self._selector.close()

    def open(self, name: str, *, refusable: bool = False) -> None:
        """Open a connection.

        Args:
            name: of the wire.
            refusable: a refusal is noted in `refused`, and that is all.

        Raises:
            PeerError: it is refused, or the TLS handshake fails.
        """
        try:
            sock = self._dial()
            if self._tls:
                sock = wrap(sock, self._tls, f"wire {name}", self._timeout, _HOSTNAME)
        except PeerError as error:
            self._note(name, "refused", str(error))
            if not refusable:
                raise
            self.refused.add(name)
            return
        self.wires[name] = Wire(name, sock)
        self._selector.register(sock, selectors.EVENT_READ, self.wires[name])
        self._note(name, "open", f"connection to {self._address}")

    def _dial(self) -> socket.socket:
        """Connect; one that has just been started is given time to listen."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return dial(self._address, len(self.wires), self._timeout)
            except PeerError:
                if self.wires or time.monotonic() + _RETRY > deadline:
                    raise
                time.sleep(_RETRY)

    def send(self, name: str, data: bytes, what: str) -> None:
        """Send bytes, at once or as soon as they can go."""
        wire = self.wires[name]
        self._note(name, "sent", what, data)
        wire.pending += data
        wire.write()

    def finish(self, name: str, *, notify: bool = True) -> None:
        """End the sending direction of a connection, once all is written."""
        wire = self.wires[name]
        self.wait(lambda: not wire.writable, self._timeout)
        if not wire.finished:
            wire.finish(notify=notify)
            self._note(name, "fin", "end of what is sent")

    def reset(self, name: str) -> None:
        """Break a connection, once all is written."""
        wire = self.wires[name]
        self.wait(lambda: not wire.writable, self._timeout)
        self._forget(wire)
        wire.reset()
        self._note(name, "broken", "connection reset by us")

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Serve the connections until something holds, and tell whether it does.

        What is asked may not show on a connection: it is asked every few milliseconds.
        """
        deadline, pause = time.monotonic() + seconds, 0.0005
        while not done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._serve(min(left, pause))
            pause = min(pause * 1.5, 0.01)
        return True

    def _serve(self, seconds: float) -> None:
        for wire in self.wires.values():
            wire.write()
        if not self._selector.get_map():
            time.sleep(seconds)
        for key, _ in self._selector.select(seconds):
            self._read(key.data)

    def _read(self, wire: Wire) -> None:
        data = wire.read()
        if data:
            self._note(wire.name, "received", f"{len(data)} bytes from the peer", data)
        elif wire.ended:
            self._forget(wire)
            how = "reset" if wire.ended == "reset" else "ended"
            self._note(wire.name, how, f"{how} by the peer")

    def _forget(self, wire: Wire) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(wire.socket)

    def _note(self, name: str, kind: str, what: str, data: bytes = b"") -> None:
        now = time.monotonic() - self._begun
        self.log.append(Exchange(now, name, kind, what, data[:KEPT], len(data)))
