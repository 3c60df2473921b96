"""Where everything is in a mapped-ram file: block headers, bitmaps, pages (QEMU: 9.0, ram.c).

Of each RAM block such a file has, in this order: the entry of the block list, which ends with a
`MappedRamHeader`; the bitmap; padding up to a multiple of `PAGES_ALIGNMENT`; a slot for each page
of the block. Then comes the next entry, or the rest of the `ram` section. All places are counted
in bytes from the first byte of the file, wherever in it the stream begins.

A bitmap is turned into *flags* here, a string with the character 1 for each page that is present
and 0 for each that is zero: Python makes one of a million pages in a millisecond, and finds runs
in it as fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from multifd_proto.wire.main_records import (
    Footer,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
)
from multifd_proto.wire.ram_records import RamBlockEntry, RamEos, RamSetup
from multifd_proto.wire.schema import PAGE_SIZES, MappedRamHeader

CAPABILITY = "mapped-ram"
"""What a configuration lists where a stream is a mapped-ram file."""
HEADER_VERSION = 1
"""The only version of a block's header (QEMU: `MAPPED_RAM_HDR_VERSION`)."""
PAGES_ALIGNMENT = 1 << 20
"""The pages of a block begin at a multiple of it (QEMU: `MAPPED_RAM_FILE_OFFSET_ALIGNMENT`)."""
WORD_PAGES = 64
"""Pages of which a word of the bitmap tells: the bits of `unsigned long` on 64-bit hosts."""

SMALL_GAP = 3
"""So few zero pages between others are cheaper to write than to leave out."""

_ABSENT = re.compile("0+")
_WORTH_WRITING = re.compile(f"1+(?:0{{1,{SMALL_GAP}}}1+)*")


class PlaceFault(Enum):
    """What can be wrong with a block's header; the values are what a message calls it."""

    VERSION = "version"
    PAGE_SIZE = "page_size"
    LENGTH = "used_length"
    BITMAP_OFFSET = "bitmap_offset"
    BITMAP_END = "end of the bitmap"
    PAGES_OFFSET = "pages_offset"
    PAGES_END = "end of the pages"
    ALIGNMENT = "alignment of pages_offset"


@dataclass(frozen=True, slots=True)
class BlockFault:
    """A value of a block's header that does not fit: what it is of, the value, what would fit."""

    kind: PlaceFault
    seen: str
    demanded: str


@dataclass(frozen=True, slots=True)
class MappedBlock:
    """A RAM block of a mapped-ram file, as its header tells; nothing of it is checked."""

    entry: RamBlockEntry
    place: int
    """Where in the file the entry is."""

    @property
    def name(self) -> bytes:
        """The block's name."""
        return self.entry.name

    @property
    def used_length(self) -> int:
        """Bytes of memory in the block."""
        return self.entry.used_length

    @property
    def in_file(self) -> bool:
        """The file has the block's pages; not so for a shared block, with `x-ignore-shared`."""
        return self.entry.in_file

    @property
    def header(self) -> MappedRamHeader:
        """The block's header."""
        return self.entry.mapped or MappedRamHeader()

    @property
    def end(self) -> int:
        """Where the entry ends, and the bitmap begins."""
        return self.place + len(self.entry.build())

    @property
    def pages(self) -> int:
        """Pages of the block."""
        return self.used_length // self.header.page_size if self.header.page_size else 0

    @property
    def bitmap(self) -> range:
        """The bitmap's bytes in the file."""
        begin = self.header.bitmap_offset
        return range(begin, begin + bitmap_size(self.pages))

    @property
    def slots(self) -> range:
        """The bytes in the file of all pages, present or not."""
        return range(self.header.pages_offset, self.header.pages_offset + self.used_length)

    def faults(self, size: int) -> Iterator[BlockFault]:
        """Yield what is wrong with the header of a block whose pages are in the file.

        Args:
            size: bytes of the file.
        """
        header, kind = self.header, PlaceFault
        if header.version != HEADER_VERSION:
            yield BlockFault(kind.VERSION, str(header.version), str(HEADER_VERSION))
        if header.page_size not in PAGE_SIZES:
            sizes = f"a power of two from {PAGE_SIZES[0]} to {PAGE_SIZES[-1]}"
            yield BlockFault(kind.PAGE_SIZE, str(header.page_size), sizes)
            return
        if self.used_length % header.page_size:
            demanded = f"a multiple of the page size {header.page_size}"
            yield BlockFault(kind.LENGTH, hex(self.used_length), demanded)
        yield from self._misplaced(size)

    def _misplaced(self, size: int) -> Iterator[BlockFault]:
        """Yield the places that overlap what is before them, or are not in the file."""
        kind, bitmap, slots = PlaceFault, self.bitmap, self.slots
        if bitmap.start < self.end:
            demanded = f"{self.end:#x} or more, behind the header"
            yield BlockFault(kind.BITMAP_OFFSET, hex(bitmap.start), demanded)
        if bitmap.stop > size:
            yield BlockFault(kind.BITMAP_END, hex(bitmap.stop), f"within the file, {size:#x} bytes")
        if slots.start < bitmap.stop:
            demanded = f"{bitmap.stop:#x} or more, behind the bitmap"
            yield BlockFault(kind.PAGES_OFFSET, hex(slots.start), demanded)
        if slots.start % PAGES_ALIGNMENT:
            demanded = f"a multiple of {PAGES_ALIGNMENT:#x}"
            yield BlockFault(kind.ALIGNMENT, hex(slots.start), demanded)
        if slots.stop > size:
            yield BlockFault(kind.PAGES_END, hex(slots.stop), f"within the file, {size:#x} bytes")

    def readable(self, size: int) -> bool:
        """Tell whether bitmap and pages can be read, and the stream be followed behind them."""
        return all(fault.kind is PlaceFault.ALIGNMENT for fault in self.faults(size))


def bitmap_size(pages: int) -> int:
    """Return the bytes of a bitmap: whole words of 8 bytes."""
    return -(-pages // WORD_PAGES) * (WORD_PAGES // 8)


def unpack_bitmap(bitmap: bytes) -> str:
    """Return the flags of a bitmap, or of a part of one that begins with a whole byte.

    The words are those of a little-endian host: no field of a file tells other ones.
    """
    number = int.from_bytes(bitmap, "little")
    return f"{number:0{8 * len(bitmap)}b}"[::-1] if bitmap else ""


def pack_bitmap(flags: str) -> bytes:
    """Return the bitmap of pages whose flags are given, filled up to whole words."""
    return int(flags[::-1] or "0", 2).to_bytes(bitmap_size(len(flags)), "little")


def runs_to_write(flags: str) -> Iterator[range]:
    """Yield the runs of present pages, those together that are `SMALL_GAP` apart, or less."""
    return (range(*found.span()) for found in _WORTH_WRITING.finditer(flags))


def absent_runs(flags: str) -> Iterator[range]:
    """Yield the runs of pages that are zero, as indexes in `flags`."""
    return (range(*found.span()) for found in _ABSENT.finditer(flags))


def lay_out(begin: int, lengths: Iterable[tuple[bytes, int]], page_size: int) -> list[MappedBlock]:
    """Return blocks in places such as QEMU gives them.

    Args:
        begin: place in the file of the block list's first entry.
        lengths: name and length of each block, in order; the lengths are whole pages.
        page_size: target page size in bytes.
    """
    blocks: list[MappedBlock] = []
    for name, length in lengths:
        bare = RamBlockEntry(name, length, mapped=MappedRamHeader(page_size=page_size))
        bitmap_offset = begin + len(bare.build())
        bitmap_end = bitmap_offset + bitmap_size(length // page_size)
        pages_offset = -(-bitmap_end // PAGES_ALIGNMENT) * PAGES_ALIGNMENT
        header = MappedRamHeader(HEADER_VERSION, page_size, bitmap_offset, pages_offset)
        blocks.append(MappedBlock(RamBlockEntry(name, length, mapped=header), begin))
        begin = pages_offset + length
    return blocks


def ram_head(section_id: int, version_id: int, total: int) -> bytes:
    """Return the begin of the `ram` section, up to the first entry of the block list."""
    return _build(SectionStart(section_id, b"ram", 0, version_id), RamSetup(total, ()))


def ram_tail(section_id: int, switchover: bytes = b"") -> bytes:
    """Return what is left of the `ram` section behind the last page: words that end its parts.

    Args:
        section_id: number of the section.
        switchover: the commands that come before the END.
    """
    end = (RamEos(), Footer(section_id))
    parts = _build(*end, SectionPart(section_id), *end)
    return parts + switchover + _build(SectionEnd(section_id), *end)


def _build(*records: MainRecord) -> bytes:
    return b"".join(record.build() for record in records)
