"""Judging a live migration in a process of its own, behind the threads that carry it.

Python runs one thread at a time, and judging a packet takes longer than receiving one. So the
bytes that a verdict rests on (the heads of packets, payloads only if they are compressed, the main
stream) go through a pipe to a child. The migration goes first: the child keeps what comes, and
judges it when nothing comes for a moment, when it has `_LAG` bytes, or when all is over.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Lock
from typing import BinaryIO

from multifd_proto.errors import PeerError
from multifd_proto.machine.migration import Migration
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.owner import Owner

_FRAME = struct.Struct("=BIQ")  # kind, number of the connection, length or time
_OPEN, _DATA, _SKIP, _END, _RESET, _BROKEN, _RETURNED = range(7)
_PIPE = 1 << 20
_BATCH = 64 << 10
_LAG = 32 << 20  # heads of 12 GiB of memory
_STEP = 64 << 10
_QUIET = 0.1
_READY = b"!"
_PATIENCE = 60.0


class JudgingProcess(Owner):
    """A checker in a child process. Use it as a context manager: the child is always ended.

    Connections are known by numbers that the caller gives. The order of what one connection is fed
    counts; between connections there is none. Methods may be called from several threads.
    """

    def __init__(self, parameters: MigrationParameters) -> None:
        """Start the child.

        Args:
            parameters: what is known of the migration beforehand.
        """
        command = [sys.executable, "-m", "multifd_proto.peers.judging"]
        # a terminal's interrupt is for the parent, which still wants the verdict
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._child.stdin
        self._pipe = self._child.stdin.fileno()
        with suppress(OSError):  # more than this user may have
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self._lock = Lock()
        self._batches: dict[int, bytearray] = {}
        self._lost = False
        self._write(_packed(parameters))
        assert self._child.stdout
        # its start would cost the migration more than waiting for it does
        os.read(self._child.stdout.fileno(), len(_READY))

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
        opened = time.time_ns() if opened is None else opened
        self._batches[number] = bytearray(_FRAME.pack(_OPEN, number, opened))

    def feed(self, number: int, data: bytes | bytearray | memoryview) -> None:
        """Hand over the next bytes of a connection."""
        batch = self._batches[number]
        batch += _FRAME.pack(_DATA, number, len(data))
        batch += data
        if len(batch) > _BATCH:
            self.flush(number)

    def skip(self, number: int, length: int) -> None:
        """Tell of bytes that are not handed over: the payload of an uncompressed packet."""
        self._batches[number] += _FRAME.pack(_SKIP, number, length)

    def returned(self, number: int, count: int) -> None:
        """Tell how many bytes the receiver has written on a connection."""
        self._batches[number] += _FRAME.pack(_RETURNED, number, count)

    def end(self, number: int, *, reset: bool = False, by_peer: bool = False) -> None:
        """Tell that a connection has ended.

        Args:
            number: the connection's.
            reset: it was broken off.
            by_peer: by the receiver.
        """
        kind = _BROKEN if by_peer else _RESET if reset else _END
        self._batches[number] += _FRAME.pack(kind, number, 0)
        self.flush(number)

    def flush(self, number: int) -> None:
        """Send what a connection was fed on its way."""
        batch = self._batches[number]
        self._write(batch)
        batch.clear()

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

    def conclude(self) -> tuple[Report, Migration]:
        """Wait until everything is judged; return the verdict, and what it knows of the migration.

        Raises:
            PeerError: the child has died.
        """
        for number in self._batches:
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
    return struct.pack("=I", len(data)) + data


# ---- the child ---------------------------------------------------------------------------------


def _serve(pipe: int, answers: BinaryIO) -> None:
    """Judge what comes through the pipe, and answer with the verdict."""
    from multifd_proto.machine.check import Checker
    from multifd_proto.peers.watch import Watch

    with open(pipe, "rb", buffering=0, closefd=False) as start:
        (length,) = struct.unpack("=I", start.read(4))
        checker = Checker(pickle.loads(_exactly(start, length)))  # from our own parent
    answers.write(_READY)
    answers.flush()
    watches: dict[int, Watch] = {}
    for kind, number, value, data in _frames(pipe):
        if kind == _OPEN:
            watches[number] = Watch(number, follows=True, checker=checker, opened=value)
        elif kind == _DATA:
            watches[number].feed(data)
        elif kind == _SKIP:
            watches[number].skip(value)
        elif kind == _RETURNED:
            watches[number].set_reverse(value)
        else:
            watches[number].end(reset=kind != _END, by_peer=kind == _BROKEN)
    report, migration = checker.conclude(), checker.migration
    migration.pages.clear()  # large, and judged
    answers.write(pickle.dumps((report, migration)))


def _exactly(pipe: BinaryIO, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += pipe.read(length - len(data))
    return data


def _frames(pipe: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield what the parent said, with the data of the connection, when there is time for it."""
    late = bytearray()
    ended = quiet = False
    while late or not ended:
        patience = None if not late else 0 if quiet else _QUIET
        quiet = not select.select([pipe], [], [], patience)[0]
        if not quiet:
            data = os.read(pipe, _PIPE)
            ended = not data
            late += data
        if quiet or ended or len(late) > _LAG:
            taken = 0
            with memoryview(late) as view:
                while taken < _STEP and len(view) - taken >= _FRAME.size:
                    kind, number, value = _FRAME.unpack_from(view, taken)
                    end = taken + _FRAME.size + (value if kind == _DATA else 0)
                    if end > len(view):
                        break
                    yield kind, number, value, bytes(view[taken + _FRAME.size : end])
                    taken = end
            del late[:taken]
            quiet &= taken > 0
            if ended and not taken:
                return  # the parent has gone in the middle of a frame


def _main() -> None:
    with suppress(KeyboardInterrupt):
        _serve(sys.stdin.fileno(), sys.stdout.buffer)


if __name__ == "__main__":
    _main()
