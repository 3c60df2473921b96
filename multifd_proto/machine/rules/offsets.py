"""PKT-9 to PKT-15 and PKT-18: the block and the offsets in a RAM packet's head."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Fault, Found, rule
from multifd_proto.machine.rules.packet import has_pages
from multifd_proto.wire.quirks import STALE_OFFSETS
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene


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


@rule(
    "PKT-9",
    on=PacketReceived,
    when=lambda m, c, e: has_pages(m, c, e) and e.knows("ramblock"),
    bulk=lambda _b, s: Found(s.of_name(lambda field: 0 not in field), s.has_pages),
)
def ramblock_terminated(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if 0 not in e.packet.ramblock:
        yield Fault("ramblock", f"{e.packet.ramblock[:24]!r}... without NUL", "NUL-terminated")


@rule(
    "PKT-10",
    on=PacketReceived,
    when=lambda _m, _c, e: e.knows("ramblock"),
    bulk=lambda _b, s: Found(s.of_name(lambda field: any(field.partition(b"\0")[2]))),
)
def ramblock_padded(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    padding = e.packet.ramblock[len(e.ramblock) :].rstrip(b"\0")
    if padding:
        yield Fault("ramblock after the name", repr(padding), "NUL")


@rule(
    "PKT-11",
    on=PacketReceived,
    needs="blocks",
    when=named,
    bulk=lambda _b, s: Found(s.of_block(lambda name: name not in s.blocks), s.named),
)
def known_block(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    if e.ramblock not in m.blocks:
        names = ", ".join(sorted(name.decode("latin-1") for name in list(m.blocks)[:8]))
        yield Fault("ramblock", repr(e.ramblock), f"one of the announced: {names}")


@rule(
    "PKT-12",
    on=PacketReceived,
    needs="given_blocks",
    when=in_known_block,
    bulk=lambda _b, s: Found(
        s.of_block(lambda name: name in s.blocks and not s.blocks[name].migratable),
        s.in_known_block,
    ),
)
def migratable_block(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    if not m.blocks[e.ramblock].migratable:
        yield Fault("ramblock", f"{e.ramblock!r}, which does not migrate", "a migratable block")


def _page_bounds(b: PacketBatch, s: Scene) -> Found:
    def bound(name: bytes) -> int:
        length = s.blocks[name].used_length if name in s.blocks else 0
        return min(max(length - b.page_size + 1, 0), (1 << 64) - 1)

    return Found(s.pages.highest >= s.of_block(bound, "u8"), s.in_known_block)


@rule("PKT-13", on=PacketReceived, needs="blocks", when=in_known_block, bulk=_page_bounds)
def page_bounds(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.blocks is not None
    last = m.blocks[e.ramblock].used_length - MULTIFD_PACKET_SIZE // len(e.packet.offset)
    if e.distinct_offsets[-1] > last:
        beyond = [offset for offset in e.page_offsets if offset > last]
        yield Fault("offset", _some(beyond), f"at most {last:#x} in {e.ramblock!r}")


@rule(
    "PKT-14",
    on=PacketReceived,
    when=placed,
    bulk=lambda _b, s: Found(s.pages.misaligned, s.placed),
)
def page_alignment(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    page_size = MULTIFD_PACKET_SIZE // len(e.packet.offset)
    odd = [offset for offset in e.page_offsets if offset % page_size]
    if odd:
        yield Fault("offset", _some(odd), f"a multiple of {page_size:#x}")


@rule(
    "PKT-15",
    on=PacketReceived,
    when=placed,
    bulk=lambda _b, s: Found(s.pages.twice, s.placed),
)
def page_once(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if len(e.distinct_offsets) < e.pages:
        twice = sorted(e.page_offsets)
        repeated = [a for a, b in pairwise(twice) if a == b]
        yield Fault("offset", f"{_some(repeated)}, twice", "listed once")


@rule(
    "PKT-18",
    on=PacketReceived,
    when=lambda _m, _c, e: e.knows("offset") and e.pages <= 512,
    bulk=lambda b, s: Found(s.rest, b.pages <= 512),
)
def unused_offsets(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    rest = [offset for offset in e.packet.offset[e.pages :] if offset]
    if rest:
        yield Fault("unused offset", _some(rest), "0", quirks=(STALE_OFFSETS,))


def _some(offsets: list[int]) -> str:
    first = ", ".join(f"{offset:#x}" for offset in offsets[:3])
    return first if len(offsets) <= 3 else f"{first} and {len(offsets) - 3} more"
