"""What the threads of a receiver share: the joint state, its lock, and the end of it all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import NoReturn

from multifd_proto.errors import PeerError
from multifd_proto.machine.receiving import Receiving, violation
from multifd_proto.machine.refusal import Refusals
from multifd_proto.machine.verdict import Violation
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.receive.memory import GuestMemory

_TICK = 0.25


class RefusedError(PeerError):
    """The source did what a receiver refuses."""

    def __init__(self, found: Violation) -> None:
        super().__init__(str(found))
        self.violation = found


@dataclass(frozen=True)
class Failure:
    """Why a migration did not complete."""

    message: str
    """Place, value seen and value demanded."""
    violation: Violation | None = None
    """The requirement that the peer violated, if it is one."""
    defect: BaseException | None = None
    """The exception, if the fault is this receiver's own."""


class Reception:
    """One migration that is being received.

    `state` is touched with `lock` held only. The first failure counts: it ends every wait of every
    thread, and all connections.
    """

    def __init__(
        self,
        state: Receiving,
        memory: GuestMemory,
        timeout: float,
        judge: JudgingProcess | None,
        *,
        devices: bool = True,
    ) -> None:
        self.state, self.memory, self.timeout = state, memory, timeout
        self.devices = devices
        """The machine takes the state of devices from channels."""
        self.judge = judge
        """Judges the source, if that is wanted."""
        self.lock = Condition()
        self.unfinished: list[Callable[[], str | None]] = []
        """Of each channel: says what it stands in the middle of, None if between packets."""
        self.loading = False
        """All connections are there, so that silence counts."""
        self.failure: Failure | None = None
        self.warnings: list[str] = []
        self._connections: list[Connection] = []
        self._closed = False
        self._progress = time.monotonic()

    def refuse(self, refusals: Refusals, stream: int, channel: int | None, offset: int) -> None:
        """Fail with the first of some refusals, if there is one.

        Raises:
            RefusedError: there is one.
        """
        found = violation(refusals, stream, channel, offset)
        if found:
            raise RefusedError(found)

    # ---- going on --------------------------------------------------------------------------------

    def add(self, connection: Connection) -> None:
        """Take in a connection, to be ended when the migration fails."""
        with self.lock:
            self._connections.append(connection)
            late = self.failure is not None or self._closed
        if late:
            connection.abort()

    def progress(self) -> None:
        """Take note that bytes came, on whatever connection."""
        self._progress = time.monotonic()

    def check_progress(self) -> None:
        """Stop this thread if the migration has failed, or fails of silence.

        Raises:
            PeerError: it has failed, or no connection sent a byte for too long.
        """
        self.check()
        silent = time.monotonic() - self._progress > self.timeout
        if silent and self.loading and not self.state.over:
            waits = f"no byte came for {self.timeout:g} s: {self.state.awaited}"
            raise PeerError(self.inside() or waits)

    def inside(self) -> str | None:
        """Say which channel stands in the middle of something, if there is one."""
        return next(filter(None, (text() for text in self.unfinished)), None)

    def wait(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true; it is called with the lock held.

        Args:
            ready: what is waited for; may raise.

        Raises:
            PeerError: the migration failed, or no connection sent a byte for too long.
        """
        with self.lock:
            while not ready():
                self.check_progress()
                self.lock.wait(min(_TICK, self.timeout))

    def check(self) -> None:
        """Stop this thread if the migration has failed.

        Raises:
            PeerError: it has; the message is of no interest any more.
        """
        if self.failure:
            self.stop()

    def stop(self) -> NoReturn:
        """Stop this thread, as another one has failed."""
        raise PeerError("stopped")

    # ---- ending ----------------------------------------------------------------------------------

    def fail(self, error: PeerError) -> None:
        """Fail, unless it has failed before; and end every wait."""
        with self.lock:
            if self.failure is None and not self._closed:
                violation = getattr(error, "violation", None)
                self.failure = Failure(str(error), violation, error.__cause__)
            self.lock.notify_all()
            connections = list(self._connections)
        for connection in connections:
            connection.abort()

    def close(self) -> None:
        """End all connections: nothing that happens to them counts any more."""
        with self.lock:
            self._closed = True
            connections = list(self._connections)
        for connection in connections:
            connection.abort()

    def warn(self, text: str) -> None:
        """Take note of something odd that does no harm."""
        with self.lock:
            self.warnings.append(text)
