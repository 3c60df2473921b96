"""What generated captures are said to hold is what the decoder finds in them."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import xxhash

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Verdict
from multifd_proto.tests.bigcaptures import Recipe, generate
from multifd_proto.tests.bigstreams import FAKE_BLOCK, HEAD
from multifd_proto.wire.dialect import dialect_of

MIB = 1 << 20
CLEAN = {
    "64 KiB segments": {},
    "1448-byte segments": {"segment": 1448},
    "segments beyond 64 KiB": {"segment": 180_000},
    "zero pages only": {"zero_only": True, "size": MIB // 2},
    "one channel": {"channels": 1},
    "no acks": {"acks": 0},
    "short rounds": {"round_packets": 3, "size": 8 * MIB},
    "heads behind each other in pages": {"nested": True},
    "sparse": {"sparse": True},
    "sequence wrap": {"isn": 2**32 - MIB // 2},
    "vlan": {"link": "vlan"},
    "qinq": {"link": "qinq"},
    "sll": {"link": "sll"},
    "sll2": {"link": "sll2"},
    "null": {"link": "null"},
    "raw": {"link": "raw"},
    "IPv6": {"version": 6},
    "raw IPv6": {"version": 6, "link": "raw"},
    "null IPv6": {"version": 6, "link": "null"},
    "IP length 0": {"length_zero": True},
    "IPv6 length 0": {"length_zero": True, "version": 6},
    "nanoseconds": {"nano": True},
    "big-endian": {"order": ">"},
    "pcapng": {"resolutions": (6,)},
    "big-endian pcapng": {"resolutions": (9,), "order": ">"},
    "interfaces of other resolutions": {"resolutions": (3, 6, 9, 0x80 | 20), "segment": 1447},
    "reordered": {"reorder": 0.05, "segment": 1448},
    "retransmitted": {"retransmit": 0.05, "segment": 1448},
    "reordered and retransmitted": {"reorder": 0.1, "retransmit": 0.1, "segment": 9000},
}
LOSSY = {
    "1 % lost": {"loss": 0.01, "segment": 1448, "size": 16 * MIB},
    "10 % lost": {"loss": 0.1, "segment": 9000},
    "snapped": {"snap": 2048},
    "heads snapped": {"snap": 96, "segment": 1448},
    "late": {"late": True, "segment": 9000},
}


def decoded(path, **parameters):
    """Return the packets by channel, and the follower."""
    follower = Follower(MigrationParameters(**parameters))
    packets = defaultdict(list)
    for connection, event in follower.follow(CaptureReader([path])):
        if isinstance(event, PacketReceived):
            packets[connection.half.stream].append(event)
    return packets, follower


@pytest.mark.parametrize("options", CLEAN.values(), ids=CLEAN)
def test_all_that_was_sent_is_found_and_conforms(options, tmp_path):
    truth = generate(tmp_path / "a", Recipe(**{"size": 2 * MIB} | options))
    packets, follower = decoded(tmp_path / "a", dialect=dialect_of("11.1"))
    (session,) = follower.sessions
    assert session.checker.conclude().of(Verdict.FAILED) == []
    channels = session.checker.migration.streams
    assert {c.id: c.syncs for c in channels.values()} == {c.id: c.syncs for c in truth.channels}
    for stream, found in packets.items():
        sent = truth.channels[channels[stream].id]
        assert [(e.offset, e.packet.packet_num, e.known) for e in found] == sent.listed
        heads = b"".join(e.packet.build() for e in found)
        assert xxhash.xxh3_64_hexdigest(heads) == sent.heads.hexdigest()
        assert sum(e.payload for e in found) == sent.payload
    assert truth.total("packets") == truth.total("whole") == sum(map(len, packets.values()))
    assert truth.total("lost") == 0
    assert session.checker.migration.main.marks == truth.marks


@pytest.mark.parametrize("options", LOSSY.values(), ids=LOSSY)
def test_what_is_lost_is_told(options, tmp_path):
    truth = generate(tmp_path / "a", Recipe(**{"size": 4 * MIB} | options))
    packets, follower = decoded(tmp_path / "a")
    assert truth.total("lost") > 0 or "late" in options
    assert 0 < truth.total("found") <= truth.total("packets")
    by_port = {c.half.source.port: s for s, c in follower.connections.items()}
    for sent in truth.channels:
        found = packets[by_port[40001 + sent.id]]
        seen = [
            (at - sent.begin, known, number if known >= 32 else None)
            for at, number, known in sent.listed
            if known >= 24
        ]
        assert seen == [
            (e.offset, e.known, e.packet.packet_num if e.known >= 32 else None)
            for e in found
            if e.known >= 24
        ]


def test_what_payload_is_said_to_be_is_in_the_file(tmp_path):
    truth = generate(tmp_path / "a", Recipe(size=2 * MIB, channels=1, acks=0, link="raw"))
    data = (tmp_path / "a").read_bytes()
    head, at = 16 + 40 + 12, 24
    streams: dict[int, bytes] = {}
    while at < len(data):
        port = int.from_bytes(data[at + 36 : at + 38], "big")
        length = int.from_bytes(data[at + 8 : at + 12], "little") + 16
        streams[port] = streams.get(port, b"") + data[at + head : at + length]
        at += length
    stream, pages, payload = streams[40001], 64, xxhash.xxh3_64()
    while pages < len(stream):
        view = np.frombuffer(stream, HEAD, 1, pages)[0]
        pages += HEAD.itemsize + int(view["next_packet_size"])
        payload.update(stream[pages - int(view["next_packet_size"]) : pages])
    assert payload.hexdigest() == truth.channels[0].pages.hexdigest()
    assert stream.count(FAKE_BLOCK) > 0


def test_the_truth_is_beside_the_capture_and_the_same_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        generate(tmp_path / name, Recipe(size=MIB, loss=0.1, reorder=0.1))
    truth = json.loads((tmp_path / "a.truth.json").read_text())
    assert truth == json.loads((tmp_path / "b.truth.json").read_text())
    assert truth["bytes"] == (tmp_path / "a").stat().st_size
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert truth["recipe"]["loss"] == 0.1
    assert len(truth["channels"][0]["payload_xxh3"]) == 16


def test_a_sparse_capture_takes_little_room(tmp_path):
    generate(tmp_path / "a", Recipe(size=256 * MIB, sparse=True))
    stat = (tmp_path / "a").stat()
    assert stat.st_size > 256 * MIB
    assert stat.st_blocks * 512 < stat.st_size // 4
