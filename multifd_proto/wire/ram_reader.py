"""Reading the `ram` sections of a main stream, and what has to be remembered for it."""

from __future__ import annotations

from collections.abc import Callable

from multifd_proto.wire.cursor import U64, Cursor
from multifd_proto.wire.main_records import (
    COMMANDS,
    Command,
    Configuration,
    FaultKind,
    Unreadable,
)
from multifd_proto.wire.ram_records import (
    FLAG_MASK,
    RamBlockEntry,
    RamEos,
    RamFlag,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import PAGE_SIZES

MAX_BLOCKS = 4096
"""Entries of a block list that the reader accepts; real machines have some tens."""

RamRecord = RamSetup | RamZero | RamPage | RamFlush | RamEos


class RamReader:
    """Reads words and block lists, one call each.

    It remembers the target page size, what the entries of a block list are made of, the blocks
    there are, and the block of the page before, which CONTINUE refers to across sections.
    """

    def __init__(self, page_size: int) -> None:
        self.lossy = False
        """Bytes of the stream are missing: what was not seen may have been there."""
        self._page_size = page_size
        self._huge_pages: int | None = None
        self._guest_address = self._mapped = False
        self._names: set[bytes] | None = None
        self._block: bytes | None = None
        self._total = self._listed = 0
        self._entries: list[RamBlockEntry] = []

    def configure(self, configuration: Configuration) -> None:
        """Learn from a configuration."""
        capabilities = configuration.capabilities or ()
        self._guest_address = "x-ignore-shared" in capabilities
        self._mapped = "mapped-ram" in capabilities
        if configuration.page_bits is not None and configuration.page_bits < U64.size * 8:
            self._set_page_size(1 << configuration.page_bits)

    def advise(self, command: Command) -> None:
        """Learn from POSTCOPY_ADVISE: the page sizes of all blocks, added up; the target's."""
        if COMMANDS.get(command.cmd) == "POSTCOPY_ADVISE" and len(command.data) == 2 * U64.size:
            (self._huge_pages,), (page_size,) = U64.iter_unpack(command.data)
            self._set_page_size(page_size)

    def _set_page_size(self, size: int) -> None:
        if size in PAGE_SIZES:
            self._page_size = size

    def lose(self) -> None:
        """Forget what missing bytes may have changed."""
        self.lossy = True
        self._block = None

    def read_word(self, cursor: Cursor) -> RamRecord:
        """Read a word and what belongs to it, but for a block list and the content of a page.

        Raises:
            Unreadable: it cannot be followed.
        """
        (word,) = cursor.unpack(U64)
        read = _WORDS.get(word & FLAG_MASK)
        if read is None:
            raise Unreadable(FaultKind.RAM_FLAGS, word & FLAG_MASK, _KNOWN_FLAGS)
        return read(self, cursor, word)

    def _zero(self, cursor: Cursor, word: int) -> RamZero:
        block, continued = self._page_block(cursor, word)
        zero = RamZero.read(cursor, block, word & ~FLAG_MASK, continued=continued)
        self._block = block
        return zero

    def _page(self, cursor: Cursor, word: int) -> RamPage:
        self._block, continued = self._page_block(cursor, word)
        return RamPage(self._block, word & ~FLAG_MASK, self._page_size, continued)

    def _page_block(self, cursor: Cursor, word: int) -> tuple[bytes | None, bool]:
        """Read the name of a page's block, or recall it; the latter if True."""
        if word & RamFlag.CONTINUE:
            if self._block is None and not self.lossy:
                raise Unreadable(FaultKind.CONTINUE, word & FLAG_MASK, "the name of a block")
            return self._block, True
        name = cursor.name()
        if self._names is not None and name not in self._names:
            raise Unreadable(FaultKind.BLOCK_NAME, name, "a name of the block list")
        return name, False

    def _mark(self, _cursor: Cursor, word: int) -> RamFlush | RamEos:
        if word & ~FLAG_MASK:
            raise Unreadable(FaultKind.RAM_FLAGS, word, word & FLAG_MASK)
        return RamEos() if word == RamFlag.EOS else RamFlush()

    def _mem_size(self, _cursor: Cursor, word: int) -> RamSetup:
        self._total, self._listed, self._entries = word & ~FLAG_MASK, 0, []
        return RamSetup(self._total, ())

    def read_block(self, cursor: Cursor) -> RamSetup | None:
        """Read the next entry of the block list.

        Returns:
            The list if it is complete, or the next entry is out of reach behind a block's pages.

        Raises:
            Unreadable: it cannot be followed.
        """
        entry = None
        if self._listed < self._total:
            entry = self._read_entry(cursor)
        if self._listed < self._total and not (entry and entry.in_file):
            return None
        self._names = {entry.name for entry in self._entries}
        return RamSetup(self._total, tuple(self._entries))

    def _read_entry(self, cursor: Cursor) -> RamBlockEntry:
        huge_pages = self._huge_pages
        if huge_pages is None:
            huge_pages = -1 if self.lossy else 0
        entry = RamBlockEntry.read(
            cursor,
            0 if self._guest_address else huge_pages,  # the two exclude each other
            guest_address=self._guest_address,
            mapped=self._mapped,
        )
        self._listed += entry.used_length
        self._entries.append(entry)
        if self._listed > self._total:
            raise Unreadable(FaultKind.BLOCK_LIST, self._listed, self._total)
        if len(self._entries) > MAX_BLOCKS:
            raise Unreadable(FaultKind.BOUND, len(self._entries), MAX_BLOCKS)
        return entry


_KNOWN_FLAGS = "ZERO, MEM_SIZE, PAGE, EOS or MULTIFD_FLUSH"
_WORDS: dict[int, Callable[[RamReader, Cursor, int], RamRecord]] = {
    RamFlag.ZERO: RamReader._zero,
    RamFlag.ZERO | RamFlag.CONTINUE: RamReader._zero,
    RamFlag.MEM_SIZE: RamReader._mem_size,
    RamFlag.PAGE: RamReader._page,
    RamFlag.PAGE | RamFlag.CONTINUE: RamReader._page,
    RamFlag.EOS: RamReader._mark,
    RamFlag.MULTIFD_FLUSH: RamReader._mark,
}
