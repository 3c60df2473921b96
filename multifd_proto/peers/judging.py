"""Judging a live migration in a process of its own, behind the threads that carry it.

Python runs one thread at a time, and judging a packet takes longer than receiving one. So the
bytes that a verdict rests on (the heads of packets, payloads only if they are compressed, the main
stream) go through a pipe to a child. The migration goes first: the child keeps what comes, and
judges it when nothing comes for a moment, when it has 32 MiB, or when all is over. A live
checker judges at once, at a low priority, and tells what it knows when it is asked.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
import time
from contextlib import suppress
from threading import Lock

from multifd_proto.errors import PeerError
from multifd_proto.machine.check import Checker
from multifd_proto.machine.migration import Migration
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.judge import FRAME, LENGTH, PIPE, READY, Kind
from multifd_proto.peers.owner import Owner

_BATCH = 64 << 10
_PATIENCE = 60.0
_MOMENT = 1_000_000  # ns that the times of what is judged may be wrong by


class _Batch(bytearray):
    """What a connection was fed, and was not sent on its way yet."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()
        self.time = 0
        """The last that was told, in ns since the epoch."""


class JudgingProcess(Owner):
    """A checker in a child process. Use it as a context manager: the child is always ended.

    Connections are known by numbers that the caller gives. The order of what one connection is fed
    counts; between connections there is none. Methods may be called from several threads.
    """

    def __init__(self, parameters: MigrationParameters, live: type[Checker] | None = None) -> None:
        """Start the child.

        Args:
            parameters: what is known of the migration beforehand.
            live: a checker that is a `judge.LiveChecker` too, for `ask`.
        """
        command = [sys.executable, "-m", "multifd_proto.peers.judge"]
        # a terminal's interrupt is for the parent, which still wants the verdict
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._child.stdin
        self._pipe = self._child.stdin.fileno()
        with suppress(OSError):  # more than this user may have
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE)
        self._lock = Lock()
        self._batches: dict[int, _Batch] = {}
        self._lost = False
        self._write(_packed((parameters, live)))
        assert self._child.stdout
        # its start would cost the migration more than waiting for it does
        os.read(self._child.stdout.fileno(), len(READY))

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    # ---- feeding -----------------------------------------------------------------------------

    def open(self, number: int, opened: int | None = None) -> None:
        """Announce a connection, opened now or at a time in ns since the epoch."""
        self._batches[number] = _Batch()
        self._say(number, Kind.OPEN, time.time_ns() if opened is None else opened)

    def feed(self, number: int, data: bytes | bytearray | memoryview) -> None:
        """Hand over the next bytes of a connection."""
        self._say(number, Kind.DATA, len(data), data)

    def skip(self, number: int, length: int) -> None:
        """Tell of bytes that are not handed over: the payload of an uncompressed packet."""
        self._say(number, Kind.SKIP, length)

    def returned(self, number: int, count: int) -> None:
        """Tell how many bytes the receiver has written on a connection."""
        self._say(number, Kind.RETURNED, count)

    def end(self, number: int, *, reset: bool = False, by_peer: bool = False) -> None:
        """Tell that a connection has ended.

        Args:
            number: the connection's.
            reset: it was broken off.
            by_peer: by the receiver.
        """
        self._say(number, Kind.BROKEN if by_peer else Kind.RESET if reset else Kind.END, 0)
        self.flush(number)

    def flush(self, number: int) -> None:
        """Send what a connection was fed on its way."""
        batch = self._batches[number]
        with batch.lock:
            self._write(batch)
            batch.clear()

    def _say(
        self, number: int, kind: int, value: int, data: bytes | bytearray | memoryview = b""
    ) -> None:
        batch, now = self._batches[number], time.time_ns()
        with batch.lock:
            if now - batch.time > _MOMENT:
                batch += FRAME.pack(Kind.TIME, number, now)
                batch.time = now
            batch += FRAME.pack(kind, number, value)
            batch += data
        if len(batch) > _BATCH:
            self.flush(number)

    def _write(self, data: bytes | bytearray) -> None:
        with self._lock, memoryview(data) as view:
            done = len(view) if self._lost else 0
            while done < len(view):
                try:
                    done += os.write(self._pipe, view[done:])
                except BrokenPipeError:
                    self._lost = True  # `conclude` says so
                    return

    # ---- the verdict -----------------------------------------------------------------------------

    def ask(self) -> object:
        """Return what the live checker says when it has judged all that was fed until now.

        Not to be called by two threads at once, nor beside `conclude`.

        Raises:
            PeerError: the child has died.
        """
        for number in list(self._batches):
            self.flush(number)
        self._write(FRAME.pack(Kind.ASK, 0, 0))
        assert self._child.stdout
        try:
            return pickle.load(self._child.stdout)  # from our own child
        except (EOFError, pickle.UnpicklingError):
            raise PeerError("the judge has died") from None

    def conclude(self) -> tuple[Report, Migration]:
        """Wait until everything is judged; return the verdict, and what it knows of the migration.

        Raises:
            PeerError: the child has died.
        """
        for number in list(self._batches):
            self.flush(number)
        try:
            output, _ = self._child.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise PeerError(f"the judge has not come to an end within {_PATIENCE:g} s") from None
        if self._child.returncode:
            raise PeerError(f"the judge has ended with status {self._child.returncode}")
        report, migration = pickle.loads(output)  # from our own child
        return report, migration


def _packed(value: object) -> bytes:
    data = pickle.dumps(value)
    return LENGTH.pack(len(data)) + data
