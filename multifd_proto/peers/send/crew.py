"""What the threads of a sender share: rounds, failures, the bandwidth limit.

The thread of the main stream is the leader. It opens a sync point by handing out the packets of a
round; each channel takes the next one whenever it is idle, sends its SYNC packet when none is
left, and reports. When all have reported, the leader may write the mark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from threading import Condition, Lock

from multifd_proto.errors import PeerError
from multifd_proto.peers.send.ram_image import Batch

_ZERO_RUNS = 64
"""Packets' worth of zero pages that the main stream takes at once; four times as many wait."""
_TICK = 0.1

ZeroRun = tuple[bytes, Sequence[int]]


class Stopped(Exception):
    """Another thread has failed: this one has nothing to report, it just ends."""


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._lock = batches, Lock()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            return next(self._batches)


class Crew:
    """The threads of one sender, and where they wait for each other."""

    def __init__(self, channels: int, tick: Callable[[], None] | None = None) -> None:
        """Make a crew.

        Args:
            channels: number of channels.
            tick: called by the leader now and then, while it waits for the channels.
        """
        self.error: PeerError | None = None
        """What failed first; what came of that is no news."""
        self._channels, self._tick = channels, tick
        self._changed = Condition()
        self._enders: list[Callable[[], None]] = []
        self._opened, self._arrived = -1, 0
        self._batches = _Shared(iter(()))
        self._zeros: list[ZeroRun] = []
        self._stopped = False

    # ---- failing -------------------------------------------------------------------------------

    def when_stopped(self, end: Callable[[], None]) -> None:
        """Have `end` called when a thread fails; it ends the waits on a connection."""
        with self._changed:
            self._enders.append(end)
            if self._stopped:
                end()

    def fail(self, error: PeerError) -> None:
        """Report a failure, which ends the work of all threads."""
        with self._changed:
            if not self._stopped:
                # a new one, without a traceback, keeps no memory in use
                self.error = type(error)(str(error))
            self.stop()

    def stop(self) -> None:
        """End the waits of all threads."""
        with self._changed:
            self._stopped = True
            for end in self._enders:
                end()
            self._changed.notify_all()

    def wait_for(self, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something holds that `notify` is called for; return False if it never did.

        Raises:
            Stopped: another thread has failed.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: self._stopped or ready(), timeout)
            if self._stopped:
                raise Stopped
            return done

    def notify(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    # ---- sync points ---------------------------------------------------------------------------

    def open(self, batches: Iterator[Batch]) -> None:
        """Open the next sync point: let the channels send a round, and SYNC after it."""
        with self._changed:
            self._batches = _Shared(batches)
            self._opened, self._arrived = self._opened + 1, 0
            self._changed.notify_all()

    def enter(self, point: int) -> Iterator[Batch]:
        """Wait, as a channel, until a sync point is open; return what there is to send.

        Raises:
            Stopped: another thread has failed.
        """
        self.wait_for(lambda: self._opened >= point)
        return self._batches

    def arrive(self) -> None:
        """Report, as a channel, that it has sent its SYNC packet, or is connected."""
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()

    def hand_over(self, block: bytes, offsets: Sequence[int]) -> None:
        """Hand zero pages of a round to the main stream, as a channel that has found them.

        Raises:
            Stopped: another thread has failed.
        """
        with self._changed:
            self.wait_for(lambda: len(self._zeros) < 4 * _ZERO_RUNS)
            self._zeros.append((block, offsets))
            # every switch of threads costs more than a packet
            if len(self._zeros) >= _ZERO_RUNS:
                self._changed.notify_all()

    def gather(self) -> Iterator[list[ZeroRun]]:
        """Wait, as the leader, until all channels have arrived; yield zero pages meanwhile.

        Raises:
            Stopped: a channel has failed.
        """
        while True:
            with self._changed:
                self.wait_for(lambda: len(self._zeros) >= _ZERO_RUNS or self._all_here(), _TICK)
                over, zeros, self._zeros = self._all_here(), self._zeros, []
                self._changed.notify_all()
            if zeros:
                yield zeros
            if self._tick:
                self._tick()
            if over:
                return

    def _all_here(self) -> bool:
        return self._arrived == self._channels


class Bandwidth:
    """A limit to the bytes that all channels send together in a second."""

    _BURST = 0.02

    def __init__(self, limit: int, crew: Crew) -> None:
        """Make a limit.

        Args:
            limit: bytes a second.
            crew: whose failure ends a wait.
        """
        self._limit, self._crew = limit, crew
        self._free, self._lock = 0.0, Lock()

    def take(self, size: int) -> None:
        """Wait until `size` bytes may be sent.

        Raises:
            Stopped: another thread has failed.
        """
        with self._lock:
            now = time.monotonic()
            begin = max(self._free, now - self._BURST)
            self._free = begin + size / self._limit
        if begin > now:
            self._crew.wait_for(lambda: False, begin - now)
