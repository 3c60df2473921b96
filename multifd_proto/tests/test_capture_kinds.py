"""Kinds of frames: tunnels, fragments, lengths, repetitions; in both ways of reading."""

import json
import random
import struct
from itertools import zip_longest
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    fragment6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from multifd_proto.capture.streams import Limits
from multifd_proto.cli.summary import command
from multifd_proto.tests.both_ways import both
from multifd_proto.tests.captures import EPOCH, STEP, Frame, Talk, write_pcap

STREAM = random.Random(5).randbytes(60_000)
ETHER = Ether(src="02::1", dst="02::2")
OUTER = IP(src="192.0.2.1", dst="192.0.2.2")
OUTER6 = IPv6(src="2001:db8::1", dst="2001:db8::2")


def conversation(version: int = 4, size: int = 1400) -> list[Packet]:
    """Make a connection as packets of IP: a handshake, the stream, its end."""
    talk = Talk(version=version, link="raw").handshake().stream(STREAM, size)
    talk.send("FA", len(STREAM)).send("FA", 0, forward=False)
    return [(IP if version == 4 else IPv6)(frame.data) for frame in talk.frames]


def written(folder: Path, packets: list[Packet | bytes]) -> Path:
    frames = [Frame(bytes(packet), EPOCH + STEP * n) for n, packet in enumerate(packets)]
    return write_pcap(folder / "x.pcap", frames)


def check(path: Path, version: int = 4, skipped: dict[str, int] | None = None) -> None:
    (there, back), reader = both(path)
    assert there.data == STREAM
    assert there.end
    assert back.end
    assert there.half.source
    assert there.half.source.host == ("10.0.0.1" if version == 4 else "fd00::1")
    assert there.half.retransmitted == 0
    assert reader.info.skipped == (skipped or {})


def vxlan(inner: Packet, outer: Packet = OUTER, port: int = 4789) -> Packet:
    return ETHER / outer / UDP(sport=55555, dport=port) / VXLAN(vni=7) / inner


def geneve(inner: Packet, protocol: int = 0x6558, **fields: object) -> Packet:
    return (
        ETHER
        / OUTER
        / UDP(sport=55555, dport=6081)
        / GENEVE(vni=7, proto=protocol, **fields)
        / inner
    )


OPTIONS = [GeneveOptions(classid=0x102, type=1, data=bytes(8)), GeneveOptions(data=b"")]
TUNNELS = {
    "VXLAN": lambda ip: vxlan(ETHER / ip),
    "VXLAN of Linux": lambda ip: vxlan(ETHER / ip, port=8472),
    "VXLAN over IPv6": lambda ip: vxlan(ETHER / ip, OUTER6),
    "VXLAN with tags inside": lambda ip: vxlan(ETHER / Dot1Q(vlan=3) / ip),
    "VXLAN behind a tag": lambda ip: ETHER / Dot1Q(vlan=3) / vxlan(ETHER / ip)[IP],
    "VXLAN in VXLAN": lambda ip: vxlan(vxlan(ETHER / ip)),
    "Geneve": lambda ip: geneve(ETHER / ip),
    "Geneve with options": lambda ip: geneve(ETHER / ip, options=OPTIONS),
    "Geneve without Ethernet": lambda ip: geneve(ip, 0x0800 if IP in ip else 0x86DD),
    "Geneve in VXLAN": lambda ip: vxlan(geneve(ETHER / ip)),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_connections_in_tunnels_are_those_inside(tmp_path, tunnel, version):
    check(written(tmp_path, [TUNNELS[tunnel](ip) for ip in conversation(version)]), version)


@pytest.mark.parametrize("tunnel", TUNNELS)
def test_what_a_snap_length_cuts_in_a_tunnel_is_a_gap(tmp_path, tunnel):
    frames = [Frame(bytes(TUNNELS[tunnel](ip))) for ip in conversation(size=6000)]
    for number, frame in enumerate(frames):
        frame.time = EPOCH + number * STEP
    for snap in (3000, 200, 100):
        path = write_pcap(tmp_path / "x", [frame.snapped(snap) for frame in frames])
        seen, reader = both(path)
        if snap > 100:
            there = seen[0]
            first = there.gaps[0]
            assert first[1:] == (6000 - first[0], "snapped")
            assert first[0] + len(frames[3].data) - 6000 == snap
            assert there.length == len(STREAM)
        else:
            assert reader.info.skipped.keys() <= {"header cut short"}


def test_padding_and_lengths_that_contradict_in_a_tunnel_say_the_same_in_both_ways(tmp_path):
    packets = []
    for number, ip in enumerate(conversation()):
        inner = vxlan(Ether(type=0x800) / (bytes(ip) + bytes(number % 3)))
        packets.append(inner if number % 5 else ETHER / IP(bytes(inner[IP]) + bytes(4)))
    packets[30][IP].len -= 10
    packets[31][IP].len = 0
    packets[32] = bytes(packets[32]) + bytes(20)
    (there, _), _ = both(written(tmp_path, packets))
    assert there.half.segments == len(packets) - 2
    assert [gap[1:] for gap in there.gaps] == [(10, "snapped")]


def test_a_length_of_zero_inside_a_tunnel_is_that_of_the_frame(tmp_path):
    packets = conversation(size=30_000)
    for packet in packets:
        packet.len = 0
    check(written(tmp_path, [vxlan(ETHER / packet) for packet in packets]))


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (vxlan(vxlan(vxlan(ETHER / IP() / TCP()))), "more than 2 tunnels in one another"),
        (vxlan(ETHER / ARP()), "not IP"),
        (vxlan(ETHER / IP() / UDP(dport=53)), "not TCP"),
        (bytes(vxlan(ETHER / IP() / TCP()))[:48], "header cut short"),
        (bytes(vxlan(ETHER / IP() / TCP()))[:80], "header cut short"),
        (bytes(vxlan(ETHER / IP() / TCP()))[:36], "header cut short"),
        (ETHER / OUTER / UDP(dport=4789) / Raw(bytes(60)), "VXLAN header malformed"),
        (geneve(ETHER / IP() / TCP(), version=1), "Geneve version 1 unknown"),
        (geneve(ETHER / IP() / TCP(), protocol=0x1234), "not IP"),
        (bytes(geneve(ETHER / IP() / TCP(), options=OPTIONS))[:56], "header cut short"),
    ],
)
def test_what_is_in_a_tunnel_and_no_segment_is_counted(tmp_path, packet, reason):
    packets = [ETHER / ip for ip in conversation()]
    check(written(tmp_path, [*packets[:9], packet, *packets[9:]]), skipped={reason: 1})


def fragments(packets: list[Packet], size: int = 504) -> list[list[Packet]]:
    """Cut packets of IPv4 or IPv6 into fragments, each packet with an identification."""
    out = []
    for number, packet in enumerate(packets):
        if packet.version == 4:
            packet.id = number
            out.append(fragment(packet, size))
        else:
            head = IPv6ExtHdrFragment(id=number, nh=6)
            whole = IPv6(src=packet.src, dst=packet.dst) / head / packet.payload
            out.append(fragment6(whole, size) if len(packet.payload) > size else [packet])
    return out


def flat(lists: list[list[Packet]]) -> list[Packet]:
    return [ETHER / packet for packets in lists for packet in packets]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", ["in order", "backwards", "mixed", "twice"])
def test_fragments_are_put_together(tmp_path, version, order):
    cut = fragments(conversation(version))
    assert max(map(len, cut)) > 2
    if order == "backwards":
        cut = [parts[::-1] for parts in cut]
    elif order == "mixed":  # of each packet with the next
        pairs = zip(cut[::2], cut[1::2], strict=True)
        cut = [[part for both in zip_longest(*pair) for part in both if part] for pair in pairs]
    elif order == "twice":
        cut = [[*parts[:-1], *parts] for parts in cut]
    path = written(tmp_path, flat(cut))
    (there, _), reader = both(path)
    assert there.data == STREAM
    assert there.half.retransmitted == 0
    assert reader.info.skipped == {}


def test_fragments_in_a_tunnel_and_of_a_tunnel(tmp_path):
    inside = [vxlan(ETHER / part) for parts in fragments(conversation()) for part in parts]
    check(written(tmp_path, inside))
    outside = fragments([vxlan(ETHER / ip)[IP] for ip in conversation()])
    check(written(tmp_path, flat(outside)))


def test_a_datagram_that_lacks_a_fragment_is_a_gap(tmp_path):
    cut = fragments(conversation())
    del cut[9][1]
    (there, _), reader = both(written(tmp_path, flat(cut)))
    assert there.gaps == [(6 * 1400, 1400, "lost")]
    assert reader.info.skipped == {"IP fragment": 2}


@pytest.mark.parametrize(
    ("change", "kept"), [("moved", 1), ("longer", 1), ("behind the end", 2), ("another end", 2)]
)
def test_fragments_that_overlap_are_refused(tmp_path, change, kept):
    cut = fragments(conversation())
    first, second, last = cut[9]
    if change == "moved":
        second.frag -= 1
    elif change == "longer":
        first = IP(bytes(first)[:2] + b"\0\0" + bytes(first)[4:] + bytes(8))
    else:
        last.frag -= 40 if change == "behind the end" else 0
        second, last = last, second
        last.flags = "MF" if change == "behind the end" else 0
    cut[9] = [first, second, last]
    (there, _), reader = both(written(tmp_path, flat(cut)))
    assert there.gaps == [(6 * 1400, 1400, "lost")]
    assert reader.info.skipped == {"IP fragment": kept, "IP fragments overlap": 3 - kept}


def test_fragments_that_wait_take_no_more_than_the_limit(tmp_path):
    cut = fragments(conversation())
    others = [parts[:1] for parts in fragments(conversation())[5:25]]
    for number, (part,) in enumerate(others):
        part.id = 1000 + number
    cut[9:10] = [cut[9][:1], *others, cut[9][1:]]
    check(written(tmp_path, flat(cut)), skipped={"IP fragment": 20})
    limits = Limits(fragments=20 * 504)
    (there, _), reader = both(written(tmp_path, flat(cut)), limits=limits)
    assert there.gaps == [(6 * 1400, 1400, "lost")]
    assert reader.info.skipped == {"IP fragment": 23}


def test_the_identification_of_a_datagram_may_be_used_again(tmp_path):
    cut = fragments(conversation())
    lost = fragments(conversation()[8:9])[0][:1]
    lost[0].id = cut[9][0].id
    others = fragments(conversation()[20:21])[0][:1] * 4100  # each a repetition of the first
    others[0].id = 1000
    check(written(tmp_path, flat([lost, others, *cut])), skipped={"IP fragment": 4101})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (IP(flags="MF") / TCP() / bytes(3), "IP fragment malformed"),
        (IP(frag=8180, proto=6) / bytes(60), "IP fragment"),
        (IP(flags="MF") / UDP(dport=53) / bytes(8), "not TCP"),
        (IP(flags="MF", proto=1) / bytes(16), "not TCP"),
        (IP(flags="MF", len=400) / TCP() / bytes(4), "IP fragment"),
    ],
)
def test_fragments_of_no_use_are_counted(tmp_path, packet, reason):
    packets = [ETHER / ip for ip in conversation()]
    check(written(tmp_path, [*packets[:9], ETHER / packet, *packets[9:]]), skipped={reason: 1})


def test_a_datagram_of_very_many_fragments_is_refused(tmp_path):
    cut = fragments(conversation(size=3000), size=8)
    assert len(cut[3]) > 256
    skipped = {"IP fragment": 256, "IP datagram of more than 256 fragments": len(cut[3]) - 256}
    whole = conversation(size=3000)
    check(written(tmp_path, flat([cut[3], *([ip] for ip in whole)])), skipped=skipped)


EXTENSIONS = {
    "hop by hop": IPv6ExtHdrHopByHop(),
    "routing": IPv6ExtHdrRouting(addresses=["fd00::3"]),
    "destination": IPv6ExtHdrDestOpt(),
    "all of it in one fragment": IPv6ExtHdrFragment(),
    "authentication": AH(nh=6, payloadlen=4, icv=bytes(12)),
}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_extension_headers_are_passed_over(tmp_path, extension):
    packets = [
        IPv6(src=ip.src, dst=ip.dst) / EXTENSIONS[extension].copy() / ip[TCP]
        for ip in conversation(6)
    ]
    check(written(tmp_path, [ETHER / packet for packet in packets]), 6)


@pytest.mark.parametrize("version", [4, 6])
def test_a_length_of_zero_is_that_of_the_frame(tmp_path, version):
    packets = [ETHER / ip for ip in conversation(version, 60_000)]
    for packet in packets:
        setattr(packet[1], "len" if version == 4 else "plen", 0)
    check(written(tmp_path, packets), version)


def test_the_jumbo_option_tells_the_length_and_padding_is_none(tmp_path):
    packets = []
    for ip in conversation(6, 60_000):
        options = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=len(ip[TCP]) + 8)])
        packets.append(ETHER / IPv6(src=ip.src, dst=ip.dst, plen=0) / options / ip[TCP])
    check(written(tmp_path, [bytes(packet) + bytes(5) for packet in packets]), 6)


def test_a_repetition_with_other_bytes_is_a_conflict_while_the_first_copy_waits(tmp_path):
    other = bytes(byte ^ (place % 3 == 0) for place, byte in enumerate(STREAM))
    talk = Talk().handshake().send("PA", 0, STREAM[:1000]).send("PA", 2000, STREAM[2000:4000])
    talk.send("PA", 1500, other[1500:4500])  # of it 1500 to 2000 and 4000 to 4500 are new
    talk.send("PA", 0, other[:1000])  # which nothing can be compared with any more
    talk.send("PA", 1000, STREAM[1000:1500])
    (there, _), _ = both(write_pcap(tmp_path / "x", talk.frames))
    assert there.data == STREAM[:1500] + other[1500:2000] + STREAM[2000:4000] + other[4000:4500]
    assert there.half.conflicts == sum(place % 3 == 0 for place in range(2000, 4000))
    assert there.half.retransmitted == 3000


def test_a_repetition_of_the_same_bytes_is_none(tmp_path):
    talk = Talk().handshake().send("PA", 0, STREAM[:1000]).send("PA", 2000, STREAM[2000:4000])
    talk.send("PA", 2000, STREAM[2000:3000]).send("PA", 500, STREAM[500:2500])
    (there, _), _ = both(write_pcap(tmp_path / "x", talk.frames))
    assert there.data == STREAM[:4000]
    assert there.half.conflicts == 0
    assert (there.half.retransmitted, there.half.reordered) == (2000, 1)


@pytest.mark.parametrize("size", [500, 1400])
def test_every_packet_captured_twice_is_repetition(tmp_path, size):
    frames = [ETHER / ip for ip in conversation(size=size)]
    path = written(tmp_path, [frame for frame in frames for _ in range(2)])
    (there, back), reader = both(path)
    assert there.data == STREAM
    assert there.end
    assert (there.half.retransmitted, there.half.conflicts) == (len(STREAM), 0)
    assert (there.half.reordered, back.half.retransmitted) == (0, 0)
    assert reader.info.records == 2 * len(frames)


def test_keep_alives_and_probes_of_a_closed_window_add_nothing(tmp_path):
    talk = Talk().handshake().stream(STREAM[:30_000], 1000)
    for _ in range(20):
        talk.send("A", 29_999, b"\0").send("A", 30_000, forward=False)  # a keep-alive
    for _ in range(20):  # a probe of what comes next, while the window is closed
        talk.send("A", 30_000, STREAM[30_000:30_001]).send("A", 30_000, forward=False)
    for offset in range(30_000, 60_000, 1000):
        talk.send("PA", offset, STREAM[offset : offset + 1000])
    (there, _), _ = both(write_pcap(tmp_path / "x", talk.frames))
    assert there.data == STREAM
    assert (there.half.retransmitted, there.half.missing, there.half.conflicts) == (40, 0, 0)


def test_ports_used_again_are_other_connections(tmp_path):
    talks = [Talk(isn=isn) for isn in (1000, 2**32 - 9000, 77_000)]
    for number, talk in enumerate(talks):
        talk.handshake().stream(STREAM[number * 20_000 :][:20_000], 900)
        if number != 1:  # the second one is given up without a word
            talk.send("FA", 20_000).send("FA", 0, forward=False)
    frames = [frame for talk in talks for frame in talk.frames]
    for number, frame in enumerate(frames):
        frame.time = EPOCH + STEP * number
    seen, _ = both(write_pcap(tmp_path / "x", frames))
    assert [one.data for one in seen[::2]] == [
        STREAM[n : n + 20_000] for n in range(0, 60_000, 20_000)
    ]
    assert [bool(one.end) for one in seen[::2]] == [True, False, True]


def test_conflicts_are_told(tmp_path):
    stream = struct.pack(">II16sB39x", 0x11223344, 1, bytes(range(16)), 1) + STREAM
    talk = Talk().handshake().send("PA", 1000, stream[1000:2000])
    talk.send("PA", 1500, bytes(500)).send("PA", 0, stream[:1000])
    path = write_pcap(tmp_path / "x", talk.frames)
    done = CliRunner().invoke(command, ["--json", str(path)])
    differ = sum(map(bool, stream[1500:2000]))
    said = f"warning: {differ} bytes were repeated with other values: the first ones count"
    assert said in done.stderr.splitlines()
    assert json.loads(done.stdout)["conflicting_bytes"] == differ
