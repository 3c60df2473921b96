"""The main stream's connection at its source: the stream goes out, the return path comes in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import PING
from multifd_proto.peers.connection import Connection, PeerTimeoutError
from multifd_proto.peers.send.crew import Crew
from multifd_proto.wire.return_path import (
    HEADER,
    LENGTHS,
    NAMES,
    PONG,
    SHUT,
    SWITCHOVER_ACK,
)

_AT_ONCE = 4096


class MainConnection:
    """The main stream; `run`, which follows the return path, is for a thread of its own."""

    def __init__(self, connection: Connection, crew: Crew) -> None:
        """Take over a connection.

        Args:
            connection: that of the main stream.
            crew: told of every answer, and of a failure.
        """
        self.sent = 0
        """Bytes of the main stream."""
        self.pong = False
        """The destination has repeated the PING."""
        self.switchover_ack = False
        """The destination has said that it agrees to a switchover."""
        self.shut: int | None = None
        """What the destination said at the end: 0 if it has loaded everything."""
        self.refusal: PeerError | None = None
        """The destination has said that it could not load the migration."""
        self.connection = connection
        self._crew = crew
        self._buffer, self._offset = bytearray(), 0
        self._ending = False
        # not aborted: the destination may still say what is wrong
        crew.when_stopped(connection.stop_sending)

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of the stream.

        Args:
            data: the piece.
            last: nothing follows it, so that SHUT may come.

        Raises:
            PeerError: the other end takes no more.
        """
        self._ending |= last
        try:
            self.connection.send(data)
        except PeerError as error:
            raise type(error)(f"{error}, after {self.sent} bytes") from None
        self.sent += len(data)

    def await_answer(self, what: str, there: Callable[[], bool]) -> None:
        """Wait until the destination has answered.

        Args:
            what: the answer, for an error.
            there: tells whether it has.

        Raises:
            PeerTimeoutError: it has not, for as long as it may take.
            Stopped: another thread has failed.
        """
        timeout = self.connection.timeout
        if not self._crew.wait_for(there, timeout):
            name = self.connection.name
            raise PeerTimeoutError(f"{name}: the destination sent no {what} for {timeout:g} s")

    def run(self) -> None:
        """Read answers until the last one."""
        try:
            while self.shut is None and self._receive():
                self._parse()
                self._crew.notify()
            if self.shut is None:
                raise self._wrong("closed before SHUT")
        except PeerError as error:
            self._crew.fail(error)

    def _receive(self) -> int:
        room = memoryview(bytearray(_AT_ONCE))
        while True:
            # that nothing comes is for `await_answer` to judge
            with suppress(PeerTimeoutError):
                taken = self.connection.receive_into(room)
                self._buffer += room[:taken]
                return taken

    def _parse(self) -> None:
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            if kind not in LENGTHS:
                raise self._wrong(f"message type is {kind}, must be 1, 2 or 7")
            if length != LENGTHS[kind]:
                demanded = LENGTHS[kind]
                raise self._wrong(f"length of {NAMES[kind]} is {length}, must be {demanded}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            self._take(kind, int.from_bytes(self._buffer[HEADER.size : end], "big"))
            del self._buffer[:end]
            self._offset += end

    def _take(self, kind: int, value: int) -> None:
        if kind == PONG and value != PING:
            raise self._wrong(f"PONG is {value:#x}, must be {PING:#x}")
        if kind == SHUT:
            self.shut = value
            if value:
                why = f"the destination has failed: SHUT is {value:#x}, must be 0"
                self.refusal = self._wrong(why)
                raise self.refusal
            if not self._ending:
                raise self._wrong("SHUT before the end of the main stream")
        self.pong |= kind == PONG
        self.switchover_ack |= kind == SWITCHOVER_ACK

    def _wrong(self, what: str) -> PeerError:
        return PeerError(f"{self.connection.name}, return path @{self._offset:#x}: {what}")
