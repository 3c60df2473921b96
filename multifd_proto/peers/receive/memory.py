"""Guest memory of a receiver: RAM blocks that sockets write into without a copy through Python."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.populate import Populate, Populator
from multifd_proto.wire.block_names import file_name

MAX_BLOCKS = 512
"""RAM blocks that are taken; a mapping each, and with `--save` a file."""


class Block:
    """The memory of one RAM block."""

    def __init__(self, name: bytes, length: int, page_size: int, path: Path | None) -> None:
        """Make a block of zeros.

        Args:
            name: QEMU's `idstr` of the block.
            length: bytes in it.
            page_size: target page size in bytes.
            path: file that holds the memory, anonymous memory if None.
        """
        self.name, self.length, self.path = name, length, path
        self._page_size = page_size
        # whether a page has come: what never came is zero, and clearing it would allocate it;
        # a mapping, as the kernel gives out of it only what is written to
        self._came = mmap.mmap(-1, max(length // page_size, 1))
        self._map: mmap.mmap | None = None
        if length:
            self._map = _map(length, path)
        elif path:
            path.write_bytes(b"")
        self.view = memoryview(self._map) if self._map else memoryview(bytearray())
        self._populate = Populator(self._map, Populate.WRITE) if self._map else None

    def run(self, pages: range) -> memoryview:
        """Return the memory of pages that lie one behind the other, ready to be written to.

        Args:
            pages: their offsets within the block, in bytes.
        """
        page, start, end = self._page_size, pages.start, pages.stop
        if self._populate and not self._came[start // page]:
            self._populate(start, end)
        self._came[start // page : end // page] = b"\1" * len(pages)
        return self.view[start:end]

    def pieces(self, offsets: Sequence[int]) -> list[memoryview]:
        """Return the memory of pages in their order, neighbours as one piece.

        Args:
            offsets: of pages within the block, in bytes; a `range` says that they are neighbours.
        """
        page = self._page_size
        return [self.run(range(*ends, page)) for ends in _runs(offsets, page)]

    def clear(self, offsets: Iterable[int]) -> None:
        """Make pages zero."""
        page, zeros = self._page_size, bytes(self._page_size)
        for offset in offsets:
            if self._came[offset // page]:
                self.view[offset : offset + page] = zeros

    def close(self) -> None:
        """Let go of the memory; a file keeps it."""
        self._came.close()
        # somebody who still holds a piece of the memory keeps the mapping, not us
        with suppress(BufferError):
            self.view.release()
            if self._map:
                self._map.close()


def _map(length: int, path: Path | None) -> mmap.mmap:
    if path:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.ftruncate(file, length)
            return mmap.mmap(file, length)
        finally:
            os.close(file)
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # not every kernel has huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _runs(offsets: Sequence[int], page_size: int) -> Iterator[tuple[int, int]]:
    """Yield where runs of consecutive pages start and end."""
    if not offsets:
        return
    if isinstance(offsets, range):
        yield offsets.start, offsets.stop
        return
    start = end = offsets[0]
    for offset in offsets:
        if offset != end:
            yield start, end
            start = offset
        end = offset + page_size
    yield start, end


class GuestMemory:
    """The RAM blocks of the machine that is being received."""

    def __init__(self, page_size: int, limit: int, save: Path | None = None) -> None:
        """Make a memory without blocks.

        Args:
            page_size: target page size in bytes.
            limit: bytes of all blocks together that are taken.
            save: folder for a file `NAME.ram` a block; anonymous memory if None.
        """
        self.page_size, self._limit, self._save = page_size, limit, save
        self.blocks: dict[bytes, Block] = {}

    def create(self, lengths: Mapping[bytes, int]) -> None:
        """Make the blocks.

        Args:
            lengths: name and bytes of each.

        Raises:
            PeerError: more or larger ones than are taken, or no room for them.
        """
        total = sum(lengths.values())
        if len(lengths) > MAX_BLOCKS:
            raise PeerError(f"the source has {len(lengths)} RAM blocks, at most {MAX_BLOCKS} go")
        if total > self._limit:
            raise PeerError(f"the source has {total} bytes of RAM, at most {self._limit} go")
        if self._save and total > (free := shutil.disk_usage(self._save).free):
            # a file system that is full would kill the process at a write to the mapping
            raise PeerError(f"{self._save}: has room for {free} bytes, the source has {total}")
        for name, length in lengths.items():
            path = self._path(name) if self._save else None
            try:
                self.blocks[name] = Block(name, length, self.page_size, path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                text = name.decode("latin-1")
                raise PeerError(f"RAM block {text!r} of {length} bytes: {reason}") from None

    def _path(self, name: bytes) -> Path:
        assert self._save
        taken = {block.path.name for block in self.blocks.values() if block.path}
        return self._save / file_name(name, taken)

    def close(self) -> None:
        """Let go of all blocks; files stay."""
        for block in self.blocks.values():
            block.close()
