"""Pages of many packets as runs: what columns of offsets come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.sets import CHUNK, CHUNK_BITS

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PageRuns:
    """Runs of pages of one block, in ascending order of their first pages."""

    starts: Integers
    """Number of each run's first page."""
    ends: Integers
    """One past its last."""

    @classmethod
    def of(cls, pages: Integers, used: Mask, first: Mask) -> PageRuns:
        """Find the runs.

        Args:
            pages: numbers of pages, a row a packet.
            used: which of them are pages of the packet; the first ones of each row.
            first: which of those a run begins with, as `run_starts` tells.
        """
        places = np.flatnonzero(first)
        ends = np.arange(len(pages)) * pages.shape[1] + np.count_nonzero(used, axis=1)
        ends = np.repeat(ends, np.count_nonzero(first, axis=1))  # of each run's packet
        lengths = np.minimum(np.append(places[1:], pages.size), ends) - places
        starts = pages.ravel()[places]
        if (starts[1:] < starts[:-1]).any():
            # several channels' rows, each ascending: what a stable sort is good at
            order = np.argsort(starts, kind="stable")
            starts, lengths = starts[order], lengths[order]
        return cls(starts, starts + lengths)

    def __len__(self) -> int:
        """Pages of all runs."""
        return int((self.ends - self.starts).sum())

    @cached_property
    def distinct(self) -> bool:
        """No page is in two runs."""
        return not (self.starts[1:] < self.ends[:-1]).any()

    @property
    def chunks(self) -> int:
        """Chunks that the pages are in, and none of them is more than this."""
        first, last = self.starts >> CHUNK_BITS, (self.ends - 1) >> CHUNK_BITS
        first[1:] = np.maximum(first[1:], last[:-1] + 1)
        return int(np.maximum(last - first + 1, 0).sum())

    def merged(self) -> PageRuns:
        """Return the same pages, if distinct, in as few runs as there can be."""
        edges = np.ones(len(self.starts) + 1, np.bool_)
        edges[1:-1] = self.starts[1:] != self.ends[:-1]
        return PageRuns(self.starts[edges[:-1]], self.ends[edges[1:]])

    def numbers(self) -> Integers:
        """Return the number of each page, in ascending order if distinct."""
        if len(self) == len(self.starts):
            return self.starts
        lengths = self.ends - self.starts
        skipped = self.starts - np.cumsum(lengths) + lengths
        numbers: Integers = np.arange(lengths.sum()) + np.repeat(skipped, lengths)
        return numbers

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """Yield chunk, first page in it and number of pages, cut where a chunk ends."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            while start < end:
                chunk, page = divmod(start, CHUNK)
                count = min(CHUNK - page, end - start)
                yield chunk, page, count
                start += count


def run_starts(pages: Integers, used: Mask) -> Mask:
    """Tell which pages of packets are not right behind the page before them."""
    starts = used.copy()
    starts[:, 1:] &= pages[:, 1:] != pages[:, :-1] + 1
    return starts
