"""The encoders, checked with the standard decompressors instead of our own decoders."""

import gzip
import struct
import zlib

import pytest
import zstandard

from multifd_proto.tests.payloads import METHOD, page
from multifd_proto.wire.payload import METHODS, PayloadMethod
from multifd_proto.wire.schema import PAGE_SIZES

SIZE = 4096
PAGES = [page(kind, 5, SIZE) for kind in (0, 1, 2)]
MEMORY = b"".join(PAGES)


def split(payload: bytes, pages: int) -> list[bytes]:
    """The pages of a qpl or uadk payload, as they are in it."""
    lengths = struct.unpack_from(f">{pages}I", payload)
    at, parts = 4 * pages, []
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    assert at == len(payload)
    return parts


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_no_pages_make_no_payload(method: PayloadMethod) -> None:
    assert method.encoder().encode([]) == b""


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_pages_may_be_views(method: PayloadMethod) -> None:
    views = [memoryview(p) for p in PAGES]
    assert method.encoder().encode(views) == method.encoder().encode(PAGES)


def test_none_is_the_pages() -> None:
    assert METHOD["none"].encoder().encode(PAGES) == MEMORY


def test_zlib_is_one_flushed_stream() -> None:
    encoder, stream = METHOD["zlib"].encoder(), zlib.decompressobj()
    payloads = [encoder.encode(PAGES), encoder.encode(PAGES)]
    assert payloads[0].startswith(b"\x78\x01")
    for payload in payloads:
        assert payload.endswith(b"\0\0\xff\xff")
        assert stream.decompress(payload) == MEMORY
    assert not stream.eof


def test_zstd_is_one_flushed_frame() -> None:
    encoder = METHOD["zstd"].encoder()
    frame = zstandard.ZstdDecompressor().decompressobj()
    payloads = [encoder.encode(PAGES), encoder.encode(PAGES)]
    assert [p.startswith(zstandard.FRAME_HEADER) for p in payloads] == [True, False]
    assert [frame.decompress(p) for p in payloads] == [MEMORY, MEMORY]
    assert not frame.eof


@pytest.mark.parametrize(("name", "wbits"), [("qpl", -15), ("uadk", 15)])
@pytest.mark.parametrize("size", PAGE_SIZES)
def test_pagewise_pages_stand_alone(name: str, wbits: int, size: int) -> None:
    pages = [page(kind, 5, size) for kind in (0, 1, 2)]
    zero, text, random = split(METHOD[name].encoder().encode(pages), 3)
    assert zlib.decompress(zero, wbits) == pages[0]
    assert zlib.decompress(text, wbits) == pages[1]
    assert random == pages[2]


def test_uadk_says_a_window_of_4_kib() -> None:
    zero = split(METHOD["uadk"].encoder().encode(PAGES), 3)[0]
    assert zero[0] == 0x48


@pytest.mark.parametrize("name", ["qpl", "uadk"])
def test_a_page_that_compression_leaves_as_long_is_not_compressed(name: str) -> None:
    as_long = 0
    for zeros in range(1024):  # one of these compresses to exactly a page
        content = page(2, 9, 1024)[zeros:] + bytes(zeros)
        (part,) = split(METHOD[name].encoder().encode([content]), 1)
        as_long += len(part) == 1024
        assert (len(part) == 1024) == (part == content)
        assert len(part) <= 1024
    assert as_long


@pytest.mark.parametrize("pages", [1, 16, 17, 128])
def test_qatzip_is_gzip_members_of_64_kib(pages: int) -> None:
    memory = [page(n % 3, n, SIZE) for n in range(pages)]
    payload = METHOD["qatzip"].encoder().encode(memory)
    assert gzip.decompress(payload) == b"".join(memory)
    members, rest = 0, payload
    while rest:
        stream = zlib.decompressobj(31)
        content = stream.decompress(rest)
        used = len(rest) - len(stream.unused_data)
        xlen, field, length, source, body = struct.unpack_from("<H2sHII", rest, 10)
        assert (xlen, field, length) == (12, b"QZ", 8)
        assert (source, body) == (len(content), used - 24 - 8)
        assert len(content) <= 64 * 1024
        members, rest = members + 1, stream.unused_data
    assert members == -(-pages // 16)
