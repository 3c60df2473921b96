"""Pages of a batch's packets: where they are, and which of them were there before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.machine.bulk_runs import Mask, PageRuns, run_starts
from multifd_proto.machine.sets import PageSet


class Pages:
    """The pages of some packets of a batch, which have no more of them than offsets."""

    def __init__(self, batch: PacketBatch, which: Mask) -> None:
        self._all = len(batch)
        self.rows = np.flatnonzero(which)
        """The packets' places in the batch; the matrices here have a row for each."""
        self._offsets = batch.offsets if len(self.rows) == len(batch) else batch.offsets[self.rows]
        self.used: Mask = np.arange(batch.page_count) < batch.pages[self.rows, None]
        """Items of `offset` that belong to a page."""
        self._page_size = np.uint64(batch.page_size)
        self._shift = np.uint64(batch.page_size.bit_length() - 1)
        self._own = self._offsets if self.used.all() else np.where(self.used, self._offsets, 0)

    def _column(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a column of the batch: 0 where the packet is none of these."""
        column = np.zeros(self._all, values.dtype)
        column[self.rows] = values
        return column

    @cached_property
    def highest(self) -> NDArray[np.uint64]:
        """The highest offset of each packet."""
        return self._column(self._own.max(1))

    @cached_property
    def misaligned(self) -> Mask:
        """An offset of the packet is no multiple of the page size."""
        bits = np.bitwise_or.reduce(self._own, axis=1)
        return self._column(bits & (self._page_size - np.uint64(1)) != 0)

    @cached_property
    def twice(self) -> Mask:
        """The packet lists an offset more than once."""
        twice = self.starts.sum(1) > 1
        offsets, used = self._offsets[twice], self.used[twice][:, 1:]
        twice[twice] = ((offsets[:, 1:] <= offsets[:, :-1]) & used).any(1)
        offsets = np.where(self.used[twice], self._offsets[twice], np.uint64((1 << 64) - 1))
        offsets.sort(axis=1)
        equal = offsets[:, 1:] == offsets[:, :-1]
        twice[twice] = (equal & self.used[twice][:, 1:]).any(1)
        return self._column(twice)

    @cached_property
    def numbers(self) -> Integers:
        """Numbers of the pages in their block."""
        return (self._offsets >> self._shift).view(np.int64)

    @cached_property
    def starts(self) -> Mask:
        """Pages that are not right behind the page before them."""
        return run_starts(self.numbers, self.used)

    def lots(self, rounds: Integers, codes: Integers, blocks: list[bytes]) -> list[Lot]:
        """Return the pages of each round and block.

        Args:
            rounds: the round of each packet of the batch; packets of none, -1, are left out.
            codes: the number of each packet's block.
            blocks: the blocks' names.
        """
        rounds, codes = rounds[self.rows], codes[self.rows]
        keys = rounds * len(blocks) + codes
        order = np.argsort(keys, kind="stable")
        order = order[np.searchsorted(keys[order], 0) :]
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        return [
            Lot(self, int(rounds[part[0]]), blocks[codes[part[0]]], part)
            for part in np.split(order, cuts)
            if len(part)
        ]


@dataclass(eq=False)
class Lot:
    """The pages of a round in a block."""

    pages: Pages
    round: int
    block: bytes
    part: Integers
    """Rows of `pages`."""

    @cached_property
    def runs(self) -> PageRuns:
        """All of them."""
        return self._runs(self.part)

    def _runs(self, part: Integers) -> PageRuns:
        pages = self.pages
        if len(part) == len(pages.rows):
            return PageRuns.of(pages.numbers, pages.used, pages.starts)
        return PageRuns.of(pages.numbers[part], pages.used[part], pages.starts[part])

    def add_to(self, seen: PageSet) -> Integers:
        """Add the pages of packets that share none with others, nor with what was seen.

        Returns:
            The places of the other packets in the batch.
        """
        if seen.add_all(self.block, self.runs):
            return self.part[:0]
        listed = np.sort(self.runs.numbers())
        shared = listed[seen.there(self.block, listed) | (np.diff(listed, prepend=-1) == 0)]
        pages = self.pages
        others = (np.isin(pages.numbers[self.part], shared) & pages.used[self.part]).any(1)
        if not others.all():
            seen.add_all(self.block, self._runs(self.part[~others]))
        return pages.rows[self.part[others]]
