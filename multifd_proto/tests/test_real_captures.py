"""What is decoded from captures of real QEMU releases equals what these releases say themselves."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import zstandard

from multifd_proto.capture.events import StreamEvent
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.images import Images, ImageSink
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.migration import ChannelInfo
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Report, Verdict
from multifd_proto.peers.traces import TracedPacket, sent_packets
from multifd_proto.wire.dialect import describe, dialect_of
from multifd_proto.wire.payload import METHOD_MASK

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
NAMES = sorted(path.name.partition(".pcap")[0] for path in FOLDER.glob("*.pcap*.zst"))
LOST_ZERO = {"q9_0-zlib", "q9_2_0-zlib"}
"""Releases that trace packets of zero pages alone, under compression, without sending them."""
TOLD = [name for name in NAMES if "sha256" in (FOLDER / f"{name}.json").read_text()]


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def capture(name: str) -> Decrypted:
    """Open a capture; one over TLS has its secrets inside."""
    (path,) = FOLDER.glob(f"{name}.pcap*.zst")
    return Decrypted(CaptureReader([path]))


def trace(name: str) -> dict[int, list[TracedPacket]]:
    plain = FOLDER / f"{name}.src.trace"
    packed = FOLDER / f"{name}.src.trace.zst"
    data = plain.read_bytes() if plain.exists() else zstandard.decompress(packed.read_bytes())
    return sent_packets(data.decode())


def decoded(reader: Iterable[StreamEvent]) -> dict[int, list[PacketReceived]]:
    packets: dict[int, list[PacketReceived]] = defaultdict(list)
    follower = Follower()
    for connection, event in follower.follow(reader):
        if isinstance(event, PacketReceived):
            assert connection.channel is not None
            packets[connection.channel].append(event)
    return packets


def checked(name: str) -> Report:
    follower = Follower(decode=True)
    for _ in follower.follow(capture(name)):
        pass
    (session,) = follower.sessions
    return session.checker.conclude()


def release(name: str) -> str:
    return str(facts(name)["source"]).replace("9.2.0", "9.2")


def test_all_releases_and_methods_are_there():
    assert len(NAMES) >= 19
    sources = {facts(name)["source"] for name in NAMES}
    assert {"5.2", "7.2", "8.2", "seed", "9.0", "10.0", "11.1"} <= sources


@pytest.mark.parametrize("name", NAMES)
def test_packets_equal_the_trace_of_the_source(name):
    said, seen = trace(name), decoded(capture(name))
    assert set(seen) == set(said) == set(range(facts(name)["channels"]))
    if name in LOST_ZERO:
        said = {
            channel: [t for t in told if t.normal or not t.zero] for channel, told in said.items()
        }
    assert_equal(seen, said)


def assert_equal(seen: dict[int, list[PacketReceived]], said: dict[int, list[TracedPacket]]):
    for channel, packets in seen.items():
        assert len(packets) == len(said[channel])
        for event, told in zip(packets, said[channel], strict=True):
            packet = event.packet
            assert packet.packet_num == told.packet_num
            assert told.normal in (None, packet.normal_pages)
            assert told.zero in (None, packet.zero_pages)
            assert packet.flags & ~METHOD_MASK == told.flags & ~METHOD_MASK
            assert told.flags & METHOD_MASK in (0, packet.flags & METHOD_MASK)
            assert packet.next_packet_size == told.next_packet_size


@pytest.mark.parametrize("name", sorted(LOST_ZERO))
def test_lost_zero_packets_are_reported_as_the_defect_they_are(name):
    lost = sum(1 for told in trace(name).values() for t in told if t.zero and not t.normal)
    report = checked(name)
    (result,) = report.of(Verdict.FAILED)
    assert result.requirement.id == "PKT-22"
    assert result.quirk is not None
    assert result.quirk.name == "lost-zero-packets"
    assert result.violations[0].fault.seen.startswith(f"{lost}: ")
    assert report.violated


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOST_ZERO])
def test_real_releases_conform_to_their_own_dialect(name):
    report = checked(name)
    assert [str(v) for r in report.of(Verdict.FAILED) for v in r.violations] == []
    assert not report.violated
    assert dialect_of(release(name)) in report.candidates, describe(frozenset(report.candidates))


@pytest.mark.parametrize("name", [n for n in NAMES if release(n) in ("5.2", "7.2")])
def test_old_releases_fail_a_newer_dialect(name):
    follower = Follower(MigrationParameters(dialect=dialect_of("10.0")), decode=True)
    for _ in follower.follow(capture(name)):
        pass
    report = follower.sessions[0].checker.conclude()
    assert report.violated
    assert "PKT-17" in {r.requirement.id for r in report.of(Verdict.FAILED)}


@pytest.mark.parametrize("name", TOLD)
def test_extracted_memory_equals_that_of_the_source(name, tmp_path):
    images: list[Images] = []

    def sink(session, _connection):
        if not images:
            images.append(Images(tmp_path, session.checker.migration))
        return ImageSink(images[0])

    follower = Follower(decode=True, sinks=sink)
    for connection, event in follower.follow(capture(name)):
        assert connection.session is not None
        if images:
            images[0].take_zeros(event)
    for block, truth in facts(name)["ramblocks"].items():
        image = images[0].blocks[block.encode()]
        data = image.path.read_bytes()
        assert len(data) == truth["length"]
        assert hashlib.sha256(data).hexdigest() == truth["sha256"]
        assert (
            data
            == zstandard.ZstdDecompressor()
            .stream_reader((FOLDER / truth["file"]).read_bytes())
            .read()
        )
        assert list(image.absent()) == []
    images[0].close()


def test_channels_are_told_apart_by_their_init():
    follower = Follower()
    for _ in follower.follow(capture("q10_0-none")):
        pass
    peers = [c.peer for c in follower.connections.values()]
    assert {p.id for p in peers if isinstance(p, ChannelInfo)} == {0, 1, 2, 3}
