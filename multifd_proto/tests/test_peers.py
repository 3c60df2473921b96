"""Real QEMU releases as peers: fetched, driven, recorded."""

from __future__ import annotations

import json

import pytest
import zstandard
from click.testing import CliRunner

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import PeerError
from multifd_proto.machine.events import PacketReceived
from multifd_proto.peers import debian
from multifd_proto.peers import record as recording
from multifd_proto.peers.qemu import Qemu
from multifd_proto.peers.recipes import RECIPES, Recipe
from multifd_proto.peers.traces import received_packets, sent_packets, thread_totals
from multifd_proto.tests.test_real_captures import FOLDER, NAMES

VERSIONS = ("5.2", "7.2", "10.0", "11.1")


# ---- fetching ------------------------------------------------------------------------------


def test_an_unknown_release_is_an_error(tmp_path):
    with pytest.raises(PeerError, match=r"no Debian suite with QEMU 8\.2 is known, only 5\.2"):
        debian.fetch("8.2", tmp_path)


def test_a_missing_tool_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(debian.main, ["10.0", "--into", str(tmp_path / "qemu")])
    assert result.exit_code == 2
    assert result.output == "error: apt-get is not installed, but is needed to fetch QEMU\n"


def test_what_is_there_is_not_fetched_again(tmp_path):
    binary = tmp_path / "10.0" / debian.BINARY
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    result = CliRunner().invoke(debian.main, ["10.0", "--into", str(tmp_path)])
    assert result.output == f"QEMU 10.0 is already there: {binary}\n"


# ---- driving -------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("version", VERSIONS)
def test_a_real_qemu_answers(version, qemu, tmp_path):
    with Qemu(qemu(version), "-machine", "none", directory=tmp_path) as peer:
        assert peer.version().startswith(version)
        assert "running" in peer.execute("query-status")
        pid = peer.pid
        with pytest.raises(PeerError, match="no-such-command"):
            peer.execute("no-such-command")
    assert peer.returncode is not None
    assert pid > 0


@pytest.mark.qemu
def test_a_qemu_that_cannot_start_says_why(qemu, tmp_path):
    with pytest.raises(PeerError, match="no-such-machine"):
        Qemu(qemu("10.0"), "-machine", "no-such-machine", directory=tmp_path)


# ---- recording -----------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "method"), [("5.2", "none"), ("10.0", "zlib"), ("11.1", "none")]
)
def test_a_recording_of_today_decodes_as_it_was_traced(version, method, qemu, tcpdump, tmp_path):
    qemu(version)
    bandwidth = 32 << 10 if method == "zlib" else 1 << 20
    recipe = Recipe("live", version, version, 2, method, bandwidth=bandwidth, rounds=3)
    facts = recording.record(recipe, tmp_path)
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


# ---- traces --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["src", "dst"])
def test_shipped_traces_agree_with_their_own_totals(name, side):
    path = FOLDER / f"{name}.{side}.trace"
    packed = FOLDER / f"{name}.{side}.trace.zst"
    data = path.read_bytes() if path.exists() else zstandard.decompress(packed.read_bytes())
    packets = (sent_packets if side == "src" else received_packets)(data.decode())
    totals = thread_totals(data.decode())
    assert set(totals) == set(packets)
    for channel, total in totals.items():
        # QEMU 9.2 and older do not count all that they trace as packets of the thread
        assert len(packets[channel]) > 0
        assert total.packets <= len(packets[channel]) + 1


def test_every_recipe_has_its_capture():
    assert {recipe.name for recipe in RECIPES} <= set(NAMES)
