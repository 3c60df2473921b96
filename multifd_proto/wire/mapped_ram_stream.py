"""The main stream of a mapped-ram file: bytes in, records out; bitmaps and pages are jumped over.

Theory of operation. The stream is an ordinary main stream up to the first block whose pages are in
the file, and `MainStream` reads it. Then comes an entry behind the pages of each block, and its
header tells where the next one is. What is behind the last block is the rest of an ordinary main
stream again: a second `MainStream` reads it, to which the first part is told anew without the
capability, so that it takes the block list for complete.

The reader says with `position` which bytes of the file it wants next, and never wants any before
those it has had: a header whose places would lead back, or out of the file, is a fault and the
end. So reading ends, whatever a file holds; and the reader never raises, and keeps no more than
`MAX_BLOCKS` entries, the records not yet fetched, and what a `MainStream` keeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from multifd_proto.wire.cursor import U64, Cursor, NeedMore
from multifd_proto.wire.main_records import (
    Configuration,
    FaultKind,
    Footer,
    MainFault,
    MainHeader,
    MainRecord,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.main_states import MainState
from multifd_proto.wire.main_stream import RAM, MainStream
from multifd_proto.wire.mapped_ram import CAPABILITY, BlockFault, MappedBlock
from multifd_proto.wire.ram_reader import MAX_BLOCKS
from multifd_proto.wire.ram_records import RamBlockEntry, RamSetup

MappedRecord = MainRecord | MappedBlock | BlockFault
"""What the reader reports: of the block list, a `MappedBlock` for each entry.

A `BlockFault` is about the block reported before it; a `RamSetup` is a second list.
"""


class MappedRamStream:
    """The sans-I/O reader of one mapped-ram file, but for its bitmaps and pages."""

    def __init__(self, size: int, offset: int = 0) -> None:
        """Make a reader that waits for the stream's first byte.

        Args:
            size: bytes of the file.
            offset: where in the file the stream begins.
        """
        self.position = offset
        """Place in the file of the next byte that is wanted."""
        self.done = False
        """No more bytes are wanted."""
        self.configuration = Configuration(b"")
        """What the stream tells of its machine."""
        self._size = size
        self._main = MainStream()
        self._begin = offset  # place in the file of the main stream's first byte
        self._told = 0  # bytes that the main stream was told, and that are not of the file
        self._known: list[MainRecord] = [MainHeader()]  # what the second one has to be told
        self._entry: bytearray | None = None  # of the block list, while one is waited for
        self._blocks: list[MappedBlock] = []
        self._total = self._listed = 0
        self._ended = False
        self._records: deque[tuple[int, MappedRecord]] = deque()

    @property
    def mapped(self) -> bool:
        """The stream tells that it is a mapped-ram file."""
        return CAPABILITY in (self.configuration.capabilities or ())

    def records(self) -> Iterator[tuple[int, MappedRecord]]:
        """Yield the records since the last call, each with its place in the file."""
        while self._records:
            yield self._records.popleft()

    def receive_data(self, data: bytes) -> None:
        """Take bytes of the file from `position` on; those that are not wanted do no harm."""
        if self.done:
            return
        self.position += len(data)
        if self._entry is None:
            self._main.receive_data(data)
            self._follow()
        else:
            self._entry += data
            self._read_entry(self._entry)

    def receive_eof(self) -> None:
        """Take note that the file ends at `position`."""
        if self.done:
            return
        if self._entry is not None:
            self._stop(FaultKind.ENDED, len(self._entry), "an entry of the block list")
            return
        main = self._main
        main.receive_eof()
        self._follow()
        if self._main is main and self._entry is None and not self.done:
            self._stop(FaultKind.ENDED, 0, "the end of the stream")

    def _report(self, place: int, record: MappedRecord) -> None:
        self._records.append((place, record))
        self.done |= isinstance(record, MainFault)

    def _stop(self, kind: FaultKind, seen: int, demanded: int | str) -> None:
        self._report(self.position, MainFault(kind, seen, demanded))

    # ---- the ordinary parts --------------------------------------------------------------------

    def _follow(self) -> None:
        """Report what the main stream being read has found, up to the block list."""
        for place, _, record in self._main.records():
            if place < self._told or self.done:
                continue
            at = self._begin + place
            if isinstance(record, RamSetup):
                self._take_setup(at, record)
                return
            self._remember(record)
            self._report(at, record)
        self.done |= self._ended and self._main.state is MainState.REST

    def _remember(self, record: MainRecord) -> None:
        match record:
            case Configuration():
                self.configuration = record
                self._known.append(replace(record, capabilities=None, rest=b""))
            case SectionStart(full=False):
                self._known.append(record)
                if record.idstr != RAM:
                    self._known.append(Footer(record.section_id))
            case StreamEnd():
                self._ended = True

    def _resume(self) -> None:
        """Have the stream behind the last block read as that of a list without headers."""
        plain = tuple(RamBlockEntry(block.name, block.used_length) for block in self._blocks)
        told = b"".join(r.build() for r in (*self._known, RamSetup(self._total, plain)))
        self._entry, self._main = None, MainStream()
        self._begin, self._told = self.position - len(told), len(told)
        self._main.receive_data(told)
        self._follow()

    # ---- the block list ------------------------------------------------------------------------

    def _take_setup(self, place: int, setup: RamSetup) -> None:
        """Take the word that opens the block list, and the entries up to the first pages."""
        if self._told:
            self._report(place, setup)
        if self._told or not self.mapped:
            self.done = True
            return
        self._total = setup.total
        self.position = place + U64.size
        for entry in setup.blocks:
            self._take_block(entry)
        self._go_on()

    def _go_on(self) -> None:
        """Wait for the next entry, or for what is behind the last one."""
        if self.done:
            return
        if self._listed > self._total:
            self._stop(FaultKind.BLOCK_LIST, self._listed, self._total)
        elif len(self._blocks) > MAX_BLOCKS:
            self._stop(FaultKind.BOUND, len(self._blocks), MAX_BLOCKS)
        elif self._listed == self._total:
            self._resume()
        else:
            self._entry = bytearray()

    def _read_entry(self, buffer: bytearray) -> None:
        shared = "x-ignore-shared" in (self.configuration.capabilities or ())
        try:
            entry = RamBlockEntry.read(
                Cursor(buffer, 0, ended=False), 0, guest_address=shared, mapped=True
            )
        except NeedMore:
            return
        self.position -= len(buffer)
        self._take_block(entry)
        self._go_on()

    def _take_block(self, entry: RamBlockEntry) -> None:
        """Take the entry at `position`, and go behind its pages."""
        block = MappedBlock(entry, self.position)
        self._blocks.append(block)
        self._listed += block.used_length
        self._report(block.place, block)
        if block.in_file:
            for fault in block.faults(self._size):
                self._report(block.place, fault)
            self.done |= not block.readable(self._size)
        if not self.done:
            self.position = block.slots.stop if block.in_file else block.end
