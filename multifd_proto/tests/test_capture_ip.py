import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet

from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.ip import Segment, segments
from multifd_proto.capture.link import link_layer

PORTS = struct.pack(">HH", 4000, 49152)
V4 = bytes((10, 0, 0, 1, 10, 0, 0, 2))
V6 = bytes.fromhex(
    "fd00000000000000000000000000000" + "1" + "fd00000000000000000000000000000" + "2"
)
PAYLOAD = bytes(range(200))


def tcp(**fields: Any) -> Packet:
    defaults: dict[str, Any] = {"sport": 4000, "dport": 49152, "seq": 123456, "flags": "PA"}
    return TCP(**defaults | fields)


def v4(**fields: Any) -> Packet:
    return IP(**{"src": "10.0.0.1", "dst": "10.0.0.2"} | fields)


def v6(**fields: Any) -> Packet:
    return IPv6(**{"src": "fd00::1", "dst": "fd00::2"} | fields)


def decode(
    packet: bytes, captured: int | None = None, padding: int = 0
) -> tuple[list[Segment], CaptureInfo]:
    """Decode a packet amid other bytes, of which a part was captured, or with padding."""
    info = CaptureInfo()
    view = memoryview(b"before" + packet + bytes(padding) + b"behind")
    stop = 6 + (len(packet) + padding if captured is None else captured)
    frame = (77, link_layer(101), view, 6, stop, 6 + len(packet) + padding)
    return list(segments([frame], info)), info


def check(packet: Packet, key: bytes, padding: int = 0) -> None:
    """Check that every possible capture of a packet gives what there is of its payload."""
    data = bytes(packet)
    for captured in [*range(len(data) - len(PAYLOAD), len(data) + padding), None]:
        [segment], info = decode(data, captured, padding)
        time, found, seq, flags, view, start, stop, missing = segment
        assert (time, found, seq, flags) == (77, key, 123456, 0x18)
        assert bytes(view[start:stop]) == PAYLOAD[: stop - start]
        assert stop - start + missing == len(PAYLOAD)
        size = len(data) if captured is None else min(captured, len(data))
        assert missing == len(data) - size
        assert (info.records, info.skipped, info.first, info.last) == (1, {}, 77, 77)


def reason(packet: Packet | bytes, captured: int | None = None) -> str:
    found, info = decode(bytes(packet), captured)
    assert not found
    [(text, count)] = info.skipped.items()
    assert count == 1
    return text


OPTIONS = [("MSS", 1460), ("NOP", None), ("Timestamp", (1, 2))]
PACKETS: dict[str, tuple[Packet, bytes]] = {
    "IPv4": (v4() / tcp(), V4),
    "IPv4 with TCP options": (v4() / tcp(options=OPTIONS), V4),
    "IPv4 with options": (v4(options=[IPOption(b"\x94\4\0\0")]) / tcp(), V4),
    "IPv4, do not fragment": (v4(flags="DF") / tcp(), V4),
    "IPv6": (v6() / tcp(), V6),
    "IPv6 with TCP options": (v6() / tcp(options=OPTIONS), V6),
    "IPv6 with hop-by-hop options": (v6() / IPv6ExtHdrHopByHop() / tcp(), V6),
    "IPv6, a fragment that is all": (v6() / IPv6ExtHdrFragment() / tcp(), V6),
    "IPv6 with authentication": (v6() / AH(nh=6, payloadlen=4, icv=bytes(12)) / tcp(), V6),
    "IPv6 with all": (
        v6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))])
        / IPv6ExtHdrRouting(addresses=["fd00::3"]) / tcp(),
        V6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKETS)
def test_segments_are_found_with_any_snap_length(name: str) -> None:
    packet, key = PACKETS[name]
    check(packet / PAYLOAD, key + PORTS)


@pytest.mark.parametrize("name", PACKETS)
def test_padding_of_the_frame_is_not_payload(name: str) -> None:
    packet, key = PACKETS[name]
    check(packet / PAYLOAD, key + PORTS, padding=6)


@pytest.mark.parametrize(
    ("packet", "key"),
    [
        (v4(len=0) / tcp(), V4),
        (v4(len=0, options=[IPOption(b"\x94\4\0\0")]) / tcp(), V4),
        (v6(plen=0) / tcp(), V6),
        (v6(plen=0) / IPv6ExtHdrDestOpt() / tcp(), V6),
        (v6(plen=0) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"")]) / tcp(), V6),
    ],
)
def test_a_length_of_zero_is_that_of_the_frame(packet: Packet, key: bytes) -> None:
    check(packet / PAYLOAD, key + PORTS)


def test_the_jumbo_option_gives_the_length() -> None:
    options = [PadN(optdata=b""), Jumbo(jumboplen=0)]
    packet = v6(plen=0) / IPv6ExtHdrHopByHop(options=options) / tcp() / PAYLOAD
    packet[Jumbo].jumboplen = len(packet) - 40
    check(packet, V6 + PORTS)
    check(packet, V6 + PORTS, padding=100)


def test_a_packet_of_180_kib_is_one_segment() -> None:
    payload = bytes(180_000)
    [segment], _ = decode(bytes(v4(len=0) / tcp()) + payload)
    assert segment[6] - segment[5] == 180_000


def test_a_packet_longer_than_its_frame_lacks_the_rest() -> None:
    [segment], _ = decode(bytes(v4(len=20 + 20 + 500) / tcp() / PAYLOAD))
    assert segment[7] == 300


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (v4() / UDP(), "not TCP"),
        (v4(proto=1) / bytes(40), "not TCP"),
        (v4(options=[IPOption(b"\x94\4\0\0")]) / UDP(), "not TCP"),
        (v6() / UDP(), "not TCP"),
        (v6() / IPv6ExtHdrHopByHop() / UDP(), "not TCP"),
        (v4(flags="MF") / tcp(), "IP fragment"),
        (v4(frag=100) / tcp(), "IP fragment"),
        (v4(flags="MF", options=[IPOption(b"\x94\4\0\0")]) / tcp(), "IP fragment"),
        (v6() / IPv6ExtHdrFragment(m=1) / tcp(), "IP fragment"),
        (v6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(offset=9) / tcp(), "IP fragment"),
        (v4(ihl=4) / tcp(), "header malformed"),
        (v4(len=39) / tcp(), "header malformed"),
        (v4() / tcp(dataofs=4), "header malformed"),
        (v4() / tcp(dataofs=6), "header malformed"),
        (v6() / tcp(dataofs=4), "header malformed"),
        (b"\x50" + bytes(60), "not IP"),
    ],
)
def test_what_is_no_segment_is_counted_with_its_reason(packet: Packet, text: str) -> None:
    assert reason(packet) == text


@pytest.mark.parametrize("name", PACKETS)
def test_headers_that_are_cut_are_counted(name: str) -> None:
    packet = bytes(PACKETS[name][0])
    options = 16 if "TCP" in name else 0
    for captured in range(len(packet) - options):
        assert reason(packet, captured) == "header cut short"


def test_times_of_frames_are_noted_in_any_order() -> None:
    info = CaptureInfo()
    frames = [(t, link_layer(101), memoryview(b"E"), 0, 1, 1) for t in (5, 9, 3, 7)]
    assert not list(segments(frames, info))
    assert (info.records, info.first, info.last) == (4, 3, 9)
    assert info.skipped == {"header cut short": 4}


def test_empty_frames_have_no_time() -> None:
    info = CaptureInfo()
    assert not list(segments([(0, link_layer(1), memoryview(b""), 0, 0, 0)] * 3, info))
    assert (info.records, info.skipped, info.first, info.last) == (3, {"empty": 3}, None, None)


@given(st.sampled_from([0x45, 0x46, 0x4F, 0x60]), st.binary(max_size=120), st.integers(0, 200))
def test_any_bytes_are_a_segment_or_counted(first: int, rest: bytes, length: int) -> None:
    packet = bytes((first,)) + rest
    info = CaptureInfo()
    frame = (0, link_layer(101), memoryview(packet), 0, len(packet), max(len(packet), length))
    found = list(segments([frame], info))
    assert len(found) + sum(info.skipped.values()) == 1
    for _, key, seq, flags, _, start, stop, missing in found:
        assert len(key) in (12, 36)
        assert 0 <= seq < 2**32
        assert 0 <= flags < 256
        assert 0 < start <= stop <= len(packet)
        assert missing >= 0
