"""Walking over the records of a capture file: hopping from header to header, or through memory.

Large records are hopped over: their headers alone are read, a call each. Small ones are read in
stretches. A file that is not in the page cache is read as a whole before it is hopped over, or the
disk would have to look for each header.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from multifd_proto.capture.columns.ahead import Ahead, Stretch, Touch
from multifd_proto.capture.columns.lockstep import Chain, Rows, gather, walk
from multifd_proto.capture.columns.records import HEAD, Bytes, Integers, Records
from multifd_proto.capture.window import Window

_MUCH = 2 << 20
"""Bytes of small records that are walked over in lockstep."""
_LARGE = 8192
"""Mean bytes of a record from which on hopping beats reading."""
_FEW = 64
"""Records after which the mean is known; they are hopped over."""
_FAR = 256 << 20
"""Bytes of a file that are hopped over before it is asked again whether they are in memory."""
_ALL = 1 << 62
"""As many records as there are."""
_STEP = 8 << 20
"""Bytes from one such question to the next."""


@dataclass(eq=False)
class Walked:
    """Some consecutive records, as they are in the file."""

    content: Bytes
    place: Integers
    """Where each record begins in the input."""
    rows: Rows
    """Its first bytes."""
    ends: Rows
    """The bytes right behind it, as many as `Walker.tail` says, counted from where it ends."""


class Walker(Protocol):
    """Knows how the records of a format follow one another."""

    header: int
    """Bytes of a record before its frame."""
    tail: int
    """Bytes at the end of a record that repeat its size."""
    chain: Chain

    def size(self, row: bytes) -> int:
        """Return the bytes of the record with these first bytes; 0 if it is not simple."""

    def places(self, held: memoryview, most: int) -> tuple[list[int], int]:
        """Return where up to so many whole, simple records in memory are, and where they end."""

    def records(self, walked: Walked, first: int) -> Records:
        """Return what they hold, up to the first one that is not simple.

        Args:
            walked: records, at least one.
            first: number of the first one in the input.
        """


class Walk:
    """A walk over the records of one file, from where its window stands."""

    def __init__(self, window: Window, walker: Walker) -> None:
        """Begin at the window; it is moved on behind the records that were walked over."""
        self._walker = walker
        self._window = window
        self._begin = 0
        self._count = self._bytes = 0
        self._ahead: Ahead | None = None
        self._touch: Touch | None = None

    def records(self, most: int, first: int) -> Records | None:
        """Return the next records; None where the next one is not whole, or not simple.

        Args:
            most: bounds how many.
            first: number of the next record in the input.
        """
        walked = self._next(most)
        if not len(walked.place):
            return None
        self._begin = int(walked.place[0])
        records = self._walker.records(walked, first)
        if len(records) < len(walked.place):
            self._window.move(int(walked.place[len(records)]))
        return records if len(records) else None

    def take_back(self) -> None:
        """Have the records that were returned last read again."""
        self._window.move(self._begin)

    def _next(self, most: int) -> Walked:
        """Return the next records: at most `most`, none where the next is not simple or whole."""
        start, file = self._window.offset, self._window.file
        if file is None:
            self._window.fill(self._walker.header)
            held = self._window.view[self._window.start :]
            walked, end = self._part(
                Stretch(held, start, *_step(self._walker, held, most)), start, most
            )
        elif self._count < _FEW or self._bytes >= self._count * _LARGE:
            walked, end = self._hop(file, start, most)
        else:
            self._ahead = self._ahead or Ahead(file, partial(_step, self._walker))
            walked, end = self._part(self._ahead.at(start), start, most)
        self._count += len(walked.place)
        self._bytes += end - start
        self._window.move(end)
        return walked

    def _until(self, file: int, start: int) -> int:
        """Return up to where the file is in memory, having it read if it is not."""
        end = min(start + _FAR, self._window.size)
        if self._touch is None and _in_cache(file, start, end):
            return end
        self._touch = self._touch or Touch(file)
        return min(self._touch.until(start), self._window.size)

    def _hop(self, file: int, start: int, most: int) -> tuple[Walked, int]:
        """Read the first bytes of each record, and with them the last ones of the record before."""
        pread, size_of, tail = os.pread, self._walker.size, self._walker.tail
        width, whole = self._walker.header + HEAD + tail, self._window.size
        place, last = start, min(self._until(file, start), whole) - width
        rows: list[bytes] = []
        places: list[int] = []
        while tail <= place <= last and len(rows) < most:
            row = pread(file, width, place - tail)
            size = size_of(row[tail:] if tail else row)
            if not size or place + size > whole:
                break
            rows.append(row)
            places.append(place)
            place += size
        joined = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width)
        behind = np.frombuffer(pread(file, tail, max(place - tail, 0)), np.uint8)
        ends = np.concatenate([joined[1:, :tail], behind.reshape(1, tail)])[: len(rows)]
        content = Bytes(memoryview(b""), start, file)
        where = np.array(places, np.int64)
        return Walked(content, where, joined[:, tail:], ends), place

    def _part(self, stretch: Stretch, start: int, most: int) -> tuple[Walked, int]:
        """Return the records from a place on, at most so many, and where the last one ends."""
        index, held, tail = stretch.index(start), stretch.held, self._walker.tail
        index = len(stretch.places) if index is None else index
        place = stretch.places[index : index + most]
        after = np.append(stretch.places[index + 1 : index + 1 + most], stretch.end)[: len(place)]
        content = Bytes(held, stretch.base, self._window.file)
        rows = gather(held, place, self._walker.header + HEAD)
        ends = gather(held, after - tail, tail)
        end = int(after[-1]) + stretch.base if len(after) else start
        return Walked(content, place + stretch.base, rows, ends), end


def _step(walker: Walker, held: memoryview, most: int = _ALL) -> tuple[Integers, int]:
    """Walk over records in memory: return where the whole ones begin, and where the last one ends.

    No method of the walk, which would keep itself alive by it.
    """
    walked = walk(held, walker.chain) if len(held) >= _MUCH else None
    if walked is not None:
        return walked
    listed, end = walker.places(held, most)
    return np.array(listed, np.int64), end


def _in_cache(file: int, start: int, stop: int) -> bool:
    """Tell whether a stretch of a file is in the page cache, as far as samples tell."""
    byte = bytearray(1)
    with suppress(OSError):  # not every file system can tell
        for place in range(start, stop, _STEP):
            try:
                os.preadv(file, [byte], place, os.RWF_NOWAIT)
            except BlockingIOError:
                return False
    return True
