"""QEMU's main migration stream: bytes in, records out.

Theory of operation. A main stream is a header, then records; a section is a record that opens it,
data, and a footer (QEMU: migration/savevm.c). Every state of the parser waits for a number of
bytes that is known, or that the bytes it waits for tell; `_HANDLERS` says who reads them. A
handler that lacks bytes is run again from its start once they are there. Three states do not wait
but let bytes go by: `SKIP` a known number of them, `DEVICE` and `LOST` up to a boundary that has
to be searched for (`main_search`).

What is guaranteed: `ram` sections, commands, the configuration and the description are read by
their lengths. Where a device's data end is found by search, hence only as sure as a footer's five
bytes before a record that makes sense. An error of framing is reported once, as `MainFault`, and
the rest is `Opaque`; but not after a gap, where what looks wrong may be for lack of what was lost:
there the parser goes on from the next boundary that it can find, which is the START of `ram`, the
end of a part of it, or the last footer of the stream. Missing bytes of the content of a page or
of the description are no gap, as nobody looks at them.

The records tile the stream: each begins where the one before it ends, whatever the input and its
cut. The parser never raises, and holds no more than a command's 65540 bytes, a block list of
`MAX_BLOCKS` entries, `MAX_SECTIONS` section numbers, what one call hands over, and the records
not yet fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from multifd_proto.wire.cursor import U32, Cursor, NeedMore, TooLong
from multifd_proto.wire.main_records import (
    COMMANDS,
    STREAM_MAGIC,
    STREAM_VERSION,
    Command,
    Configuration,
    FaultKind,
    Footer,
    MainFault,
    MainGap,
    MainHeader,
    MainRecord,
    Opaque,
    RecordType,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    Unreadable,
    VmDescription,
    structure_size,
)
from multifd_proto.wire.main_search import find_boundary, find_footer, record_at
from multifd_proto.wire.main_states import MainState
from multifd_proto.wire.ram_reader import RamReader
from multifd_proto.wire.ram_records import RamEos, RamPage, RamSetup

MAX_SECTIONS = 4096
"""Sections with parts that the parser remembers; real machines have fewer than a hundred."""
RAM = b"ram"
"""`idstr` of the section of guest memory."""


_S = MainState


class MainStream:
    """The sans-I/O parser of one main stream."""

    def __init__(self, *, started: bool = True, page_size: int = 4096) -> None:
        """Make a parser that waits for the first byte.

        Args:
            started: the first byte is that of the header; False where a capture begins in
                mid-stream.
            page_size: target page size in bytes, until the stream tells it.
        """
        self.state = _S.HEADER
        self._ram = RamReader(page_size)
        self._sections: dict[int, bool] = {}  # those that can have parts; which are ram
        self._section = 0
        self._buffer = bytearray()
        self._need = 1  # bytes that the buffer must have before a handler gets any further
        self._taken = 0  # bytes of the buffer that the states are through with
        self._offset = 0  # of the buffer in the stream
        self._reported = 0  # up to here the records tile the stream
        self._records: deque[tuple[int, int, MainRecord]] = deque()
        self._skip = 0
        self._skipped: MainRecord = StreamEnd()
        self._after_skip = _S.REST
        self._ended = False
        if not started:
            self._lose()

    # ---- feeding -----------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream, in any cut; none count after its end."""
        if self._ended:
            return
        passed = self._pass(len(data))
        self._buffer += memoryview(data)[passed:]
        if len(self._buffer) >= self._need:
            self._advance()

    def receive_skipped(self, length: int) -> None:
        """Take note of bytes that are there but were not handed over.

        `unwanted` allows it; or they are bytes that would only be searched, and whoever made the
        capture smaller did not keep them, as no record is in them.
        """
        length -= self._pass(max(length, 0))
        if length and self.state is _S.DESCRIPTION and not self._buffer:
            self.state = _S.REST
        if length and self.state in (_S.DEVICE, _S.LOST, _S.REST):
            self._offset += len(self._buffer) + length
            self._buffer.clear()
            self._need = 1
            return
        self.receive_gap(length)

    def receive_gap(self, length: int) -> None:
        """Take note that the next `length` bytes of the stream are missing."""
        if self._ended or length <= 0:
            return
        if self.state is _S.SKIP:
            length -= self._pass(length)
        if length:
            self._advance(final=True)
            self._give_up_buffer()
            self._offset += length
            self._report(MainGap(length))
            self._lose()

    def receive_eof(self) -> None:
        """Take note that the stream has ended."""
        if self._ended:
            return
        self._advance(final=True)
        lacking = self._lacking()
        if lacking:
            seen = len(self._buffer) + self._offset - self._reported
            self._stop(MainFault(FaultKind.ENDED, seen, lacking))
        self._give_up_buffer()
        self._ended = True
        self.state = _S.REST

    # ---- fetching ----------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[int, int, MainRecord]]:
        """Yield the records since the last call: place in the stream, size in bytes, record."""
        while self._records:
            yield self._records.popleft()

    def unwanted(self) -> int:
        """Return how many of the next bytes need not be handed over."""
        if self.state is _S.REST:
            return 1 << 62
        return self._skip if self.state is _S.SKIP else 0

    def begun(self) -> tuple[int, int]:
        """Return the place and the size, so far, of the structure of a record that is not whole.

        Structure is what the parser looks at: not a page's content, nor the data of a device; of
        the description, its head and the first byte.
        """
        if self.state in (_S.DEVICE, _S.LOST, _S.REST):
            return self._offset, 0
        if self.state is _S.SKIP:
            return self._reported, structure_size(self._skipped)
        return self._reported, self._offset + len(self._buffer) - self._reported

    # ---- going on ----------------------------------------------------------------------------

    def _pass(self, length: int) -> int:
        """Let bytes go by that nobody looks at; return how many."""
        passed = min(length, self.unwanted())
        self._offset += passed
        if self.state is _S.SKIP:
            self._skip -= passed
            self._advance()
        return passed

    def _advance(self, *, final: bool = False) -> None:
        """Run handlers until one lacks bytes; `final`: none will follow those that are there."""
        while True:
            cursor = Cursor(self._buffer, self._taken, ended=final)
            try:
                record = _HANDLERS[self.state](self, cursor)
            except NeedMore as more:
                self._need = more.total
                break
            except TooLong as long:
                self._stop(MainFault(FaultKind.BOUND, long.total, long.limit))
            except Unreadable as reason:
                self._stop(reason.fault)
            else:
                self._taken += cursor.used
                if record is not None:
                    self._report(record)
        self._offset += self._taken
        del self._buffer[: self._taken]
        self._taken = 0

    def _report(self, record: MainRecord) -> None:
        """Report all that the states are through with as one record."""
        end = self._offset + self._taken
        self._records.append((self._reported, end - self._reported, record))
        self._reported = end

    def _opaque(self) -> Opaque | None:
        """Return what the states are through with and nobody can read, if there is any."""
        length = self._offset + self._taken - self._reported
        return Opaque(length) if length else None

    def _give_up_buffer(self) -> None:
        self._offset += len(self._buffer)
        self._buffer.clear()
        opaque = self._opaque()
        if opaque:
            self._report(opaque)

    def _stop(self, fault: MainFault) -> None:
        """Go no further; but after a gap, the fault may be that of the gap."""
        if self._ram.lossy:
            self._lose()
        else:
            self._records.append((self._reported, 0, fault))
            self.state = _S.REST

    def _lose(self) -> None:
        """Start to look for a boundary, unless all that was to be known is known."""
        if self.state is not _S.REST:
            self._ram.lose()
            self.state = _S.LOST

    def _lacking(self) -> int | str | None:
        """Return what the end of the stream cuts off: a size that is the least, or a name."""
        there = len(self._buffer)
        if self.state is _S.SKIP:
            return self._offset - self._reported + self._skip
        if self.state is _S.DEVICE:
            return "a footer"
        if self.state in _BETWEEN and not there:
            return None
        return self._offset - self._reported + self._need

    # ---- handlers: each reads what its state waits for, and tells the next -----------------------

    def _read_header(self, cursor: Cursor) -> MainRecord:
        header = MainHeader.read(cursor)
        if header.magic != STREAM_MAGIC:
            raise Unreadable(FaultKind.MAGIC, header.magic, repr(STREAM_MAGIC))
        if header.version != STREAM_VERSION:
            raise Unreadable(FaultKind.VERSION, header.version, STREAM_VERSION)
        self.state = _S.RECORD
        return header

    def _read_type(self, cursor: Cursor) -> MainRecord | None:
        (kind,) = cursor.take(1)
        state = _RECORDS.get(kind)
        if state is None:
            raise Unreadable(FaultKind.RECORD_TYPE, kind, "the type of a record")
        self.state = state
        if kind == RecordType.EOF:
            return StreamEnd()
        cursor.used = 0  # the type is the first byte of what the next state reads
        return None

    def _read_configuration(self, cursor: Cursor) -> MainRecord:
        configuration = Configuration.read(cursor)
        if cursor.peek() == RecordType.SUBSECTION:
            configuration = replace(configuration, rest=self._read_unknown(cursor))
        self._ram.configure(configuration)
        self.state = _S.RECORD
        return configuration

    def _read_unknown(self, cursor: Cursor) -> bytes:
        """Read up to the next record: no section has been started that could have a part."""
        size = 0
        while not (found := record_at(self._buffer, cursor.position + size, ())):
            if found is None:
                raise NeedMore(len(self._buffer) - self._taken + 1)
            size += 1
            cursor.need(size)
        return cursor.take(size)

    def _read_command(self, cursor: Cursor) -> MainRecord:
        command = Command.read(cursor)
        self._ram.advise(command)
        self.state = _S.RECORD
        if COMMANDS.get(command.cmd) == "PACKAGED" and len(command.data) == U32.size:
            (length,) = U32.unpack(command.data)
            if length:
                self._skip_over(length, Opaque(length), _S.RECORD)
        return command

    def _read_start(self, cursor: Cursor) -> MainRecord:
        start = SectionStart.read(cursor)
        ram = start.idstr == RAM
        if not start.full:
            self._sections[start.section_id] = ram
        if len(self._sections) > MAX_SECTIONS:
            raise Unreadable(FaultKind.BOUND, len(self._sections), MAX_SECTIONS)
        self._enter(start.section_id, ram)
        return start

    def _read_part(self, cursor: Cursor) -> MainRecord:
        part = SectionPart if cursor.take(1)[0] == RecordType.SECTION_PART else SectionEnd
        (section_id,) = cursor.unpack(U32)
        ram = self._sections.get(section_id)
        if ram is None:
            if not (self._ram.lossy and self._ram_sections()):
                raise Unreadable(FaultKind.SECTION, section_id, "the number of a section")
            ram = False  # its start was lost, and it is not that of ram
        self._enter(section_id, ram)
        return part(section_id, ram)

    def _enter(self, section_id: int, ram: bool) -> None:
        self._section = section_id
        self.state = _S.WORD if ram else _S.DEVICE

    def _ram_sections(self) -> set[int]:
        return {section for section, ram in self._sections.items() if ram}

    def _read_word(self, cursor: Cursor) -> MainRecord | None:
        record = self._ram.read_word(cursor)
        match record:
            case RamSetup():
                self.state = _S.BLOCK
                return None
            case RamPage():
                self._skip_over(record.size, record, _S.WORD)
                return None
            case RamEos():
                self.state = _S.FOOTER
        return record

    def _read_block(self, cursor: Cursor) -> MainRecord | None:
        setup = self._ram.read_block(cursor)
        if setup:
            hidden = setup.blocks and setup.blocks[-1].in_file
            self.state = _S.REST if hidden else _S.WORD
        return setup

    def _read_footer(self, cursor: Cursor) -> MainRecord:
        (kind,) = cursor.take(1)
        if kind != RecordType.SECTION_FOOTER:
            raise Unreadable(FaultKind.NO_FOOTER, kind, RecordType.SECTION_FOOTER)
        (section_id,) = cursor.unpack(U32)
        if section_id != self._section:
            raise Unreadable(FaultKind.FOOTER, section_id, self._section)
        self.state = _S.RECORD
        return Footer(section_id)

    def _read_description(self, cursor: Cursor) -> MainRecord | None:
        (kind,) = cursor.take(1)
        if kind != RecordType.VMDESCRIPTION:
            cursor.used = 0
            self.state = _S.REST
            return None
        (length,) = cursor.unpack(U32)
        self._skip_over(length, VmDescription(length), _S.REST)
        return None

    # ---- handlers that let bytes go by ---------------------------------------------------------

    def _skip_over(self, length: int, record: MainRecord, after: MainState) -> None:
        """Let `length` bytes go by, then report the record that they belong to."""
        self._skip, self._skipped, self._after_skip = length, record, after
        self.state = _S.SKIP

    def _skip_known(self, _cursor: Cursor) -> MainRecord:
        there = min(self._skip, len(self._buffer) - self._taken)
        self._taken += there
        self._skip -= there
        if self._skip:
            raise NeedMore(1)
        self.state = self._after_skip
        return self._skipped

    def _skip_device(self, cursor: Cursor) -> MainRecord | None:
        sections = None if self._ram.lossy else self._sections
        self._taken, found = find_footer(
            self._buffer, self._taken, self._section, sections, ended=cursor.ended
        )
        if not found:
            raise NeedMore(len(self._buffer) - self._taken + 1)
        self.state = _S.FOOTER
        return self._opaque()

    def _skip_lost(self, cursor: Cursor) -> MainRecord | None:
        self._taken, found, section = find_boundary(
            self._buffer, self._taken, self._ram_sections() or None, ended=cursor.ended
        )
        if not found:
            raise NeedMore(len(self._buffer) - self._taken + 1)
        self._section = section
        if found is RamEos:
            self._sections[section] = True
        self.state = _BOUNDARIES[found]
        return self._opaque()

    def _skip_rest(self, _cursor: Cursor) -> None:
        self._taken = len(self._buffer)
        raise NeedMore(1)


_BETWEEN = (_S.HEADER, _S.RECORD, _S.DESCRIPTION, _S.LOST, _S.REST)
"""States in which a stream may end."""
_RECORDS: dict[int, MainState] = {
    RecordType.EOF: _S.DESCRIPTION,
    RecordType.SECTION_START: _S.SECTION,
    RecordType.SECTION_PART: _S.PART,
    RecordType.SECTION_END: _S.PART,
    RecordType.SECTION_FULL: _S.SECTION,
    RecordType.CONFIGURATION: _S.CONFIGURATION,
    RecordType.COMMAND: _S.COMMAND,
}
_BOUNDARIES: dict[type, MainState] = {
    RamEos: _S.WORD,
    SectionStart: _S.SECTION,
    Footer: _S.FOOTER,
}
_HANDLERS: dict[MainState, Callable[[MainStream, Cursor], MainRecord | None]] = {
    _S.HEADER: MainStream._read_header,
    _S.RECORD: MainStream._read_type,
    _S.CONFIGURATION: MainStream._read_configuration,
    _S.COMMAND: MainStream._read_command,
    _S.SECTION: MainStream._read_start,
    _S.PART: MainStream._read_part,
    _S.WORD: MainStream._read_word,
    _S.BLOCK: MainStream._read_block,
    _S.FOOTER: MainStream._read_footer,
    _S.DESCRIPTION: MainStream._read_description,
    _S.SKIP: MainStream._skip_known,
    _S.DEVICE: MainStream._skip_device,
    _S.LOST: MainStream._skip_lost,
    _S.REST: MainStream._skip_rest,
}
