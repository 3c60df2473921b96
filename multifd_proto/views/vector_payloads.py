"""The test vectors of the payload methods: for each, some channels with a few payloads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import zstandard

from multifd_proto.views.vector_cases import document
from multifd_proto.views.vector_form import Document, pack
from multifd_proto.views.vector_judge import INVALID, VALID
from multifd_proto.wire.payload import METHODS, PayloadMethod
from multifd_proto.wire.schema import page_count

SIZE = 4096
_TEXT = b"".join(bytes([n * n & 0xFF]) * 64 for n in range(SIZE // 64))
_PAGES = (bytes(SIZE), _TEXT, b"\xa5" * SIZE)
_NOISE = b"".join(struct.pack(">I", zlib.crc32(bytes([n]))) for n in range(256))

NOTES = {
    "Boundary": "A value at the edge of what is allowed.",
    "Stream": "What follows in the channel cannot be decoded.",
    "Hostile": "Receivers that trust the value read or write outside of their memory.",
    "Size": "The payload decodes to more or less than the packet's normal pages.",
    "Format": "The format that the method compresses to is violated.",
    "Recorded": "Sent by a QEMU release.",
}


def payload_suites() -> Iterator[Document]:
    """Yield a file for each payload method."""
    for method in METHODS:
        right = [_right(method, SIZE), _right(method, 1024), _right(method, 65536)]
        wrong = [[_test(*case)] for case in _WRONG.get(method.name, list)()]
        if method.limit:
            size = method.limit + 1
            wrong.append([_test("above the limit", 1, b"", "PAY-11", "Hostile", size=size)])
        groups = [*zip((SIZE, 1024, 65536), right, strict=True), *((SIZE, t) for t in wrong)]
        dialect = "11.1" if method.limit else "4.0"
        yield document(
            f"payload-{method.name}",
            [
                {"dialect": dialect, "page_size": size, "method": method.name, "tests": tests}
                for size, tests in groups
            ],
            NOTES,
        )


def _right(method: PayloadMethod, size: int) -> list[Document]:
    """Return a channel of packets with right payloads."""
    encoder = method.encoder()
    pages = [(page * 16)[:size] for page in _PAGES]
    full = [bytes([n & 0xFF]) * size for n in range(page_count(size))]
    packets: list[tuple[str, Sequence[bytes]]] = [
        ("zero page as a normal page", pages[:1]),
        ("three pages that compress", pages),
        ("the same again", pages),
    ]
    if size > len(_NOISE):
        packets.append(("full packet", full))
    else:
        packets.append(("page that does not compress", [_NOISE, pages[0]]))
    return [_test(comment, len(p), encoder.encode(p)) for comment, p in packets]


def _test(
    comment: str,
    pages: int,
    payload: bytes,
    requirement: str | None = None,
    flags: str = "",
    *,
    size: int | None = None,
) -> Document:
    given: dict[str, Any] = {
        "normal_pages": pages,
        "next_packet_size": len(payload) if size is None else size,
    }
    return {
        "comment": comment,
        "hex": pack(payload),
        "fields": given,
        "result": INVALID if requirement else VALID,
        "requirement": requirement,
        "flags": flags.split(),
    }


Wrong = tuple[str, int, bytes, str, str]
"""Comment, normal pages, payload, requirement that it violates, flags."""


def _deflate(data: bytes, wbits: int, mode: int = zlib.Z_FINISH) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return stream.compress(data) + stream.flush(mode)


def _zlib() -> list[Wrong]:
    def flushed(data: bytes) -> bytes:
        return _deflate(data, 15, zlib.Z_SYNC_FLUSH)

    return [
        ("a byte short of a page", 1, flushed(_TEXT[1:]), "PAY-3", "Size Stream"),
        ("a byte more than a page", 1, flushed(_TEXT + b"x"), "PAY-3", "Size Stream"),
        ("a bomb of 1 MiB", 1, flushed(bytes(1 << 20)), "PAY-3", "Size Stream Hostile"),
        ("no zlib header", 1, _deflate(_TEXT, -15, zlib.Z_SYNC_FLUSH), "PAY-4", "Format Stream"),
        ("invalid block type", 1, b"\x78\x01\x07", "PAY-4", "Format Stream"),
        ("stream that ends", 1, _deflate(_TEXT, 15), "PAY-4", "Stream"),
        ("without its flush", 1, flushed(_TEXT)[:-4], "PAY-5", "Format"),
    ]


def _zstd() -> list[Wrong]:
    def frame(data: bytes, mode: int = zstandard.COMPRESSOBJ_FLUSH_BLOCK) -> bytes:
        stream = zstandard.ZstdCompressor(level=1).compressobj()
        return stream.compress(data) + stream.flush(mode)

    ended = frame(_TEXT, zstandard.COMPRESSOBJ_FLUSH_FINISH)
    large = zstandard.FRAME_HEADER + b"\0\xa8" + b"\x02\0\x01a"
    return [
        ("a byte short of a page", 1, frame(_TEXT[1:]), "PAY-3", "Size Stream"),
        ("a byte more than a page", 1, frame(_TEXT + b"x"), "PAY-3", "Size Stream"),
        ("a bomb of 1 MiB", 1, frame(bytes(1 << 20)), "PAY-3", "Size Stream Hostile"),
        ("wrong magic", 1, b"\x29" + frame(_TEXT)[1:], "PAY-6", "Format Stream"),
        ("skippable frame", 1, b"\x50\x2a\x4d\x18" + bytes(8), "PAY-6", "Format Stream"),
        ("window of 2 GiB", 1, large, "PAY-6", "Format Stream Hostile"),
        ("frame that ends", 1, ended, "PAY-6", ""),
        ("a block begun but not flushed", 1, frame(_TEXT) + b"\0", "PAY-6", "Format Stream"),
    ]


def _pagewise(requirement: str, wbits: int) -> list[Wrong]:
    def payload(*pages: bytes, lengths: tuple[int, ...] = ()) -> bytes:
        table = lengths or tuple(map(len, pages))
        return struct.pack(f">{len(table)}I", *table) + b"".join(pages)

    page, other = _deflate(_TEXT, wbits), _deflate(_TEXT, -wbits)
    inside, total = len(page), 2 * len(page)
    return [
        ("no payload", 1, b"", "PAY-7", "Size"),
        ("table cut off", 2, payload(_TEXT)[:7], "PAY-7", "Size Hostile"),
        ("length 0", 2, payload(page, page, lengths=(0, total)), "PAY-7", "Boundary"),
        ("length above the page size", 1, payload(_TEXT + b"x"), "PAY-7", "Boundary Hostile"),
        ("length of 4 GiB - 1", 1, payload(page, lengths=(2**32 - 1,)), "PAY-7", "Hostile"),
        ("lengths beyond the payload", 1, payload(page, lengths=(inside + 1,)), "PAY-7", "Hostile"),
        ("lengths short of the payload", 1, payload(page, lengths=(inside - 1,)), "PAY-7", "Size"),
        ("page a byte short", 1, payload(_deflate(_TEXT[1:], wbits)), "PAY-3", "Size"),
        ("page a byte long", 1, payload(_deflate(_TEXT + b"x", wbits)), "PAY-3", "Size Hostile"),
        ("the other method's form", 1, payload(other), requirement, "Format"),
        ("stream cut off", 1, payload(page[:-1]), requirement, "Format"),
        ("byte after the stream", 1, payload(page + b"x"), requirement, "Format"),
    ]


def _qatzip() -> list[Wrong]:
    member, sized = _deflate(_TEXT, 31), METHODS[-1].encoder().encode([_TEXT])
    return [
        ("a byte short of a page", 1, _deflate(_TEXT[1:], 31), "PAY-3", "Size"),
        ("a member too many", 1, member + member, "PAY-3", "Size Hostile"),
        ("no payload", 1, b"", "PAY-3", "Size"),
        ("zlib instead of gzip", 1, _deflate(_TEXT, 15), "PAY-10", "Format"),
        ("member cut off", 1, member[:-1], "PAY-10", "Format"),
        ("bytes after the member", 1, member + b"xx", "PAY-10", "Format"),
        ("wrong checksum", 1, member[:-8] + bytes(4) + member[-4:], "PAY-10", "Format"),
        ("wrong size in the QZ field", 1, sized[:16] + bytes(4) + sized[20:], "PAY-10", "Format"),
    ]


_WRONG = {
    "zlib": _zlib,
    "zstd": _zstd,
    "qpl": lambda: _pagewise("PAY-8", -15),
    "uadk": lambda: _pagewise("PAY-9", 15),
    "qatzip": _qatzip,
}
"""Payloads that break a rule, each on a channel of its own."""
