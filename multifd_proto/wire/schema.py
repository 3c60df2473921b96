"""The fixed-size messages of the wire, one line a field.

The annotations, the construct layout, its `struct` for the many packets of a live channel, the
specification's tables and every other form of a layout are derived from these lines. A layout is
*total*: it is made of plain integers and bytes, so any byte string of its size can be parsed and
any message, right or wrong, can be built: `build(parse(b)) == b` and `parse(build(m)) == m`.
Whether a value is allowed is a matter of the rules in `multifd_proto.machine.rules`, never of a
layout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from construct import Adapter, Bytes, Construct, Int8ub, Int32ub, Int64ub, Renamed, Struct

if TYPE_CHECKING:
    import numpy

MULTIFD_MAGIC = 0x11223344
"""First four bytes of every multifd message, big-endian (QEMU: `MULTIFD_MAGIC`)."""
CHANNEL_MAGIC = MULTIFD_MAGIC.to_bytes(4, "big")
"""The same, as a channel begins with them."""
MULTIFD_VERSION = 1
"""The only protocol version there has ever been (QEMU: `MULTIFD_VERSION`)."""
MULTIFD_PACKET_SIZE = 512 * 1024
"""Bytes of guest memory that one packet can carry (QEMU: `MULTIFD_PACKET_SIZE`)."""
PAGE_SIZES = tuple(1 << bits for bits in range(10, 17))
"""Target page sizes a stream can have, in bytes: 1 KiB to 64 KiB."""


def page_count(page_size: int) -> int:
    """Pages in a full packet, which is the length of its offset array, for a page size in bytes."""
    return MULTIFD_PACKET_SIZE // page_size


class _U64Tuple(Adapter):  # type: ignore[misc]  # construct carries no types
    """`count` big-endian u64 as a tuple."""

    def __init__(self, count: int) -> None:
        super().__init__(Bytes(8 * count))
        self._format = struct.Struct(f">{count}Q")

    def _decode(self, obj: bytes, _context: object, _path: str) -> tuple[int, ...]:
        return self._format.unpack(obj)

    def _encode(self, obj: tuple[int, ...], _context: object, _path: str) -> bytes:
        return self._format.pack(*obj)


@dataclass(frozen=True)
class Row:
    """One field of a layout: where it is and what it means. Offsets and sizes are in bytes."""

    name: str
    offset: int
    size: int
    type: str
    meaning: str


def _wire(subcon: Construct | Callable[[int], Construct], meaning: str, default: Any) -> Any:
    """Declare a wire field: construct type (or one made for a page_count), meaning, default."""
    return field(default=default, metadata={"subcon": subcon, "meaning": meaning})


class Message:
    """Base of the layouts: parsing, building and describing, all from the field lines.

    `page_count` matters to RAM packets alone: it is the length of their offset array.
    """

    name: ClassVar[str]
    """QEMU's name of the structure."""
    item_size: ClassVar[int] = 0
    """Bytes that each page of `page_count` adds to the message."""

    @classmethod
    def _subcons(cls, page_count: int) -> Iterator[Renamed]:
        for f in fields(cls):  # type: ignore[arg-type]  # every subclass is a dataclass
            subcon = f.metadata["subcon"]
            if not isinstance(subcon, Construct):
                subcon = subcon(page_count)
            yield Renamed(subcon, newname=f.name, newdocs=f.metadata["meaning"])

    @classmethod
    @cache
    def layout(cls, page_count: int = 0) -> Construct:
        """Return the construct `Struct` of this message."""
        return Struct(*cls._subcons(page_count))

    @classmethod
    @cache
    def compiled(cls, page_count: int = 0) -> struct.Struct:
        """Return the layout as one `struct`, a tenth of construct's work on a packet.

        Its values are the fields in their order, the items of `offset` as a value each.
        """
        return struct.Struct(">" + "".join(_struct_code(row) for row in cls.rows(page_count)))

    @classmethod
    @cache
    def _byte_fields(cls) -> tuple[tuple[str, int], ...]:
        """Return names and sizes of the `bytes` fields, which `struct` would cut or pad."""
        return tuple((row.name, row.size) for row in cls.rows() if row.type.startswith("bytes"))

    @classmethod
    @cache
    def size(cls, page_count: int = 0) -> int:
        """Return the size of this message in bytes."""
        return int(cls.layout(page_count).sizeof())

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Self:
        """Parse exactly one message; any content is accepted.

        A RAM packet's page_count is taken from the length of `data`.

        Raises:
            ValueError: `data` has a length that this message never has.
        """
        count, rest = divmod(len(data) - cls.size(), cls.item_size or 1 << 62)
        if count < 0 or rest:
            raise ValueError(f"{cls.name} is {cls.size()} bytes, not {len(data)}")
        values = cls.compiled(count).unpack(data)
        if cls.item_size:
            head = len(values) - count
            values = (*values[:head], values[head:])
        return cls(*values)

    def build(self) -> bytes:
        """Return the bytes of this message.

        Raises:
            ValueError: a value does not fit its field.
        """
        for name, size in self._byte_fields():
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} is {len(getattr(self, name))} bytes, must be {size}")
        values = list(vars(self).values())
        items = values.pop() if self.item_size else ()
        try:
            return self.compiled(len(items)).pack(*values, *items)
        except struct.error as error:
            raise ValueError(f"a value does not fit {self.name}: {error}") from None

    @classmethod
    def rows(cls, page_count: int = 0) -> Iterator[Row]:
        """Yield the fields in wire order, with their offsets."""
        offset = 0
        for subcon in cls._subcons(page_count):
            size = int(subcon.sizeof())
            yield Row(subcon.name, offset, size, _type_name(subcon.subcon, size), subcon.docs)
            offset += size

    @classmethod
    @cache
    def dtype(cls, page_count: int = 0) -> numpy.dtype[numpy.void]:
        """Return the layout as a numpy dtype, for many messages at once; big-endian, packed.

        `bytes` fields are opaque (`V`), so that trailing zeros stay; `offset` is a row of
        `page_count` items.
        """
        import numpy  # only where there are many

        rows = list(cls.rows(page_count))
        return numpy.dtype([(row.name, *_numpy_type(row)) for row in rows])

    @classmethod
    @cache
    def end_of(cls, name: str) -> int:
        """Return the offset in bytes of the first byte after field `name`."""
        return next(row.offset + row.size for row in cls.rows() if row.name == name)


def _type_name(subcon: Construct, size: int) -> str:
    if isinstance(subcon, _U64Tuple):
        return "u64be[page_count]"
    integers = {id(Int8ub): "u8", id(Int32ub): "u32be", id(Int64ub): "u64be"}
    return integers.get(id(subcon), f"bytes[{size}]")


def _struct_code(row: Row) -> str:
    if row.type == "u64be[page_count]":
        return f"{row.size // 8}Q"
    return {"u8": "B", "u32be": "I", "u64be": "Q"}.get(row.type, f"{row.size}s")


def _numpy_type(row: Row) -> tuple[str, tuple[int, ...]]:
    """Return a field's dtype and shape."""
    if row.type == "u64be[page_count]":
        return ">u8", (row.size // 8,)
    return {"u8": "u1", "u32be": ">u4", "u64be": ">u8"}.get(row.type, f"V{row.size}"), ()


_MAGIC = "0x11223344"
_FLAGS = "bit 0 SYNC, bits 1 to 5 payload method, bit 6 DEVICE_STATE"
_ALLOC = "pages that the packet has room for: page_count"
_NORMAL = "pages with content, whose bytes follow as payload"
_NEXT = "bytes of payload that follow"
_NUM = "number of the packet in the whole migration"
_BLOCK = "name of the RAM block, padded with NUL"


@dataclass(frozen=True)
class MultiFDInit(Message):
    """The 64-byte preamble of a channel (QEMU: `MultiFDInit_t` since 4.0)."""

    name: ClassVar[str] = "MultiFDInit_t"

    magic: int = _wire(Int32ub, _MAGIC, MULTIFD_MAGIC)
    version: int = _wire(Int32ub, "protocol version, 1", MULTIFD_VERSION)
    uuid: bytes = _wire(Bytes(16), "UUID of the virtual machine, in text order", bytes(16))
    id: int = _wire(Int8ub, "number of this channel, from 0", 0)
    unused1: bytes = _wire(Bytes(7), "reserved", bytes(7))
    unused2: bytes = _wire(Bytes(32), "reserved (4 x u64)", bytes(32))


@dataclass(frozen=True)
class MultiFDPacketHdr(Message):
    """The 12 bytes that every packet starts with (QEMU: `MultiFDPacketHdr_t` since 10.0)."""

    name: ClassVar[str] = "MultiFDPacketHdr_t"

    magic: int = _wire(Int32ub, _MAGIC, MULTIFD_MAGIC)
    version: int = _wire(Int32ub, "protocol version, 1", MULTIFD_VERSION)
    flags: int = _wire(Int32ub, _FLAGS, 0)


@dataclass(frozen=True)
class MultiFDPacketDeviceState(Message):
    """Head of a device-state packet, 276 bytes (QEMU: `MultiFDPacketDeviceState_t`, 10.0)."""

    name: ClassVar[str] = "MultiFDPacketDeviceState_t"

    magic: int = _wire(Int32ub, _MAGIC, MULTIFD_MAGIC)
    version: int = _wire(Int32ub, "protocol version, 1", MULTIFD_VERSION)
    flags: int = _wire(Int32ub, "0x40 (DEVICE_STATE)", 0x40)
    idstr: bytes = _wire(Bytes(256), "name of the device, NUL-terminated", bytes(256))
    instance_id: int = _wire(Int32ub, "instance of the device", 0)
    next_packet_size: int = _wire(Int32ub, "bytes of opaque device data that follow", 0)


@dataclass(frozen=True)
class MultiFDPacket(Message):
    """Head of a RAM packet in QEMU 9.0 and newer (QEMU: `MultiFDPacket_t`).

    320 bytes + 8 x page_count: the offset array always has its full length.
    """

    name: ClassVar[str] = "MultiFDPacket_t"
    item_size: ClassVar[int] = 8

    magic: int = _wire(Int32ub, _MAGIC, MULTIFD_MAGIC)
    version: int = _wire(Int32ub, "protocol version, 1", MULTIFD_VERSION)
    flags: int = _wire(Int32ub, _FLAGS, 0)
    pages_alloc: int = _wire(Int32ub, _ALLOC, 0)
    normal_pages: int = _wire(Int32ub, _NORMAL, 0)
    next_packet_size: int = _wire(Int32ub, _NEXT, 0)
    packet_num: int = _wire(Int64ub, _NUM, 0)
    zero_pages: int = _wire(Int32ub, "pages of zeros, which have no payload", 0)
    unused32: bytes = _wire(Bytes(4), "reserved (1 x u32)", bytes(4))
    unused64: bytes = _wire(Bytes(24), "reserved (3 x u64)", bytes(24))
    ramblock: bytes = _wire(Bytes(256), _BLOCK, bytes(256))
    offset: tuple[int, ...] = _wire(
        _U64Tuple, "offsets in the block, in bytes: of the normal pages, then of the zero pages", ()
    )

    @property
    def reserved(self) -> bytes:
        """The bytes that no release gives a meaning."""
        return self.unused32 + self.unused64


@dataclass(frozen=True)
class MultiFDPacketBefore9(Message):
    """Head of a RAM packet in QEMU 4.0 to 8.2 (QEMU: `MultiFDPacket_t`): no `zero_pages`.

    Same size and places as `MultiFDPacket`. `normal_pages` was named `pages_used` until 6.2.
    """

    name: ClassVar[str] = "MultiFDPacket_t"
    item_size: ClassVar[int] = 8

    magic: int = _wire(Int32ub, _MAGIC, MULTIFD_MAGIC)
    version: int = _wire(Int32ub, "protocol version, 1", MULTIFD_VERSION)
    flags: int = _wire(Int32ub, _FLAGS, 0)
    pages_alloc: int = _wire(Int32ub, _ALLOC, 0)
    normal_pages: int = _wire(Int32ub, _NORMAL, 0)
    next_packet_size: int = _wire(Int32ub, _NEXT, 0)
    packet_num: int = _wire(Int64ub, _NUM, 0)
    unused: bytes = _wire(Bytes(32), "reserved (4 x u64)", bytes(32))
    ramblock: bytes = _wire(Bytes(256), _BLOCK, bytes(256))
    offset: tuple[int, ...] = _wire(
        _U64Tuple, "offsets in the block, in bytes: of the normal pages", ()
    )

    @property
    def zero_pages(self) -> int:
        """Always 0: these releases send zero pages on the main stream."""
        return 0

    @property
    def reserved(self) -> bytes:
        """The bytes that these releases give no meaning."""
        return self.unused


RamPacket = MultiFDPacket | MultiFDPacketBefore9
"""A RAM packet's head, whichever release wrote it."""


@dataclass(frozen=True)
class MappedRamHeader(Message):
    """Head of a RAM block in a mapped-ram file, 28 bytes (QEMU: `MappedRamHeader`, 9.0)."""

    name: ClassVar[str] = "MappedRamHeader"

    version: int = _wire(Int32ub, "1", 1)
    page_size: int = _wire(Int64ub, "target page size in bytes", 4096)
    bitmap_offset: int = _wire(Int64ub, "place of the block's bitmap in the file", 0)
    pages_offset: int = _wire(Int64ub, "place of the block's first page in the file", 0)
