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

    def add(
        self, block: bytes, offsets: tuple[int, ...], page_size: int, room: Callable[[], bool]
    ) -> list[int]:
        """Add pages of a block and return the offsets of those that were there before.

        Args:
            block: name of the block.
            offsets: where the pages are, in bytes; fastest if each is right behind the last.
            page_size: target page size in bytes.
            room: asked before a chunk is added; where it says no, the pages are left out.
        """
        if offsets and self._add_run(block, offsets, page_size, room):
            return []
        again = []
        current, bits = -1, None
        for offset in offsets:
            page = offset // page_size
            if page // _CHUNK != current:
                current = page // _CHUNK
                bits = self._chunk(block, current, room)
            if bits is not None:
                place = page % _CHUNK >> 3
                before = bits[place]
                bits[place] = before | 1 << (page & 7)
                if bits[place] == before:
                    again.append(offset)
        return again

    def _add_run(
        self, block: bytes, offsets: tuple[int, ...], page_size: int, room: Callable[[], bool]
    ) -> bool:
        """Add a run of new pages in one go: most packets have one, at a tenth of the cost.

        Returns False, and adds nothing, where it is no run in one chunk or not all are new.
        """
        start, count = offsets[0], len(offsets)
        chunk, bit = divmod(start // page_size, _CHUNK)
        run = tuple(range(start, start + count * page_size, page_size))
        if offsets != run or bit + count > _CHUNK:
            return False
        bits = self._chunk(block, chunk, room)
        return bits is not None and _set_run(bits, bit, count)

    def _chunk(self, block: bytes, chunk: int, room: Callable[[], bool]) -> bytearray | None:
        bits = self._chunks.get((block, chunk))
        if bits is None and room():
            bits = self._chunks[block, chunk] = bytearray(_CHUNK // 8)
        return bits


def _set_run(bits: bytearray, bit: int, count: int) -> bool:
    """Set a run of bits if none of it is set; tell whether it did."""
    place = slice(bit >> 3, (bit + count + 7) >> 3)
    seen = int.from_bytes(bits[place], "little")
    run = ((1 << count) - 1) << (bit & 7)
    if seen & run:
        return False
    bits[place] = (seen | run).to_bytes(place.stop - place.start, "little")
    return True
