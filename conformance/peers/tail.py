"""The end of what a process prints: read all the time, so that it never blocks; kept in bounds."""

from __future__ import annotations

import os
import select
from threading import Event, Lock, Thread

from multifd_proto.peers.owner import Owner

from .process import reports_crash

_LIMIT = 16 << 10
_POLL = 0.1
_LINES = 8
_SIGNALS = range(129, 129 + 64)
"""Statuses by which shells and containers pass on that a process was ended by a signal."""


def crashed(status: int | None, printed: str) -> bool:
    """Tell whether a process that nobody has killed ended by a signal, or says so itself.

    Args:
        status: as `subprocess.Popen.returncode`.
        printed: the end of what it printed.
    """
    ended = status is not None and (status < 0 or status in _SIGNALS)
    return ended or reports_crash(printed) or "Segmentation fault" in printed


def readable(descriptor: int, timeout: float) -> bool:
    """Wait for so many seconds until something can be read; tell whether there is."""
    poll = select.poll()  # select() knows no descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class Tail(Owner):
    """A pipe for a process to print into, and the last KiB of what came out of it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._data, self._lock = b"", Lock()
        self._ended, self._closed = Event(), Event()
        self._thread = Thread(target=self._read, name="tail", daemon=True)
        self._thread.start()

    @property
    def writer(self) -> int:
        """Descriptor to print into."""
        return self._writer

    def release(self) -> None:
        """Let go of our copy of the writer, once the process has its own."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def forget(self) -> None:
        """Forget what was printed until now."""
        with self._lock:
            self._data = b""

    def text(self, wait: float = 0.0) -> str:
        """Return what was printed last.

        Args:
            wait: seconds that the last words of a process that has ended may take to arrive.
        """
        self._ended.wait(wait)
        return self._data.decode(errors="replace")

    def lines(self, wait: float = 0.0) -> tuple[str, ...]:
        """Return the last lines, the last one first."""
        lines = [line.strip() for line in self.text(wait).splitlines()]
        return tuple(reversed([line for line in lines if line][-_LINES:]))

    def close(self) -> None:
        """Read no more; what was printed stays."""
        self.release()
        self._closed.set()
        self._thread.join()

    def _read(self) -> None:
        # a process that has escaped can hold the pipe open for ever, so the end is not waited for
        while not self._closed.is_set() or readable(self._reader, 0):
            if readable(self._reader, _POLL):
                more = os.read(self._reader, 65536)
                if not more:
                    break
                with self._lock:
                    self._data = (self._data + more)[-_LIMIT:]
        self._ended.set()
        os.close(self._reader)
