"""The records of QEMU's main migration stream, as far as multifd needs them.

One frozen value per record; `build()` returns its bytes, and those that a section of guest memory
is made of are in `ram_records`. All integers are big-endian. What a record does not keep (the
data of devices, the machine's description) is built as filler of the same length, so a record
always has as many bytes as it had in the stream.

Names are bytes, as they are on the wire; QEMU's are printable ASCII.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from multifd_proto.wire.cursor import U8, U32, Cursor, build_name
from multifd_proto.wire.ram_records import RamEos, RamFlush, RamPage, RamSetup, RamZero

STREAM_MAGIC = b"QEVM"
"""First four bytes of a main stream (QEMU: `QEMU_VM_FILE_MAGIC`)."""
STREAM_VERSION = 3
"""The stream version since 2009 (QEMU: `QEMU_VM_FILE_VERSION`)."""
MAX_CONFIGURATION = 1024
"""Bytes of a configuration that the parser accepts; QEMU's have fewer than 200."""


class RecordType(IntEnum):
    """The first byte of a record (QEMU: `QEMU_VM_*` in migration/savevm.h)."""

    EOF = 0x00
    SECTION_START = 0x01
    SECTION_PART = 0x02
    SECTION_END = 0x03
    SECTION_FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    SECTION_FOOTER = 0x7E


COMMANDS = {
    1: "OPEN_RETURN_PATH",
    2: "PING",
    3: "POSTCOPY_ADVISE",
    4: "POSTCOPY_LISTEN",
    5: "POSTCOPY_RUN",
    6: "POSTCOPY_RAM_DISCARD",
    7: "PACKAGED",
    8: "ENABLE_COLO",
    9: "POSTCOPY_RESUME",
    10: "RECV_BITMAP",
    11: "SWITCHOVER_START",
}
"""Number -> name of a command (QEMU: `MIG_CMD_*` in migration/savevm.c).

SWITCHOVER_START since 10.0; ENABLE_COLO until 10.2.
"""

_HEADER = struct.Struct(">4sI")
_TYPE_U32 = struct.Struct(">BI")
_COMMAND = struct.Struct(">BHH")
_TWO_U32 = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class MainHeader:
    """The 8 bytes that a main stream begins with."""

    magic: bytes = STREAM_MAGIC
    version: int = STREAM_VERSION

    def build(self) -> bytes:
        """Return the record's bytes."""
        return _HEADER.pack(self.magic, self.version)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a header, right or wrong."""
        return cls(*cursor.unpack(_HEADER))


def _subsection(name: bytes) -> bytes:
    return U8.pack(RecordType.SUBSECTION) + build_name(b"configuration/" + name) + U32.pack(1)


_PAGE_BITS = _subsection(b"target-page-bits")
_CAPABILITIES = _subsection(b"capabilities")
_UUID = _subsection(b"uuid")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the source tells of its machine (QEMU: `vmstate_configuration`).

    Multifd itself is not announced here, nor anywhere else in the stream.
    """

    machine: bytes
    """Name of the machine type; receivers compare only as many bytes as there are."""
    page_bits: int | None = None
    """log2 of the target page size; absent where the target's smallest page is used."""
    capabilities: tuple[str, ...] | None = None
    """Those of x-ignore-shared and mapped-ram (9.0) that are on."""
    uuid: bytes | None = None
    """The machine's UUID, 16 bytes, with validate-uuid."""
    rest: bytes = b""
    """Whatever follows from the first subsection that is unknown or not in QEMU's order."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        out = _TYPE_U32.pack(RecordType.CONFIGURATION, len(self.machine)) + self.machine
        if self.page_bits is not None:
            out += _PAGE_BITS + U32.pack(self.page_bits)
        if self.capabilities is not None:
            names = b"".join(build_name(name.encode("latin-1")) for name in self.capabilities)
            out += _CAPABILITIES + U32.pack(len(self.capabilities)) + names
        if self.uuid is not None:
            out += _UUID + self.uuid
        return out + self.rest

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a configuration up to the `rest`, which has no length of its own."""
        cursor.limit = MAX_CONFIGURATION
        _, length = cursor.unpack(_TYPE_U32)
        machine = cursor.take(length)
        page_bits = capabilities = None
        if cursor.skip(_PAGE_BITS):
            (page_bits,) = cursor.unpack(U32)
        if cursor.skip(_CAPABILITIES):
            (count,) = cursor.unpack(U32)
            capabilities = tuple(cursor.name().decode("latin-1") for _ in range(count))
        uuid = cursor.take(16) if cursor.skip(_UUID) else None
        return cls(machine, page_bits, capabilities, uuid)


@dataclass(frozen=True, slots=True)
class Command:
    """A message to the destination's loader; `COMMANDS` names the numbers."""

    cmd: int
    data: bytes = b""
    """At most 65535 bytes. Those of PACKAGED are the length of what follows, as `Opaque`."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        return _COMMAND.pack(RecordType.COMMAND, self.cmd, len(self.data)) + self.data

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read a command, known or not."""
        _, cmd, length = cursor.unpack(_COMMAND)
        return cls(cmd, cursor.take(length))


@dataclass(frozen=True, slots=True)
class SectionStart:
    """Head of a section that is whole (FULL), or goes on in PARTs until its END."""

    section_id: int
    idstr: bytes
    instance_id: int
    version_id: int
    full: bool = False

    def build(self) -> bytes:
        """Return the record's bytes."""
        kind = RecordType.SECTION_FULL if self.full else RecordType.SECTION_START
        head = _TYPE_U32.pack(kind, self.section_id) + build_name(self.idstr)
        return head + _TWO_U32.pack(self.instance_id, self.version_id)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Read the head of a START or FULL section."""
        kind, section_id = cursor.unpack(_TYPE_U32)
        idstr = cursor.name()
        instance_id, version_id = cursor.unpack(_TWO_U32)
        return cls(section_id, idstr, instance_id, version_id, kind == RecordType.SECTION_FULL)


@dataclass(frozen=True, slots=True)
class SectionPart:
    """Head of a further part of a section."""

    section_id: int
    ram: bool = True
    """The section is that of guest memory, as its START said; nothing in this record says so."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        return _TYPE_U32.pack(RecordType.SECTION_PART, self.section_id)


@dataclass(frozen=True, slots=True)
class SectionEnd:
    """Head of the last part of a section."""

    section_id: int
    ram: bool = True
    """The section is that of guest memory, as its START said; nothing in this record says so."""

    def build(self) -> bytes:
        """Return the record's bytes."""
        return _TYPE_U32.pack(RecordType.SECTION_END, self.section_id)


@dataclass(frozen=True, slots=True)
class Footer:
    """End of a section, or of a part of it. Every machine type since 2.4 writes footers."""

    section_id: int

    def build(self) -> bytes:
        """Return the record's bytes."""
        return _TYPE_U32.pack(RecordType.SECTION_FOOTER, self.section_id)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The byte 0x00 after the last section."""

    def build(self) -> bytes:
        """Return the record's byte."""
        return U8.pack(RecordType.EOF)


@dataclass(frozen=True, slots=True)
class VmDescription:
    """The machine's description in JSON, after the end of the stream proper."""

    length: int
    """Bytes of JSON."""

    def build(self) -> bytes:
        """Return the record's bytes, with an empty object and spaces for the description."""
        json = b"{" + b"}".rjust(self.length - 1)
        return _TYPE_U32.pack(RecordType.VMDESCRIPTION, self.length) + json[: self.length]


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes that only a device could read, or that nobody can after a fault or a gap."""

    length: int

    def build(self) -> bytes:
        """Return as many zeros."""
        return bytes(self.length)


@dataclass(frozen=True, slots=True)
class MainGap:
    """Bytes of the stream that were not seen."""

    length: int

    def build(self) -> bytes:
        """Return as many zeros."""
        return bytes(self.length)


class FaultKind(Enum):
    """Why a main stream cannot be followed any further."""

    MAGIC = "the stream does not begin with QEVM"
    VERSION = "the version of the stream is not 3"
    RECORD_TYPE = "no record begins with this byte"
    SECTION = "a part of a section that was never started"
    NO_FOOTER = "the data of a ram section are not followed by a footer"
    FOOTER = "the footer of another section"
    RAM_FLAGS = "a word of a ram section with flags that cannot be with multifd"
    BLOCK_NAME = "a page of a block that the block list does not have"
    CONTINUE = "a page of the same block as the page before, and there was none before"
    BLOCK_LIST = "the lengths of the block list exceed their total"
    BOUND = "more than the parser holds"
    ENDED = "the stream ends inside a record or section"


@dataclass(frozen=True, slots=True)
class MainFault:
    """An error of framing, at the place of the record that has it; the rest is `Opaque`."""

    kind: FaultKind
    seen: int | bytes
    demanded: int | str
    """What would have been right; of BOUND, the most; of ENDED, the least, or what is lacking."""

    def build(self) -> bytes:
        """Return nothing: the bytes at fault are in the `Opaque` that follows."""
        return b""


class Unreadable(Exception):
    """Carries a fault from a reader to the parser; never leaves the parser."""

    def __init__(self, kind: FaultKind, seen: int | bytes, demanded: int | str) -> None:
        super().__init__(kind, seen, demanded)
        self.fault = MainFault(kind, seen, demanded)


MainRecord = (
    MainHeader
    | Configuration
    | Command
    | SectionStart
    | SectionPart
    | SectionEnd
    | RamSetup
    | RamZero
    | RamPage
    | RamFlush
    | RamEos
    | Footer
    | StreamEnd
    | VmDescription
    | Opaque
    | MainGap
    | MainFault
)


def structure_size(record: MainRecord) -> int:
    """Return how many of a record's bytes, its first, the parser looks at.

    The others are guest memory, data of devices, and the description but for its first byte, which
    tells it from a stray zero.
    """
    match record:
        case Opaque() | MainGap():
            return 0
        case RamPage():
            return len(record.build()) - record.size
        case VmDescription():
            return _TYPE_U32.size + min(record.length, 1)
    return len(record.build())
