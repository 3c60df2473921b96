"""The decoders on payloads that encoders do not write: faults, losses, bombs, any bytes."""

import struct
import tracemalloc
import zlib
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.tests.payloads import (
    METHOD,
    decode,
    deflate,
    in_any_cut,
    methods,
    page,
    pagewise,
)
from multifd_proto.wire.decoders import PayloadFault
from multifd_proto.wire.decoders import PayloadFaultKind as Kind
from multifd_proto.wire.payload import METHODS, PayloadMethod

PAGE = page(1, 0, 1024)
ZLIB_PAGE = deflate(PAGE, 15, mode=zlib.Z_SYNC_FLUSH)
MAGIC = zstandard.FRAME_HEADER
MEMORY = "1024 bytes of guest memory"
LASTING = "one that lasts as long as its channel"


def gzip_member(content: bytes, sizes: tuple[int, int] | None = None) -> bytes:
    """A member with a QZ field that says `sizes`; None leaves the field away."""
    plain = deflate(content, 31)
    if sizes is None:
        return plain
    field = struct.pack("<H2sHII", 12, b"QZ", 8, *sizes)
    return plain[:3] + b"\x04" + plain[4:10] + field + plain[10:]


def zstd_frame(content: bytes, *, ended: bool = False) -> bytes:
    frame = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    mode = zstandard.COMPRESSOBJ_FLUSH_FINISH if ended else zstandard.COMPRESSOBJ_FLUSH_BLOCK
    return frame.compress(content) + frame.flush(mode)


ENDED_ZLIB, ENDED_ZSTD = deflate(PAGE, 15), zstd_frame(PAGE, ended=True)
BAD_BLOCK = b"\x78\x01\x07"
RAW_PAGE, ZLIB_STREAM = deflate(PAGE, -15), deflate(PAGE, 15)
MEMBER = gzip_member(PAGE)
BODY = len(MEMBER) - 18

FAULTS = [
    ("none", PAGE[:-1], Kind.SHORT, "1023 bytes of guest memory", MEMORY),
    ("none", PAGE + b"x", Kind.SURPLUS, f"more than {MEMORY}", MEMORY),
    ("zlib", b"", Kind.SHORT, "0 bytes of guest memory", MEMORY),
    ("zlib", b"\xff\xff", Kind.CORRUPT,
     "inflate: incorrect header check at payload byte 1", MEMORY),
    ("zlib", BAD_BLOCK, Kind.CORRUPT,
     "inflate: invalid block type at payload byte 2", MEMORY),
    ("zlib", deflate(PAGE[:-1], 15, mode=zlib.Z_SYNC_FLUSH), Kind.SHORT,
     "1023 bytes of guest memory", MEMORY),
    ("zlib", deflate(PAGE + b"x", 15, mode=zlib.Z_SYNC_FLUSH), Kind.SURPLUS,
     f"more than {MEMORY}", MEMORY),
    ("zlib", ENDED_ZLIB, Kind.ENDED,
     f"zlib stream that ends at payload byte {len(ENDED_ZLIB) - 1}", LASTING),
    ("zlib", ZLIB_PAGE[:-4], Kind.UNFLUSHED,
     f"payload that ends {ZLIB_PAGE[-8:-4].hex(' ')}", "00 00 ff ff, a sync flush"),
    ("zstd", b"garbage!", Kind.CORRUPT,
     "zstd: Unknown frame descriptor at payload byte 4", MEMORY),
    ("zstd", b"\x50\x2a\x4d\x18" + bytes(8), Kind.CORRUPT,
     "zstd: Skippable frame at payload byte 4", MEMORY),
    ("zstd", MAGIC + b"\0\x90" + b"\x0c\x40\x20a", Kind.CORRUPT,  # window 256 MiB
     "zstd: Frame requires too much memory for decoding at payload byte 5", MEMORY),
    ("zstd", zstd_frame(PAGE)[:-1], Kind.SHORT, "0 bytes of guest memory", MEMORY),
    ("zstd", zstd_frame(PAGE + b"x"), Kind.SURPLUS, f"more than {MEMORY}", MEMORY),
    ("zstd", zstd_frame(PAGE) + b"\0", Kind.CORRUPT,
     "payload that ends 1 bytes into 3", "whole zstd blocks, flushed"),
    ("zstd", ENDED_ZSTD, Kind.ENDED,
     f"zstd frame that ends at payload byte {len(ENDED_ZSTD) - 1}", LASTING),
    ("qpl", b"", Kind.LENGTHS, "next_packet_size 0", "5 to 1028 for 1 pages"),
    ("qpl", bytes(1029), Kind.LENGTHS, "next_packet_size 1029", "5 to 1028 for 1 pages"),
    ("qpl", pagewise(b"x", lengths=[0]), Kind.LENGTHS, "length 0 of page 0", "1 to 1024"),
    ("qpl", pagewise(b"x", lengths=[1025]), Kind.LENGTHS, "length 1025 of page 0", "1 to 1024"),
    ("qpl", pagewise(b"x", lengths=[2]), Kind.LENGTHS,
     "lengths that add up to 2", "1, all that follows them"),
    ("qpl", pagewise(b"\x07"), Kind.CORRUPT,
     "inflate: invalid block type in page 0", "1024 bytes"),
    ("qpl", pagewise(RAW_PAGE[:-1]), Kind.UNFINISHED, "stream of page 0 cut off", "1024 bytes"),
    ("qpl", pagewise(deflate(PAGE[:-1], -15)), Kind.SHORT, "1023 bytes in page 0", "1024 bytes"),
    ("qpl", pagewise(deflate(PAGE + b"x", -15)), Kind.SURPLUS,
     "more than 1024 bytes in page 0", "1024 bytes"),
    ("qpl", pagewise(RAW_PAGE + b"??"), Kind.TRAILING,
     "2 bytes after the stream of page 0", "none"),
    ("uadk", pagewise(RAW_PAGE), Kind.CORRUPT,
     "inflate: incorrect header check in page 0", "1024 bytes"),
    ("uadk", pagewise(ZLIB_STREAM + b"?"), Kind.TRAILING,
     "1 bytes after the stream of page 0", "none"),
    ("qatzip", b"", Kind.SHORT, "0 bytes of guest memory", MEMORY),
    ("qatzip", MEMBER[:-1], Kind.UNFINISHED,
     f"member 0 cut off after {len(MEMBER) - 1} bytes", "complete gzip members"),
    ("qatzip", MEMBER + MEMBER, Kind.SURPLUS, f"more than {MEMORY}", MEMORY),
    ("qatzip", MEMBER + b"no", Kind.CORRUPT,
     f"inflate: incorrect header check at payload byte {len(MEMBER) + 1}", MEMORY),
    ("qatzip", MEMBER[:-8] + bytes(4) + MEMBER[-4:], Kind.CORRUPT,
     f"inflate: incorrect data check at payload byte {len(MEMBER) - 5}", MEMORY),
    ("qatzip", gzip_member(PAGE, (1024, BODY + 1)), Kind.CORRUPT,
     f"sizes 1024 and {BODY + 1} in the QZ field of member 0", f"1024 and {BODY}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "payload", "kind", "seen", "demanded"), FAULTS)
def test_faults(name: str, payload: bytes, kind: Kind, seen: str, demanded: str) -> None:
    memory, fault = in_any_cut(METHOD[name], payload)
    assert fault == PayloadFault(kind, seen, demanded)
    assert len(memory) <= 1024


@pytest.mark.parametrize("method", [m for m in METHODS if m.limit], ids=lambda m: m.name)
def test_more_than_the_limit_is_not_looked_at(method: PayloadMethod) -> None:
    decoder, limit = method.decoder(), method.limit or 0
    memory, fault = decode(decoder, ZLIB_PAGE, size=limit + 1)
    seen, demanded = f"next_packet_size {limit + 1}", f"at most {limit}"
    assert (memory, fault) == (b"", PayloadFault(Kind.OVERSIZE, seen, demanded))
    assert decoder.broken is decoder.streaming


def test_every_kind_of_fault_is_reached() -> None:
    assert {kind for _, _, kind, _, _ in FAULTS} | {Kind.OVERSIZE} == set(Kind)


@pytest.mark.parametrize("name", ["qpl", "uadk"])
def test_a_length_table_is_bounded(name: str) -> None:
    decoder = METHOD[name].decoder()
    fault = PayloadFault(Kind.LENGTHS, "length table of 513 pages", "at most 512")
    assert decode(decoder, bytes(4096), 513) == (b"", fault)


def test_gzip_members_need_no_qz_field() -> None:
    halves = gzip_member(PAGE[:512]) + gzip_member(PAGE[512:], (512, len(deflate(PAGE[512:], -15))))
    assert in_any_cut(METHOD["qatzip"], halves) == (PAGE, None)


@given(methods, st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_give_a_value(method: PayloadMethod, data: bytes, pages: int) -> None:
    memory, _ = in_any_cut(method, data, pages)
    assert len(memory) <= pages * 1024


@settings(max_examples=150)
@given(st.data(), st.sampled_from(METHODS[1:]), st.lists(st.integers(0, 5000), max_size=6))
def test_the_cut_of_a_damaged_payload_does_not_show(
    data: st.DataObject, method: PayloadMethod, cuts: list[int]
) -> None:
    damaged = bytearray(method.encoder().encode([PAGE, bytes(1024), page(2, 3, 1024)]))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    payload = bytes(damaged)
    whole = in_any_cut(method, payload, 3)
    decoder = method.decoder()
    decoder.start(3, 1024, len(payload))
    edges = sorted({0, len(payload), *(c for c in cuts if c < len(payload))})
    memory = b"".join(bytes(m) for a, b in pairwise(edges) for m in decoder.feed(payload[a:b]))
    assert (memory, decoder.finish()) == whole


BOMB = 64 << 20
BOMBS = {
    "zlib": lambda: deflate(bytes(BOMB), 15, mode=zlib.Z_SYNC_FLUSH),
    "zstd": lambda: zstd_frame(bytes(BOMB)),
    "qpl": lambda: pagewise(deflate(bytes(200_000), -15)),
    "uadk": lambda: pagewise(deflate(bytes(200_000), 15)),
    "qatzip": lambda: gzip_member(bytes(BOMB)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_left_alone(name: str) -> None:
    decoder, bomb = METHOD[name].decoder(), BOMBS[name]()
    tracemalloc.start()
    memory, fault = decode(decoder, bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fault is not None
    assert fault.kind is Kind.SURPLUS
    assert bytes(1024).startswith(memory)
    assert peak < 512 * 1024


@pytest.mark.parametrize("name", ["zlib", "zstd"])
@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_fault_breaks_a_stream(name: str, damage: bytes) -> None:
    decoder, encoder = METHOD[name].decoder(), METHOD[name].encoder()
    _, fault = decode(decoder, damage)
    assert fault is not None
    assert decoder.broken
    assert decode(decoder, encoder.encode([PAGE])) == (b"", None)


@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_a_broken_stream_is_not_judged_again(name: str) -> None:
    decoder = METHOD[name].decoder()
    decoder.lose()
    assert decode(decoder, b"", size=1 << 32) == (b"", None)


@pytest.mark.parametrize("name", ["none", "qpl", "uadk", "qatzip"])
def test_a_fault_breaks_no_other_payload(name: str) -> None:
    decoder, encoder = METHOD[name].decoder(), METHOD[name].encoder()
    _, fault = decode(decoder, b"")
    assert fault is not None
    assert not decoder.broken
    assert decode(decoder, encoder.encode([PAGE])) == (PAGE, None)


def test_a_missing_flush_breaks_nothing() -> None:
    encoder = zlib.compressobj()
    first = encoder.compress(PAGE) + encoder.flush(zlib.Z_PARTIAL_FLUSH)
    second = encoder.compress(PAGE) + encoder.flush(zlib.Z_SYNC_FLUSH)
    decoder = METHOD["zlib"].decoder()
    memory, fault = decode(decoder, first)
    assert (memory, fault and fault.kind) == (PAGE, Kind.UNFLUSHED)
    assert decode(decoder, second) == (PAGE, None)


def test_a_frame_after_another_is_decoded() -> None:
    decoder = METHOD["zstd"].decoder()
    assert decode(decoder, ENDED_ZSTD)[0] == PAGE
    assert not decoder.broken
    assert decode(decoder, zstd_frame(PAGE)) == (PAGE, None)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_loss_in_a_payload(method: PayloadMethod) -> None:
    encoder, decoder = method.encoder(), method.decoder()
    payload = encoder.encode([PAGE])
    decoder.start(1, 1024, len(payload))
    before = b"".join(map(bytes, decoder.feed(payload[:-6])))
    decoder.lose()
    assert list(decoder.feed(payload[-2:])) == []
    assert decoder.finish() is None
    assert PAGE.startswith(before)
    assert decoder.broken is decoder.streaming
    after = b"" if decoder.streaming else PAGE
    assert decode(decoder, encoder.encode([PAGE])) == (after, None)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_loss_between_payloads(method: PayloadMethod) -> None:
    encoder, decoder = method.encoder(), method.decoder()
    assert decode(decoder, encoder.encode([PAGE])) == (PAGE, None)
    decoder.lose()
    after = b"" if decoder.streaming else PAGE
    assert decode(decoder, encoder.encode([PAGE])) == (after, None)
