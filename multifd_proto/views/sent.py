"""What the packets of a batch sent: their pages, and which of them had been sent before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.machine.bulk_marks import Mask, PageMarks
from multifd_proto.machine.bulk_pages import Lot, Pages
from multifd_proto.machine.events import Event
from multifd_proto.machine.sets import PageSet

_PART = 512


@dataclass(eq=False)
class SentPages:
    """The pages of one RAM block, those of one packet after those of the other."""

    block: bytes
    packet: Integers
    """The page's packet, by its place in the batch."""
    number: Integers
    """The page's number in the block."""
    normal: Mask
    """It came with content."""

    def __getitem__(self, part: slice | Mask) -> SentPages:
        """Return some of them."""
        return SentPages(self.block, self.packet[part], self.number[part], self.normal[part])

    def between(self, first: int, last: int) -> SentPages:
        """Return those of the packets from `first` to before `last`."""
        start, stop = np.searchsorted(self.packet, (first, last)).tolist()
        return self[start:stop]

    def known_to(self, seen: PageSet, *, distinct: bool = False) -> tuple[Mask, Integers]:
        """Tell which of them are in a set, or came before in here; and return the others.

        Args:
            seen: the set, to which nothing is added.
            distinct: no page is in here twice.
        """
        if distinct:
            again = seen.there(self.block, self.number)
            return again, np.sort(self.number[~again])
        numbers, first = np.unique(self.number, return_index=True)
        there = seen.there(self.block, numbers)
        again = np.ones(len(self.number), np.bool_)
        again[first] = there
        return again, numbers[~there]

    def add_to(self, seen: PageSet) -> None:
        """Add them to a set."""
        _, new = self.known_to(seen)
        if len(new):
            seen.add_all(self.block, PageMarks(new))


class Sent:
    """The pages of all packets of a batch."""

    def __init__(self, batch: PacketBatch) -> None:
        self.batch = batch
        self._pages = Pages(batch, batch.pages > 0)
        fields, codes = batch.names
        blocks = list(dict.fromkeys(_block(field) for field in fields))
        numbers = np.array([blocks.index(_block(field)) for field in fields], np.int64)
        self._lots = self._pages.lots(np.zeros(len(batch), np.int64), numbers[codes], blocks)
        self.again: list[SentPages] = []
        """Those that had been sent before, of each block: see `add_to`."""
        self.resent = np.zeros(len(batch), np.int64)
        """How many of them each packet has."""

    @property
    def chunks(self) -> int:
        """Chunks of a `PageSet` that the pages can take at most."""
        return sum(lot.marks.chunks for lot in self._lots)

    def pages(self, lot: Lot) -> SentPages:
        """Return the pages of a lot."""
        pages, part = self._pages, lot.part
        packet, used = pages.rows[part], pages.used[part]
        normal = np.arange(used.shape[1]) < self.batch.normal_pages[packet, None]
        return SentPages(
            lot.block,
            np.repeat(packet, np.count_nonzero(used, axis=1)),
            pages.numbers[part][used],
            normal[used],
        )

    def events(self) -> Iterator[tuple[int, Event]]:
        """Yield the events of the packets, with the numbers of their connections."""
        for place, stream in enumerate(self.batch.stream.tolist()):
            for event in self.batch.events(place):
                yield stream, event

    def blocks(self) -> list[SentPages]:
        """Return the pages of each block."""
        return [self.pages(lot) for lot in self._lots]

    def add_to(self, seen: PageSet) -> None:
        """Add the pages to a set, and find those that are there."""
        for lot in self._lots:
            if seen.add_all(lot.block, lot.marks):
                continue
            pages = self.pages(lot)
            again, new = pages.known_to(seen, distinct=lot.marks.distinct)
            if len(new):
                seen.add_all(lot.block, PageMarks(new))
            self.again.append(pages[again])
            self.resent += np.bincount(self.again[-1].packet, minlength=len(self.resent))


def parts(batch: PacketBatch) -> Iterator[Sent]:
    """Cut a batch into parts whose columns fit into the processor's cache."""
    for start in range(0, len(batch), _PART):
        yield Sent(batch[start : start + _PART])


def _block(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
