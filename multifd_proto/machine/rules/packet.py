"""PKT-1 to PKT-8, PKT-16, PKT-17 and PKT-19: flags, counts and sizes in a RAM packet's head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from multifd_proto.machine.events import HeaderReceived, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Fault, Found, rule
from multifd_proto.wire.dialect import DIALECTS, Dialect, where
from multifd_proto.wire.quirks import EMPTY_TRAILER, STALE_SIZE
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_VERSION,
    MultiFDPacket,
    MultiFDPacketBefore9,
)

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene

_BEFORE_9 = where(lambda d: d.packet is MultiFDPacketBefore9)


def known(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> bool:
    """All fields before `ramblock` were seen."""
    return e.known >= MultiFDPacket.end_of("unused64")


def has_pages(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    """The packet has pages."""
    return known(m, c, e) and e.pages > 0


@rule(
    "PKT-1",
    on=HeaderReceived,
    bulk=lambda b, _s: Found(b.field("magic") != MULTIFD_MAGIC),
)
def magic(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    if e.header.magic != MULTIFD_MAGIC:
        yield Fault("magic", f"{e.header.magic:#010x}", f"{MULTIFD_MAGIC:#010x}")


@rule(
    "PKT-2",
    on=HeaderReceived,
    when=lambda _m, _c, e: e.header.magic == MULTIFD_MAGIC,
    bulk=lambda b, _s: Found(
        b.field("version") != MULTIFD_VERSION, b.field("magic") == MULTIFD_MAGIC
    ),
)
def version(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    if e.header.version != MULTIFD_VERSION:
        yield Fault("version", str(e.header.version), str(MULTIFD_VERSION))


@lru_cache(maxsize=256)  # a migration has few, a hostile one as many as it likes
def _without(flags: int) -> frozenset[Dialect]:
    """Return the dialects in which a bit of `flags` has no meaning."""
    return where(lambda d: flags & ~d.flags != 0)


def _known_flags(b: PacketBatch, s: Scene) -> Found:
    wrong = s.labels(b.flags, _without)
    return Found(wrong != 0, b.field("magic") == MULTIFD_MAGIC, wrong)


@rule(
    "PKT-3",
    on=HeaderReceived,
    when=lambda _m, _c, e: e.header.magic == MULTIFD_MAGIC,
    bulk=_known_flags,
)
def known_flags(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    wrong = _without(e.header.flags)
    if wrong:
        least = next(d for d in reversed(DIALECTS) if d in wrong)
        yield Fault(
            "flags word", f"{e.header.flags:#x}", f"no bit outside {least.flags:#x}", dialects=wrong
        )


@rule(
    "PKT-4",
    on=PacketReceived,
    when=known,
    bulk=lambda b, _s: Found(b.pages_alloc > b.page_count),
)
def pages_alloc(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.pages_alloc > len(e.packet.offset):
        yield Fault("pages_alloc", str(e.packet.pages_alloc), f"at most {len(e.packet.offset)}")


@rule(
    "PKT-5",
    on=PacketReceived,
    when=has_pages,
    bulk=lambda b, s: Found(b.pages_alloc < b.page_count, s.has_pages),
)
def pages_alloc_full(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.pages_alloc < len(e.packet.offset):
        yield Fault("pages_alloc", str(e.packet.pages_alloc), str(len(e.packet.offset)))


@rule(
    "PKT-6",
    on=PacketReceived,
    when=known,
    bulk=lambda b, _s: Found(b.normal_pages > b.pages_alloc),
)
def normal_pages(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.normal_pages > e.packet.pages_alloc:
        limit = f"at most pages_alloc, {e.packet.pages_alloc}"
        yield Fault("normal_pages", str(e.packet.normal_pages), limit)


def _zero_pages(b: PacketBatch, _s: Scene) -> Found:
    room = b.pages_alloc - b.normal_pages
    return Found((room >= 0) & (room < b.zero_pages))


@rule("PKT-7", on=PacketReceived, when=known, bulk=_zero_pages)
def zero_pages(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    room = e.packet.pages_alloc - e.packet.normal_pages
    if 0 <= room < e.packet.zero_pages:
        limit = f"at most pages_alloc - normal_pages, {room}"
        yield Fault("zero_pages", str(e.packet.zero_pages), limit)


def _reserved(b: PacketBatch, s: Scene) -> Found:
    unknown = s.reserved
    return Found(unknown | (b.zero_pages != 0), kind=unknown)


@rule("PKT-8", on=PacketReceived, when=known, bulk=_reserved)
def reserved(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if any(e.packet.reserved):
        yield Fault("reserved area", e.packet.reserved.hex(), "zero")
    elif e.packet.zero_pages:
        # the same bytes, where releases before 9.0 have no zero_pages
        seen = f"{e.packet.zero_pages} at byte 32"
        yield Fault("reserved area", seen, "zero", dialects=_BEFORE_9)


@rule(
    "PKT-16",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and e.packet.normal_pages and e.packet.flags & 0x3E == 0,
    bulk=lambda b, _s: Found(
        b.next_packet_size != b.payload, (b.normal_pages > 0) & (b.flags & 0x3E == 0)
    ),
)
def size_without_compression(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.next_packet_size != e.payload:
        yield Fault("next_packet_size", str(e.packet.next_packet_size), str(e.payload))


def _size_without_payload(b: PacketBatch, s: Scene) -> Found:
    size = b.next_packet_size
    stale = (s.last(size, lambda e: e.packet.next_packet_size) == size) | ~s.follows
    return Found(size != 0, b.normal_pages == 0, stale)


@rule(
    "PKT-17",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and not e.packet.normal_pages,
    bulk=_size_without_payload,
)
def size_without_payload(_m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    size = e.packet.next_packet_size
    if size:
        # what came right before may be hidden by a gap
        stale = (c.last and c.last.packet.next_packet_size == size) or not c.follows
        yield Fault("next_packet_size", str(size), "0", quirks=(STALE_SIZE,) if stale else ())


def _no_empty_packets(b: PacketBatch, s: Scene) -> Found:
    trailer = s.last(b.sync, lambda e: e.sync) & (s.last_num == b.packet_num)
    return Found(~s.has_pages & ~b.sync, kind=trailer | ~s.follows)


@rule("PKT-19", on=PacketReceived, when=known, bulk=_no_empty_packets)
def no_empty_packets(_m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if not e.pages and not e.sync:
        last = c.last
        trailer = last and last.sync and last.packet.packet_num == e.packet.packet_num
        trailer = trailer or not c.follows
        quirks = (EMPTY_TRAILER,) if trailer else ()
        yield Fault("content of the packet", "neither pages nor SYNC", "one of them", quirks=quirks)
