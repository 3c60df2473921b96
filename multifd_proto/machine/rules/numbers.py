"""PKT-20 to PKT-23: packet numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration, MigrationOver
from multifd_proto.machine.rule import Fault, Found, rule
from multifd_proto.machine.rules.packet import known
from multifd_proto.wire.quirks import LOST_ZERO_PACKETS, SHARED_NUMBERS

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene


@rule(
    "PKT-20",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and c.last is not None,
    bulk=lambda b, s: Found(
        b.packet_num <= s.last_num, s.has_last, kind=b.packet_num == s.last_num
    ),
)
def increasing(_m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert c.last is not None
    number, last = e.packet.packet_num, c.last.packet.packet_num
    if number <= last:
        quirks = (SHARED_NUMBERS,) if number == last else ()
        yield Fault("packet_num", str(number), f"above {last}, the channel's last", quirks=quirks)


def _unique(b: PacketBatch, s: Scene) -> Found:
    again, counted = s.numbers
    return Found(again & (~s.has_last | (b.packet_num > s.last_num)), s.places < counted)


@rule(
    "PKT-21",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and not m.numbers.full,
    bulk=_unique,
)
def unique(m: Migration, c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    number = e.packet.packet_num
    # a number that its own channel has passed is PKT-20's
    if number in m.numbers and (c.last is None or number > c.last.packet.packet_num):
        yield Fault(
            "packet_num", f"{number}, used on another channel", "unique", quirks=(SHARED_NUMBERS,)
        )


@rule(
    "PKT-22",
    on=MigrationOver,
    when=lambda m, _c, _e: m.complete and m.completed and not m.numbers.full,
)
def no_gaps(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    holes = list(m.numbers.missing())
    if holes:
        ends = [(hole.start, hole.stop - 1) for hole in holes[:4]]
        first = ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in ends)
        more = ", ..." if len(holes) > 4 else ""
        compressed = m.method is not None and m.method.flag != 0
        quirks = (SHARED_NUMBERS, LOST_ZERO_PACKETS) if compressed else (SHARED_NUMBERS,)
        count = f"{m.numbers.missing_count()}: {first}{more}"
        yield Fault("number of missing packet_num", count, "none", quirks=quirks)


@rule(
    "PKT-23",
    on=PacketReceived,
    when=lambda m, c, e: known(m, c, e) and e.round is not None and (e.pages or e.sync),
    # a batch that is not in order is cut, and in the end judged by events
    bulk=lambda b, s: Found(False, (b.round >= 0) & (s.has_pages | b.sync)),
)
def rounds_in_order(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert e.round is not None
    number = e.packet.packet_num
    _, before = m.spans.get(e.round - 1, (0, -1))
    after, _ = m.spans.get(e.round + 1, (1 << 64, 0))
    if number <= before:
        yield Fault("packet_num", str(number), f"above {before}, of round {e.round - 1}")
    if number >= after:
        yield Fault("packet_num", str(number), f"below {after}, of round {e.round + 1}")
