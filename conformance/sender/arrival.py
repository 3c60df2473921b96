"""One connection that a sender has opened: its socket, with or without TLS, and what it carries.

Nothing here waits. Where TLS is demanded the first bytes decide: a handshake is made, and what
comes in the clear is read in the clear, so that it can be told what was wrong.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress

from multifd_proto.errors import PeerError
from multifd_proto.peers.tls import begin, is_ragged, tls_reason
from multifd_proto.wire.schema import CHANNEL_MAGIC, MultiFDInit

from .streams import Hearing, Stream

_HANDSHAKE = b"\x16"
_TURNS = 16
"""Pieces that are read before others have their turn."""


class Arrival:
    """A connection.

    Args:
        sock: the socket.
        number: how many were accepted before it.
        hearing: what all connections share.
        context: credentials, where TLS is demanded.
    """

    def __init__(
        self, sock: socket.socket, number: int, hearing: Hearing, context: ssl.SSLContext | None
    ) -> None:
        sock.setblocking(False)
        self.socket, self.number = sock, number
        self.stream = Stream(hearing, number)
        self.bytes = 0
        """Bytes that were read, as the migration counts them."""
        self.ended = ""
        """How the sender has ended it: `ended` or `reset`; empty while it has not."""
        self.over = False
        """Its end was taken note of, and nothing more is read."""
        self.secured = False
        """The TLS handshake is finished."""
        self.clear_init = False
        """The init came before the handshake."""
        self.notified = False
        """The TLS session has ended by close_notify."""
        self.failure = ""
        """Why the handshake failed."""
        self._log = hearing.log
        self._context = context
        self._undecided = context is not None
        self._log.note(self.stream.name, "open", "connection accepted")

    @property
    def eager(self) -> bool:
        """There is something to read that the socket does not show."""
        sock = self.socket
        return not self.over and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def read(self, size: int) -> None:
        """Read at most so many bytes, and answer."""
        try:
            if self._undecided and not self._decide():
                return
            if isinstance(self.socket, ssl.SSLSocket) and not self.secured:
                self.socket.do_handshake()
                self.secured = True
                self._log.note(self.stream.name, "received", "TLS handshake")
            self._receive(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError) as error:
            self._fail(error)

    def finish(self, *, excused: bool) -> None:
        """Take note that the sender has ended it, and close it.

        Args:
            excused: as for `Stream.end`.
        """
        self.over = True
        self.stream.end(reset=self.ended == "reset", excused=excused)
        self.socket.close()

    def break_off(self) -> None:
        """Reset it, as a destination that is in trouble does."""
        self._log.note(self.stream.name, "broken", "connection reset by us")
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.ended = "reset"
        self.finish(excused=True)

    def _decide(self) -> bool:
        """Look at the next bytes; tell whether they say how it goes on."""
        assert self._context
        head = self.socket.recv(len(CHANNEL_MAGIC), socket.MSG_PEEK)
        left = MultiFDInit.size() - self.bytes
        if head and left and (self.clear_init or head == CHANNEL_MAGIC):
            self.clear_init = True
            self._take(self.socket.recv(left))
            return False
        self._undecided = False
        if head[:1] == _HANDSHAKE:
            try:
                self.socket = begin(self.socket, self._context, self.stream.name)
            except PeerError as error:
                raise OSError(str(error)) from None
        return True

    def _receive(self, size: int) -> None:
        for _ in range(_TURNS):
            data = self.socket.recv(size)
            if not data:
                self.notified = isinstance(self.socket, ssl.SSLSocket)
                self._end("ended")
                return
            self._take(data)
            if not self.eager:
                return

    def _take(self, data: bytes) -> None:
        self.bytes += len(data)
        self._answer(self.stream.feed(data))

    def part(self) -> None:
        """Say that everything was loaded, if that is still owed: nothing has come for a while."""
        if not self.over:
            self._answer(self.stream.farewell())

    def _answer(self, answer: bytes) -> None:
        if answer:
            with suppress(OSError):  # a sender that does not care for it may be gone
                self.socket.send(answer)
            self._log.note(self.stream.name, "sent", "answer on the return path", answer)

    def _fail(self, error: OSError | ValueError) -> None:
        if isinstance(self.socket, ssl.SSLSocket):
            if not self.secured:
                self.failure = tls_reason(error)
            if is_ragged(error):
                self._end("ended")
                return
        self._end("reset", f": {tls_reason(error)}")

    def _end(self, how: str, why: str = "") -> None:
        self.ended = how
        self._log.note(self.stream.name, how, f"{how} by the sender{why}")
