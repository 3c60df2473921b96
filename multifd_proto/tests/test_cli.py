"""The command as its users meet it: in a process of its own, on real and on damaged files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import struct
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import zstandard

from multifd_proto.capture.events import Data
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
NONE = FOLDER / "q10_0-none.pcap.zst"
OLD = FOLDER / "q5_2-none.pcap.zst"


def multifd(*words: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from multifd_proto.cli import main; main()", *map(str, words)],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    return done.returncode, out, err


def pcap(path: Path = NONE) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()


def records(data: bytes) -> list[bytes]:
    found, place = [], 24
    while place < len(data):
        (captured,) = struct.unpack_from("<I", data, place + 8)
        found.append(data[place : place + 16 + captured])
        place += 16 + captured
    return found


def snapped(data: bytes, limit: int) -> bytes:
    out = data[:24]
    for record in records(data):
        seconds, fraction, captured, length = struct.unpack_from("<IIII", record)
        kept = min(captured, limit)
        out += struct.pack("<IIII", seconds, fraction, kept, length) + record[16 : 16 + kept]
    return out


def channel_bytes(number: int) -> bytes:
    streams: dict[int, bytes] = {}
    for event in CaptureReader([NONE]):
        if isinstance(event, Data) and event.half.forward:
            streams[event.half.stream] = streams.get(event.half.stream, b"") + bytes(event.data)
    return next(s for s in streams.values() if s[:4] == b"\x11\x22\x33\x44" and s[24] == number)


# ---- decode ----------------------------------------------------------------------------------


def test_decode_prints_one_object_a_line():
    status, out, err = multifd("decode", "--json", "--offsets", NONE)
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["type"] for row in rows} == {"init", "main", "packet", "eof"}
    for row in rows:
        assert {"stream", "channel", "offset", "time", "type"} <= set(row)
    packet = next(row for row in rows if row["type"] == "packet" and row["normal_pages"])
    assert packet["magic"] == 0x11223344
    assert packet["version"] == 1
    assert packet["ramblock"] == "pc.ram"
    assert packet["payload"] == packet["next_packet_size"] == packet["normal_pages"] * 4096
    assert len(packet["page_offsets"]) == packet["normal_pages"] + packet["zero_pages"]
    assert packet["round"] == 1
    assert {row["channel"] for row in rows if row["type"] == "main"} == {None}
    assert re.search(r'"time": \d+\.\d{9}}$', out.splitlines()[0])


def test_decode_as_csv_and_parquet_equal_json(tmp_path):
    import pyarrow.parquet

    rows = [json.loads(line) for line in multifd("decode", "--json", OLD)[1].splitlines()]
    table = list(csv.DictReader(io.StringIO(multifd("decode", "--format", "csv", OLD)[1])))
    target = tmp_path / "out.parquet"
    assert multifd("decode", "--format", "parquet", "-o", target, OLD)[0] == 0
    columns = pyarrow.parquet.read_table(target).to_pylist()
    assert len(rows) == len(table) == len(columns)
    for row, line, column in zip(rows, table, columns, strict=True):
        for name in ("stream", "offset", "packet_num", "normal_pages", "next_packet_size"):
            value = row.get(name)
            assert line[name] == ("" if value is None else str(value))
            assert column[name] == value


def test_decode_as_text_tells_the_story():
    _, out, _ = multifd("decode", OLD)
    assert "init: channel 0 of machine 3a1f7c52-" in out
    assert re.search(r"ch 0 .* r0 packet 0 SYNC$", out, re.MULTILINE)
    assert re.search(r"packet \d+ 128 normal 0 zero pages of pc.ram \+ 524288 bytes", out)
    assert "RamSetup" in out


def test_decode_reads_standard_input_and_compressed_files(tmp_path):
    whole = multifd("decode", NONE)[1]
    packed = tmp_path / "capture.gz"
    packed.write_bytes(gzip.compress(pcap(), mtime=0))
    assert multifd("decode", packed)[1] == whole
    assert multifd("decode", "-", stdin=pcap())[1] == whole


def test_a_raw_dump_of_a_channel_is_accepted(tmp_path):
    dump = tmp_path / "channel-2.bin"
    dump.write_bytes(channel_bytes(2))
    status, out, _ = multifd("check", "--json", dump)
    report = json.loads(out)
    assert (status, report["verdict"], report["channels"]) == (0, "passed", 1)
    assert multifd("decode", dump)[1].count(" packet ") == 24


# ---- check -----------------------------------------------------------------------------------


def test_check_of_a_conforming_capture():
    status, out, err = multifd("check", "--channels", 4, NONE)
    assert (status, err) == (0, "")
    assert "fits QEMU 9.2 to 11.1" in out
    assert "page size  4096 bytes, inferred" in out
    assert out.rstrip().splitlines()[-1].startswith("CONFORMING: ")


def test_check_under_another_dialect_says_what_is_violated():
    status, out, _ = multifd("check", "--dialect", "10.0", OLD)
    assert status == 1
    assert "PKT-17 next_packet_size without payload (MUST)" in out
    assert re.search(r"channel \d @0x[0-9a-f]+: next_packet_size is \d+, must be 0", out)
    assert "spec/04-packets.md#pkt-17" in out
    assert out.rstrip().splitlines()[-1].startswith("VIOLATED: ")


def test_check_with_another_uuid_or_number_of_channels():
    uuid = "00000000-0000-0000-0000-000000000001"
    status, out, _ = multifd("check", "--json", "--uuid", uuid, "--channels", 3, NONE)
    failed = {r["id"] for r in json.loads(out)["requirements"] if r["verdict"] == "failed"}
    assert (status, failed) == (1, {"INIT-4", "INIT-5", "CHAN-3"})


def test_a_violation_carries_place_time_and_values():
    _, out, _ = multifd("check", "--json", "--dialect", "11.1", OLD)
    found = next(r for r in json.loads(out)["requirements"] if r["id"] == "SYNC-2")
    violation = found["violations"][0]
    assert violation["channel"] in (0, 1)
    assert violation["offset"] > 0
    assert violation["time"] > 1.7e9
    assert violation["demanded"] == "0"


# ---- the other verbs -------------------------------------------------------------------------


def test_summary_counts_as_qemu_does():
    facts = json.loads((FOLDER / "q10_0-none.json").read_text())
    _, out, _ = multifd("summary", "--json", NONE)
    summary = json.loads(out)
    assert summary["normal_pages"] == facts["ram"]["normal"]
    assert summary["zero_pages"] == facts["ram"]["duplicate"]
    assert summary["payload"] == facts["ram"]["normal-bytes"]
    assert len(summary["channels"]) == facts["channels"]
    assert summary["marks"] == len(summary["rounds"]) == facts["sync_points"]
    assert summary["missing_packet_nums"] == 0
    assert summary["resent_pages"] > 0


def test_summary_is_readable():
    status, out, _ = multifd("summary", NONE)
    assert status == 0
    assert "4 channels, 103 packets, 427 normal and 3974 zero pages" in out
    assert "rounds" in out


def test_extract_says_what_came(tmp_path):
    status, out, _ = multifd("extract", NONE, "-o", tmp_path / "ram")
    assert status == 0
    assert "pc.ram, 16.0 MiB, 407 normal and 3912 zero pages came" in out
    assert "every page came" in out
    # all zero, so no block of the disk is taken
    assert (tmp_path / "ram" / "pc.rom.ram").stat().st_blocks == 0


def test_extract_of_a_start_in_mid_stream_gives_what_came(tmp_path):
    data = pcap()
    found = records(data)
    path = tmp_path / "late.pcap"
    path.write_bytes(data[:24] + b"".join(found[len(found) // 4 :]))
    status, out, _ = multifd("extract", "--json", path, "-o", tmp_path / "ram")
    block = next(row for row in map(json.loads, out.splitlines()) if row["ramblock"] == "pc.ram")
    assert status == 0
    # all 235 but those of packets that were cut where the capture begins
    assert block["normal_pages"] > 200
    assert (tmp_path / "ram" / "pc.ram.ram").stat().st_blocks > 0


def test_spec_prints_a_requirement_and_finds_words():
    _, out, _ = multifd("spec", "init-5")
    assert "INIT-5 id below the channel count" in out
    assert "smaller than the number of channels" in out
    assert "tested by" in out
    _, out, _ = multifd("spec", "ramblock")
    assert "PKT-11" in out
    status, _, err = multifd("spec", "no such word")
    assert (status, err) == (4, "multifd: no requirement has 'no such word' in it\n")
    assert len(multifd("spec", "--json")[1].splitlines()) == 119


@pytest.mark.parametrize("verb", ["decode", "check", "summary", "extract", "spec", "render"])
def test_every_verb_has_help(verb):
    status, out, _ = multifd(verb, "--help")
    assert status == 0
    assert out.startswith("Usage: ")


# ---- damaged input: one clear message, and the documented status -----------------------------


@pytest.mark.parametrize("verb", ["decode", "check", "summary"])
def test_a_missing_file(verb, tmp_path):
    status, out, err = multifd(verb, tmp_path / "none.pcap")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "none.pcap" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, a pcap"),
        (b"#!/bin/sh\necho hello\n", "starts with 23 21 2f 62, a pcap, a pcapng or the dump"),
    ],
)
def test_a_file_that_is_no_capture(content, said, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    status, out, err = multifd("check", path)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_truncated_capture_loses_nothing_before_the_cut(tmp_path):
    path = tmp_path / "cut.pcap"
    data = pcap()
    path.write_bytes(data[: len(data) * 2 // 3])
    status, out, err = multifd("check", path)
    assert status == 0
    assert len(err.splitlines()) == 1
    assert "truncated at byte" in err
    assert "CONFORMING" in out
    whole = multifd("decode", "--json", NONE)[1].splitlines()
    part = multifd("decode", "--json", path)[1].splitlines()
    assert set(part) <= set(whole)
    assert len(part) > 50


def test_a_snap_length_of_200(tmp_path):
    path = tmp_path / "snapped.pcap"
    path.write_bytes(snapped(pcap(), 200))
    status, out, _ = multifd("check", "--json", path)
    report = json.loads(out)
    assert (status, report["verdict"]) == (0, "passed")
    verdicts = {r["id"]: r["verdict"] for r in report["requirements"]}
    assert verdicts["INIT-1"] == "passed"
    assert verdicts["PKT-22"] == verdicts["SYNC-5"] == "not exercised"
    rows = [json.loads(line) for line in multifd("decode", "--json", path)[1].splitlines()]
    assert {"init", "gap"} <= {row["type"] for row in rows}
    assert any(row["type"] == "packet" for row in rows)


def test_missing_segments(tmp_path):
    data = pcap()
    kept = [record for n, record in enumerate(records(data)) if n < 20 or n % 5]
    path = tmp_path / "lost.pcap"
    path.write_bytes(data[:24] + b"".join(kept))
    status, out, _ = multifd("check", "--json", path)
    assert (status, json.loads(out)["verdict"]) == (0, "passed")
    assert json.loads(out)["gaps"] > 0
    assert "what they hide is not judged" in multifd("check", path)[1]
    assert '"type": "gap"' in multifd("decode", "--json", path)[1]
    assert "gaps hide" in multifd("summary", path)[1]


def test_a_start_in_mid_stream(tmp_path):
    data = pcap()
    found = records(data)
    path = tmp_path / "late.pcap"
    path.write_bytes(data[:24] + b"".join(found[len(found) // 2 :]))
    status, out, _ = multifd("check", "--json", path)
    report = json.loads(out)
    assert (status, report["verdict"], report["channels"]) == (0, "passed", 4)
    verdicts = {r["id"]: r["verdict"] for r in report["requirements"]}
    assert verdicts["INIT-1"] == verdicts["SYNC-1"] == "not exercised"


def tcp_capture(*payloads: bytes) -> bytes:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.utils import PcapWriter

    out = io.BytesIO()
    writer = PcapWriter(out, linktype=1)
    for number, payload in enumerate(payloads):
        ip = IP(src="10.0.0.1", dst="10.0.0.2")
        frames = [("S", 99, b""), ("PA", 100, payload), ("FA", 100 + len(payload), b"")]
        for flags, seq, content in frames:
            tcp = TCP(flags=flags, seq=seq, sport=40000 + number, dport=4444)
            writer.write(Ether() / ip / tcp / content)
    writer.flush()
    return out.getvalue()


def test_an_encrypted_migration(tmp_path):
    path = tmp_path / "tls.pcap"
    path.write_bytes(tcp_capture(b"\x16\x03\x01\x02\x00" + b"x" * 200, b"\x16\x03\x01" + b"y" * 90))
    status, out, err = multifd("check", path)
    assert (status, out) == (4, "")
    assert "2 of 2 connections are encrypted (TLS)" in err


def test_a_capture_without_a_migration(tmp_path):
    path = tmp_path / "web.pcap"
    path.write_bytes(tcp_capture(b"GET / HTTP/1.1\r\n\r\n"))
    status, out, err = multifd("check", path)
    assert (status, out) == (4, "")
    assert err == "multifd: no migration in the input: 3 records, 1 TCP connections\n"


def test_plain_channels_beside_encrypted_ones_violate(tmp_path):
    offsets = (0,) * 128
    channel = MultiFDInit().build() + MultiFDPacket(flags=1, offset=offsets).build()
    path = tmp_path / "mixed.pcap"
    path.write_bytes(tcp_capture(channel, b"\x16\x03\x01" + b"y" * 90))
    status, out, _ = multifd("check", "--json", path)
    failed = {r["id"] for r in json.loads(out)["requirements"] if r["verdict"] == "failed"}
    assert (status, failed) == (1, {"TLS-1"})


@pytest.mark.parametrize(
    "words",
    [("check",), ("check", "--dialect", "2.0", "x"), ("check", "--page-size", "5000", "x"),
     ("check", "--uuid", "none", "x"), ("no-such-verb",), ("extract", "x")],
)  # fmt: skip
def test_wrong_usage(words):
    status, out, err = multifd(*words)
    assert (status, out) == (2, "")
    assert "Error: " in err or "Usage: " in err
