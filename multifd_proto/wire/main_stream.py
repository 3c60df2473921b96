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
there the parser looks for the next boundary of a `ram` section instead.

The records tile the stream: each begins where the one before it ends, whatever the input and its
cut. The parser never raises, and holds no more than a command's 65540 bytes, a block list of
`MAX_BLOCKS` entries, `MAX_SECTIONS` section numbers and the records not yet fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum

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
)
from multifd_proto.wire.main_search import find_footer, find_ram_boundary, record_at
from multifd_proto.wire.ram_reader import RamReader
from multifd_proto.wire.ram_records import RamEos, RamPage, RamSetup

MAX_SECTIONS = 4096
"""Sections with parts that the parser remembers; real machines have fewer than a hundred."""
RAM = b"ram"
"""`idstr` of the section of guest memory."""


class MainState(Enum):
    """Where a main stream stands."""

    HEADER = "waits for the 8 bytes of the header"
    RECORD = "waits for the byte that tells a record's type"
    CONFIGURATION = "waits for the configuration, whose parts tell their lengths"
    COMMAND = "waits for the 5 bytes of a command and the data whose length they tell"
    SECTION = "waits for the head of a section: 14 bytes and its name"
    PART = "waits for the 5 bytes that head a further part of a section"
    WORD = "waits for a word of a ram section, a block's name and a fill byte"
    BLOCK = "waits for an entry of the block list"
    FOOTER = "waits for the 5 bytes of a footer"
    DESCRIPTION = "waits for the 5 bytes that head the description, if there is one"
    SKIP = "lets bytes of known number go by"
    DEVICE = "lets a device's data go by, up to their footer"
    LOST = "lets bytes go by after missing ones, up to a boundary of a ram section"
    REST = "lets everything go by"


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
        """Take note of bytes that are there but were not handed over, as `unwanted` allows."""
        length -= self._pass(max(length, 0))
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
        ...
