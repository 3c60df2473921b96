"""Guest memory into payload bytes: one encoder per payload method, one instance a channel.

They write what QEMU's senders write, where there is hardware to do it the form of the hardware.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import zstandard

QATZIP_BUFFER = 64 * 1024
"""Bytes of guest memory in a gzip member (QATzip: `hw_buff_sz`, its default)."""


class Encoder(ABC):
    """Encodes the payloads of one channel, packet by packet."""

    pagewise: ClassVar[bool] = False
    """Each page is encoded by itself. Where not, neighbouring pages can be handed over as one."""

    def encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        """Return the payload of a packet with these normal pages; none for no pages."""
        return self._encode(pages) if pages else b""

    @abstractmethod
    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes: ...


class RawEncoder(Encoder):
    """`none`: the pages as they are."""

    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        return b"".join(pages)


class ZlibEncoder(Encoder):
    """`zlib`: one stream for the channel, flushed after each packet."""

    def __init__(self, level: int) -> None:
        self._stream = zlib.compressobj(level)

    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        parts = [self._stream.compress(page) for page in pages]
        return b"".join([*parts, self._stream.flush(zlib.Z_SYNC_FLUSH)])


class ZstdEncoder(Encoder):
    """`zstd`: one frame for the channel, flushed after each packet."""

    def __init__(self, level: int) -> None:
        self._frame = zstandard.ZstdCompressor(level=level).compressobj()

    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        parts = [self._frame.compress(page) for page in pages]
        return b"".join([*parts, self._frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)])


class PagewiseEncoder(Encoder):
    """`qpl`, `uadk`: a table of lengths, then each page, compressed where that makes it shorter.

    Args:
        wbits: Form of a compressed page, as `zlib.compressobj` wants it.
    """

    pagewise = True

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits

    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        # of two as long as each other the page: its length says that it is not compressed
        parts = [min(page, self._compress(page), key=len) for page in pages]
        return b"".join([struct.pack(f">{len(parts)}I", *map(len, parts)), *parts])

    def _compress(self, page: bytes | memoryview) -> bytes | memoryview:
        stream = zlib.compressobj(1, zlib.DEFLATED, self._wbits)
        return stream.compress(page) + stream.flush()


class QatzipEncoder(Encoder):
    """`qatzip`: a gzip member for each 64 KiB, with its sizes in the QZ header field.

    Without the hardware QATzip writes all pages of a packet as one such member.
    """

    def __init__(self, level: int) -> None:
        self._level = level

    def _encode(self, pages: Sequence[bytes | memoryview]) -> bytes:
        memory = b"".join(pages)
        starts = range(0, len(memory), QATZIP_BUFFER)
        return b"".join(self._member(memory[at : at + QATZIP_BUFFER]) for at in starts)

    def _member(self, memory: bytes) -> bytes:
        stream = zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = stream.compress(memory) + stream.flush()
        # RFC 1952 with FEXTRA; the QZ field (QATzip: `QzExtraField_T`) is little-endian too
        head = struct.pack("<4B4xBBH2sH", 0x1F, 0x8B, 8, 4, 0, 255, 12, b"QZ", 8)
        sizes = struct.pack("<II", len(memory), len(body))
        return head + sizes + body + struct.pack("<II", zlib.crc32(memory), len(memory))
