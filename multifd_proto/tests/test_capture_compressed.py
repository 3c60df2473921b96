import gzip
import random
import sys
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture import compressed
from multifd_proto.capture.compressed import ahead, gunzip, unzstd
from multifd_proto.capture.window import READ, Window
from multifd_proto.errors import CaptureError
from multifd_proto.tests.test_capture_window import trickle

NOISE = random.Random(4).randbytes(5000)
DATA = NOISE + bytes(300_000) + NOISE * 60

Decompressor = Callable[[Window], Iterator[bytes]]
KINDS = pytest.mark.parametrize(
    ("decompress", "compress"),
    [
        (gunzip, gzip.compress),
        (unzstd, zstandard.ZstdCompressor(write_checksum=True).compress),
        (unzstd, zstandard.ZstdCompressor(write_content_size=False).compress),
    ],
    ids=["gzip", "zstd", "zstd of unknown size"],
)


def decompressed(
    decompress: Decompressor, data: bytes, size: int = 1 << 20
) -> tuple[bytes, list[str]]:
    window = trickle(data, size)
    return b"".join(decompress(window)), window.truncated


@KINDS
@pytest.mark.parametrize("size", [1 << 20, 1000, 1])
def test_whole(decompress: Decompressor, compress: Callable[[bytes], bytes], size: int) -> None:
    assert decompressed(decompress, compress(DATA), size) == (DATA, [])


@KINDS
def test_pieces_are_small(decompress: Decompressor, compress: Callable[[bytes], bytes]) -> None:
    pieces = list(decompress(trickle(compress(bytes(50 << 20)), 1 << 20)))
    assert sum(map(len, pieces)) == 50 << 20
    assert max(map(len, pieces)) <= 1 << 20


@KINDS
def test_several_members(decompress: Decompressor, compress: Callable[[bytes], bytes]) -> None:
    data = compress(DATA) + compress(b"") + compress(NOISE)
    assert decompressed(decompress, data) == (DATA + NOISE, [])


@KINDS
def test_every_cut_is_noted_and_loses_nothing_that_was_there(
    decompress: Decompressor, compress: Callable[[bytes], bytes]
) -> None:
    stored = compress(NOISE[:300] * 4)
    for cut in range(1, len(stored)):
        data, faults = decompressed(decompress, stored[:cut])
        assert (NOISE[:300] * 4).startswith(data)
        assert len(faults) == 1
        assert faults[0].startswith("input: unreadable from about byte ")
        assert faults[0].endswith(" on: the compressed data ends too early")


def test_a_cut_in_gzip_loses_nothing() -> None:
    stored = gzip.compress(NOISE)
    data, _ = decompressed(gunzip, stored[:-8])
    assert data == NOISE
    data, _ = decompressed(gunzip, stored[:2500])
    assert len(data) > 2400


def test_a_fault_in_gzip_loses_nothing_before_it() -> None:
    text = b"".join(b"%d\n" % n for n in range(5000))
    stored = bytearray(gzip.compress(text))
    middle = len(stored) // 2
    stored[middle : middle + 20] = b"\xff" * 20
    data, faults = decompressed(gunzip, bytes(stored))
    assert data.startswith(text[: len(text) // 3])
    assert faults[0].startswith("input: unreadable from about byte ")
    assert " on: Error -3 while decompressing data: " in faults[0]


def test_a_wrong_checksum_of_gzip_is_noted_after_all_data() -> None:
    stored = bytearray(gzip.compress(DATA))
    stored[-8] ^= 1
    fault = "Error -3 while decompressing data: incorrect data check"
    data, faults = decompressed(gunzip, bytes(stored))
    assert data == DATA
    assert faults == [f"input: unreadable from about byte {len(stored)} on: {fault}"]


def test_a_fault_in_zstd_loses_its_block() -> None:
    compress = zstandard.ZstdCompressor(write_content_size=False).compress
    stored = bytearray(compress(random.Random(0).randbytes(300_000)))
    stored[6 + 3 + 128 * 1024] |= 6  # the second block gets a type that is not used
    data, faults = decompressed(unzstd, bytes(stored))
    assert len(data) == 128 * 1024
    assert len(faults) == 1


def test_zeros_behind_gzip_are_padding() -> None:
    assert decompressed(gunzip, gzip.compress(NOISE) + bytes(100_000), 1000) == (NOISE, [])
    again = gzip.compress(NOISE) + bytes(512) + gzip.compress(NOISE)
    assert decompressed(gunzip, again) == (NOISE * 2, [])


def test_what_else_is_behind_gzip_is_a_fault() -> None:
    stored = gzip.compress(NOISE) + b"garbage"
    data, faults = decompressed(gunzip, stored)
    assert data == NOISE
    assert faults[0].endswith("Error -3 while decompressing data: incorrect header check")


def test_frames_of_zstd_without_data_are_passed_over() -> None:
    skip = bytes.fromhex("5a2a4d18") + (1000).to_bytes(4, "little") + bytes(1000)
    frame = zstandard.ZstdCompressor().compress(NOISE)
    assert decompressed(unzstd, skip + frame + skip, 300) == (NOISE, [])
    data, faults = decompressed(unzstd, frame + skip[:-1])
    assert data == NOISE
    assert faults[0].endswith("the compressed data ends too early")


@KINDS
@given(st.binary(max_size=60), st.integers(0, 400), st.data())
def test_any_damage_gives_pieces_and_a_note_at_most(
    decompress: Decompressor,
    compress: Callable[[bytes], bytes],
    damage: bytes,
    place: int,
    data: st.DataObject,
) -> None:
    stored = compress(NOISE[:400] + bytes(1000))
    _, faults = decompressed(decompress, stored[:place] + damage + stored[place + len(damage) :])
    assert len(faults) <= 1


def ahead_of(path: Path) -> Generator[bytes, None, None]:
    file = path.open("rb", buffering=0)
    try:
        yield from ahead(gunzip, Window("x", file.read, []))
    finally:
        file.close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "decompression"]


def test_a_thread_decompresses_and_ends_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(DATA * 30))
    pieces = list(ahead_of(tmp_path / "x"))
    assert b"".join(pieces) == DATA * 30
    assert max(map(len, pieces)) < 4 << 20
    assert threads() == []


def test_a_thread_ends_when_no_more_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(bytes(100 << 20)))
    pieces = ahead_of(tmp_path / "x")
    assert next(pieces) == bytes(2 << 20)
    assert threads() == ["decompression"]
    pieces.close()
    assert threads() == []


def test_a_failure_is_handed_over_behind_all_before_it() -> None:
    noise = random.Random(1).randbytes(2 << 20)
    parts = iter([gzip.compress(noise)[:READ]])

    def fail(_count: int) -> bytes:
        for part in parts:
            return part
        raise CaptureError("x: cannot be read: gone")

    pieces = ahead(gunzip, Window("x", fail, []))
    assert noise.startswith(next(pieces))
    with pytest.raises(CaptureError, match="x: cannot be read: gone"):
        next(pieces)
    assert threads() == []


def test_a_fault_is_noted_behind_all_before_it() -> None:
    notes: list[str] = []
    window = trickle(gzip.compress(DATA)[:-2000], 1 << 20)
    window.truncated = notes
    pieces = ahead(gunzip, window)
    first = next(pieces)
    assert notes == []
    assert list(pieces) == []
    assert DATA.startswith(first)
    assert [note.partition(" on: ")[2] for note in notes] == ["the compressed data ends too early"]


def test_zlib_does_what_zlib_ng_does(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = pytest.importorskip("zlib_ng.zlib_ng")
    damaged = bytearray(gzip.compress(DATA))
    damaged[len(damaged) // 2] ^= 0xFF
    assert compressed._fastest() is fast
    data, [note] = decompressed(gunzip, bytes(damaged))
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    assert compressed._fastest() is zlib
    same, [other] = decompressed(gunzip, bytes(damaged))
    assert len(data) > len(DATA) // 3
    assert data == same
    assert note.partition(" on: ")[0] == other.partition(" on: ")[0]
