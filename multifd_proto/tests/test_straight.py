"""A straight packet is what the channel machine and the refusals make of the same head."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import HeaderReceived, PacketReceived
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.refusal import refuse_header, refuse_packet
from multifd_proto.machine.straight import StraightPackets
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket, MultiFDPacketBefore9

PAGE, COUNT = 4096, 128
BLOCKS = {b"pc.ram": RamBlock(b"pc.ram", 300 * PAGE), b"n" * 256: RamBlock(b"n" * 256, 300 * PAGE)}


def parameters(dialect):
    return MigrationParameters(dialect=dialect, page_size=PAGE, compression=METHODS[0])


def plain(dialect, normal=COUNT, first=0, **fields):
    offsets = tuple(first + PAGE * n for n in range(COUNT))
    values = {"ramblock": b"pc.ram".ljust(256, b"\0"), "offset": offsets, "pages_alloc": COUNT}
    values |= {"normal_pages": normal, "next_packet_size": normal * PAGE, "packet_num": 7}
    return dialect.packet(**{**values, **fields})


def generally(head, dialect):
    """What the general way makes of it, if that is nothing but pages that lie in a row."""
    channel = Channel(page_size=PAGE, dialect=dialect)
    channel.receive_data(MultiFDInit().build() + head)
    _, *events = channel.events()
    if [type(event) for event in events] != [HeaderReceived, PacketReceived]:
        return None
    header, packet = events
    assert isinstance(header, HeaderReceived)
    assert isinstance(packet, PacketReceived)
    if [*refuse_header(header), *refuse_packet(packet, parameters(dialect), BLOCKS)]:
        return None
    if header.header.flags or packet.run is None or packet.packet.zero_pages:
        return None
    assert packet.payload == len(packet.run) * PAGE
    return packet.ramblock, packet.run


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
@pytest.mark.parametrize("normal", [1, 2, 127, 128])
def test_pages_in_a_row_are_straight(dialect, normal):
    head = plain(dialect, normal, first=172 * PAGE).build()
    found = StraightPackets(parameters(dialect)).read(memoryview(head), BLOCKS)
    assert found == (b"pc.ram", range(172 * PAGE, (172 + normal) * PAGE, PAGE))
    assert found == generally(head, dialect)


_SMALL = st.sampled_from([0, 1, 2, 127, 128, 129, 1 << 31])
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "magic": st.sampled_from([0x11223344, 0x11223345]),
        "version": st.sampled_from([1, 2]),
        "flags": st.sampled_from([0, 1, 2, 4, 0x40, 0x80]),
        "pages_alloc": _SMALL,
        "normal_pages": _SMALL,
        "next_packet_size": _SMALL,
        "zero_pages": _SMALL,
        "ramblock": st.sampled_from(
            [b"pc.ram".ljust(256, b"\0"), b"pc.ram\0junk".ljust(256, b"x"), b"n" * 256, bytes(256)]
        ),
        "first": st.sampled_from([0, PAGE, 172 * PAGE, 173 * PAGE, 1, (1 << 64) - 128 * PAGE]),
        "swapped": st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)),
        "moved": st.tuples(st.integers(0, COUNT - 1), st.sampled_from([0, 1, PAGE, 400 * PAGE])),
    },
)


@given(st.sampled_from(["5.2", "7.2", "9.0", "11.1"]), _CHANGES)
@example("5.2", {"zero_pages": 1})
@example("7.2", {"pages_alloc": 129})
@example("5.2", {"pages_alloc": 129})
def test_both_evaluations_are_equal(release, changes):
    dialect = dialect_of(release)
    changes = dict(changes)
    swapped, moved = changes.pop("swapped", None), changes.pop("moved", None)
    if dialect.packet is MultiFDPacketBefore9:
        changes.pop("zero_pages", None)
    packet: MultiFDPacket | MultiFDPacketBefore9 = plain(dialect, **changes)
    offsets = list(packet.offset)
    if swapped:
        a, b = swapped
        offsets[a], offsets[b] = offsets[b], offsets[a]
    if moved:
        offsets[moved[0]] = moved[1]
    head = replace(packet, offset=tuple(offset % (1 << 64) for offset in offsets)).build()
    straight = StraightPackets(parameters(dialect)).read(memoryview(head), BLOCKS)
    wide = dialect.alloc_bound > 1 and packet.pages_alloc > COUNT  # rare: left to the general way
    assert straight == (None if wide else generally(head, dialect))


def test_packets_read_elsewhere_go_by_between_packets_only():
    channel = Channel(page_size=PAGE, dialect=DIALECTS[-1])
    with pytest.raises(ValueError, match="stands in AWAIT_INIT, not between packets"):
        channel.receive_packets(1)
    channel.receive_data(MultiFDInit().build())
    channel.receive_packets(1000)
    assert channel.offset == 1064
    channel.receive_data(b"\x11")
    with pytest.raises(ValueError, match="stands in AWAIT_HEADER, not between packets"):
        channel.receive_packets(1)
