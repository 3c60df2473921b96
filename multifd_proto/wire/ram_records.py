"""The records inside a section of guest memory (`ram`) of the main stream.

Such a section is a run of u64 words, a page's address with flags in its low bits, each followed
by what the flags announce (QEMU: migration/ram.c, `ram_load_precopy`). With multifd the pages
themselves travel elsewhere; what is left are the block list, the marks of rounds and, until 8.2,
zero pages. The smallest page being 1 KiB, the low 10 bits are flags.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import Self

from multifd_proto.wire.cursor import U8, U64, Cursor, build_name
from multifd_proto.wire.schema import PAGE_SIZES, MappedRamHeader

FLAG_MASK = min(PAGE_SIZES) - 1
"""The bits of a word that are flags."""
MAX_RUN = 256
"""Pages that one `RamZero` holds."""


class RamFlag(IntFlag):
    """Flags of a word (QEMU: `RAM_SAVE_FLAG_*`); those that cannot be with multifd have no name."""

    ZERO = 0x002
    MEM_SIZE = 0x004
    PAGE = 0x008
    EOS = 0x010
    CONTINUE = 0x020
    MULTIFD_FLUSH = 0x200


@dataclass(frozen=True, slots=True)
class RamBlockEntry:
    """One block of the block list."""

    name: bytes
    used_length: int
    """Bytes of memory in the block."""
    page_size: int | None = None
    """Size of the block's pages, if huge and postcopy is possible."""
    guest_address: int | None = None
    """Where the guest sees the block, with x-ignore-shared."""
    mapped: MappedRamHeader | None = None
    """Where the block's pages are in the file, with mapped-ram."""

    @property
    def in_file(self) -> bool:
        """The block's pages follow in the file, before the next entry."""
        return self.mapped is not None and self.mapped.pages_offset != 0

    def build(self) -> bytes:
        """Return the entry's bytes."""
        numbers = (self.used_length, self.page_size, self.guest_address)
        out = build_name(self.name) + b"".join(U64.pack(n) for n in numbers if n is not None)
        return out + self.mapped.build() if self.mapped else out

    @classmethod
    def read(cls, cursor: Cursor, page_sizes: int, *, guest_address: bool, mapped: bool) -> Self:
        """Read an entry.

        Whether a page size is there shows in the bytes alone: it is a power of two of at least
        1 KiB, so its first byte is zero where a name's length is not, and its flags would be
        none, which no word has.

        Args:
            cursor: at the entry.
            page_sizes: sizes that a page size can be, added up; 0 if there is none.
            guest_address: the entry has an address.
            mapped: the entry has a mapped-ram header.
        """
        name = cursor.name()
        (used_length,) = cursor.unpack(U64)
        page_size = address = None
        if page_sizes and cursor.peek() == 0:
            size = cursor.peek(U64.size) or 0
            if size.bit_count() == 1 and size & page_sizes & ~FLAG_MASK:
                (page_size,) = cursor.unpack(U64)
        if guest_address:
            (address,) = cursor.unpack(U64)
        header = MappedRamHeader.parse(cursor.take(MappedRamHeader.size())) if mapped else None
        return cls(name, used_length, page_size, address, header)


@dataclass(frozen=True, slots=True)
class RamSetup:
    """The total size of guest memory, and the blocks that it is the sum of.

    Of a mapped-ram file the list ends with the first block whose pages are in the file: the next
    entry follows behind these pages.
    """

    total: int
    """Bytes of guest memory."""
    blocks: tuple[RamBlockEntry, ...]

    def build(self) -> bytes:
        """Return the record's bytes."""
        word = U64.pack(self.total | RamFlag.MEM_SIZE)
        return word + b"".join(block.build() for block in self.blocks)


def _page_word(flag: RamFlag, block: bytes | None, offset: int, *, continued: bool) -> bytes:
    if continued:
        return U64.pack(offset | flag | RamFlag.CONTINUE)
    return U64.pack(offset | flag) + build_name(block or b"")


_ZERO = struct.Struct(">QB")
_CONTINUED_ZERO = RamFlag.ZERO | RamFlag.CONTINUE


@dataclass(frozen=True, slots=True)
class RamZero:
    """Consecutive zero pages of a block, at most `MAX_RUN`; all but the first are continued."""

    block: bytes | None
    """The block's name; None if a gap hid it."""
    offsets: tuple[int, ...]
    """Places of the pages in the block, in bytes."""
    fill: int = 0
    """The byte that the pages are full of; since 8.2 receivers demand 0."""
    continued: bool = False
    """The first page says, by CONTINUE, that it is of the same block as the page before."""

    def build(self) -> bytes:
        """Return the bytes of all the pages."""
        fill, first = U8.pack(self.fill), self.offsets[0]
        words = [_page_word(RamFlag.ZERO, self.block, first, continued=self.continued)]
        words += [_page_word(RamFlag.ZERO, None, at, continued=True) for at in self.offsets[1:]]
        return b"".join(word + fill for word in words)

    @classmethod
    def read(cls, cursor: Cursor, block: bytes | None, offset: int, *, continued: bool) -> Self:
        """Read the first page's fill, and the pages that continue it.

        Only the word behind them, or the end of the stream, tells that there are no more.
        """
        (fill,) = cursor.unpack(U8)
        offsets = [offset]
        for word, filled in cursor.ahead(_ZERO, MAX_RUN - 1):
            if word & FLAG_MASK != _CONTINUED_ZERO or filled != fill:
                break
            cursor.used += _ZERO.size
            offsets.append(word & ~FLAG_MASK)
        if len(offsets) < MAX_RUN:
            word = cursor.peek(U64.size)
            if word is not None and word & FLAG_MASK == _CONTINUED_ZERO:
                cursor.peek(_ZERO.size)
        return cls(block, tuple(offsets), fill, continued)


@dataclass(frozen=True, slots=True)
class RamPage:
    """A page with content, which follows in the main stream. Its bytes are not kept.

    Not with multifd, but for pages sent after a switch to postcopy.
    """

    block: bytes | None
    """The block's name; None if a gap hid it."""
    offset: int
    """Place of the page in the block, in bytes."""
    size: int
    """Bytes of content: the target page size."""
    continued: bool = False
    """CONTINUE stands for the block's name."""

    def build(self) -> bytes:
        """Return the record's bytes, with zeros for content."""
        word = _page_word(RamFlag.PAGE, self.block, self.offset, continued=self.continued)
        return word + bytes(self.size)


@dataclass(frozen=True, slots=True)
class RamFlush:
    """Mark of a round in modern streams, 8.1 and newer: every channel has a SYNC for it."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        return U64.pack(RamFlag.MULTIFD_FLUSH)


@dataclass(frozen=True, slots=True)
class RamEos:
    """End of a ram section's data; in legacy streams, up to 8.0, the mark of a round as well."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        return U64.pack(RamFlag.EOS)
