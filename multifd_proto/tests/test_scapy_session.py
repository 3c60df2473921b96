"""What is lost in a capture is a gap for scapy, and never zeros or messages that nobody sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import sniff

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.tests.captures import EPOCH, LINKS, STEP, Talk, write_pcap, write_pcapng
from multifd_proto.tests.test_scapy_captures import by_stream, decoded
from multifd_proto.views.scapy_layers import (
    MultiFDDeviceData,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    MultiFDPages,
)
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_origin import MultiFDGap
from multifd_proto.views.scapy_session import MultiFDSession, multifd_packets
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.main_records import MainHeader

PAGES = bytes(MultiFDInit(id=9)) + bytes(MultiFDPacket(flags="SYNC", packet_num=666)) * 2
"""Whole messages, as a guest may have them in its memory."""


def packet(number: int, pages: int = 16) -> Packet:
    """Return a packet whose pages hold whole messages."""
    load = PAGES.ljust(4096, b"\xaa") * pages
    offsets = range(0, 4096 * pages, 4096)
    head = MultiFDPacket(packet_num=number, offset=offsets, ramblock="pc.ram")
    return head / MultiFDPages(load=load)


MESSAGES = [
    MultiFDInit(id=1),
    MultiFDPacket(flags="SYNC"),
    packet(1),
    MultiFDPacketDeviceState(idstr="vfio") / MultiFDDeviceData(load=b"state" * 999),
    packet(2),
    MultiFDPacket(flags="SYNC", packet_num=3),
    packet(4),
    MultiFDPacket(flags="SYNC", packet_num=5),
]
STREAM = b"".join(map(bytes, MESSAGES))
STARTS = [sum(len(m) for m in MESSAGES[:n]) for n in range(len(MESSAGES))]
SEGMENT = 1000


def talk(link: str = "ethernet", size: int = SEGMENT, drop: tuple[int, ...] = ()) -> Talk:
    """Return a connection of which the segments that hold these offsets were not captured."""
    whole = Talk(link=link).handshake().stream(STREAM, size)
    lost = {3 + offset // size for offset in drop}
    whole.frames = [frame for n, frame in enumerate(whole.frames) if n not in lost]
    return whole.send("FA", len(STREAM))


def read_both(path: Path, parameters: MigrationParameters | None = None) -> list[Packet]:
    """Read a capture in both ways, which agree with our decode."""
    ours = list(multifd_packets(path, parameters=parameters))
    theirs = list(sniff(offline=str(path), session=MultiFDSession(parameters)))
    assert [bytes(p) for p in ours] == [bytes(p) for p in theirs]
    assert [(p.time, p.origin, p.summary()) for p in ours] == [
        (p.time, p.origin, p.summary()) for p in theirs
    ]
    assert all(p.origin.channel == 1 for p in ours if MultiFDGap not in p)
    return ours


# ---- nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["ethernet", "cooked", "cooked v2", "null", "raw", "vlan"])
@pytest.mark.parametrize("size", [SEGMENT, 65483])
def test_every_message_is_there_whatever_carries_it(link, size, tmp_path):
    path = write_pcap(tmp_path / "a.pcap", talk(link, size).frames, LINKS[link][0])
    packets = read_both(path)
    assert [bytes(p) for p in packets] == [bytes(m) for m in MESSAGES]
    assert [p.origin.offset for p in packets] == STARTS
    assert [p.origin.round for p in packets] == [None, 0, 1, 1, 1, 1, 2, 2]
    assert {p.origin.source for p in packets} == {"10.0.0.1:40000"}
    assert by_stream(packets) == decoded(path)


def test_frames_of_65549_bytes_are_not_cut(tmp_path):
    frames = talk(size=65483).frames
    assert max(len(frame.data) for frame in frames) > 65535
    path = write_pcap(tmp_path / "a.pcap", frames)
    cut = sniff(offline=str(path))
    assert max(len(p.original) for p in cut) == 65535
    assert not any(MultiFDGap in p for p in read_both(path))


def test_times_are_those_of_the_first_bytes_to_the_nanosecond(tmp_path):
    frames = talk(size=1 << 15).frames
    for number, frame in enumerate(frames):
        frame.time = EPOCH + number * STEP + 1
    packets = read_both(write_pcap(tmp_path / "a.pcap", frames))
    assert int(packets[0].time * 10**9) == frames[3].time
    assert [int(p.time * 10**9) for p in packets] == [
        frames[3 + start // (1 << 15)].time for start in STARTS
    ]


def test_segments_out_of_order_and_twice_are_put_right(tmp_path):
    shuffled = talk()
    frames = shuffled.frames
    for at in range(5, len(frames) - 5, 7):
        frames[at], frames[at + 2] = frames[at + 2], frames[at]
    path = write_pcap(tmp_path / "a.pcap", [f for f in frames for _ in range(2)])
    assert [bytes(p) for p in read_both(path)] == [bytes(m) for m in MESSAGES]


def test_after_a_live_capture_finish_hands_out_what_was_held_back():
    session = MultiFDSession()
    frames = [Ether(frame.data) for frame in talk(drop=(STARTS[6] + 3000,)).frames[:-1]]
    seen = [p for frame in frames for p in session.recv(One(frame))]
    assert [bytes(p) for p in seen] == [bytes(m) for m in MESSAGES[:6]]
    held, gap, last = session.finish()
    assert held.layers() == [MultiFDPacket, MultiFDPages, MultiFDGap, MultiFDPages]
    assert gap.length == held[MultiFDGap].length == SEGMENT
    assert bytes(last) == bytes(MESSAGES[-1])


class One:
    """A socket with one frame."""

    def __init__(self, frame: Packet) -> None:
        self.frame = frame

    def recv(self, _size: int, **_options: object) -> Packet:
        return self.frame


def test_other_traffic_is_not_handed_out(tmp_path):
    other = Talk(port=5).handshake().stream(b"GET / HTTP/1.1\r\n" * 200, 500)
    path = write_pcap(tmp_path / "a.pcap", other.frames)
    assert read_both(path) == []


# ---- something is lost ---------------------------------------------------------------------------


def test_a_segment_lost_from_a_payload_is_a_gap_in_it(tmp_path):
    path = write_pcap(tmp_path / "a.pcap", talk(drop=(STARTS[2] + 9000,)).frames)
    packets = read_both(path)
    whole, seen, gap = MESSAGES[2], packets[2], packets[3]
    assert seen.layers() == [MultiFDPacket, MultiFDPages, MultiFDGap, MultiFDPages]
    before, after = seen[MultiFDPages].load, seen.getlayer(MultiFDPages, 2).load
    assert seen[MultiFDGap].length == SEGMENT
    assert before == whole.load[: len(before)]
    assert after == whole.load[len(before) + SEGMENT :]
    assert (gap.origin.offset, gap.length, gap.reason) == (
        STARTS[2] + 1344 + len(before), SEGMENT, "lost",
    )  # fmt: skip
    assert [bytes(p) for p in packets[4:]] == [bytes(m) for m in MESSAGES[3:]]
    assert by_stream(packets) == decoded(path)


def test_a_segment_lost_from_a_head_leaves_what_was_seen_of_it(tmp_path):
    path = write_pcap(tmp_path / "a.pcap", talk(size=300, drop=(STARTS[4] + 900,)).frames)
    packets = read_both(path)
    (seen,) = [p for p in packets if isinstance(p, MultiFDPacket) and p.offset is None]
    assert (seen.packet_num, seen.normal_pages, seen.ramblock) == (2, 16, b"pc.ram")
    assert isinstance(seen.payload, MultiFDGap)
    assert seen[MultiFDPages].load == MESSAGES[4].load
    assert bytes(seen) == bytes(MESSAGES[4])[: len(seen) - len(MESSAGES[4].load)] + (
        MESSAGES[4].load
    )


@pytest.mark.parametrize("start", STARTS[2:-1])
def test_where_a_header_is_lost_no_page_is_taken_for_a_message(start, tmp_path):
    path = write_pcap(tmp_path / "a.pcap", talk(drop=(start, start + 1000)).frames)
    packets = read_both(path)
    assert any(isinstance(p, MultiFDGap) and p.reason == "lost" for p in packets)
    sent = {bytes(m) for m in MESSAGES}
    for p in packets:
        if MultiFDGap not in p:
            assert bytes(p) in sent
            assert p.origin.offset in STARTS
    assert 666 not in [p.packet_num for p in packets if isinstance(p, MultiFDPacket)]
    assert len(packets) > 6


def test_frames_that_were_cut_short_are_gaps(tmp_path):
    frames = [frame.snapped(600) for frame in talk().frames]
    path = write_pcap(tmp_path / "a.pcap", frames)
    packets = read_both(path)
    gaps = [p for p in packets if isinstance(p, MultiFDGap)]
    assert {p.reason for p in gaps} <= {"snapped", "unsynchronised"}
    assert sum(p.length for p in gaps if p.reason == "snapped") >= 100
    for p in packets:
        for layer in layers(p):
            assert not isinstance(layer, MultiFDPages) or layer.load in STREAM


def layers(packet: Packet) -> Iterator[Packet]:
    while packet:
        yield packet
        packet = packet.payload


def test_a_capture_that_ends_in_a_payload_says_so(tmp_path):
    frames = talk().frames[: 3 + (STARTS[2] + 30_000) // SEGMENT]
    (_, _, seen) = read_both(write_pcap(tmp_path / "a.pcap", frames))
    assert seen.layers() == [MultiFDPacket, MultiFDPages, MultiFDGap]
    assert seen[MultiFDGap].reason == "ended"
    assert seen[MultiFDGap].length + len(seen.load) == 16 * 4096


def test_no_more_is_kept_than_allowed(tmp_path):
    path = write_pcap(tmp_path / "a.pcap", talk().frames)
    for packets in (
        list(multifd_packets(path, keep=20_000)),
        list(sniff(offline=str(path), session=MultiFDSession(keep=20_000))),
    ):
        assert [p.layers() for p in packets[1:3]] == [
            [MultiFDPacket], [MultiFDPacket, MultiFDGap, MultiFDPages],
        ]  # fmt: skip
        gap, pages = packets[2][MultiFDGap], packets[2][MultiFDPages]
        assert gap.reason == "not kept"
        assert gap.length + len(pages.load) == 16 * 4096
        assert 10_000 < len(pages.load) < 20_000


def test_a_channel_that_cannot_be_followed_ends_with_its_last_packet(tmp_path):
    broken = bytes(MESSAGES[0]) + bytes(MultiFDPacket(normal_pages=129)) + bytes(4000)
    frames = Talk().handshake().stream(broken, 500).send("FA", len(broken)).frames
    packets = read_both(write_pcap(tmp_path / "a.pcap", frames))
    assert [type(p) for p in packets] == [MultiFDInit, MultiFDPacket]
    assert packets[1].layers() == [MultiFDPacket]


def test_what_is_known_beforehand_is_used(tmp_path):
    sizes = [bytes(MultiFDInit()), bytes(MultiFDPacket(flags="SYNC", page_size=65536))]
    stream = b"".join(sizes)
    path = write_pcapng(tmp_path / "a.pcapng", Talk().handshake().stream(stream, 100).frames)
    parameters = MigrationParameters(page_size=65536, dialect=dialect_of("11.1"))
    assert [bytes(p) for p in multifd_packets(path, parameters=parameters)] == sizes


def test_raw_dumps_are_read_too(tmp_path):
    (tmp_path / "channel").write_bytes(STREAM)
    (tmp_path / "main").write_bytes(MainHeader().build())
    packets = list(multifd_packets(tmp_path / "channel", tmp_path / "main"))
    assert [bytes(p) for p in packets[:-1]] == [bytes(m) for m in MESSAGES]
    assert isinstance(packets[-1], QEVM)
    assert [(p.origin.source, p.origin.stream) for p in packets[-2:]] == [(None, 0), (None, 1)]
    assert Raw not in packets[-1]
