"""A RAM block that is sent: a file, mapped, so that no page is copied through Python.

A block can have several files: what it holds in round 0, in round 1 and so on, as if a guest had
written to it in between. Of each further file only the pages that differ are sent. None of them
may become shorter while it is sent.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from math import gcd
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.populate import Populate, Populator
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

MAX_NAME = 255
"""Bytes in the name of a RAM block (QEMU: `RAMBlock.idstr`, with a NUL)."""
_GOLDEN = 0.618
_PRIVATE = mmap.MAP_PRIVATE | 0x4000  # MAP_NORESERVE, for which Python 3.11 has no name


class Order(Enum):
    """In which order packets, and the pages of a packet, are sent; any is as good to a receiver."""

    ASCENDING = "ascending"
    DESCENDING = "descending"
    SCATTERED = "scattered"

    def of(self, numbers: range) -> Iterable[int]:
        """Return the numbers of a range in this order."""
        if self is Order.ASCENDING:
            return numbers
        if self is Order.DESCENDING:
            return numbers[::-1]
        count = len(numbers)
        step = max(1, int(count * _GOLDEN))
        while gcd(step, count) > 1:
            step += 1
        return (numbers[at * step % count] for at in range(count))


@dataclass(frozen=True, slots=True)
class Batch:
    """Pages that go into one packet."""

    image: RamImage
    round: int
    pages: Sequence[int]
    """Numbers of pages in the block."""

    def split(self, *, detect: bool) -> tuple[Sequence[int], Sequence[int], list[memoryview]]:
        """Tell pages of zeros from the others.

        Args:
            detect: look for pages of zeros at all.

        Returns:
            Offsets in bytes of the pages with content, those of the pages of zeros, and the
            content, neighbouring pages as one piece.
        """
        image, size, pages = self.image, self.image.page_size, self.pages
        places = image.places(self.round, pages)
        zero = set(image.zeros(self.round, places)) if detect else ()
        if not zero and isinstance(places, range) and places.step == 1:
            begin, end = places.start * size, places.stop * size
            return range(begin, end, size), (), [image.view(self.round)[begin:end]]
        normal = [page * size for page, at in zip(pages, places, strict=True) if at not in zero]
        blank = [page * size for page, at in zip(pages, places, strict=True) if at in zero]
        content = [at for at in places if at not in zero]
        return normal, blank, list(image.pieces(self.round, content))


class RamImage:
    """One RAM block: a file for each round in which it differs."""

    def __init__(self, name: bytes, files: Sequence[Path], page_size: int) -> None:
        """Map the files of a block.

        Args:
            name: QEMU's `idstr` of the block.
            files: its memory, in round 0 and further ones.
            page_size: target page size in bytes.

        Raises:
            PeerError: a file cannot be read, or has a length that the block cannot have.
        """
        self.name, self.page_size = name, page_size
        self.rounds, self._hot = len(files), 0.0
        if not 1 <= len(name) <= MAX_NAME:
            raise PeerError(f"name of a RAM block is {len(name)} bytes, must be 1 to {MAX_NAME}")
        self._zero_page = bytes(page_size)
        with ExitStack() as stack:
            self._maps = [_map(file, page_size, stack) for file in files]
            for file, mapped in zip(files, self._maps, strict=True):
                if len(mapped) != len(self._maps[0]):
                    raise PeerError(
                        f"{file}: has {len(mapped)} bytes, must have {len(self._maps[0])}, as"
                        f" {files[0]}"
                    )
            self._views = [memoryview(mapped) for mapped in self._maps]
            self._populate = [Populator(mapped, Populate.READ) for mapped in self._maps]
            self._open = stack.pop_all()
        self.size = len(self._maps[0])
        """Bytes in the block."""
        self._pages = self.size // page_size

    def close(self) -> None:
        """Unmap the files."""
        self._views.clear()
        self._open.close()

    # ---- which pages a round has -----------------------------------------------------------------

    def batches(self, round_: int, per_packet: int, order: Order) -> Iterator[Batch]:
        """Yield what is sent in a round, a packet at a time.

        Args:
            round_: 0 for all pages, above it for those that have changed since the one before.
            per_packet: pages in a packet.
            order: of packets, and of pages in them.
        """
        if not round_:
            count = -(-self._pages // per_packet)
            for chunk in order.of(range(count)):
                begin = chunk * per_packet
                pages = order.of(range(begin, min(begin + per_packet, self._pages)))
                yield Batch(self, 0, pages if isinstance(pages, range) else list(pages))
            return
        changed = self._changed(round_, order)
        while pages := list(islice(changed, per_packet)):
            yield Batch(self, round_, pages)

    def _changed(self, round_: int, order: Order) -> Iterator[int]:
        if self._hot:
            yield from (page for page in order.of(range(self._pages)) if self._is_hot(page))
            return
        if round_ >= len(self._maps):
            return
        old, new, size = self._maps[round_ - 1], self._maps[round_], self.page_size
        stride = MULTIFD_PACKET_SIZE // size
        for chunk in order.of(range(-(-self._pages // stride))):
            begin = chunk * MULTIFD_PACKET_SIZE
            end = min(begin + MULTIFD_PACKET_SIZE, self.size)
            if old[begin:end] != new[begin:end]:
                for page in order.of(range(begin // size, end // size)):
                    if old[page * size : (page + 1) * size] != new[page * size : (page + 1) * size]:
                        yield page

    # ---- what they hold ------------------------------------------------------------------------

    def stir(self, rounds: int, share: float) -> None:
        """Send a share of the pages in each of `rounds` rounds, with their content in the last.

        Before that they hold what other pages of the block do, as if a guest were at work.
        """
        self.rounds, self._hot = rounds, share

    def _is_hot(self, page: int) -> bool:
        return int((page + 1) * self._hot) > int(page * self._hot)

    def places(self, round_: int, pages: Sequence[int]) -> Sequence[int]:
        """Return where the content of pages is: their own places, but for pages to be changed."""
        if not self._hot or round_ == self.rounds - 1:
            return pages
        shift = round_ + 1
        return [(page + shift) % self._pages if self._is_hot(page) else page for page in pages]

    def view(self, round_: int) -> memoryview:
        """Return the memory as it is in a round."""
        return self._views[min(round_, len(self._views) - 1)]

    def zeros(self, round_: int, places: Sequence[int]) -> Iterator[int]:
        """Yield those of some places whose pages hold nothing but zeros."""
        memory = self._maps[min(round_, len(self._maps) - 1)]
        size, zero = self.page_size, self._zero_page
        suspects: Iterable[int] = places
        if isinstance(places, range) and places.step == 1:
            # the first byte of every page, in one go: where that is not zero, the page is not
            begin, end = places.start * size, places.stop * size
            self._populate[min(round_, len(self._maps) - 1)](begin, end)
            firsts = bytes(self.view(round_)[begin:end:size])
            if firsts.count(0) == 0:
                return
            suspects = (at for at, first in zip(places, firsts, strict=True) if not first)
        for at in suspects:
            if not memory[at * size] and memory[at * size : (at + 1) * size] == zero:
                yield at

    def pieces(self, round_: int, places: Iterable[int]) -> Iterator[memoryview]:
        """Yield the memory of pages, neighbours as one piece."""
        view, size = self.view(round_), self.page_size
        start = end = -1
        for at in places:
            if at != end:
                if start != end:
                    yield view[start * size : end * size]
                start = at
            end = at + 1
        if start != end:
            yield view[start * size : end * size]


def _map(file: Path, page_size: int, stack: ExitStack) -> mmap.mmap:
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            if not size or size % page_size:
                raise PeerError(f"{file}: has {size} bytes, must have a multiple of {page_size}")
            # nobody writes; only memory that could be written to tells its address
            mapped = mmap.mmap(opened.fileno(), size, _PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        raise PeerError(f"{file}: {error.strerror}") from None
    stack.callback(_unmap, mapped)
    return mapped


def _unmap(mapped: mmap.mmap) -> None:
    with suppress(BufferError):  # a piece that is still held keeps the mapping, not us
        mapped.close()
