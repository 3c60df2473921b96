"""PKT-1 to PKT-19: what a RAM packet's head holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from multifd_proto.machine.events import HeaderReceived, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Fault, rule
from multifd_proto.wire.dialect import DIALECTS, Dialect, where
from multifd_proto.wire.quirks import EMPTY_TRAILER, STALE_OFFSETS, STALE_SIZE
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_PACKET_SIZE,
    MULTIFD_VERSION,
    MultiFDPacket,
    MultiFDPacketBefore9,
)

_BEFORE_9 = where(lambda d: d.packet is MultiFDPacketBefore9)


def known(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> bool:
    """All fields before `ramblock` were seen."""
    return e.known >= MultiFDPacket.end_of("unused64")


def has_pages(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    """The packet has pages."""
    return known(m, c, e) and e.pages > 0


def fits(e: PacketReceived) -> bool:
    """The counts of pages are possible, so that the offsets can be looked at."""
    return e.pages <= e.packet.pages_alloc <= len(e.packet.offset)


def named(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    """The packet has pages and a name that ends."""
    return has_pages(m, c, e) and e.knows("ramblock") and 0 in e.packet.ramblock


def placed(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    """The packet has pages, and it was seen where they belong."""
    return has_pages(m, c, e) and e.knows("offset") and fits(e)


def in_known_block(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    """The packet has pages of a block whose length is known."""
    return placed(m, c, e) and m.blocks is not None and e.ramblock in m.blocks


@rule("PKT-1", on=HeaderReceived)
def magic(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    if e.header.magic != MULTIFD_MAGIC:
        yield Fault("magic", f"{e.header.magic:#010x}", f"{MULTIFD_MAGIC:#010x}")


@rule("PKT-2", on=HeaderReceived, when=lambda _m, _c, e: e.header.magic == MULTIFD_MAGIC)
def version(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    if e.header.version != MULTIFD_VERSION:
        yield Fault("version", str(e.header.version), str(MULTIFD_VERSION))


@lru_cache(maxsize=256)  # a migration has few, a hostile one as many as it likes
def _without(flags: int) -> frozenset[Dialect]:
    """Return the dialects in which a bit of `flags` has no meaning."""
    return where(lambda d: flags & ~d.flags != 0)


@rule("PKT-3", on=HeaderReceived, when=lambda _m, _c, e: e.header.magic == MULTIFD_MAGIC)
def known_flags(_m: Migration, _c: ChannelInfo, e: HeaderReceived) -> Iterator[Fault]:
    wrong = _without(e.header.flags)
    if wrong:
        least = next(d for d in reversed(DIALECTS) if d in wrong)
        yield Fault(
            "flags word", f"{e.header.flags:#x}", f"no bit outside {least.flags:#x}", dialects=wrong
        )


@rule("PKT-4", on=PacketReceived, when=known)
def pages_alloc(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.pages_alloc > len(e.packet.offset):
        yield Fault("pages_alloc", str(e.packet.pages_alloc), f"at most {len(e.packet.offset)}")


@rule("PKT-5", on=PacketReceived, when=has_pages)
def pages_alloc_full(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.pages_alloc < len(e.packet.offset):
        yield Fault("pages_alloc", str(e.packet.pages_alloc), str(len(e.packet.offset)))


@rule("PKT-6", on=PacketReceived, when=known)
def normal_pages(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.normal_pages > e.packet.pages_alloc:
        limit = f"at most pages_alloc, {e.packet.pages_alloc}"
        yield Fault("normal_pages", str(e.packet.normal_pages), limit)


@rule("PKT-7", on=PacketReceived, when=known)
def zero_pages(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    room = e.packet.pages_alloc - e.packet.normal_pages
    if 0 <= room < e.packet.zero_pages:
        limit = f"at most pages_alloc - normal_pages, {room}"
        yield Fault("zero_pages", str(e.packet.zero_pages), limit)


@rule("PKT-8", on=PacketReceived, when=known)
def reserved(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if any(e.packet.reserved):
        yield Fault("reserved area", e.packet.reserved.hex(), "zero")
    elif e.packet.zero_pages:
        # the same bytes, where releases before 9.0 have no zero_pages
        seen = f"{e.packet.zero_pages} at byte 32"
        yield Fault("reserved area", seen, "zero", dialects=_BEFORE_9)


@rule("PKT-9", on=PacketReceived, when=lambda m, c, e: has_pages(m, c, e) and e.knows("ramblock"))
def ramblock_terminated(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if 0 not in e.packet.ramblock:
        yield Fault("ramblock", f"{e.packet.ramblock[:24]!r}... without NUL", "NUL-terminated")


@rule("PKT-10", on=PacketReceived, when=lambda _m, _c, e: e.knows("ramblock"))
def ramblock_padded(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    padding = e.packet.ramblock[len(e.ramblock) :].rstrip(b"\0")
    if padding:
        yield Fault("ramblock after the name", repr(padding), "NUL")


@rule("PKT-11", on=PacketReceived, needs="blocks", when=named)
def known_block(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    if e.ramblock not in m.blocks:
        names = ", ".join(sorted(name.decode("latin-1") for name in list(m.blocks)[:8]))
        yield Fault("ramblock", repr(e.ramblock), f"one of the announced: {names}")


@rule("PKT-12", on=PacketReceived, needs="given_blocks", when=in_known_block)
def migratable_block(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    if not m.blocks[e.ramblock].migratable:
        yield Fault("ramblock", f"{e.ramblock!r}, which does not migrate", "a migratable block")


@rule("PKT-13", on=PacketReceived, needs="blocks", when=in_known_block)
def page_bounds(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    last = m.blocks[e.ramblock].used_length - MULTIFD_PACKET_SIZE // len(e.packet.offset)
    if e.distinct_offsets[-1] > last:
        beyond = [offset for offset in e.page_offsets if offset > last]
        yield Fault("offset", _some(beyond), f"at most {last:#x} in {e.ramblock!r}")


@rule("PKT-14", on=PacketReceived, when=placed)
def page_alignment(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    page_size = MULTIFD_PACKET_SIZE // len(e.packet.offset)
    odd = [offset for offset in e.page_offsets if offset % page_size]
    if odd:
        yield Fault("offset", _some(odd), f"a multiple of {page_size:#x}")


@rule("PKT-15", on=PacketReceived, when=placed)
def page_once(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if len(e.distinct_offsets) < e.pages:
        twice = sorted(e.page_offsets)
        repeated = [a for a, b in pairwise(twice) if a == b]
        yield Fault("offset", f"{_some(repeated)}, twice", "listed once")


@rule(
    "PKT-16",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and e.packet.normal_pages and e.packet.flags & 0x3E == 0,
)
def size_without_compression(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.packet.next_packet_size != e.payload:
        yield Fault("next_packet_size", str(e.packet.next_packet_size), str(e.payload))


@rule(
    "PKT-17", on=PacketReceived, when=lambda m, c, e: known(m, c, e) and not e.packet.normal_pages
)
def size_without_payload(_m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    size = e.packet.next_packet_size
    if size:
        # what came right before may be hidden by a gap
        stale = (c.last and c.last.packet.next_packet_size == size) or not c.follows
        yield Fault("next_packet_size", str(size), "0", quirks=(STALE_SIZE,) if stale else ())


@rule("PKT-18", on=PacketReceived, when=lambda _m, _c, e: e.knows("offset") and e.pages <= 512)
def unused_offsets(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    rest = [offset for offset in e.packet.offset[e.pages :] if offset]
    if rest:
        yield Fault("unused offset", _some(rest), "0", quirks=(STALE_OFFSETS,))


@rule("PKT-19", on=PacketReceived, when=known)
def no_empty_packets(_m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if not e.pages and not e.sync:
        last = c.last
        trailer = last and last.sync and last.packet.packet_num == e.packet.packet_num
        trailer = trailer or not c.follows
        quirks = (EMPTY_TRAILER,) if trailer else ()
        yield Fault("content of the packet", "neither pages nor SYNC", "one of them", quirks=quirks)


def _some(offsets: list[int]) -> str:
    first = ", ".join(f"{offset:#x}" for offset in offsets[:3])
    return first if len(offsets) <= 3 else f"{first} and {len(offsets) - 3} more"
