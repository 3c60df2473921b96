"""Reading a file stretch by stretch, the next one while the one before is looked at."""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread

STRETCH = 16 << 20
"""Bytes that are read at once."""
TOUCH = 32 << 20
"""Bytes that are read only to have them in memory."""
_PART = 4 << 20
"""Bytes asked for in one call, or a disk is not kept busy."""
_ROOM = 1 << 20
"""Bytes before a stretch, for what is left of the one before."""


class Ahead:
    """Reads a file forwards, into two buffers that are used in turn."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._buffers = [bytearray(_ROOM + STRETCH), bytearray(_ROOM + STRETCH)]
        self._reader: Thread | None = None
        self._start = self._count = 0
        self._held, self._base = memoryview(b""), 0

    def read(self, place: int) -> memoryview:
        """Return bytes of the file from a place on: nothing at its end.

        What was returned before is valid no longer.
        """
        left = self._base + len(self._held) - place
        if not (place >= self._base and left > _ROOM):
            self._advance(place, left if place >= self._base and left >= 0 else None)
        return self._held[place - self._base :]

    def _advance(self, place: int, left: int | None) -> None:
        """Hold what is left from a place on, and the next stretch; None if it is somewhere else."""
        if self._reader:
            self._reader.join()
            self._reader = None
        if left is None or not self._count:
            left, self._start = (0, place) if left is None else (left, self._start)
            self._fetch()
        buffer = memoryview(self._buffers[1])
        buffer[_ROOM - left : _ROOM] = self._held[len(self._held) - left :]
        self._held, self._base = buffer[_ROOM - left : _ROOM + self._count], place
        self._buffers.reverse()
        self._start += self._count
        if self._count == STRETCH:
            self._reader = Thread(target=self._fetch, daemon=True)
            self._reader.start()
        else:
            self._count = 0

    def _fetch(self) -> None:
        """Read the next stretch into the buffer that is not in use."""
        self._count = 0
        with suppress(OSError):  # the file may be closed by now; whoever reads on, is told
            buffer = memoryview(self._buffers[1])[_ROOM:]
            while part := os.preadv(self._file, [buffer[:_PART]], self._start + self._count):
                self._count += part
                buffer = buffer[part:]


class Touch:
    """Has the system read a file into its page cache, one part while the one before is used."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._scratch = bytearray(_ROOM)
        self._reader: Thread | None = None
        self._end = 0

    def until(self, place: int) -> int:
        """Have the file in memory from a place on, and return up to where that is."""
        if self._reader:
            self._reader.join()
        if place >= self._end:
            self._end = place
            self._read()
        end = self._end
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        return end

    def _read(self) -> None:
        with suppress(OSError):
            for place in range(self._end, self._end + TOUCH, _ROOM):
                os.preadv(self._file, [self._scratch], place)
        self._end += TOUCH
