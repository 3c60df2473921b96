"""Running a command on a capture: time, memory, first byte, packets found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .contestants import Contestant

_LAUNCHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")))


class BenchmarkError(Exception):
    """Nothing can be measured, or it would not mean anything."""


@dataclass(frozen=True)
class Run:
    """One run of one process, from its start to its end."""

    began: float
    """By the monotonic clock."""
    seconds: float
    peak: int
    """Bytes resident at most."""


@dataclass(frozen=True)
class Answer:
    """What a process has printed."""

    run: Run
    first: float | None
    """Seconds from its start until the first byte."""
    packets: int | None


def timed(command: Sequence[str], patience: float) -> Run:
    """Run a command whose output nobody reads.

    Raises:
        BenchmarkError: it fails, or takes more seconds than `patience`.
    """
    with _started(command, subprocess.DEVNULL, patience) as launched:
        return launched.ended()


def answered(contestant: Contestant, path: Path, patience: float) -> Answer:
    """Run a contestant and read what it prints.

    Raises:
        BenchmarkError: it fails, or takes more seconds than `patience`.
    """
    with (
        tempfile.TemporaryFile() as printed,
        _started(contestant.on(path), subprocess.PIPE, patience) as launched,
    ):
        assert launched.process.stdout
        first = None
        while data := os.read(launched.process.stdout.fileno(), 1 << 16):
            first = first or time.monotonic()
            printed.write(data)
        run = launched.ended()
        printed.seek(0)
        packets = contestant.count(printed) if contestant.count else None
        return Answer(run, first - run.began if first else None, packets)


@dataclass(frozen=True)
class _Launched:
    process: subprocess.Popen[bytes]
    figures: Path
    errors: IO[bytes]

    def ended(self) -> Run:
        self.process.wait()
        if self.process.returncode:
            raise BenchmarkError("took too long")
        began, seconds, peak, status = self.figures.read_text().split()
        if int(status):
            raise BenchmarkError(f"ended with {status} after {float(seconds):.1f} s{self._why()}")
        return Run(float(began), float(seconds), int(peak) << 10)

    def _why(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


@contextmanager
def _started(command: Sequence[str], stdout: int, patience: float) -> Iterator[_Launched]:
    with (
        tempfile.TemporaryDirectory(prefix="multifd-bench-") as folder,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*_LAUNCHER, f"{folder}/figures", *command],
            stdout=stdout, stderr=errors, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        alarm = threading.Timer(patience, _kill, [process])
        alarm.start()
        try:
            yield _Launched(process, Path(folder, "figures"), errors)
        finally:
            alarm.cancel()
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a launcher, and what it has launched."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def warm(path: Path) -> None:
    """Read a file, so that it is in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def drop(path: Path) -> None:
    """Drop a file from the page cache.

    Raises:
        BenchmarkError: it is still there, as on a file system in memory.
    """
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        except OSError:  # it cannot be asked, and what is in memory is at home there
            pass
    raise BenchmarkError(f"{path} cannot be dropped from the page cache: give another --folder")
