"""Map of the guest's memory: how often which part of each RAM block was sent.

A block is cut into equal cells that double in size when there are too many of them, so that a map
takes as much memory, and as much room on the page, whatever the guest's size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multifd_proto.machine.batch import Integers

MAX_CELLS = 1024
MAX_BLOCKS = 64
_NOWHERE = 1 << 48
"""Offsets from here on are no guest's: they would only squash the map."""


@dataclass(slots=True)
class Cell:
    """What was sent of a stretch of a block, in pages."""

    normal: int = 0
    zero: int = 0
    again: int = 0
    """Of both, those that had been sent before."""

    @property
    def distinct(self) -> int:
        """Pages that were sent at all."""
        return self.normal + self.zero - self.again

    def merge(self, other: Cell) -> None:
        """Take another cell in."""
        self.normal += other.normal
        self.zero += other.zero
        self.again += other.again


@dataclass
class BlockMap:
    """One RAM block."""

    page_size: int
    span: int
    """Bytes of a cell."""
    cells: dict[int, Cell] = field(default_factory=dict)

    def add(self, offsets: Sequence[int], kind: str) -> None:
        """Count pages.

        Args:
            offsets: of the pages, in bytes, each below the end of the block.
            kind: the count of a `Cell`.
        """
        self._make_room(_highest(offsets))
        self._count(self._by_cell(offsets), kind)

    def add_pages(self, numbers: Integers, kind: str, page_size: int) -> None:
        """Count pages, given by their numbers."""
        from numpy import bincount  # only where there are many

        self._make_room(int(numbers.max()) * page_size)
        counts = bincount(numbers * page_size >> (self.span.bit_length() - 1))
        self._count(((cell, count) for cell, count in enumerate(counts.tolist()) if count), kind)

    def _make_room(self, highest: int) -> None:
        while highest // self.span >= MAX_CELLS:
            self._double()

    def _count(self, cells: Iterable[tuple[int, int]], kind: str) -> None:
        for index, count in cells:
            cell = self.cells.get(index)
            if cell is None:
                cell = self.cells[index] = Cell()
            setattr(cell, kind, getattr(cell, kind) + count)

    def _by_cell(self, offsets: Sequence[int]) -> Sequence[tuple[int, int]]:
        first, last, span = offsets[0] // self.span, offsets[-1] // self.span, self.span
        if first == last and isinstance(offsets, range):
            return [(first, len(offsets))]
        return list(Counter([offset // span for offset in offsets]).items())

    def _double(self) -> None:
        self.span *= 2
        old, self.cells = self.cells, {}
        for index, cell in old.items():
            self.cells.setdefault(index // 2, Cell()).merge(cell)

    @property
    def total(self) -> Cell:
        """The whole block."""
        whole = Cell()
        for cell in self.cells.values():
            whole.merge(cell)
        return whole


def _highest(offsets: Sequence[int]) -> int:
    return offsets[-1] if isinstance(offsets, range) else max(offsets)


def _pages_in(length: int | None, page_size: int) -> int:
    return -(-(length or _NOWHERE) // page_size)


class MemoryMap:
    """All RAM blocks of a migration."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, BlockMap] = {}
        self.left_out: set[bytes] = set()
        """Blocks beyond `MAX_BLOCKS`, as many again."""

    def add(
        self, block: bytes, offsets: Sequence[int], kind: str, page_size: int, end: int | None
    ) -> None:
        """Count pages of a block.

        Args:
            block: its name.
            offsets: of the pages, in bytes.
            kind: the count of a `Cell`.
            page_size: target page size in bytes.
            end: bytes of the block, if known: what is beyond is not shown.
        """
        if not offsets:
            return
        end = _pages_in(end, page_size) * page_size
        if _highest(offsets) >= end:
            offsets = [offset for offset in offsets if offset < end]
            if not offsets:
                return
        found = self._block(block, page_size)
        if found:
            found.add(offsets, kind)

    def add_pages(
        self, block: bytes, numbers: Integers, kind: str, page_size: int, end: int | None
    ) -> None:
        """Count pages of a block, as `add` does, given by their numbers."""
        if numbers.max(initial=0) >= (stop := _pages_in(end, page_size)):
            numbers = numbers[numbers < stop]
        found = self._block(block, page_size) if len(numbers) else None
        if found:
            found.add_pages(numbers, kind, page_size)

    def _block(self, block: bytes, page_size: int) -> BlockMap | None:
        found = self.blocks.get(block)
        if found is None and len(self.blocks) < MAX_BLOCKS:
            found = self.blocks[block] = BlockMap(page_size, page_size)
        elif found is None and len(self.left_out) < MAX_BLOCKS:
            self.left_out.add(block)
        return found
