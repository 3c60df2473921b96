from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.wire.schema import (
    PAGE_SIZES,
    MappedRamHeader,
    Message,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    page_count,
)

FIXED = (MultiFDInit, MultiFDPacketHdr, MultiFDPacketDeviceState, MappedRamHeader)
RAM = (MultiFDPacket, MultiFDPacketBefore9)
COUNTS = [page_count(size) for size in PAGE_SIZES]
ALL = [(kind, 0) for kind in FIXED] + [(kind, count) for kind in RAM for count in COUNTS]


def values(kind: type[Message], count: int) -> st.SearchStrategy[Message]:
    """Any message of a kind, from its rows."""
    fields: dict[str, st.SearchStrategy[object]] = {}
    for row in kind.rows(count):
        if row.type.startswith("bytes"):
            fields[row.name] = st.binary(min_size=row.size, max_size=row.size)
        elif row.type.endswith("]"):
            number = st.integers(0, 2**64 - 1)
            fields[row.name] = st.lists(number, min_size=count, max_size=count).map(tuple)
        else:
            fields[row.name] = st.integers(0, 256**row.size - 1)
    return st.builds(kind, **fields)


@pytest.mark.parametrize(("kind", "count"), ALL)
@given(seed=st.integers(0, 2**32), head=st.binary(max_size=80))
def test_building_what_was_parsed_gives_the_bytes(kind, count, seed, head):
    size = kind.size(count)
    raw = (head + Random(seed).randbytes(size))[:size]
    assert kind.parse(raw).build() == raw


@pytest.mark.parametrize(("kind", "count"), ALL)
@given(seed=st.integers(0, 2**32), head=st.binary(max_size=80))
def test_messages_are_what_construct_makes_of_the_layout(kind, count, seed, head):
    size = kind.size(count)
    raw = (head + Random(seed).randbytes(size))[:size]
    parsed = kind.layout(count).parse(raw)
    del parsed["_io"]
    message = kind.parse(memoryview(raw))
    assert vars(message) == dict(parsed)
    assert kind.layout(count).build(vars(message)) == message.build()


@pytest.mark.parametrize(("kind", "count"), [(k, c) for k, c in ALL if c <= 32])
@given(data=st.data())
def test_parsing_what_was_built_gives_the_message(kind, count, data):
    message = data.draw(values(kind, count))
    assert kind.parse(message.build()) == message


@pytest.mark.parametrize(
    ("kind", "count", "size"),
    [
        (MultiFDInit, 0, 64),
        (MultiFDPacketHdr, 0, 12),
        (MultiFDPacketDeviceState, 0, 276),
        (MappedRamHeader, 0, 28),
        *((kind, page_count(page), size) for kind in RAM for page, size in (
            (1024, 4416), (2048, 2368), (4096, 1344), (8192, 832), (16384, 576), (65536, 384),
        )),
    ],
)  # fmt: skip
def test_sizes_are_those_of_qemu(kind, count, size):
    assert kind.size(count) == size
    rows = list(kind.rows(count))
    assert rows[-1].offset + rows[-1].size == size


def test_before_9_zero_pages_is_a_reserved_byte():
    packet = MultiFDPacket(zero_pages=7, offset=(0,) * 8)
    old = MultiFDPacketBefore9.parse(packet.build())
    assert old.zero_pages == 0
    assert old.reserved[:4] == b"\0\0\0\x07"
    assert MultiFDPacket.parse(old.build()) == packet


@pytest.mark.parametrize("length", [0, 63, 65])
def test_another_length_is_refused(length):
    with pytest.raises(ValueError, match=f"MultiFDInit_t is 64 bytes, not {length}"):
        MultiFDInit.parse(bytes(length))


def test_a_packet_of_an_odd_length_is_refused():
    with pytest.raises(ValueError, match="MultiFDPacket_t is 320 bytes, not 325"):
        MultiFDPacket.parse(bytes(325))


@pytest.mark.parametrize("length", [0, 15, 17])
def test_bytes_of_another_length_are_not_built(length):
    with pytest.raises(ValueError, match=f"uuid is {length} bytes, must be 16"):
        MultiFDInit(uuid=bytes(length)).build()


@pytest.mark.parametrize(
    "message",
    [
        MultiFDInit(id=256),
        MultiFDPacketHdr(flags=-1),
        MultiFDPacket(packet_num=2**64),
        MultiFDPacket(offset=(2**64,)),
    ],
)
def test_numbers_too_large_for_their_field_are_not_built(message):
    with pytest.raises(ValueError, match=f"a value does not fit {message.name}: "):
        message.build()
