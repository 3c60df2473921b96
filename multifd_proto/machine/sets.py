"""Sets that stay small: runs of packet numbers, and pages of RAM blocks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multifd_proto.machine.bulk_marks import PageMarks

CHUNK_BITS = 15
CHUNK = 1 << CHUNK_BITS
"""Pages that are remembered together."""
WORD_BITS = 6
"""Pages that are added at once, where there are many: 64."""


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

    def add_all(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], int]:
        """Add numbers in their order, many at once.

        Returns:
            Which of them were there before, and how many came while the set was not `full`.
        """
        import numpy as np  # only where there are many

        again = np.zeros(len(numbers), np.bool_)
        ascending = np.sort(numbers)
        edges = np.ones(len(numbers) + 1, np.bool_)
        edges[1:-1] = ascending[1:] != ascending[:-1] + np.uint64(1)
        starts, lasts = ascending[edges[:-1]].tolist(), ascending[edges[1:]].tolist()
        runs = [(start, last + 1) for start, last in zip(starts, lasts, strict=True)]
        roomy = not self.full and len(self._starts) + len(numbers) <= self._limit
        if roomy and self._add_runs(runs):
            return again, len(numbers)
        counted = 0
        for place, number in enumerate(numbers.tolist()):
            counted += not self.full
            again[place] = number in self
            self.add(number)
        return again, counted

    def _add_runs(self, runs: list[tuple[int, int]]) -> bool:
        """Add runs that do not meet; False, and nothing is added, if a number was there before."""
        if any(a[1] > b[0] for a, b in pairwise(runs)) or any(map(self._meets, runs)):
            return False
        for start, end in runs:
            first = bisect_left(self._ends, start)  # the run that ends where this one starts
            last = bisect_right(self._starts, end)
            if first < last:
                start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
            self._starts[first:last], self._ends[first:last] = [start], [end]
        return True

    def _meets(self, run: tuple[int, int]) -> bool:
        """Tell whether a number of a run is there."""
        place = bisect_left(self._starts, run[1]) - 1
        return place >= 0 and self._ends[place] > run[0]

    def missing(self) -> Iterator[range]:
        """Yield the holes between 0 and the highest number."""
        end = 0
        for start, next_end in zip(self._starts, self._ends, strict=True):
            if start > end:
                yield range(end, start)
            end = next_end

    def missing_count(self) -> int:
        """Count the numbers in these holes; there may be more than a `len` can be."""
        return sum(hole.stop - hole.start for hole in self.missing())


class PageSet:
    """The pages of one round, a bit a page."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._chunks: dict[tuple[bytes, int], int] = {}
        """Block and number of a chunk -> place of its first bit."""

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
        current, start = -1, None
        for offset in offsets:
            page = offset // page_size
            if page // CHUNK != current:
                current = page // CHUNK
                start = self._chunk(block, current, room)
            if start is not None:
                place = (start + page % CHUNK) >> 3
                before = self._bits[place]
                self._bits[place] = before | 1 << (page & 7)
                if self._bits[place] == before:
                    again.append(offset)
        return again

    def _add_run(
        self, block: bytes, offsets: tuple[int, ...], page_size: int, room: Callable[[], bool]
    ) -> bool:
        """Add a run of new pages in one go: most packets have one, at a tenth of the cost.

        Returns False, and adds nothing, where it is no run in one chunk or not all are new.
        """
        first, count = offsets[0], len(offsets)
        chunk, bit = divmod(first // page_size, CHUNK)
        run = tuple(range(first, first + count * page_size, page_size))
        if offsets != run or bit + count > CHUNK:
            return False
        start = self._chunk(block, chunk, room)
        return start is not None and _set_run(self._bits, start + bit, count)

    def _chunk(self, block: bytes, chunk: int, room: Callable[[], bool]) -> int | None:
        """Return the place of a chunk's first bit."""
        start = self._chunks.get((block, chunk))
        if start is None and room():
            start = self._chunks[block, chunk] = 8 * len(self._bits)
            self._bits += bytes(CHUNK // 8)
        return start

    # ---- many at once --------------------------------------------------------------------------

    def there(self, block: bytes, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which pages of a block, given by their numbers in ascending order, are there."""
        import numpy as np  # only where there are many

        places = self._places(block, pages, lambda: False)
        there = places >= 0
        places = places[there]
        there[there] = np.frombuffer(self._bits, np.uint8)[places >> 3] >> (places & 7) & 1
        return there

    def add_all(self, block: bytes, pages: PageMarks) -> bool:
        """Add pages of a block if all of them are new, else add none; tell whether it did.

        There has to be room for the `pages.chunks` that they are in.
        """
        import numpy as np

        if not pages.distinct:
            return False
        firsts, bits = pages.words
        places = self._places(block, firsts, lambda: True) >> WORD_BITS
        words = np.frombuffer(self._bits, "<u8")
        if (words[places] & bits).any():
            return False
        words[places] |= bits
        return True

    def _places(
        self, block: bytes, pages: NDArray[np.int64], room: Callable[[], bool]
    ) -> NDArray[np.int64]:
        """Return the places of pages' bits; negative where there is no chunk."""
        import numpy as np

        chunk = pages >> CHUNK_BITS
        first = np.flatnonzero(np.diff(chunk, prepend=-1))
        starts = [self._chunk(block, number, room) for number in chunk[first].tolist()]
        known = np.array([-CHUNK if start is None else start for start in starts], np.int64)
        counts = np.diff(first, append=len(pages))
        return np.repeat(known, counts) + (pages & (CHUNK - 1))


def _set_run(bits: bytearray, bit: int, count: int) -> bool:
    """Set a run of bits if none of it is set; tell whether it did."""
    place = slice(bit >> 3, (bit + count + 7) >> 3)
    seen, run = int.from_bytes(bits[place], "little"), ((1 << count) - 1) << (bit & 7)
    if seen & run:
        return False
    bits[place] = (seen | run).to_bytes(place.stop - place.start, "little")
    return True
