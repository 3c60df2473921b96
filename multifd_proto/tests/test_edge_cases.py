"""Every way in which a capture of a migration is not simple: packets found are packets captured."""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from multifd_proto.capture import streams
from multifd_proto.machine.events import BytesMissing, PacketReceived
from multifd_proto.tests.bigcaptures import Recipe, generate
from multifd_proto.tests.captures import EPOCH, STEP, Blocks, Talk, write_pcap
from multifd_proto.tests.test_channel import STREAM, pages, sync
from multifd_proto.tests.test_columns import Said, assert_same
from multifd_proto.wire.schema import MultiFDInit

MIB = 1 << 20
CASES = {
    "base": {},
    "vlan": {"link": "vlan"},
    "qinq": {"link": "qinq"},
    "IPv6": {"version": 6},
    "nanoseconds": {"nano": True},
    "big-endian": {"order": ">"},
    "sll": {"link": "sll"},
    "sll2": {"link": "sll2"},
    "null": {"link": "null"},
    "null IPv6": {"link": "null", "version": 6},
    "raw": {"link": "raw"},
    "raw IPv6": {"link": "raw", "version": 6},
    "pcapng": {"resolutions": (6,)},
    "pcapng, nanoseconds": {"resolutions": (9,)},
    "pcapng, interfaces of other resolutions": {"resolutions": (3, 6, 9, 0x80 | 20)},
    "65,483-byte segments": {"segment": 65_483},
    "IPv4 length 0": {"segment": 180_000, "length_zero": True},
    "IPv6 length 0, no hop-by-hop": {"segment": 180_000, "length_zero": True, "version": 6},
    "reorder 5 %": {"reorder": 0.05},
    "retransmit overlap 5 %": {"retransmit": 0.05},
    "both": {"reorder": 0.05, "retransmit": 0.05, "segment": 9000},
    "sequence wrap": {"isn": 2**32 - MIB // 2},
    "heads behind each other in pages": {"nested": True},
    "zero pages only": {"zero_only": True, "size": MIB // 2},
}
INCOMPLETE = {
    "loss 1 %, 1448": {"loss": 0.01},
    "loss 10 %, 1448": {"loss": 0.1},
    "loss 1 %, 32 KiB": {"loss": 0.01, "segment": 32768, "size": 16 * MIB},
    "loss 10 %, 32 KiB": {"loss": 0.1, "segment": 32768, "size": 16 * MIB},
    "loss 10 %, many heads": {"loss": 0.1, "segment": 500, "zero_only": True, "size": MIB // 2},
    "loss, reorder, retransmit": {"loss": 0.02, "reorder": 0.05, "retransmit": 0.05},
    "snap length 2048": {"snap": 2048, "segment": 32768},
    "snap length 96": {"snap": 96, "segment": 500, "zero_only": True, "size": MIB // 2},
    "mid-stream": {"late": True, "segment": 9000, "size": 8 * MIB},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_tables(monkeypatch):
    monkeypatch.setattr(streams, "_FIRST", 16)
    monkeypatch.setattr(streams, "_LEAST", 1024)
    monkeypatch.setattr(streams, "_PATIENCE", 1)


def heads(said: Said) -> dict[int, list[PacketReceived]]:
    """Return the packets by source port."""
    found = {}
    for stream, events in said.events.items():
        source = said.connections[stream].half.source
        assert source
        found[source.port] = [e for e in events if isinstance(e, PacketReceived)]
    return found


def numbers(said: Said, port: int = 40_000) -> list[int]:
    return [e.packet.packet_num for e in heads(said).get(port, [])]


# ---- captures of migrations ----------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_packet_is_found(options, tmp_path):
    truth = generate(tmp_path / "a", Recipe(**{"size": 3 * MIB, "segment": 1448} | options))
    said = assert_same([tmp_path / "a"])
    found = heads(said)
    for sent in truth.channels:
        seen = [(e.offset, e.packet.packet_num, e.known) for e in found[40_001 + sent.id]]
        assert seen == sent.listed
    (report,) = said.reports
    assert report["verdict"] == "passed"
    assert truth.total("lost") == 0


@pytest.mark.parametrize("nested", [False, True], ids=["single fakes", "fakes in chains"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", INCOMPLETE.values(), ids=INCOMPLETE)
def test_every_head_that_was_captured_is_found_and_no_other(options, seed, nested, tmp_path):
    recipe = {"size": 6 * MIB, "segment": 1448, "seed": seed, "nested": nested} | options
    truth = generate(tmp_path / "a", Recipe(**recipe))
    said = assert_same([tmp_path / "a"])
    found = heads(said)
    for sent in truth.channels:
        listed = [(at - sent.begin, known) for at, _, known in sent.listed]
        seen = [(e.offset, e.known) for e in found[40_001 + sent.id]]
        assert set(seen) <= set(listed)
        assert [(at, known) for at, known in seen if known >= 24] == [
            (at, known) for at, known in listed if known >= 24
        ]
    (report,) = said.reports
    assert [r["id"] for r in report["requirements"] if r["verdict"] == "failed"] == []
    assert truth.total("found") > 0


def test_a_capture_past_the_wrap_and_past_4_gib(tmp_path):
    recipe = Recipe(size=17 << 29, channels=2, sparse=True, acks=0, round_packets=4096, link="raw")
    truth = generate(tmp_path / "a", recipe)
    assert truth.bytes > 17 << 29
    assert all(sent.length > 1 << 32 for sent in truth.channels)
    found = heads(Said([tmp_path / "a"], columns=True))
    for sent in truth.channels:
        seen = [(e.offset, e.packet.packet_num, e.known) for e in found[40_001 + sent.id]]
        assert seen == sent.listed


# ---- TCP -----------------------------------------------------------------------------------------

ALL = [0, 1, 2, 3, 4, 5, 6]
SIZE = 5000


def talk(**options) -> Talk:
    return Talk(**options).handshake()


def said_of(tmp_path: Path, one: Talk, link_type: int = 1) -> Said:
    said: Said = assert_same([write_pcap(tmp_path / "a", one.frames, link_type)])
    return said


def pieces(begin: int = 0, end: int = len(STREAM)) -> list[tuple[int, bytes]]:
    """Return the stream's segments, by offset."""
    edges = [*range(begin, end, SIZE), end]
    return [(a, STREAM[a:b]) for a, b in pairwise(edges)]


def test_the_first_captured_segment_is_not_the_first_in_sequence(tmp_path):
    one = Talk()
    parts = pieces()
    for offset, data in [parts[3], parts[0], parts[2], parts[1], *parts[4:]]:
        one.send("A", offset, data)
    assert numbers(said_of(tmp_path, one)) == ALL


def test_a_keep_alive_is_nothing_new(tmp_path):
    one = talk()
    for offset, data in pieces():
        one.send("A", offset, data).send("A", offset + len(data) - 1, b"\0")
    said = said_of(tmp_path, one.send("FA", len(STREAM)))
    assert numbers(said) == ALL
    assert said.halves[0][0][3] == len(pieces())  # bytes that came again


def test_a_zero_window_probe_is_the_next_byte_or_an_old_one(tmp_path):
    one = talk()
    for offset, data in pieces():
        one.send("A", offset, data[:1]).send("A", 0, forward=False).send("A", offset, data)
    assert numbers(said_of(tmp_path, one)) == ALL


def test_a_syn_may_bring_data(tmp_path):
    one = Talk().send("S", -1, STREAM[:100]).send("SA", forward=False)
    for offset, data in pieces(100):
        one.send("A", offset, data)
    assert numbers(said_of(tmp_path, one)) == ALL


@pytest.mark.parametrize("flags", ["FA", "R", "RA"])
def test_a_connection_ends(flags, tmp_path):
    one = talk().stream(STREAM, SIZE).send(flags, len(STREAM))
    one.send("A", len(STREAM) + (flags == "FA"), sync(99))  # after the end there is nothing
    assert numbers(said_of(tmp_path, one)) == ALL


def test_a_port_used_again_is_another_connection(tmp_path):
    one = talk().stream(STREAM, SIZE).send("FA", len(STREAM)).send("FA", forward=False)
    again = talk(isn=2**31 + 5).stream(STREAM, SIZE)
    one.frames += [replace(f, time=f.time + STEP * len(one.frames)) for f in again.frames]
    said = said_of(tmp_path, one)
    assert [len([e for e in events if isinstance(e, PacketReceived)])
            for events in said.events.values()] == [7, 7]  # fmt: skip
    assert len(said.reports) == 2


def test_of_overlapping_bytes_the_first_copy_counts(tmp_path):
    one = talk()
    for offset, data in pieces():
        one.send("A", offset, data).send("A", offset + 8, bytes(len(data) - 8))
    said = said_of(tmp_path, one)
    assert numbers(said) == ALL


def test_frames_that_are_captured_twice_count_once(tmp_path):
    one = talk().stream(STREAM, SIZE).send("FA", len(STREAM))
    one.frames = [frame for frame in one.frames for _ in range(2)]
    said = said_of(tmp_path, one)
    assert numbers(said) == ALL
    assert said.halves[0][0][3] == len(STREAM)


@pytest.mark.parametrize("extension", ["hop-by-hop", "jumbo"])
def test_ipv6_may_have_extension_headers(extension, tmp_path):
    one = talk(version=6, link="raw").stream(STREAM, 60_000)
    for frame in one.frames:
        ip, tcp = bytearray(frame.data[:40]), frame.data[40:]
        jumbo = struct.pack(">BBI", 0xC2, 4, len(tcp) + 8)
        option = jumbo if extension == "jumbo" else b"\1\4" + bytes(4)
        size = 0 if extension == "jumbo" else len(tcp) + 8
        ip[4:7] = struct.pack(">HB", size, 0)
        frame.data = bytes(ip) + b"\6\0" + option + tcp
    assert numbers(said_of(tmp_path, one, 101)) == ALL


# ---- files ---------------------------------------------------------------------------------------

TALK = Talk().handshake().stream(STREAM, SIZE).send("FA", len(STREAM))


def test_a_last_record_that_is_cut_is_told(tmp_path):
    path = write_pcap(tmp_path / "a", [*TALK.frames, TALK.frames[-2]])
    size = path.stat().st_size
    os.truncate(path, size - 10)
    said = assert_same([path])
    assert numbers(said) == ALL
    last = len(TALK.frames[-2].data)
    (told,) = said.reader.info.truncated
    assert told == (
        f"{path}: truncated at byte {size - last - 16}: a record of {last + 16} bytes was "
        f"demanded, {last + 6} bytes are left"
    )


def test_zeros_behind_the_last_record_are_empty_records(tmp_path):
    path = write_pcap(tmp_path / "a", TALK.frames)
    with path.open("ab") as file:
        file.write(bytes(16 * 1000))
    said = assert_same([path])
    assert numbers(said) == ALL
    assert said.reader.info.skipped == {"empty": 1000}
    assert said.reader.info.first == EPOCH


def sections(cut: int) -> Blocks:
    """Return the frames in two sections of other byte orders and times."""
    first = Blocks().interface(options={9: b"\6"})
    for frame in TALK.frames[:cut]:
        first.packet(frame, frame.time // 1000)
    second = Blocks(">").interface(options={9: b"\x09"})
    for frame in TALK.frames[cut:]:
        second.packet(frame, frame.time)
    first.data += second.data
    return first


@pytest.mark.parametrize("cut", [1, 20, len(TALK.frames) - 1])
def test_a_pcapng_may_have_several_sections(cut, tmp_path):
    (tmp_path / "a").write_bytes(sections(cut).data)
    said = assert_same([tmp_path / "a"])
    assert numbers(said) == ALL
    assert (said.reader.info.first, said.reader.info.last) == (EPOCH, TALK.frames[-1].time)


def test_what_the_kernel_dropped_is_told(tmp_path):
    blocks = Blocks().interface(options={9: b"\x09"})
    for number, frame in enumerate(TALK.frames, 1):
        blocks.packet(frame, frame.time)
        if number % 8 == 0:
            body = blocks.pack("III", 0, 0, 0) + blocks.options({7: blocks.pack("Q", number)})
            blocks.block(5, body)
    (tmp_path / "a").write_bytes(blocks.data)
    said = assert_same([tmp_path / "a"])
    assert numbers(said) == ALL
    assert said.reader.info.drops == len(TALK.frames) // 8 * 8


@pytest.mark.parametrize("columns", [False, True], ids=["singly", "columns"])
def test_a_fifo_is_read_as_it_comes(columns, tmp_path):
    truth = generate(tmp_path / "a", Recipe(size=3 * MIB, segment=1448))
    os.mkfifo(tmp_path / "fifo")
    data = (tmp_path / "a").read_bytes()
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    writer.start()
    found = heads(Said([tmp_path / "fifo"], columns=columns))
    writer.join()
    for sent in truth.channels:
        seen = [(e.offset, e.packet.packet_num, e.known) for e in found[40_001 + sent.id]]
        assert seen == sent.listed


def test_files_in_order_are_one_capture(tmp_path):
    cut = len(TALK.frames) // 2
    paths = [
        write_pcap(tmp_path / "a", TALK.frames[:cut]), write_pcap(tmp_path / "b", TALK.frames[cut:])
    ]  # fmt: skip
    assert numbers(assert_same(paths)) == ALL


def test_a_lost_head_is_all_that_is_missed(tmp_path):
    stream = MultiFDInit(id=0).build() + sync(0) + pages(1, 3) + pages(2, 3) + sync(3) + sync(4)
    begin = stream.index(pages(2, 3))
    one = talk()
    for offset in range(0, len(stream), 1000):
        if not offset <= begin < offset + 1000:
            one.send("A", offset, stream[offset : offset + 1000])
    said = said_of(tmp_path, one)
    assert numbers(said) == [0, 1, 3, 4]
    lost = [e for e in said.events[0] if isinstance(e, BytesMissing) and e.reason == "lost"]
    assert [e.length for e in lost] == [1000]


def test_what_is_known_late_is_of_the_migration_that_it_was_part_of(tmp_path):
    """The second channel's first packets are lost: what it is shows when the first has ended."""
    first = talk().stream(STREAM, SIZE)
    second = Talk(port=40_001).stream(STREAM[1000:], 2 * SIZE)  # few, so held to the end
    second.frames.pop(0)
    frames = [frame for pair in zip(first.frames, second.frames, strict=False) for frame in pair]
    frames += second.frames[len(first.frames) :] + first.frames[len(second.frames) :]
    end = Talk().send("FA", len(STREAM)).send("FA", forward=False).frames
    late = Talk(port=40_001).send("A", len(STREAM), sync(7)).frames
    frames += [*end, *late]
    for number, frame in enumerate(frames):
        frame.time = EPOCH + number * STEP
    said = assert_same([write_pcap(tmp_path / "a", frames)])
    assert len(said.reports) == 1
    assert numbers(said, 40_001)[-1] == 7
