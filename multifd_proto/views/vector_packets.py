"""The test vectors of packets: heads of RAM packets and of device state, without payloads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from multifd_proto.machine.parameters import RamBlock
from multifd_proto.views.vector_cases import UUID, Case, document, make_test
from multifd_proto.views.vector_form import Document, pack
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import (
    MULTIFD_PACKET_SIZE,
    PAGE_SIZES,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    RamPacket,
    page_count,
)

RAM = b"pc.ram"
LONG_NAME = b"/machine/" + b"n" * 246
BLOCKS = (RamBlock(RAM, 16 << 20), RamBlock(b"rom", 64 << 10, False), RamBlock(LONG_NAME, 1 << 20))
_ZLIB = next(method for method in METHODS if method.name == "zlib")
LARGEST = _ZLIB.limit or 0
"""Largest `next_packet_size` with zlib, in bytes."""
_BY_PAGE_COUNT = (None, "PKT-4", "PKT-6", "PKT-7", "PKT-13", "SYNC-4")
"""Requirements whose tests are made for each page size."""
LONGEST_FULL = 128
"""Pages of a full packet up to which every dialect has one, to keep the files short."""


def packet_suite(dialect: Dialect) -> Document:
    """Return the file of a dialect's packets."""
    groups = []
    for page_size in (1024, 4096, 65536):
        sync = page_count(page_size) if dialect.sync_alloc else 0
        first = _packet(dialect, page_size, flags=1, pages_alloc=sync, offsets=(), normal_pages=0)
        start = MultiFDInit(uuid=UUID).build() + replace(first, packet_num=0).build()
        page = _packet(dialect, page_size, offsets=(1 << 19,), block=LONG_NAME, packet_num=1)
        before = start + page.build() + bytes(page_size)
        groups += [
            _packet_group(dialect, page_size, "none", before, _packet_cases(dialect, first)),
            _packet_group(dialect, page_size, "zlib", start, _zlib_cases(dialect, page_size)),
        ]
    if dialect.device_state:  # behind what the last page size has
        groups.append(_packet_group(dialect, page_size, "none", before, _device_cases()))
    return document(f"packets-{dialect.name}", groups)


def _packet_group(
    dialect: Dialect, page_size: int, method: str, before: bytes, cases: list[Case]
) -> Document:
    if page_size != PAGE_SIZES[-1]:  # the rest does not depend on the page size
        cases = [c for c in cases if c[2] in _BY_PAGE_COUNT]
    blocks = [
        {"name": pack(b.name), "used_length": b.used_length, "migratable": b.migratable}
        for b in BLOCKS
    ]
    return {
        "dialect": dialect.name,
        "page_size": page_size,
        "method": method,
        "ramblocks": blocks,
        "before": pack(before),
        "tests": [make_test(case) for case in cases],
    }


def _packet(
    dialect: Dialect,
    page_size: int,
    *,
    offsets: tuple[int, ...] | None = None,
    block: bytes = RAM,
    **fields: Any,
) -> RamPacket:
    """Return a right packet with two normal pages, but for what `fields` say."""
    pages = page_count(page_size)
    normal = fields.setdefault("normal_pages", 2 if offsets is None else len(offsets))
    method = fields.get("flags", 0) & 0x3E
    fields.setdefault("pages_alloc", pages)
    fields.setdefault("packet_num", 2)
    fields.setdefault("next_packet_size", 100 if method and normal else normal * page_size)
    offsets = (0, page_size) if offsets is None else offsets
    padded = offsets + (0,) * (pages - len(offsets))
    name = b"" if not offsets else block
    fields.setdefault("ramblock", name.ljust(256, b"\0"))
    return dialect.packet(offset=padded, **fields)


def _packet_cases(dialect: Dialect, sync: RamPacket) -> list[Case]:
    pages = len(sync.offset)
    size = MULTIFD_PACKET_SIZE // pages

    def packet(**fields: Any) -> RamPacket:
        return _packet(dialect, size, **fields)

    before_9 = dialect.packet is MultiFDPacketBefore9
    deviation = "KnownDeviation" if before_9 else ""
    cases: list[Case] = [
        ("two pages", packet(), None, ""),
        ("one page, the block's last", packet(offsets=((16 << 20) - size,)), None, "Boundary"),
        ("largest packet_num", packet(packet_num=2**64 - 1), None, "Boundary"),
        ("block name of 255 bytes", packet(block=LONG_NAME), None, "Boundary"),
        ("SYNC", sync, None, ""),
        ("SYNC of largest packet_num", replace(sync, packet_num=2**64 - 1), None, "Boundary"),
        ("wrong magic", packet(magic=0x11223345), "PKT-1", "Framing"),
        ("version 2", packet(version=2), "PKT-2", "Framing"),
        ("bit 31 of flags", packet(flags=1 << 31), "PKT-3", ""),
        ("pages_alloc one too many", packet(pages_alloc=pages + 1), "PKT-4", "Boundary Hostile"),
        ("largest pages_alloc", packet(pages_alloc=2**32 - 1), "PKT-4", "Boundary Hostile"),
        ("room for its pages only", packet(pages_alloc=2), "PKT-5", "Untidy"),
        ("normal_pages above pages_alloc",
         replace(packet(), normal_pages=pages + 1, next_packet_size=(pages + 1) * size),
         "PKT-6", "Boundary Hostile"),
        ("block name without NUL", packet(block=b"n" * 256), "PKT-9", "Boundary Hostile"),
        ("bytes after the block's name", packet(block=RAM + b"\0old"), "PKT-10", "Untidy"),
        ("unknown block", packet(block=b"pc.ran"), "PKT-11", ""),
        ("block that does not migrate", packet(block=b"rom", offsets=(0,)), "PKT-12", ""),
        ("page just behind the block", packet(offsets=(0, 16 << 20)), "PKT-13",
         "Boundary Hostile"),
        ("page far behind the block", packet(offsets=(2**64 - size,)), "PKT-13", "Hostile"),
        ("unaligned page", packet(offsets=(0, size + 512)), "PKT-14", ""),
        ("page twice", packet(offsets=(size, size)), "PKT-15", ""),
        ("next_packet_size of one page less", packet(next_packet_size=size), "PKT-16", ""),
        ("next_packet_size of SYNC", replace(sync, next_packet_size=size), "PKT-17", "Hostile"),
        ("unused offset", replace(packet(), offset=(0, size, 0, size, *[0] * (pages - 4))),
         "PKT-18", "Untidy" if dialect.device_state else "Untidy KnownDeviation"),
        ("neither pages nor SYNC", packet(offsets=()), "PKT-19", "Untidy"),
        ("packet_num of the packet before", packet(packet_num=1), "PKT-20", deviation),
        ("zlib and zstd together", packet(flags=6), "PAY-1", ""),
        ("zstd after none", packet(flags=4), "PAY-2", ""),
        ("SYNC with pages", packet(flags=1), "SYNC-2", deviation),
        ("SYNC with a payload method", replace(sync, flags=3), "SYNC-3", ""),
        ("pages_alloc of SYNC as in other releases",
         replace(sync, pages_alloc=0 if dialect.sync_alloc else pages), "SYNC-4", "Untidy"),
    ]  # fmt: skip
    if before_9 or pages <= LONGEST_FULL:
        full = packet(offsets=tuple(range(0, MULTIFD_PACKET_SIZE, size)))
        cases.append(("full", full, None, "Boundary"))
    more = _before_9 if before_9 else _since_9
    return cases + more(dialect, size)


def _before_9(dialect: Dialect, size: int) -> list[Case]:
    last = _packet(dialect, size, unused=bytes(31) + b"\1")
    first = _packet(dialect, size, unused=b"\0\0\0\1" + bytes(28))
    return [
        ("last reserved byte in use", last, "PKT-8", "Reserved"),
        ("zero_pages of 9.0", first, "PKT-8", "Reserved"),
    ]


def _since_9(dialect: Dialect, size: int) -> list[Case]:
    pages = page_count(size)

    def packet(**fields: Any) -> RamPacket:
        return _packet(dialect, size, **fields)

    def zero(number: int, **fields: Any) -> RamPacket:
        return packet(offsets=(0, size), normal_pages=2 - number, zero_pages=number, **fields)

    cases: list[Case] = [
        ("normal page and zero page", zero(1), None, ""),
        ("zero pages alone", zero(2), None, "Boundary"),
        ("more zero pages than room", packet(zero_pages=pages - 1), "PKT-7", "Boundary Hostile"),
        ("largest zero_pages", packet(zero_pages=2**32 - 1), "PKT-7", "Boundary Hostile"),
        ("page as normal and as zero page",
         packet(offsets=(size, size), normal_pages=1, zero_pages=1), "PKT-15", ""),
        ("unused32 in use", packet(unused32=b"\1\0\0\0"), "PKT-8", "Reserved"),
        ("unused64 in use", packet(unused64=bytes(23) + b"\1"), "PKT-8", "Reserved"),
    ]  # fmt: skip
    if pages <= LONGEST_FULL:
        offsets = tuple(range(0, MULTIFD_PACKET_SIZE, size))
        full = packet(offsets=offsets, normal_pages=1, zero_pages=pages - 1)
        cases.append(("full: one normal page, the rest zero", full, None, "Boundary"))
    return cases


def _zlib_cases(dialect: Dialect, size: int) -> list[Case]:
    def packet(**fields: Any) -> RamPacket:
        return _packet(dialect, size, flags=_ZLIB.flag, **fields)

    cases: list[Case] = [
        ("two pages", packet(), None, ""),
        ("largest payload", packet(next_packet_size=LARGEST), None, "Boundary"),
        ("payload above the limit", packet(next_packet_size=LARGEST + 1), "PAY-11",
         "Boundary Hostile"),
        ("payload of 4 GiB - 1", packet(next_packet_size=2**32 - 1), "PAY-11",
         "Boundary Hostile"),
    ]  # fmt: skip
    if dialect.packet is MultiFDPacket:
        zero = packet(offsets=(0, size), normal_pages=0, zero_pages=2)
        stale = replace(zero, next_packet_size=100)
        cases += [
            ("zero pages alone", zero, None, ""),
            ("payload size of zero pages alone", stale, "PKT-17", "Hostile"),
        ]
    return cases


def _device_cases() -> list[Case]:
    device = MultiFDPacketDeviceState(idstr=b"vfio".ljust(256, b"\0"), next_packet_size=20)
    return [
        ("device state", device, None, ""),
        ("instance 2^32 - 1", replace(device, instance_id=2**32 - 1), None, "Boundary"),
        ("name of 255 bytes", replace(device, idstr=LONG_NAME + b"\0"), None, "Boundary"),
        ("device name without NUL", replace(device, idstr=b"n" * 256), "DEV-1",
         "Boundary Hostile"),
        ("device without name", replace(device, idstr=bytes(256)), "DEV-1", "Boundary"),
        ("device state with SYNC", replace(device, flags=0x41), "DEV-2", ""),
        ("device state without data", replace(device, next_packet_size=0), "DEV-3", "Boundary"),
        ("device state with zlib", replace(device, flags=0x42), "DEV-4", ""),
    ]  # fmt: skip
