"""Another process that does one thing ahead of this one, in memory that both see."""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress

_NUMBERS = struct.Struct("3q")

Numbers = tuple[int, int, int]
Work = Callable[[int, int, int], Numbers]


class Scout:
    """A copy of this process that works while this one does something else.

    It sees what this process had when it was made, and has no output. What it finds comes in
    memory that is shared, and in a few numbers.
    """

    def __init__(self, work: Work) -> None:
        """Start it.

        Args:
            work: what it is to do, as often as it is asked.

        Raises:
            OSError: There can be no more processes.
        """
        theirs, self._ask = os.pipe()
        self._answer, ours = os.pipe()
        with warnings.catch_warnings():
            # of threads that are not Python's: those of numpy's libraries, which are not asked
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if not process:
            os.close(self._ask)
            os.close(self._answer)
            _serve(work, theirs, ours)
        os.close(theirs)
        os.close(ours)
        self.close = weakref.finalize(self, _end, process, self._ask, self._answer)

    def ask(self, *numbers: int) -> None:
        """Have it begin; it has to have answered before."""
        with suppress(BrokenPipeError):  # it is dead, and its answer will tell
            os.write(self._ask, _NUMBERS.pack(*numbers))

    def answer(self) -> Numbers | None:
        """Wait until it is done, and return what it says; None if it is dead."""
        said = os.read(self._answer, _NUMBERS.size)
        return _unpacked(said) if said else None


def scout(work: Work) -> Scout | None:
    """Start a scout where that is safe: a copy of a process has none of its threads."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return None
    with suppress(OSError):
        return Scout(work)
    return None


def _serve(work: Work, asked: int, answers: int) -> None:
    """Work until nobody asks any more. A failure ends it: who asked does it again, and sees."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the one who asks
        while numbers := os.read(asked, _NUMBERS.size):
            os.write(answers, _NUMBERS.pack(*work(*_unpacked(numbers))))
    finally:
        os._exit(0)


def _unpacked(data: bytes) -> Numbers:
    first, second, third = _NUMBERS.unpack(data)
    return first, second, third


def _end(process: int, *pipes: int) -> None:
    for pipe in pipes:
        os.close(pipe)
    os.kill(process, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(process, 0)
