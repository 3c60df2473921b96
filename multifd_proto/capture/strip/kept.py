"""Ranges of a stream: those that are kept, and those that have been there already."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice

_HOLES = 1024
_FAR = 1 << 63


class Kept:
    """The ranges of a stream that are kept, in ascending order and without overlap."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.ends = array("Q")
        self.contents: dict[int, bytes] = {}
        """By start of a range: what is written in place of the captured bytes."""
        self._begun: dict[int, tuple[int, bytes | None]] = {}
        self._gaps = array("Q")
        self._length = 0

    def pass_to(self, offset: int) -> None:
        """Take note that the stream goes on up to `offset`."""
        self._length = offset

    def add_gap(self, offset: int) -> None:
        """Take note of a gap that begins here."""
        self._gaps.append(offset)

    def add(self, start: int, size: int, content: bytes | None = None) -> None:
        """Keep the next range."""
        if size and (not self.ends or start >= self.ends[-1]):
            self.starts.append(start)
            self.ends.append(start + size)
            if content is not None:
                self.contents[start] = content

    def add_begun(self, start: int, size: int, content: bytes | None = None) -> None:
        """Keep a range, unless it turns out to be of a message that is kept as a whole."""
        if size:
            self._begun[start] = size, content

    def settle(self) -> None:
        """Take the ranges of `add_begun` in; nothing is added any more."""
        own, self._begun = self._begun, {}
        loose = {
            start: found for start, found in own.items() if not any(self.find(start, start + 1))
        }
        if not loose:
            return
        ranges = [*zip(self.starts, self.ends, strict=True)]
        ranges += [(start, start + size) for start, (size, _) in loose.items()]
        self.contents |= {s: content for s, (_, content) in loose.items() if content is not None}
        self.starts, self.ends = array("Q"), array("Q")
        for start, end in sorted(ranges):
            self.add(start, end - start)

    def boundary(self, offset: int) -> int:
        """Return where what is not kept, from `offset` on, ends: at a range, a gap, or the end."""
        ends = [self._length]
        for places in (self.starts, self._gaps):
            ends += places[(index := bisect_left(places, offset)) : index + 1]
        return min(ends)

    def coming(self, offset: int) -> Iterator[int]:
        """Yield where the next byte that is kept is, from `offset` on, if there is one."""
        yield from (start for start, _, _ in islice(self.find(offset, _FAR), 1))

    def size_at(self, start: int) -> int:
        """Return the size of the range that starts here."""
        return self.ends[bisect_left(self.starts, start)] - start

    def find(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield what is kept of a stretch: where it starts and ends, and where its range starts."""
        index = bisect_right(self.ends, start)
        while index < len(self.starts) and self.starts[index] < end:
            first = self.starts[index]
            yield max(first, start), min(self.ends[index], end), first
            index += 1


class Covered:
    """The bytes of a stream that have been there: of several copies, the first one counts.

    Holds `_HOLES` ranges; where there would be more, the oldest hole counts as covered.
    """

    def __init__(self) -> None:
        self._edges: list[int] = []  # the start of a range, its end, the start of the next, ...

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Cover a stretch; return what of it was not covered before."""
        if start >= end:
            return []
        edges = self._edges
        low, high = bisect_left(edges, start), bisect_right(edges, end)
        before, behind = [start] * (low % 2 == 0), [end] * (high % 2 == 0)
        new = before + edges[low:high] + behind
        edges[low:high] = before + behind
        if len(edges) > 2 * _HOLES:
            del edges[1:3]
        return [(a, b) for a, b in zip(new[::2], new[1::2], strict=True) if a < b]
