"""Migrations of real QEMU releases made now: what is decoded is what they say they sent."""

from __future__ import annotations

import json

import pytest

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.events import PacketReceived
from multifd_proto.peers.recipes import Recipe
from multifd_proto.peers.record import record
from multifd_proto.peers.traces import sent_packets


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "method"), [("5.2", "none"), ("7.2", "zstd"), ("10.0", "zlib"), ("11.1", "none")]
)
def test_a_migration_of_today_decodes_as_it_was_traced(version, method, qemu, tcpdump, tmp_path):
    qemu(version)
    bandwidth = 1 << 20 if method == "none" else 32 << 10
    facts = record(Recipe("live", version, version, 2, method, bandwidth=bandwidth), tmp_path)
    assert json.loads((tmp_path / "live.json").read_text()) == facts
    traced = sent_packets((tmp_path / "live.src.trace").read_text())
    told = {c: [p.packet_num for p in packets] for c, packets in traced.items()}
    seen: dict[int | None, list[int]] = {}
    follower = Follower(decode=True)
    for connection, event in follower.follow(CaptureReader([tmp_path / "live.pcap.zst"])):
        if isinstance(event, PacketReceived):
            seen.setdefault(connection.channel, []).append(event.packet.packet_num)
    assert seen == told
    assert not follower.sessions[0].checker.conclude().violated
