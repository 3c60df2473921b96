"""The pieces of a stream that wait for what comes before them, within limits on memory."""

from __future__ import annotations

import enum
from bisect import bisect_left, insort

from multifd_proto.capture.info import Limits

PIECE = 256
"""Bytes that keeping a piece takes, besides its payload."""


class Absent(enum.Enum):
    """Why a piece has no payload."""

    UNWANTED = enum.auto()
    SNAPPED = enum.auto()
    NOT_KEPT = enum.auto()
    """It was in the capture, and was taken out of it by `multifd strip`."""


Payload = memoryview | Absent
Piece = tuple[int, int, int, Payload]
"""Offset and end in the stream, time, payload."""


class Held:
    """What all streams together keep, in bytes."""

    __slots__ = ("bytes", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0

    def exceed(self, stream: int, more: int) -> bool:
        """Tell whether a stream would hold too much, or all together with so much more."""
        return stream > self.limits.window or self.bytes + more > self.limits.total


class Pieces(list[Piece]):
    """The pieces of one stream in order of offset, without overlap. `held` is what they take."""

    __slots__ = ("_all", "held")

    def __init__(self, held_by_all: Held) -> None:
        super().__init__()
        self.held = 0
        self._all = held_by_all

    def new_parts(self, offset: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a range that are not among the pieces."""
        if not self or offset >= self[-1][1]:  # the usual case, with or without a hole
            return [(offset, end)] if offset < end else []
        parts = []
        index = max(bisect_left(self, (offset,)) - 1, 0)
        while offset < end and index < len(self):
            start, stop = self[index][:2]
            if start > offset:
                parts.append((offset, min(start, end)))
            offset = max(offset, stop)
            index += 1
        if offset < end:
            parts.append((offset, end))
        return parts

    def conflicts(self, offset: int, data: memoryview) -> int:
        """Return how many bytes at an offset are others than those that are kept there."""
        count, end = 0, offset + len(data)
        for index in range(max(bisect_left(self, (offset,)) - 1, 0), bisect_left(self, (end,))):
            start, stop, _, payload = self[index]
            first, last = max(start, offset), min(stop, end)
            if first < last and isinstance(payload, memoryview):
                one, other = payload[first - start : last - start], data[first - offset :]
                if one != other[: last - first]:
                    count += sum(a != b for a, b in zip(one, other, strict=False))
        return count

    def exceed(self, cost: int) -> bool:
        """Tell whether `cost` more bytes would be too many for the stream or for all together."""
        return self._all.exceed(self.held + cost, cost)

    def keep(self, time: int, start: int, end: int, payload: Payload) -> None:
        """Add a piece that overlaps with none; its payload is copied."""
        if isinstance(payload, memoryview):
            payload = memoryview(bytes(payload))
        insort(self, (start, end, time, payload))
        self._count(_cost((start, end, time, payload)))

    def forget(self, count: int) -> None:
        """Remove the first pieces."""
        self._count(-sum(map(_cost, self[:count])))
        del self[:count]

    def shift(self, distance: int) -> None:
        """Bring all pieces nearer to the start of the stream."""
        self[:] = [(a - distance, b - distance, time, payload) for a, b, time, payload in self]

    def _count(self, cost: int) -> None:
        self.held += cost
        self._all.bytes += cost


def _cost(piece: Piece) -> int:
    """Return what a piece takes; one that was not kept, what it would, so that limits act alike."""
    start, end, _, payload = piece
    return PIECE + (end - start if payload not in (Absent.UNWANTED, Absent.SNAPPED) else 0)
