"""Map of the guest's memory: how often which part of each RAM block was sent.

A block is cut into equal cells that double in size when there are too many of them, so that a map
takes as much memory, and as much room on the page, whatever the guest's size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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
        highest = _highest(offsets)
        while highest // self.span >= MAX_CELLS:
            self._double()
        for index, count in self._by_cell(offsets):
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
        end = end or _NOWHERE
        if _highest(offsets) >= end:
            offsets = [offset for offset in offsets if offset < end]
            if not offsets:
                return
        found = self.blocks.get(block)
        if found is None:
            if len(self.blocks) >= MAX_BLOCKS:
                if len(self.left_out) < MAX_BLOCKS:
                    self.left_out.add(block)
                return
            found = self.blocks[block] = BlockMap(page_size, page_size)
        found.add(offsets, kind)
