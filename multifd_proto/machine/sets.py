"""Sets that stay small: runs of packet numbers, and pages of RAM blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

_CHUNK = 32768


class Runs:
    """A set of integers as runs; nearly consecutive numbers take next to no memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._starts: list[int] = []
        self._ends: list[int] = []  # one past the last
        self.full = False
        """More runs than the limit: numbers were left out, and nothing can be said any more."""

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._ends[place]

    def add(self, number: int) -> None:
        """Add a number."""
        after = bisect_right(self._starts, number)
        if after and number < self._ends[after - 1]:
            return
        joins_before = after > 0 and self._ends[after - 1] == number
        joins_after = after < len(self._starts) and self._starts[after] == number + 1
        if joins_before and joins_after:
            self._ends[after - 1] = self._ends.pop(after)
            del self._starts[after]
        elif joins_before:
            self._ends[after - 1] += 1
        elif joins_after:
            self._starts[after] -= 1
        elif len(self._starts) < self._limit:
            self._starts.insert(after, number)
            self._ends.insert(after, number + 1)
        else:
            self.full = True

    def missing(self) -> Iterator[range]:
        """Yield the holes between 0 and the highest number."""
        end = 0
        for start, next_end in zip(self._starts, self._ends, strict=True):
            if start > end:
                yield range(end, start)
            end = next_end


class PageSet:
    """The pages of one round, a bit a page."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[bytes, int], bytearray] = {}

    def __len__(self) -> int:
        """Chunks in use."""
        return len(self._chunks)

    def add(self, block: bytes, page: int, room: Callable[[], bool]) -> bool | None:
        """Add a page; tell whether it was there before, None where it needs room and has none."""
        chunk, bit = divmod(page, _CHUNK)
        bits = self._chunks.get((block, chunk))
        if bits is None:
            if not room():
                return None
            bits = self._chunks[block, chunk] = bytearray(_CHUNK // 8)
        mask = 1 << (bit & 7)
        present = bool(bits[bit >> 3] & mask)
        bits[bit >> 3] |= mask
        return present
