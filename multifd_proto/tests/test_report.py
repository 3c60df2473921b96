"""The page of a migration: what it finds, in real captures and in events made for one thing."""

from __future__ import annotations

import html
import json
import re
import struct
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from multifd_proto.capture.events import Data, Endpoint, Half
from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.session import Connection, Session
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.cli.report import command
from multifd_proto.errors import MultiFDError
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    Ended,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.migration import MainInfo, MainReceived
from multifd_proto.tests.test_cli import multifd, pcap, records, snapped
from multifd_proto.tests.test_real_captures import LOST_ZERO
from multifd_proto.views.page import Collector, Facts, page
from multifd_proto.views.page.figures import figures
from multifd_proto.views.page.findings import findings
from multifd_proto.views.page.slow import stuck_passes
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.ram_records import RamBlockEntry, RamSetup
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

CAPTURES = Path(str(files("multifd_proto.spec"))) / "captures"
REAL = CAPTURES / "q10_0-none.pcap.zst"
OLD = CAPTURES / "q5_2-load.pcap.zst"
SECOND = 10**9
EPOCH = 1_700_000_000 * SECOND
PAGE = 4096
RAM = b"pc.ram".ljust(256, b"\0")


@dataclass
class Made:
    """A migration of made events, collected and judged as a capture's are."""

    channels: int = 2
    judged: bool = True
    collector: Collector = field(default_factory=Collector)
    time: int = EPOCH
    sent: int = 0

    def __post_init__(self) -> None:
        ends = Endpoint("10.0.0.1", 40000), Endpoint("10.0.0.2", 4444)
        self.session = Session(0, *ends, Checker())
        self.rounds = [0] * self.channels
        for n in range(self.channels):
            half = Half(n, True, *ends, EPOCH, anchored=True)
            reverse = Half(n, False, *ends[::-1], EPOCH, anchored=True)
            connection = Connection(half, reverse, "multifd", self.session)
            connection.peer = self.session.checker.add_channel(n, opened=EPOCH)
            self.session.connections.append(connection)
            self.take(n, InitReceived(0, EPOCH, MultiFDInit(uuid=bytes(16), id=n)))

    def take(self, channel: int, *events) -> None:
        connection = self.session.connections[channel]
        assert connection.peer
        for event in events:
            if self.judged:
                self.session.checker.judge(connection.peer, (event,))
            self.collector.add(connection, event)

    def send(self, channel: int, first: int, normal: int = 0, zero: int = 0, took: int = 0) -> None:
        """Send pages from the one numbered `first` on; time goes on by `took` nanoseconds."""
        count = normal + zero
        offsets = tuple(range(first * PAGE, (first + count) * PAGE, PAGE)) + (0,) * (128 - count)
        packet = MultiFDPacket(
            normal_pages=normal, zero_pages=zero, pages_alloc=128, packet_num=self.sent,
            next_packet_size=normal * PAGE, ramblock=RAM, offset=offsets,
        )  # fmt: skip
        self._packet(channel, packet, took)

    def sync(self, channel: int) -> None:
        self._packet(channel, MultiFDPacket(flags=FLAG_SYNC, packet_num=self.sent, offset=NONE), 0)
        self.rounds[channel] += 1

    def _packet(self, channel: int, packet: MultiFDPacket, took: int) -> None:
        size = packet.normal_pages * PAGE
        head = PacketReceived(0, self.time, packet, 1 << 30, size, self.rounds[channel])
        self.time += took or 1_000_000
        payload = PayloadReceived(0, self.time, head, size, 0, None, False, None)
        self.take(channel, head, payload)
        self.sent += 1

    def facts(self) -> Facts:
        info = CaptureInfo(last=self.time)
        report = self.session.checker.conclude()
        return Facts("made", ("made.pcap",), info, self.session, self.collector, report)

    def found(self) -> list[str]:
        return [finding.text for finding in findings(self.facts())]


NONE = (0,) * 128


def made_rounds(*counts: int) -> Made:
    """Make rounds of so many times 128 pages, always the same ones, on two channels by turns."""
    made = Made()
    for count in counts:
        for n in range(count):
            made.send(n % 2, n * 128, normal=128, took=10_000_000)
        for channel in range(2):
            made.sync(channel)
    return made


def report(tmp_path: Path, *words: object) -> tuple[str, str]:
    """Return what the verb prints, and the page without Plotly."""
    out = tmp_path / "page.html"
    done = CliRunner().invoke(command, [*map(str, words), "-o", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text(encoding="utf-8")
    return done.output, re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def main_record(record) -> MainReceived:
    return MainReceived(0, EPOCH, 8, record, 0)


def plain(page: str) -> str:
    """Return the text of a page as one line."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


# ---- what is said of a migration -----------------------------------------------------------------


def test_a_real_migration_is_told(tmp_path):
    said, text = report(tmp_path, REAL)
    assert said == f"{REAL.name}: completed\nwritten: {tmp_path / 'page.html'}\n"
    facts = json.loads((CAPTURES / "q10_0-none.json").read_text())
    text = plain(text)
    assert f"over {facts['channels']} channels and the main stream" in text
    assert "payload (method none)" in text
    assert f"The machine's UUID is {facts['uuid']}." in text
    assert "CONFORMING: " in text


def test_what_the_page_counts_is_what_the_source_counted(tmp_path):
    _, text = report(tmp_path, REAL)
    counted = json.loads((CAPTURES / "q10_0-none.json").read_text())["ram"]
    (row,) = re.findall(r"<tr><td>pc\.ram</td>(.*?)</tr>", text)
    _, sent, never, *_ = re.findall(r">([^<]*)</td>", row)
    assert (int(sent.replace(",", "")), never) == (4096, "0")
    normal = re.search(r"([\d,]+) with content", text)
    assert normal
    assert int(normal[1].replace(",", "")) == counted["normal"]


def test_a_violation_leads_to_its_requirement(tmp_path):
    _, text = report(tmp_path, "--dialect", "10.0", OLD)
    assert "Completed in 906 ms: with violations" in plain(text)
    cited = set(re.findall(r'href="#([A-Z]+-\d+)"', text))
    assert {"PKT-17", "PKT-22", "SYNC-4"} <= cited
    assert cited == set(re.findall(r'id="([A-Z]+-\d+)"', text))
    assert "A sender MUST write 0 into <code>next_packet_size</code>" in text
    assert f"multifd check --dialect 10.0 {OLD}" in text


def test_the_named_command_finds_the_message(tmp_path):
    _, text = report(tmp_path, "--dialect", "10.0", OLD)
    offset = re.search(r"multifd decode --dialect 10\.0 \S+ \| grep -F &#39;(@\w+)&#39;", text)
    assert offset
    _, decoded, _ = multifd("decode", "--dialect", "10.0", OLD)
    assert any(offset[1] in line for line in decoded.splitlines())


def test_known_deviations_stand_apart_and_are_no_fault(tmp_path):
    _, text = report(tmp_path, OLD)
    text = plain(text)
    assert "Known deviations of these releases" in text
    assert "no harm" in text
    assert 'class="badge bad"' not in text


def test_older_streams_have_many_rounds_in_a_pass():
    made = Made()
    for round_ in range(4):  # 512 pages in four rounds, and two passes over some of them
        made.send(0, round_ * 128, normal=128)
        made.sync(0)
        made.sync(1)
    for _ in range(2):
        made.send(0, 0, normal=64)
        made.sync(0)
        made.sync(1)
    assert [(p.label, p.pages) for p in made.facts().passes] == [
        ("0 to 3", 512),
        ("4", 64),
        ("5", 64),
    ]


def test_a_migration_that_does_not_converge_is_told_so():
    made = made_rounds(40, 8, 8, 7, 8, 8)
    (text,) = [text for text in made.found() if "converge" in text]
    assert text == (
        "It does not converge: rounds 1 to 5 are 5 passes over the memory, and each sent about as "
        "many pages as the one before (896 to 1,024). The guest dirtied memory as fast as it was "
        "sent, 410 Mbit/s."
    )


def test_a_migration_whose_passes_get_shorter_converges():
    made = made_rounds(40, 16, 9, 5, 3, 2, 1)
    assert not stuck_passes(made.facts())
    assert not [text for text in made.found() if "converge" in text]


def test_memory_that_is_sent_again_is_told_with_its_place():
    texts = made_rounds(40, 8, 8).found()
    assert any(
        text == "29% of the pages had been sent before (2,048 of 7,168): the guest changed them "
        "meanwhile. Nine tenths of them are in 3.6 MiB of pc.ram."
        for text in texts
    ), texts


def test_a_stall_is_told_with_channel_and_length():
    made = made_rounds(4)
    made.send(1, 600, normal=128, took=1_300_000_000)
    made.send(0, 800, normal=128)
    texts = made.found()
    assert (
        "Both channels stalled 1.30 s at 22:13:20.041000, 1 of them in the middle of a packet, in "
        "round 1." in texts
    )
    inside = [(s.stream, s.inside) for s in made.collector.stalls]
    assert sorted(inside) == [(0, False), (1, True)]


def test_one_channel_with_most_of_the_work_is_told():
    made = Made(channels=4)
    for n in range(40):
        made.send(0 if n % 4 else 3, n * 128, normal=128)
    (text,) = [text for text in made.found() if "carried" in text]
    assert text == (
        "One channel carried 75% of the bytes: channel 0, one of 4, whose fair share is 25%."
    )


def test_a_reset_by_the_destination_is_told_with_what_was_due():
    made = made_rounds(4, 4)
    end = Ended(0, made.time, ChannelState.AWAIT_PAYLOAD, 4096, reset=True, by_peer=True)
    made.take(1, end)
    assert (
        "Channel 1 was reset by the destination after SYNC 2 at 22:13:20.084000, in the middle of "
        "a message: 4.0 KiB were still due." in made.found()
    )


def test_bytes_that_were_not_captured_are_told(tmp_path):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(snapped(pcap(), 400))
    _, text = report(tmp_path, cut)
    text = plain(text)
    assert text.startswith("cut.pcap: Outcome unknown: bytes not captured ")
    assert "too early" not in text
    assert "were not captured" in text
    assert "what they hide is not judged and not counted" in text
    assert re.search(r"Bytes that are not in the capture: .+? snapped", text)


def test_a_capture_that_ends_early_says_so(tmp_path):
    whole = records(pcap())
    cut = tmp_path / "early.pcap"
    cut.write_bytes(pcap()[:24] + b"".join(whole[: len(whole) // 2]))
    said, text = report(tmp_path, cut)
    assert said.startswith("early.pcap: not seen to its end\n")
    assert "The capture ends before the main stream does" in plain(text)


def test_two_captures_are_set_side_by_side(tmp_path):
    said, text = report(tmp_path, REAL, OLD)
    assert said.splitlines()[:2] == [f"{REAL.name}: completed", f"{OLD.name}: completed"]
    assert text.count("<article") == 2
    assert plain(text).index("2 migrations, side by side") < plain(text).index("What was found")


def test_pieces_of_a_capture_are_joined(tmp_path):
    whole = records(pcap())
    head, half = pcap()[:24], len(whole) // 2
    for name, part in (("a.pcap", whole[:half]), ("b.pcap", whole[half:])):
        (tmp_path / name).write_bytes(head + b"".join(part))
    said, text = report(tmp_path, "--join", tmp_path / "a.pcap", tmp_path / "b.pcap")
    assert said.startswith("a.pcap: completed\n")
    assert text.count("<article") == 1


def test_raw_dumps_have_no_times_and_are_told_without(tmp_path):
    streams: dict[int, bytes] = {}
    for event in CaptureReader([REAL]):
        if isinstance(event, Data) and event.half.forward:
            number = event.half.stream
            streams[number] = streams.get(number, b"") + bytes(event.data)
    dumps = [tmp_path / f"{n}.raw" for n in sorted(streams)]
    for n, path in enumerate(dumps):
        path.write_bytes(streams[n])
    said, text = report(tmp_path, "--join", *dumps)
    assert said.startswith("0.raw: completed\n")
    assert plain(text).startswith("0.raw: Completed multifd migration report 0.raw ✓ Completed ")
    assert "raw dumps, over 4 channels and the main stream. " in plain(text)
    assert 'data-figure="m0-timeline"' not in text


@pytest.mark.parametrize("name", sorted(p.name for p in CAPTURES.glob("*.pcap.zst")))
def test_of_the_real_captures_those_that_lose_zero_pages_have_a_fault(name, tmp_path):
    _, text = report(tmp_path, CAPTURES / name)
    assert plain(text).startswith(f"{name}: Completed in ")
    assert ('class="badge bad"' in text) == (name.removesuffix(".pcap.zst") in LOST_ZERO)


# ---- what it costs -------------------------------------------------------------------------------


def zero_pages(packets: int) -> Made:
    """Make packets of zero pages alone, a SYNC after each ten, gaps and stalls among them."""
    made = Made(channels=4, judged=False)
    for n in range(packets):
        made.send(n % 4, n * 128 % (1 << 24), zero=128, took=600_000_000 if n % 50 == 0 else 0)
        if n % 10 == 9:
            made.sync(n // 10 % 4)
        if n % 100 == 0:
            made.collector.add(
                made.session.connections[n % 4],
                BytesMissing(n, made.time, 100, "lost", ChannelState.AWAIT_PAYLOAD),
            )
    return made


def test_the_page_of_many_packets_is_as_large_as_that_of_few():
    few, many = zero_pages(2_500).facts(), zero_pages(100_000).facts()
    assert many.total.packets == 110_000
    sizes = [len("".join(page([facts]))) for facts in (few, many)]
    marks = [sum(len(json.dumps(f)) for f in figures(facts).values()) for facts in (few, many)]
    assert sizes[1] - sizes[0] < 100_000
    assert marks[1] < 2 * marks[0]
    assert marks[1] < 200_000
    for lane in many.collected.lanes.values():
        assert len(lane.buckets) <= 512
    assert all(len(block.cells) <= 1024 for block in many.collected.memory.blocks.values())
    assert (len(many.collected.stalls), len(many.collected.gaps)) == (512, 50)


def test_an_offset_of_nowhere_does_not_squash_the_map():
    made = made_rounds(4)
    packet = MultiFDPacket(zero_pages=2, offset=(0, 1 << 63, *NONE[2:]), ramblock=RAM)
    made.take(0, PacketReceived(0, made.time, packet, 1 << 30, 0, 1))
    assert made.collector.memory.blocks[b"pc.ram"].span == PAGE


def test_pages_beyond_the_end_of_their_block_are_left_out():
    made = made_rounds(4, 4)
    blocks = (RamBlockEntry(b"pc.ram", 128 * PAGE),)
    made.session.checker.migration.note(MainInfo(9, None, True), main_record(RamSetup(0, blocks)))
    for _ in range(40):
        made.send(0, 1000, normal=128)
    cells = made.collector.memory.blocks[b"pc.ram"].cells
    assert max(cells) < 512
    assert any("had been sent before" in text for text in made.found())


def test_names_in_a_capture_are_text_on_the_page():
    made = made_rounds(2)
    evil = b"</script><script>alert(1)</script>".ljust(256, b"\0")
    packet = MultiFDPacket(zero_pages=100, offset=tuple(range(0, 128 * PAGE, PAGE)), ramblock=evil)
    made.take(0, PacketReceived(0, made.time, packet, 1 << 30, 0, 1))
    assert "<script>alert" not in "".join(page([made.facts()]))


# ---- the verb ------------------------------------------------------------------------------------


def test_without_a_migration_nothing_is_written(tmp_path):
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    status, out, err = multifd("report", empty, "-o", tmp_path / "page.html")
    assert (status, out) == (4, "")
    assert err == "multifd: no migration in the input: 0 records, no TCP connection\n"
    assert not (tmp_path / "page.html").exists()


def test_an_unreadable_input_is_a_message(tmp_path):
    (tmp_path / "noise").write_bytes(b"this is no capture at all, and no dump either" * 9)
    status, _, err = multifd("report", tmp_path / "noise", "-o", tmp_path / "page.html")
    assert status == 2
    assert err.startswith("multifd: ")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_a_missing_library_is_named(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    done = CliRunner().invoke(command, [str(REAL), "-o", str(tmp_path / "page.html")])
    assert isinstance(done.exception, MultiFDError)
    assert str(done.exception) == (
        "report needs plotly and jinja2: pip install 'multifd-proto[report]'"
    )


def test_the_page_goes_to_standard_output():
    status, out, _ = multifd("report", REAL, "-o", "-")
    assert status == 0
    assert out.startswith("<!DOCTYPE html>")
    assert out.rstrip().endswith("</html>")


def test_standard_input_is_read(tmp_path):
    data = zstandard.ZstdDecompressor().stream_reader(REAL.read_bytes()).read()
    status, out, _ = multifd("report", "-", "-o", tmp_path / "page.html", stdin=data)
    assert (status, out.splitlines()[0]) == (0, "standard input: completed")
