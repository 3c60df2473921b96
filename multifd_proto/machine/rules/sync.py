"""SYNC-: SYNC packets and rounds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration, MigrationOver
from multifd_proto.machine.rule import Fault, Found, rule
from multifd_proto.machine.rules.offsets import placed
from multifd_proto.machine.rules.packet import known
from multifd_proto.wire.dialect import Dialect, where
from multifd_proto.wire.payload import METHOD_MASK
from multifd_proto.wire.quirks import PAGE_TWICE, SYNC_WITH_PAGES, UNMARKED_SYNC
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene


def _is_sync(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    return known(m, c, e) and e.sync


@rule(
    "SYNC-1",
    on=PacketReceived,
    when=lambda _m, c, _e: c.whole and not c.packets,
    bulk=lambda b, s: Found(~b.sync, s.at_firsts(lambda c: c.whole and not c.packets, later=False)),
)
def first_packet(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if not e.sync:
        yield Fault("first packet of the channel", f"flags {e.packet.flags:#x}", "SYNC")


@rule(
    "SYNC-2",
    on=PacketReceived,
    when=_is_sync,
    bulk=lambda b, s: Found(s.has_pages, b.sync),
)
def without_pages(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if e.pages:
        yield Fault(
            "number of pages of a SYNC packet", str(e.pages), "0", quirks=(SYNC_WITH_PAGES,)
        )


@rule(
    "SYNC-3",
    on=PacketReceived,
    when=_is_sync,
    bulk=lambda b, s: Found(s.method != 0, b.sync, kind=s.has_pages),
)
def flags(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    # bits without a meaning are PKT-3's
    if e.packet.flags & METHOD_MASK:
        quirks = (SYNC_WITH_PAGES,) if e.pages else ()
        yield Fault("flags word of a SYNC packet", f"{e.packet.flags:#x}", "0x1", quirks=quirks)


@cache
def _other_alloc(empty: bool, full: bool) -> frozenset[Dialect]:
    """Return the dialects in which a SYNC packet has another `pages_alloc`."""
    return where(lambda d: not (full if d.sync_alloc else empty))


def _pages_alloc(b: PacketBatch, s: Scene) -> Found:
    empty, full = b.pages_alloc == 0, b.pages_alloc == b.page_count
    applies = b.sync & ~s.has_pages & (b.pages_alloc <= b.page_count)
    return Found(True, applies, kind=empty + 2 * full)


@rule(
    "SYNC-4",
    on=PacketReceived,
    when=lambda m, c, e: _is_sync(m, c, e) and not e.pages and fits_alloc(e),
    bulk=_pages_alloc,
)
def pages_alloc(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    alloc, count = e.packet.pages_alloc, len(e.packet.offset)
    wrong = _other_alloc(alloc == 0, alloc == count)
    if wrong:
        demanded = f"0 since 9.2, {count} before"
        yield Fault("pages_alloc of a SYNC packet", str(alloc), demanded, dialects=wrong)


def fits_alloc(e: PacketReceived) -> bool:
    """More than page_count is PKT-4's."""
    return e.packet.pages_alloc <= len(e.packet.offset)


@rule("SYNC-5", on=MigrationOver, when=lambda m, _c, _e: m.complete and m.completed)
def equal_rounds(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    most = max(c.syncs for c in m.streams.values())
    for c in m.streams.values():
        if c.syncs != most:
            yield Fault(
                "number of SYNC packets", str(c.syncs), f"{most}, as elsewhere", stream=c.stream
            )


@rule(
    "SYNC-6",
    on=MigrationOver,
    when=lambda m, _c, _e: m.complete and m.main and m.main.complete and m.completed,
)
def a_mark_a_round(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    assert m.main is not None
    rounds = max(c.syncs for c in m.streams.values())
    if m.main.marks != rounds:
        unmarked = m.main.flushes == rounds - 1
        yield Fault(
            "number of marks on the main stream",
            str(m.main.marks),
            f"{rounds}, as SYNC packets on a channel",
            quirks=(UNMARKED_SYNC,) if unmarked else (),
        )


def _page_once_a_round(b: PacketBatch, s: Scene) -> Found:
    if s.migration.pages_full:
        return Found(False, False)
    return Found(s.pages_again, s.placed & (b.round >= 0), each=True)


@rule(
    "SYNC-7",
    on=PacketReceived,
    when=lambda m, c, e: placed(m, c, e) and e.round is not None and not m.pages_full,
    bulk=_page_once_a_round,
)
def page_once_a_round(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert e.round is not None
    seen = m.open_pages(e.round)
    if seen is None:
        return
    page_size = MULTIFD_PACKET_SIZE // len(e.packet.offset)
    for offset in seen.add(e.ramblock, e.distinct_offsets, page_size, m.room_for_pages):
        what = f"{offset:#x} of {e.ramblock!r}, again in round {e.round}"
        yield Fault("page", what, "once a round", quirks=(PAGE_TWICE,))


@rule("SYNC-8", on=MigrationOver, when=lambda m, _c, _e: m.complete and m.completed)
def last_packet(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    for c in m.streams.values():
        if c.unsynced:
            yield Fault("end of the channel", "after pages", "after a SYNC", stream=c.stream)
