"""Pages of a batch's packets: where they are, and which of them were there before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.machine.bulk_marks import Mask, PageMarks
from multifd_proto.machine.sets import PageSet


class Pages:
    """The pages of some packets of a batch, which have no more of them than offsets."""

    def __init__(self, batch: PacketBatch, which: Mask) -> None:
        self._all = len(batch)
        self.rows = np.flatnonzero(which)
        """The packets' places in the batch; the matrices here have a row for each."""
        self._offsets = batch.offsets if len(self.rows) == len(batch) else batch.offsets[self.rows]
        self._page_size = np.uint64(batch.page_size)
        self._shift = np.uint64(batch.page_size.bit_length() - 1)
        self._unused = np.maximum(batch.page_count - batch.pages[self.rows], 0)
        self.short: Mask = self._unused > 0
        """Packets with fewer pages than offsets."""

    @cached_property
    def used(self) -> Mask:
        """Items of `offset` that belong to a page."""
        count = self._offsets.shape[1]
        used: Mask = np.arange(count) < count - self._unused[:, None]
        return used

    @cached_property
    def _own(self) -> NDArray[np.uint64]:
        """The offsets of pages; the first one again where there is no page."""
        if not self.short.any():
            return self._offsets
        return np.where(self.used, self._offsets, self._offsets[:, :1])

    def _column(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a column of the batch: 0 where the packet is none of these."""
        if len(self.rows) == self._all:
            return values
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
        twice = np.zeros(len(self.rows), np.bool_)
        falls = self._own[:, 1:] <= self._own[:, :-1]
        if falls.any():
            looked_at = np.flatnonzero(falls.any(1))
            offsets = np.sort(self._own[looked_at], axis=1)
            equal = np.count_nonzero(offsets[:, 1:] == offsets[:, :-1], axis=1)
            twice[looked_at] = equal > self._unused[looked_at]
        return self._column(twice)

    @cached_property
    def numbers(self) -> Integers:
        """Numbers of the pages in their block."""
        return (self._offsets >> self._shift).view(np.int64)

    def listed(self, part: Integers) -> Integers:
        """Return the numbers of the pages of some rows, in any order."""
        if len(part) == len(self.rows) and not self.short.any():
            return self.numbers.ravel()
        short = part[self.short[part]]
        full = self.numbers[part[~self.short[part]]].ravel()
        return np.append(full, self.numbers[short][self.used[short]])

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
    def marks(self) -> PageMarks:
        """All of them."""
        return PageMarks(self.pages.listed(self.part))

    def add_to(self, seen: PageSet) -> Integers:
        """Add the pages of packets that share none with others, nor with what was seen.

        Returns:
            The places of the other packets in the batch.
        """
        if seen.add_all(self.block, self.marks):
            return self.part[:0]
        listed = np.sort(self.marks.numbers)
        shared = listed[seen.there(self.block, listed) | (np.diff(listed, prepend=-1) == 0)]
        pages = self.pages
        others = (np.isin(pages.numbers[self.part], shared) & pages.used[self.part]).any(1)
        if not others.all():
            seen.add_all(self.block, PageMarks(pages.listed(self.part[~others])))
        return pages.rows[self.part[others]]
