"""Walking over a file stretch by stretch, the next one while the one before is looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from threading import Thread

import numpy as np

from multifd_proto.capture.columns.records import Integers
from multifd_proto.capture.columns.scout import Scout, scout

STRETCH = 12 << 20
"""Bytes that are read at once."""
TOUCH = 32 << 20
"""Bytes that are read only to have them in memory."""
_PART = 4 << 20
"""Bytes asked for in one call, or a disk is not kept busy."""
_FAR = 2 * STRETCH
"""Bytes from what is read to what the system is told to read, if a disk has to."""
_BEFORE = 1 << 20
"""Bytes before a stretch, for what is left of the one before."""
_SMALLEST = 16
"""Bytes of the smallest record."""


Steps = Callable[[memoryview], tuple[Integers, int]]


@dataclass(eq=False)
class Stretch:
    """Some bytes of a file, and the whole records in them."""

    held: memoryview
    base: int
    """Place of its first byte in the file."""
    places: Integers
    """Where each record begins, counted from there."""
    end: int
    """Where the last one ends."""

    def index(self, place: int) -> int | None:
        """Return which record begins at a place of the file; None if none does."""
        index = int(self.places.searchsorted(place - self.base))
        found = self.places[index : index + 1].tolist() == [place - self.base]
        return index if found else None

    def behind(self, place: int) -> memoryview:
        """Return what is held from a place of the file on."""
        start = place - self.base
        return self.held[start:] if 0 <= start <= len(self.held) else self.held[:0]


class _Shared:
    """Memory for a stretch, that a scout sees as well."""

    def __init__(self) -> None:
        self.bytes = memoryview(mmap(-1, _BEFORE + STRETCH))
        self.places = np.frombuffer(mmap(-1, (_BEFORE + STRETCH) // _SMALLEST * 8), np.int64)


class Ahead:
    """Reads a file forwards, and walks over its records, by a scout if there can be one."""

    def __init__(self, file: int, walk: Steps) -> None:
        """Make a reader.

        Args:
            file: descriptor.
            walk: returns where the whole records in some bytes begin, and where the last one ends.
        """
        self._file = file
        self._walk = walk
        self._shared = _Shared(), _Shared()
        self._used = 0
        self._now = Stretch(memoryview(b""), 0, np.zeros(0, np.int64), 0)
        self._scout: Scout | None = None
        self._asked: int | None = None

    def at(self, place: int) -> Stretch:
        """Return a stretch with the record that begins at a place; without records if none does.

        What was returned before is valid no longer.
        """
        if self._now.index(place) is None:
            rest = self._now.behind(place)
            if len(rest) > _BEFORE:
                # something odd was before it, and more of that may come
                self._now = Stretch(rest, place, *self._walk(rest[:_BEFORE]))
            else:
                self._advance(place, rest)
        return self._now

    def _advance(self, place: int, rest: memoryview) -> None:
        """Go on to the stretch that begins at a place, and have the one behind it read."""
        asked, self._asked = self._asked, None
        found = self._scout.answer() if self._scout and asked is not None else None
        self._used = 1 - self._used
        shared = self._shared[self._used]
        if found is None or asked != place:
            shared.bytes[_BEFORE - len(rest) : _BEFORE] = rest
            found = self._fetch(self._used, place, len(rest))
        stop, count, end = found
        held = shared.bytes[_BEFORE - len(rest) : stop]
        self._now = Stretch(held, place, shared.places[:count], end)
        if stop < len(shared.bytes):
            if self._scout:
                self._scout.close()
            self._scout = None
        elif len(held) - end <= _BEFORE:
            self._send(place + end, held[end:])

    def _send(self, place: int, rest: memoryview) -> None:
        """Have the scout read the stretch that begins at a place."""
        self._scout = self._scout or scout(self._fetch)
        if self._scout:
            other = 1 - self._used
            self._shared[other].bytes[_BEFORE - len(rest) : _BEFORE] = rest
            self._scout.ask(other, place, len(rest))
            self._asked = place
            with suppress(OSError):  # told by this process, as the other one has more to do
                os.posix_fadvise(self._file, place + _FAR, STRETCH, os.POSIX_FADV_WILLNEED)

    def _fetch(self, number: int, place: int, there: int) -> tuple[int, int, int]:
        """Read the stretch from a place on, some of which is there already, and walk over it.

        Returns:
            Where it ends in its memory, how many records are in it, and where the last one ends.
        """
        shared = self._shared[number]
        start, stop = _BEFORE - there, _BEFORE
        with suppress(OSError):  # whoever reads on one by one, is told
            while part := os.preadv(
                self._file, [shared.bytes[stop : stop + _PART]], place + stop - start
            ):
                stop += part
        places, end = self._walk(shared.bytes[start:stop])
        shared.places[: len(places)] = places
        return stop, len(places), end


class Touch:
    """Has the system read a file into its page cache, one part while the one before is used."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._scratch = bytearray(_BEFORE)
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
        with suppress(OSError, AttributeError):  # not every system can be told
            os.posix_fadvise(self._file, end + TOUCH, TOUCH, os.POSIX_FADV_WILLNEED)
        return end

    def _read(self) -> None:
        with suppress(OSError):
            for place in range(self._end, self._end + TOUCH, _BEFORE):
                os.preadv(self._file, [self._scratch], place)
        self._end += TOUCH
