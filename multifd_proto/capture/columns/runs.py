"""Reassembly in columns: the segments of one direction that are simply the next bytes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import Bytes, Integers
from multifd_proto.capture.columns.segments import Segments
from multifd_proto.capture.events import Half
from multifd_proto.capture.pieces import PIECE

PHASES = 16
"""Bits of a place in the capture below the record's number: they order what one record brings."""
_BEHIND = 1 << 30  # what seems to be older than that, `Direction` takes for newer


@dataclass(eq=False)
class Run:
    """The next bytes of a half, without a gap: where they are in the input, piece by piece."""

    half: Half
    content: Bytes
    start: Integers
    """Offset of each piece in the stream."""
    end: Integers
    place: Integers
    """Where it is in the input."""
    time: Integers
    """When it was delivered, in nanoseconds since the epoch; never decreases."""
    row: Integers
    """Number of the record with which it was delivered; never decreases."""
    passed: int = 0
    """Bytes before it that were there and not wanted."""
    clock: int = 0
    """Time of the last of these."""
    retransmitted: int = 0
    """Bytes that the segments repeat."""
    reordered: int = 0
    """Segments with new bytes that came after bytes which follow them."""
    held: int = 0
    """What waiting for these would have taken, in bytes, if nothing of it was unwanted."""

    @property
    def stop(self) -> int:
        """Offset behind its last byte."""
        return int(self.end[-1])

    @property
    def begin(self) -> int:
        """Offset of its first byte."""
        return int(self.start[0])

    def place_of(self, piece: int, phase: int) -> int:
        """Return where in the order of the capture a piece is."""
        return int(self.row[piece]) << PHASES | phase

    def piece(self, offset: int) -> int:
        """Return the number of the piece that holds a byte of the stream."""
        return int(self.end.searchsorted(offset, "right"))

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return bytes of the stream that the run holds."""
        parts = self.views(offset, size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def views(self, offset: int, size: int) -> list[memoryview]:
        """Return the same, piece by piece."""
        if not size:
            return []
        first, stop = self.piece(offset), offset + size
        inside = offset - int(self.start[first])
        if stop <= self.end[first]:
            return [self.content.view(int(self.place[first]) + inside, size)]
        last = self.piece(stop - 1)
        part = slice(first, last + 1)
        places = self.place[part].tolist()
        ends = (self.place[part] + self.end[part] - self.start[part]).tolist()
        places[0] += inside
        ends[-1] -= int(self.end[last]) - stop
        return self.content.views(list(zip(places, ends, strict=True)))


def next_run(
    segments: Segments, half: Half, expected: int, position: int, clock: int
) -> Run | None:
    """Return what segments of a half add to it, if it is simply what comes next.

    That is: all of it follows the bytes before it without a hole, in any order, and nothing of it
    overlaps unless it is a mere repetition. Everything else is left to `Direction`.

    Args:
        segments: of one direction, all with data, none cut or with a flag that opens or closes.
        half: the direction.
        expected: sequence number of its next byte.
        position: offset of its next byte.
        clock: time of the byte before.
    """
    # step by step, as all of it together may be more than sequence numbers can tell
    steps = np.diff(segments.seq, prepend=np.uint32(expected)).view(np.int32)
    start = position + np.cumsum(steps, dtype=np.int64)
    end = start + segments.size
    time = segments.time
    if np.array_equal(start, np.append(position, end[:-1])):
        time = np.maximum(np.maximum.accumulate(time), clock)
        return Run(half, segments.content, start, end, segments.place, time, segments.row)
    if (np.diff(time, prepend=clock) < 0).any() or int(start.min()) < position - _BEHIND:
        return None
    return _sorted_run(segments, half, start, end, position)


def _sorted_run(
    segments: Segments, half: Half, start: Integers, end: Integers, position: int
) -> Run | None:
    """Do as `next_run`, for segments that are out of order or repeated."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    before = np.append(position, np.maximum(np.maximum.accumulate(end), position)[:-1])
    new = end > before
    if not new.any() or not np.array_equal(start[new], before[new]):
        return None
    taken = order[new]
    if _repeat_held(order[~new], end[~new], taken, end[new], position):
        return None  # to be compared with the first copy
    overtaken = np.minimum.accumulate(taken[::-1])[::-1] < taken
    time = np.maximum.accumulate(segments.time[taken])
    row = np.maximum.accumulate(segments.row[taken])
    place = segments.place[taken]
    return Run(
        half, segments.content, start[new], end[new], place, time, row,
        retransmitted=int((end - start)[~new].sum()), reordered=int(overtaken.sum()),
        held=_most_held(start[new], end[new], np.argsort(taken)) if overtaken.any() else 0,
    )  # fmt: skip


def _most_held(start: Integers, end: Integers, came: NDArray[np.intp]) -> int:
    """Return the most bytes that were there at once with bytes before them still to come.

    Args:
        start: of adjacent pieces.
        end: of the same.
        came: their order in the capture.
    """
    came_start = start[came]
    to_come = np.append(np.minimum.accumulate(came_start[::-1])[::-1][1:], end[-1])
    size = np.cumsum((end - start)[came]) - (to_come - start[0])
    count = np.arange(1, len(came) + 1) - np.searchsorted(end, to_come, "right")
    return int((size + PIECE * count).max())


def _repeat_held(
    again: Integers, again_end: Integers, taken: Integers, end: Integers, position: int
) -> bool:
    """Tell whether bytes were repeated while they waited for those before them.

    Args:
        again: places in the capture of segments that repeat bytes.
        again_end: offsets behind them.
        taken: places of the segments with new bytes, in order of the stream.
        end: offsets behind these.
        position: offset of the first of them.
    """
    there = np.searchsorted(np.maximum.accumulate(taken), again)
    return bool((again_end > np.append(position, end)[there]).any())
