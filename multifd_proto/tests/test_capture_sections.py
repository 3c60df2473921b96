"""Capture files that are not simply records of one kind, in both ways of reading."""

import gzip
import os
import random
import struct
from pathlib import Path

import pytest
import zstandard

from multifd_proto.tests.both_ways import both
from multifd_proto.tests.captures import EPOCH, LINKS, Blocks, Frame, Talk, write_pcap, write_pcapng

STREAM = random.Random(7).randbytes(60_000)
LINES = b"CLIENT_RANDOM " + b"11" * 32 + b" " + b"22" * 48 + b"\n"


def conversation(link: str = "ethernet") -> list[Frame]:
    return Talk(link=link).handshake().stream(STREAM, 500).send("FA", len(STREAM)).frames


def ticks_of(frame: Frame, resolution: int, offset: int) -> int:
    ticks = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    return int(-(-(frame.time - offset * 10**9) * ticks // 10**9))


def times(path: Path) -> list[int]:
    (there, _), _ = both(path)
    assert there.data == STREAM
    return [event.time for event in there.events]


@pytest.mark.parametrize("offset", [0, 1_600_000_000, -5])
@pytest.mark.parametrize("resolution", [6, 9, 3, 10, 0x80 | 10, 0x80 | 20, 0x80 | 33])
@pytest.mark.parametrize("order", ["<", ">"])
def test_times_are_those_of_the_interface(tmp_path, order, resolution, offset):
    frames = conversation()
    for number, frame in enumerate(frames):  # what every resolution can say
        frame.time = EPOCH + number * 10**9
    options = {9: bytes((resolution,)), 14: struct.pack(order + "q", offset)}
    blocks = Blocks(order).interface(options=options)
    for frame in frames:
        blocks.packet(frame, ticks_of(frame, resolution, offset))
    (tmp_path / "x").write_bytes(blocks.data)
    assert times(tmp_path / "x") == [frame.time for frame in frames[3:]]


def test_interfaces_differ_in_link_layer_and_resolution(tmp_path):
    kinds = [("ethernet", 9), ("cooked v2", 6), ("raw", 0x80 | 6), ("null", 3)]
    blocks = Blocks()
    for link, resolution in kinds:
        blocks.interface(LINKS[link][0], options={9: bytes((resolution,))})
    by_link = [conversation(link) for link, _ in kinds]
    chance = random.Random(1)
    for number in range(len(by_link[0])):
        which = chance.randrange(4)
        frame = by_link[which][number]
        frame.time = EPOCH + number * 10**9
        blocks.packet(frame, ticks_of(frame, kinds[which][1], 0), which)
    (tmp_path / "x").write_bytes(blocks.data)
    assert len(times(tmp_path / "x")) == len(by_link[0]) - 3


def test_sections_of_both_byte_orders_follow_one_another(tmp_path):
    frames = conversation()
    data = b""
    for number, start in enumerate(range(0, len(frames), 30)):
        blocks = Blocks("<>"[number % 2])
        for _ in range(number % 3):
            blocks.interface(147)
        blocks.interface(options={9: b"\x09"})
        for frame in frames[start : start + 30]:
            blocks.packet(frame, frame.time, number % 3)
        data += blocks.data
    (tmp_path / "x").write_bytes(data)
    assert times(tmp_path / "x") == [frame.time for frame in frames[3:]]


def test_what_is_between_packets_is_kept_and_counted(tmp_path):
    frames = conversation()
    blocks = Blocks().interface(options={9: b"\x09"})
    for number, frame in enumerate(frames):
        if number % 20 == 7:
            blocks.block(
                5, blocks.pack("3I", 0, 0, 0) + blocks.options({5: blocks.pack("Q", number)})
            )
            blocks.block(10, blocks.pack("II", 0x544C534B, len(LINES)) + LINES)
            blocks.block(0x4242, b"another kind")
        if number % 7 == 3:
            blocks.block(3, blocks.pack("I", len(frame.data)) + frame.data)
        else:
            blocks.packet(frame, frame.time)
    (tmp_path / "x").write_bytes(blocks.data)
    (there, _), reader = both(tmp_path / "x")
    assert there.data == STREAM
    assert reader.info.records == len(frames)
    assert reader.info.drops == 107
    assert reader.info.secrets
    assert reader.info.secrets.faults == []


@pytest.mark.parametrize("write", [write_pcap, write_pcapng])
def test_a_record_that_is_cut_ends_the_file(tmp_path, write):
    frames = conversation()
    content = write(tmp_path / "x", frames).read_bytes()
    for cut in random.Random(1).sample(range(2000, len(content)), 20):
        (tmp_path / "x").write_bytes(content[:cut])
        (there, _), reader = both(tmp_path / "x")
        assert there.data == STREAM[: 500 * (reader.info.records - 3)]
        assert there.end is None
        assert len(reader.info.truncated) == 1


def test_a_tail_of_zeros_is_empty_records(tmp_path):
    path = write_pcap(tmp_path / "x", conversation())
    with path.open("ab") as file:
        file.write(bytes(16 * 200 + 5))
    (there, _), reader = both(path)
    assert there.data == STREAM
    assert reader.info.skipped == {"empty": 200}
    assert reader.info.truncated[0].endswith(
        "a record header of 16 bytes was demanded, 5 bytes are left"
    )


@pytest.mark.parametrize("container", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [0, 20_000])
@pytest.mark.parametrize("write", [write_pcap, write_pcapng])
def test_what_is_compressed_is_read_up_to_its_fault(tmp_path, write, cut, container):
    frames = conversation()
    for number in range(200, 320):  # so that it is several pieces
        frames.append(Frame(os.urandom(30_000), frames[-1].time + number))
    content = write(tmp_path / "x", frames).read_bytes()
    compress = gzip.compress if container == "gzip" else zstandard.ZstdCompressor().compress
    stored = compress(content)
    (tmp_path / "x").write_bytes(stored[: len(stored) - cut])
    (there, _), reader = both(tmp_path / "x")
    assert there.data == STREAM
    assert reader.info.formats[0].endswith(f" in {container}")
    assert len(reader.info.truncated) == (2 if cut else 0)
    if cut:
        assert reader.info.truncated[0].endswith(" on: the compressed data ends too early")
        assert reader.info.records < len(frames)
    else:
        assert reader.info.records == len(frames)
