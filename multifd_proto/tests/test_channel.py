from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.transitions import TRANSITIONS
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.schema import MULTIFD_MAGIC as MAGIC
from multifd_proto.wire.schema import (
    PAGE_SIZES,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

SIZE = 4096
COUNT = page_count(SIZE)


def sync(number: int, count: int = COUNT) -> bytes:
    return MultiFDPacket(flags=1, packet_num=number, offset=(0,) * count).build()


def pages(number: int, normal: int, zero: int = 0, size: int = SIZE, fill: bytes = b"") -> bytes:
    count = page_count(size)
    offsets = tuple(n * size for n in range(normal + zero)) + (0,) * (count - normal - zero)
    head = MultiFDPacket(
        pages_alloc=count,
        normal_pages=normal,
        zero_pages=zero,
        next_packet_size=normal * size,
        packet_num=number,
        ramblock=b"pc.ram".ljust(256, b"\0"),
        offset=offsets,
    )
    content = (fill * (size // len(fill)) if fill else bytes([number % 251]) * size) * normal
    return head.build() + content


def device(size: int = 10) -> bytes:
    head = MultiFDPacketDeviceState(idstr=b"vfio".ljust(256, b"\0"), next_packet_size=size)
    return head.build() + b"d" * size


STREAM = (
    MultiFDInit(id=3).build()
    + sync(0)
    + pages(1, 3)
    + pages(2, 2, 1)
    + sync(3)
    + device()
    + pages(4, 0, 5)
    + pages(5, 20)
    + sync(6)
)


def events(*pieces: bytes, **options: object) -> list[Event]:
    channel = Channel(**options)  # type: ignore[arg-type]
    for piece in pieces:
        channel.receive_data(piece)
    channel.receive_eof()
    return list(channel.events())


WHOLE = events(STREAM)


def packets(found: list[Event]) -> list[PacketReceived]:
    return [e for e in found if isinstance(e, PacketReceived)]


def test_a_stream_comes_to_its_messages():
    assert isinstance(WHOLE[0], InitReceived)
    assert WHOLE[0].init.id == 3
    told = [(p.packet.packet_num, p.round, p.payload, p.pages) for p in packets(WHOLE)]
    assert told == [
        (0, 0, 0, 0), (1, 1, 12288, 3), (2, 1, 8192, 3), (3, 1, 0, 0), (4, 2, 0, 5),
        (5, 2, 81920, 20), (6, 2, 0, 0),
    ]  # fmt: skip
    end = WHOLE[-1]
    assert isinstance(end, Ended)
    assert (end.state, end.due, end.offset) == (ChannelState.AWAIT_HEADER, 0, len(STREAM))


def test_bytewise_gives_the_same():
    assert events(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == WHOLE


@given(st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_every_split_gives_the_same(cuts):
    places = [0, *cuts, len(STREAM)]
    assert events(*(STREAM[a:b] for a, b in pairwise(places))) == WHOLE


def test_a_packet_inside_what_a_false_start_claims_is_found_in_any_cut():
    false_start = MAGIC.to_bytes(4, "big") + b"\0\0\0\1" + b"\0\0\0\x80" + bytes(40)
    stream = false_start + device() + device(40) + sync(0) + sync(1)
    options = {"started": False, "page_size": SIZE}
    whole = events(stream, **options)
    sizes = [(e.offset, e.payload) for e in whole if isinstance(e, DeviceStateReceived)]
    assert sizes == [(len(false_start), 10), (len(false_start) + len(device()), 40)]
    for step in (1, 7, 500, len(false_start)):
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert events(*pieces, **options) == whole


@given(
    st.binary(max_size=3000),
    st.booleans(),
    st.sampled_from([None, 1024, 4096, 65536]),
    st.sampled_from([None, *DIALECTS]),
)
def test_any_bytes_give_events(data, started, page_size, dialect):
    for prefix in (b"", STREAM[:64], STREAM[: 64 + 1344]):
        options = {"started": started, "page_size": page_size, "dialect": dialect}
        found = events(prefix + data, **options, decode=True)
        assert isinstance(found[-1], Ended)
        assert found[-1].offset == len(prefix + data)


@given(
    st.lists(
        st.tuples(st.integers(0, len(STREAM)), st.sampled_from([1, 8, 64, 500, 2000, 9000, 60000])),
        min_size=1,
        max_size=4,
    )
)
def test_gaps_are_accounted_for(gaps):
    channel = Channel(page_size=SIZE, decode=True)
    place = 0
    for start, length in sorted(gaps):
        if start < place:
            continue
        channel.receive_data(STREAM[place:start])
        end = min(len(STREAM), start + length)
        if end > start:
            channel.receive_gap(end - start)
        place = end
    channel.receive_data(STREAM[place:])
    channel.receive_eof()
    found = list(channel.events())
    assert channel.offset == len(STREAM)
    # every message that is reported is one that was sent, where it was sent
    sent = {p.offset: p.packet for p in packets(WHOLE)}
    for packet in packets(found):
        assert packet.packet.next_packet_size == sent[packet.offset].next_packet_size
        if packet.known == MultiFDPacket.size(COUNT):
            assert packet.packet == sent[packet.offset]


def test_a_lost_payload_does_not_lose_the_place():
    start = 64 + 1344 + 1344 + 1000
    channel = Channel(decode=True)
    channel.receive_data(STREAM[:start])
    channel.receive_gap(5000)
    channel.receive_data(STREAM[start + 5000 :])
    channel.receive_eof()
    found = list(channel.events())
    assert [p.packet.packet_num for p in packets(found)] == [0, 1, 2, 3, 4, 5, 6]
    payloads = [e for e in found if isinstance(e, PayloadReceived) and e.missing]
    assert [(p.missing, p.decoded, p.fault) for p in payloads] == [(5000, False, None)]
    assert [e.length for e in found if isinstance(e, BytesMissing)] == [5000]


def test_what_is_found_last_is_not_passed_over_as_well():
    channel = Channel(page_size=SIZE)
    channel.receive_data(STREAM[:64])
    channel.receive_gap(1344)
    channel.receive_data(sync(7))
    channel.receive_eof()
    found = list(channel.events())
    assert [p.packet.packet_num for p in packets(found)] == [7]
    assert [(e.offset, e.length) for e in found if isinstance(e, BytesMissing)] == [(64, 1344)]


def test_a_dialect_without_device_state_finds_none_after_a_loss():
    channel = Channel(page_size=SIZE, dialect=dialect_of("7.2"))
    channel.receive_data(STREAM[:64])
    channel.receive_gap(1344)
    channel.receive_data(device() + sync(3) + sync(4))
    channel.receive_eof()
    found = list(channel.events())
    assert [(p.offset, p.packet.packet_num) for p in packets(found)] == [(1694, 3), (3038, 4)]
    lost = [(e.length, e.reason) for e in found if isinstance(e, BytesMissing)]
    assert lost == [(1344, "lost"), (len(device()), "unsynchronised")]


def test_a_lost_header_is_found_again_behind_the_gap():
    start = STREAM.index(pages(2, 2, 1)) - 10
    channel = Channel()
    channel.receive_data(STREAM[:start])
    channel.receive_gap(100)
    channel.receive_data(STREAM[start + 100 :])
    channel.receive_eof()
    found = list(channel.events())
    assert [p.packet.packet_num for p in packets(found)] == [0, 1, 3, 4, 5, 6]
    assert [p.round for p in packets(found)] == [0, 1, None, None, None, None]
    lost = [(e.length, e.reason) for e in found if isinstance(e, BytesMissing)]
    assert lost[0] == (100, "lost")
    assert lost[1][1] == "unsynchronised"
    # what was lost and passed over ends where the next packet starts
    assert start + sum(length for length, _ in lost) == STREAM.index(sync(3))


def test_packets_inside_guest_memory_are_not_believed():
    planted = sync(99) + pages(98, 0, 2)
    memory = (planted + bytes(4096 - len(planted) % 4096))[:4096]
    stream = STREAM[:64] + sync(0) + pages(1, 40, fill=memory) + sync(2) + sync(3)
    channel = Channel(page_size=SIZE)
    lost = 64 + 1344 + 600
    channel.receive_data(stream[: 64 + 1344])
    channel.receive_gap(600)
    channel.receive_data(stream[lost:])
    channel.receive_eof()
    found = list(channel.events())
    # 99 and 98 follow each other as packets do, 98 and what is behind it do not
    assert [p.packet.packet_num for p in packets(found)][-2:] == [2, 3]
    assert not [e for e in found if isinstance(e, HeaderReceived) and e.header.magic != MAGIC]


@pytest.mark.parametrize("size", PAGE_SIZES)
@pytest.mark.parametrize("alloc", [True, False])
def test_page_size_is_inferred(size, alloc):
    count = page_count(size)
    first = MultiFDPacket(flags=1, pages_alloc=count if alloc else 0, offset=(0,) * count).build()
    stream = MultiFDInit().build() + first + pages(1, 2, size=size)
    for pieces in ((stream,), tuple(stream[i : i + 1] for i in range(len(stream)))):
        channel = Channel()
        for piece in pieces:
            channel.receive_data(piece)
        assert channel.page_size == size
    assert [p.packet.packet_num for p in packets(list(channel.events()))] == [0, 1]


@pytest.mark.parametrize(
    ("stream", "state"),
    [
        (replace(MultiFDInit(), magic=1).build() + sync(0), ChannelState.FAILED),
        (MultiFDInit().build() + b"\0" * 2000, ChannelState.FAILED),
        (MultiFDInit().build() + sync(0)[:50], ChannelState.AWAIT_PACKET),
        (MultiFDInit().build()[:50], ChannelState.AWAIT_INIT),
        (MultiFDInit().build() + sync(0) + pages(1, 2)[:-1], ChannelState.AWAIT_PAYLOAD),
    ],
)
def test_the_end_tells_where_the_channel_stood(stream, state):
    end = events(stream, page_size=SIZE)[-1]
    assert isinstance(end, Ended)
    assert end.state is state
    assert (end.due > 0) == (state is not ChannelState.FAILED)


def test_unwanted_payload_need_not_be_handed_over():
    channel = Channel(page_size=SIZE)
    place = 0
    while place < len(STREAM):
        skipped = min(channel.unwanted(), len(STREAM) - place)
        if skipped:
            channel.receive_skipped(skipped)
            place += skipped
        else:
            channel.receive_data(STREAM[place : place + 1])
            place += 1
    channel.receive_eof()
    assert list(channel.events()) == WHOLE


def wanted_pieces(channel: Channel, stream: bytes) -> Iterator[bytes]:
    """Cut a stream as a reader does who takes what the channel wants."""
    place = 0
    while (wanted := channel.wanted()) and place < len(stream):
        yield stream[place : place + wanted]
        place += wanted


@pytest.mark.parametrize("decode", [False, True])
def test_what_is_wanted_ends_where_a_message_ends(decode):
    channel = Channel(page_size=SIZE, decode=decode)
    pieces = []
    for piece in wanted_pieces(channel, STREAM):
        pieces.append(len(piece))
        before = channel.offset
        channel.receive_data(piece)
        assert channel.offset == before + len(piece)
    assert pieces == [
        64, 12, 1332, 12, 1332, 12288, 12, 1332, 8192, 12, 1332, 12, 264, 10, 12, 1332,
        12, 1332, 81920, 12, 1332,
    ]  # fmt: skip
    assert channel.wanted() == 12
    channel.receive_eof()
    assert channel.wanted() == 0
    assert list(channel.events()) == events(STREAM, page_size=SIZE, decode=decode)


def test_half_of_what_is_wanted_leaves_the_other_half():
    channel = Channel(page_size=SIZE)
    place = 0
    while place < len(STREAM):
        wanted = channel.wanted()
        half = wanted // 2
        channel.receive_data(STREAM[place : place + half])
        assert channel.wanted() == wanted - half
        channel.receive_data(STREAM[place + half : place + wanted])
        place += wanted
    assert place == len(STREAM)


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_single_bytes_are_wanted_until_the_page_size_is_known(size):
    second = pages(1, 2, size=size)
    stream = MultiFDInit().build() + sync(0, page_count(size)) + second
    channel = Channel()
    wanted = []
    for piece in wanted_pieces(channel, stream):
        wanted.append(len(piece))
        channel.receive_data(piece)
    head = MultiFDPacket.size(page_count(size))
    # the start of the second packet tells the length of the first
    assert wanted == [64, 12, *[1] * (head - 12 + 8), 4, head - 12, 2 * size]


@given(st.binary(max_size=3000), st.booleans(), st.sampled_from([None, 1024, 4096]))
def test_reading_what_is_wanted_goes_through_any_session(data, started, page_size):
    for prefix in (b"", STREAM[:64], STREAM[: 64 + 1344]):
        options = {"started": started, "page_size": page_size, "decode": True}
        channel = Channel(**options)
        for piece in wanted_pieces(channel, prefix + data):
            channel.receive_data(piece)
        left = len(prefix + data) - channel.offset
        assert left == 0 or channel.state is ChannelState.FAILED
        channel.receive_data((prefix + data)[channel.offset :])
        channel.receive_eof()
        assert list(channel.events()) == events(prefix + data, **options)


def test_single_bytes_are_wanted_after_a_loss_until_a_packet_is_found():
    channel = Channel(page_size=SIZE)
    channel.receive_data(STREAM[:64])
    channel.receive_gap(1344)
    stream = pages(1, 3) + sync(2)
    wanted = []
    for piece in wanted_pieces(channel, stream):
        wanted.append(len(piece))
        channel.receive_data(piece)
    assert wanted == [*[1] * 1344, 3 * SIZE, 12, 1332]


def test_every_state_has_transitions_and_a_meaning():
    assert set(TRANSITIONS) == set(ChannelState)
    assert all(state.meaning for state in ChannelState)


def test_a_hole_behind_a_whole_head_of_unknown_length_and_more_bytes():
    channel = Channel(started=False)
    behind = b"\xff" * 2647  # no packet, so that what seems to be one before it is none
    channel.receive_gap(100)
    channel.receive_data(sync(5) + behind)
    channel.receive_gap(50)
    channel.receive_data(sync(6) + sync(7))
    channel.finish()
    events = list(channel.events())
    head = len(sync(5))
    assert channel.offset == 150 + 3 * head + len(behind)
    assert (100 + head + len(behind), 50) in [
        (event.offset, event.length) for event in events if isinstance(event, BytesMissing)
    ]
    assert 5 not in [e.packet.packet_num for e in events if isinstance(e, PacketReceived)]


def test_what_was_taken_for_a_head_cut_by_a_hole_is_not_looked_at_twice():
    channel = Channel(started=False)
    begin = b"\xff" * 277 + sync(5)[:657]
    channel.receive_data(begin)
    channel.receive_gap(514)
    channel.receive_data(b"\xff" * 946)  # no packet follows that head, so it was none
    channel.receive_gap(93)
    channel.finish()
    events = list(channel.events())
    assert min(event.offset for event in events) == len(begin)
    assert {type(event) for event in events} == {BytesMissing}
    assert channel.offset == len(begin) + 514 + 946 + 93


class Taken:
    """Takes guest memory: by number of the packet, how much came, and what was missing."""

    def __init__(self) -> None:
        self.packets: dict[int, list[int]] = {}

    def begin(self, packet):
        self.last = self.packets.setdefault(packet.packet.packet_num, [0, 0])

    def write(self, data):
        self.last[0] += len(data)

    def end(self, payload):
        self.last[1] += payload.missing


@pytest.mark.parametrize("before", [0, 1344])
def test_all_packets_with_pages_are_handed_over_also_those_that_had_to_be_proved(before):
    channel = Channel(page_size=SIZE, sink=(taken := Taken()))
    channel.receive_data(STREAM[:64])
    if before:
        channel.receive_gap(before)  # what follows, is believed by what follows that
    channel.receive_data(pages(4, 0, zero=3) + pages(5, 2, zero=1) + pages(6, 2)[:-100])
    channel.receive_gap(100)
    channel.receive_data(pages(7, 0, zero=1) + sync(8) + sync(9))
    channel.finish()
    # of a payload with a hole, nothing is kept until it is proved
    cut = [0, 2 * SIZE] if before else [2 * SIZE - 100, 100]
    assert taken.packets == {4: [0, 0], 5: [2 * SIZE, 0], 6: cut, 7: [0, 0]}
