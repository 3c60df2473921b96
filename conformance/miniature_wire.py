"""One connection of a miniature receiver: bytes, and what is known of it."""

from __future__ import annotations

import math
import time

from multifd_proto.errors import PeerError
from multifd_proto.peers.connection import Connection, PeerClosedError
from multifd_proto.wire.payload import Decoder

LONG = 3600.0
"""Seconds of a wait that others end."""
_CHUNK = 64 << 10
_KEPT = 4 << 20  # bytes of a message that are kept, whatever it claims to have


class StoppedError(PeerError):
    """The migration is over: this thread has nothing more to do."""


class InsideError(PeerError):
    """A connection has ended inside a message, `due` bytes before its end."""

    def __init__(self, due: int) -> None:
        super().__init__(f"{due} bytes are missing")
        self.due = due


class Wire:
    """One connection, with what the receiver knows of it."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self.connection, self.stream = connection, stream
        self.main = False
        self.channel: int | None = None
        """Its number in the joint state: the id, unless that was let pass though it is taken."""
        self.offset = 0
        self.deadline = math.inf
        self.ended = False
        """It has come to the end of its stream, or was reset."""
        self.decoder: Decoder | None = None

    def some(self, size: int = _CHUNK) -> bytes:
        """Return the next bytes, at most `size`; none at the end of the stream, or a reset."""
        self.connection.set_timeout(min(max(self.deadline - time.monotonic(), 0), LONG))
        view = memoryview(bytearray(min(size, _CHUNK)))
        try:
            length = self.connection.receive_into(view)
        except PeerClosedError:
            length, self.connection.ragged = 0, self.connection.tls
        self.ended = not length
        self.offset += length
        return bytes(view[:length])

    def take(self, size: int, *, last: bool = False) -> bytes:
        """Return the next `size` bytes (the first of them, if they are more than is kept).

        Args:
            size: how many.
            last: the stream may end before them, then there are none.

        Raises:
            InsideError: the stream ends before that.
        """
        data, left = bytearray(), size
        while left:
            more = self.some(left)
            if not more and last and left == size:
                break
            if not more:
                raise InsideError(left)
            data += more if len(data) < _KEPT else b""
            left -= len(more)
        return bytes(data)
