import struct
from pathlib import Path

import pytest

from multifd_proto.capture import pcap
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Undecodable
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError
from multifd_proto.tests.captures import EPOCH, Frame, write_pcap
from multifd_proto.tests.test_capture_window import trickle

FRAMES = [Frame(bytes((n,)) * (n * 40), EPOCH + n * 1001) for n in range(30)]
FRAMES.append(Frame(b"snapped", EPOCH + 999_999_999, 90_000))

VARIANTS = pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
TICKS = pytest.mark.parametrize("nano", [False, True], ids=["micro", "nano"])


def read(window: Window, limits: Limits | None = None) -> list[Frame]:
    frames = pcap.frames(window, CaptureInfo(), limits or Limits())
    return [Frame(bytes(v[a:b]), time, end - a) for time, _, v, a, b, end in frames]


def expected(frames: list[Frame], *, nano: bool) -> list[Frame]:
    tick = 1 if nano else 1000
    return [Frame(f.data, f.time // tick * tick, f.length or len(f.data)) for f in frames]


@VARIANTS
@TICKS
@pytest.mark.parametrize("size", [1 << 20, 1000, 1])
def test_frames_come_back(tmp_path: Path, order: str, nano: bool, size: int) -> None:
    data = write_pcap(tmp_path / "x", FRAMES, nano=nano, order=order).read_bytes()
    window = trickle(data, size)
    assert read(window) == expected(FRAMES, nano=nano)
    assert window.truncated == []


@VARIANTS
def test_the_link_type_is_that_of_the_file(tmp_path: Path, order: str) -> None:
    for link_type, high in ((147, 0), (147, 0xF4000000)):
        data = bytearray(write_pcap(tmp_path / "x", FRAMES[:1], 147, order=order).read_bytes())
        struct.pack_into(order + "I", data, 20, link_type | high)
        [(_, network, view, *_)] = pcap.frames(trickle(bytes(data), 9), CaptureInfo(), Limits())
        with pytest.raises(Undecodable, match=r"^link type 147 unknown$"):
            network(view, 0, 0)


def test_every_cut_keeps_the_frames_before_it(tmp_path: Path) -> None:
    data = write_pcap(tmp_path / "x", FRAMES[:4]).read_bytes()
    ends = [24]
    for frame in FRAMES[:4]:
        ends.append(ends[-1] + 16 + len(frame.data))
    for cut in range(24, len(data)):
        window = trickle(data[:cut], 1 << 20)
        whole = max(n for n, end in enumerate(ends) if end <= cut)
        assert read(window) == expected(FRAMES[:whole], nano=True)
        place, left = ends[whole], cut - ends[whole]
        size = ends[whole + 1] - place
        what = "a record header of 16" if left < 16 else f"a record of {size}"
        note = f"input: truncated at byte {place}: {what} bytes was demanded, {left} bytes are left"
        assert window.truncated == ([note] if left else [])


def test_a_cut_file_header_is_an_error(tmp_path: Path) -> None:
    data = write_pcap(tmp_path / "x", []).read_bytes()
    with pytest.raises(CaptureError, match=r"^input: pcap header is 23 bytes, 24 were demanded$"):
        read(trickle(data[:23], 100))


def test_an_absurd_record_is_an_error_after_the_frames_before_it(tmp_path: Path) -> None:
    data = write_pcap(tmp_path / "x", FRAMES[:3]).read_bytes()
    absurd = data + struct.pack("<IIII", 0, 0, 0xFFFFFFF0, 0) + bytes(100)
    frames = pcap.frames(trickle(absurd, 1 << 20), CaptureInfo(), Limits(record=1000))
    assert [next(frames)[5] for _ in range(3)]
    with pytest.raises(CaptureError) as error:
        next(frames)
    assert str(error.value) == (
        f"input: a record at byte {len(data)} claims 4294967296 bytes, at most 1000 are believed"
    )


def test_an_original_length_below_the_captured_one_is_not_believed(tmp_path: Path) -> None:
    data = write_pcap(tmp_path / "x", [Frame(bytes(80), EPOCH, 60)]).read_bytes()
    assert read(trickle(data, 1 << 20)) == [Frame(bytes(80), EPOCH, 80)]
