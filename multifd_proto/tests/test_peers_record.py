"""Recording captures: what is written, what is refused, and that the shipped ones are these."""

from __future__ import annotations

import hashlib
import json

import pytest
import zstandard
from click.testing import CliRunner

from multifd_proto.errors import PeerError
from multifd_proto.peers import record as recording
from multifd_proto.peers.recipes import RECIPES, Recipe
from multifd_proto.peers.traces import received_packets, sent_packets
from multifd_proto.tests.test_real_captures import FOLDER

KINDS = ("json", "pcap.zst", "ram.zst", "src.trace", "dst.trace")


def unpacked(path):
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()


# ---- without QEMU ------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_shipped_capture_is_what_its_recipe_says(recipe):
    facts = json.loads((FOLDER / f"{recipe.name}.json").read_text())
    settings = ("name", "source", "destination", "channels", "compression", "machine", "host")
    assert {key: facts[key] for key in settings} == {key: getattr(recipe, key) for key in settings}
    assert facts["zero_page_detection"] == recipe.zero_page_detection
    assert facts["source_version"].startswith(f"{recipe.source}.")
    assert facts["destination_version"].startswith(f"{recipe.destination}.")
    assert (facts["status"], facts["dst_status"]) == ("completed", "completed")
    assert facts["ram"]["dirty-sync-count"] >= recipe.rounds
    assert recipe.shows <= set(facts["shows"])
    assert (FOLDER / f"{recipe.name}.{recipe.format}.zst").stat().st_size < 250_000


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_shipped_memory_is_that_of_the_json(recipe):
    truth = json.loads((FOLDER / f"{recipe.name}.json").read_text())["ramblocks"]["pc.ram"]
    memory = unpacked(FOLDER / truth["file"])
    assert len(memory) == truth["length"] == recording.RAM
    assert hashlib.sha256(memory).hexdigest() == truth["sha256"]


def test_pages_of_text_all_differ():
    pages = {recording._text(page, step) for page in range(256, 512) for step in range(4)}
    assert len(pages) == 1024
    assert {len(page) for page in pages} == {recording.PAGE}


def test_memory_that_differs_is_refused(tmp_path):
    (tmp_path / "source.ram").write_bytes(b"a")
    (tmp_path / "destination.ram").write_bytes(b"b")
    digests = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
    with pytest.raises(PeerError) as caught:
        recording._equal_memory(tmp_path)
    assert str(caught.value) == (
        f"memory differs: sha256 is {digests[0]} at the source, then {digests[1]}"
    )


def test_an_unknown_capture_is_one_clear_line(tmp_path):
    result = CliRunner().invoke(recording.main, ["q1_0", "--into", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("error: no capture 'q1_0' is known, only q5_2-none, ")


def test_a_missing_qemu_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIFD_QEMU_DIR", str(tmp_path))
    result = CliRunner().invoke(recording.main, ["q10_0-none", "--into", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output == "error: no QEMU 10.0: python -m multifd_proto.peers.debian 10.0\n"
    assert list(tmp_path.iterdir()) == []


# ---- with QEMU ---------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "10.0"])
def test_a_recording_is_complete(version, qemu, tcpdump, tmp_path):
    qemu(version)
    facts = recording.record(Recipe("short", version, version, 2, pages=64, rounds=3), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"short.{kind}" for kind in KINDS}
    memory = unpacked(tmp_path / "short.ram.zst")
    assert hashlib.sha256(memory).hexdigest() == facts["ramblocks"]["pc.ram"]["sha256"]
    last = recording._content(64)[-1] * recording.PAGE
    assert memory[last : last + recording.PAGE] == bytes(recording.PAGE)  # it has turned to zeros
    sent = sent_packets((tmp_path / "short.src.trace").read_text())
    received = received_packets((tmp_path / "short.dst.trace").read_text())
    assert set(sent) == set(received) == {0, 1}
    for channel, packets in sent.items():
        assert [p.packet_num for p in packets] == [p.packet_num for p in received[channel]]
        assert sum(packet.is_sync for packet in packets) == facts["sync_points"] >= 3


@pytest.mark.qemu
def test_a_capture_that_never_shows_what_it_must_is_refused(qemu, tcpdump, tmp_path, monkeypatch):
    qemu("10.0")
    monkeypatch.setattr(recording, "_ATTEMPTS", 2)
    quirk = frozenset({"sync-with-pages"})  # no release since 9.0 does it
    with pytest.raises(PeerError) as caught:
        recording.record(Recipe("x", "10.0", "10.0", 2, pages=64, rounds=2, shows=quirk), tmp_path)
    assert str(caught.value) == "x: none of 2 recordings came out: sync-with-pages not shown"
    assert list(tmp_path.iterdir()) == []
