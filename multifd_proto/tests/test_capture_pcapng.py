import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from multifd_proto.capture import pcapng
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Undecodable
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError
from multifd_proto.tests.captures import EPOCH, STEP, Blocks, Frame, write_pcapng
from multifd_proto.tests.test_capture_window import trickle

FRAMES = [Frame(bytes((n,)) * (n * 41), EPOCH + n * STEP, n * 41 + 10) for n in range(1, 30)]
ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])


def read(window: Window, info: CaptureInfo | None = None) -> list[Frame]:
    frames = pcapng.frames(window, info or CaptureInfo(), Limits())
    return [Frame(bytes(v[a:b]), time, end - a) for time, _, v, a, b, end in frames]


def of(blocks: Blocks, size: int = 1 << 20) -> Window:
    return trickle(blocks.data, size)


def links(blocks: Blocks) -> list[str]:
    """What the link layers of the frames say to an empty frame."""
    answers = []
    for _, network, *_ in pcapng.frames(of(blocks), CaptureInfo(), Limits()):
        with pytest.raises(Undecodable) as error:
            network(memoryview(b""), 0, 0)
        answers.append(str(error.value))
    return answers


@pytest.mark.parametrize("size", [1 << 20, 1000, 1])
def test_frames_come_back(tmp_path: Path, size: int) -> None:
    window = trickle(write_pcapng(tmp_path / "x", FRAMES).read_bytes(), size)
    assert read(window) == FRAMES
    assert window.truncated == []


@ORDERS
@pytest.mark.parametrize(
    ("resolution", "ticks"),
    [
        (None, 10**6),
        (9, 10**9),
        (6, 10**6),
        (3, 10**3),
        (0, 1),
        (12, 10**12),
        (0x80 | 10, 2**10),
        (0x80 | 30, 2**30),
        (0x80, 1),
    ],
)
def test_times_of_any_resolution_are_exact(order: str, resolution: int | None, ticks: int) -> None:
    options = {} if resolution is None else {9: bytes((resolution,))}
    blocks = Blocks(order).interface(options=options)
    counts = [0, 1, 12345678901, 2**63 + 1, 2**64 - 1]
    for count in counts:
        blocks.packet(Frame(b"abc"), count)
    assert [frame.time for frame in read(of(blocks))] == [c * 10**9 // ticks for c in counts]


@ORDERS
@pytest.mark.parametrize("offset", [0, 1_700_000_000, -3])
def test_times_are_moved_by_the_offset_of_the_interface(order: str, offset: int) -> None:
    options = {9: b"\x09", 14: struct.pack(order + "q", offset)}
    blocks = Blocks(order).interface(options=options).packet(Frame(b"abc"), 5)
    assert read(of(blocks))[0].time == offset * 10**9 + 5


@ORDERS
def test_every_interface_has_its_own_link_type_and_times(order: str) -> None:
    blocks = Blocks(order).interface(147).packet(FRAMES[0], 7)
    blocks.interface(148, options={2: b"name", 9: b"\x09", 0x8000: b"odd"})
    blocks.packet(FRAMES[1], 7, 1).packet(FRAMES[2], 7, 0)
    assert links(blocks) == [f"link type {n} unknown" for n in (147, 148, 147)]
    assert [frame.time for frame in read(of(blocks))] == [7000, 7, 7000]


def test_every_section_has_its_own_byte_order_and_interfaces() -> None:
    sections = [
        Blocks("<").interface(147).packet(FRAMES[0], 1),
        Blocks(">").interface(148).packet(FRAMES[1], 2),
        Blocks(">").packet(FRAMES[2], 3),
    ]
    whole = Blocks()
    whole.data = b"".join(section.data for section in sections)
    assert links(whole) == [
        "link type 147 unknown",
        "link type 148 unknown",
        "interface not described",
    ]
    assert [frame.data for frame in read(of(whole, 13))] == [f.data for f in FRAMES[:3]]


@ORDERS
def test_simple_and_obsolete_packets(order: str) -> None:
    blocks = Blocks(order).interface(147, snap=10)
    blocks.block(3, blocks.pack("I", 6) + b"simple")
    blocks.block(3, blocks.pack("I", 500) + b"simple but")
    blocks.block(2, blocks.pack("HH4I", 0, 0xFFFF, 1, 2, 3, 90) + b"old")
    assert read(of(blocks)) == [
        Frame(b"simple", 0, 6),
        Frame(b"simple but", 0, 500),
        Frame(b"old", (2**32 + 2) * 1000, 90),
    ]
    assert links(blocks) == ["link type 147 unknown"] * 3


@ORDERS
def test_options_behind_a_packet_are_passed_over(order: str) -> None:
    blocks = Blocks(order).interface()
    head = blocks.pack("5I", 0, 0, 5, 3, 3)
    blocks.block(6, head + b"abc\0" + blocks.options({1: b"a comment", 4: bytes(8)}))
    blocks.packet(Frame(b"def"), 6)
    assert [frame.data for frame in read(of(blocks))] == [b"abc", b"def"]


@ORDERS
def test_drops_are_summed_up(order: str) -> None:
    def statistics(interface: int, received: int, interface_drops: int, kernel_drops: int) -> bytes:
        options = {4: received, 5: interface_drops, 7: kernel_drops}
        packed = {code: blocks.pack("Q", value) for code, value in options.items()}
        return blocks.pack("3I", interface, 0, 0) + blocks.options(packed)

    blocks = Blocks(order).interface().interface()
    blocks.block(5, statistics(0, 100, 2, 1))
    blocks.block(5, statistics(1, 100, 10, 0))
    blocks.block(5, statistics(0, 200, 5, 1))  # sums since the start: 3 more
    blocks.block(5, blocks.pack("3I", 0, 0, 0))
    blocks.block(2, blocks.pack("HH4I", 0, 4, 0, 0, 0, 0))
    info = CaptureInfo()
    read(of(blocks), info)
    assert info.drops == 3 + 10 + 3 + 4


def test_other_blocks_are_passed_over() -> None:
    blocks = Blocks().block(10, bytes(100)).interface().block(0x0BAD, b"custom" * 99).block(4, b"")
    blocks.packet(Frame(b"abc"), 6).block(0x80000001, b"").packet(Frame(b"def"), 6)
    assert [frame.data for frame in read(of(blocks, 50))] == [b"abc", b"def"]


def test_a_packet_longer_than_its_block_is_refused() -> None:
    blocks = Blocks().interface()
    blocks.block(6, blocks.pack("5I", 0, 0, 0, 9, 9) + bytes(8))
    blocks.packet(Frame(b"abc"), 6)
    assert links(blocks)[0] == "packet longer than its block"
    assert [frame.data for frame in read(of(blocks))] == [b"", b"abc"]


def test_every_cut_keeps_the_packets_before_it() -> None:
    blocks = Blocks().interface()
    ends = [len(blocks.data)]
    ends.extend(len(blocks.packet(frame, 5).data) for frame in FRAMES[:3])
    for cut in range(28, len(blocks.data)):
        window = trickle(blocks.data[:cut], 1 << 20)
        assert [f.data for f in read(window)] == [
            f.data for f, end in zip(FRAMES, ends[1:], strict=False) if end <= cut
        ]
        assert len(window.truncated) == (cut != 28 and cut not in ends)
    window = trickle(blocks.data[: ends[1] - 3], 1 << 20)
    read(window)
    size = ends[1] - ends[0]
    demanded = f"a block of {size} bytes was demanded, {size - 3} bytes are left"
    assert window.truncated == [f"input: truncated at byte {ends[0]}: {demanded}"]


def error_of(data: bytes) -> str:
    with pytest.raises(CaptureError) as error:
        read(trickle(data, 1 << 20))
    return str(error.value)


def test_a_cut_header_is_an_error() -> None:
    for cut in range(4, 28):
        message = f"input: pcapng header is {cut} bytes, 28 were demanded"
        assert error_of(Blocks().data[:cut]) == message


def test_a_wrong_byte_order_magic_is_an_error() -> None:
    data = Blocks().interface().data
    second = Blocks().data.replace(b"\x4d\x3c\x2b\x1a", b"\x4d\x3c\x2b\x1b")
    assert error_of(data + second) == (
        f"input: section at byte {len(data)} has byte-order magic 4d3c2b1b, "
        "1a2b3c4d or 4d3c2b1a was demanded"
    )


@pytest.mark.parametrize(
    ("kind", "size", "least"),
    [(6, 28, 32), (0x99, 8, 12), (0x99, 14, 12), (1, 12, 20), (6, 34, 32)],
)
def test_impossible_block_sizes_are_errors(kind: int, size: int, least: int) -> None:
    data = Blocks().interface().packet(FRAMES[0], 1).data
    assert error_of(data + struct.pack("<II", kind, size) + bytes(100)) == (
        f"input: block of type {kind} at byte {len(data)} is {size} bytes, "
        f"a multiple of 4 from {least} on was demanded"
    )


@pytest.mark.parametrize("kind", [6, 0x99])
def test_sizes_that_contradict_each_other_are_an_error(kind: int) -> None:
    data = Blocks().interface().packet(FRAMES[0], 1).data
    block = struct.pack("<II", kind, 40) + bytes(28) + struct.pack("<I", 44)
    assert error_of(data + block) == (
        f"input: block at byte {len(data)} is 40 bytes at its start and 44 at its end"
    )


def test_an_absurd_block_is_an_error_after_the_packets_before_it() -> None:
    data = Blocks().interface().packet(FRAMES[0], 1).data
    frames: Iterable[object] = pcapng.frames(
        trickle(data + struct.pack("<II", 6, 0xFFFFFFF0) + bytes(100), 99), CaptureInfo(), Limits()
    )
    frames = iter(frames)
    assert next(frames)
    message = (
        f"input: a block at byte {len(data)} claims 4294967280 bytes, at most 16777216 are believed"
    )
    with pytest.raises(CaptureError, match=f"^{message}$"):
        next(frames)
