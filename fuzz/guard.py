"""Runs code of ours on an input, and makes findings of exceptions, disagreement, time and memory.

What is looked at is the process as a whole, so that a library that is given too much is seen as
well. Memory is measured where Linux tells it, and time where the caller is the main thread.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .target import Finding, Result

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_PACKAGE = ("multifd_proto", "conformance", "fuzz")


class Wrong(Exception):
    """What a subject has done is not what it promises.

    Args:
        kind: `differs`, `raises`, `leaves`, ...: the finding's.
        observed: what was seen, in words.
        detail: what tells it from others of its kind.
    """

    def __init__(self, kind: str, observed: str, detail: str) -> None:
        super().__init__(observed)
        self.finding = Finding(kind, "", observed, detail)


class _TooSlow(BaseException):
    """Time is up. No `except Exception` of the subject must take it."""


@dataclass(frozen=True)
class Limits:
    """What one input may take."""

    seconds: float = 5.0
    """Of the processor."""
    memory: int = 64 << 20
    """Bytes more than before."""


def guarded(check: Callable[[], Iterable[str]], limits: Limits, name: str) -> Result:
    """Run a check, and return the labels that it gives, or what is wrong.

    Args:
        check: raises `Wrong` if it finds something; any other exception is a finding as well.
        limits: of time and memory.
        name: of the subject, for findings that have no place.
    """
    before = _peak(reset=True)
    try:
        with _time_limit(limits.seconds):
            labels = frozenset(check())
    except _TooSlow as late:
        seen = f"longer than {limits.seconds:g} s of the processor, in {_place(late)}"
        return Result(Finding("slow", "", seen, name))
    except Wrong as wrong:
        return Result(wrong.finding)
    except Exception as error:
        told = f"{type(error).__name__} in {_place(error)}"
        return Result(Finding("raises", "", f"{told}: {error}", told))
    grown = _peak() - before
    if grown > limits.memory:
        seen = f"{grown >> 20} MiB of memory, at most {limits.memory >> 20} are allowed"
        return Result(Finding("grows", "", seen, name))
    return Result(reached=labels)


def _place(error: BaseException) -> str:
    """Return the function of ours that is nearest to where an exception was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    own = [frame for frame in frames if set(Path(frame.filename).parts) & {*_PACKAGE}]
    found = [*frames, *own][-1]
    return f"{Path(found.filename).name}:{found.name}"


def _peak(*, reset: bool = False) -> int:
    """Return the most bytes that this process has held, since it was last reset; 0 if unknown."""
    try:
        if reset:
            _CLEAR.write_text(_RESET_PEAK)
        status = _STATUS.read_text()
    except OSError:
        return 0
    _, _, rest = status.partition("VmHWM:")
    return int(rest.split(None, 1)[0]) << 10 if rest else 0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise _TooSlow
