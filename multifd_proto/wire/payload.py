"""The payload methods: how a packet's normal pages become the bytes that follow it.

A method is a value of QEMU's migration parameter `multifd-compression`; the method bits in a
packet's `flags` name it. Decoders and encoders exist one per channel, since two methods keep
one compressed stream from a channel's first payload to its last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from multifd_proto.wire.decoders import Decoder, PayloadFault, PayloadFaultKind, RawDecoder
from multifd_proto.wire.decoders_zlib import QatzipDecoder, QplDecoder, UadkDecoder, ZlibDecoder
from multifd_proto.wire.decoders_zstd import ZstdDecoder
from multifd_proto.wire.encoders import (
    Encoder,
    PagewiseEncoder,
    QatzipEncoder,
    RawEncoder,
    ZlibEncoder,
    ZstdEncoder,
)
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE, PAGE_SIZES, page_count

__all__ = [
    "METHODS",
    "METHOD_MASK",
    "Decoder",
    "Encoder",
    "PayloadFault",
    "PayloadFaultKind",
    "PayloadMethod",
    "method_of",
]

METHOD_MASK = 0x3E
"""The method bits of `flags` (QEMU: `MULTIFD_FLAG_COMPRESSION_MASK` since 9.2)."""
DEFAULT_LEVEL = 1
"""Compression level of every method that has levels (QEMU: `multifd-zlib-level` and so on)."""


@dataclass(frozen=True)
class PayloadMethod:
    """One way to make payload of pages."""

    name: str
    """QEMU's value of `multifd-compression`."""
    flag: int
    """Value of the method bits in `flags`."""
    since: str
    """First QEMU release with it."""
    limit: int | None
    """Largest `next_packet_size` in bytes that a receiver takes; None where it does not look.

    For zlib, zstd and qatzip it is the receiver's buffer; for qpl and uadk what the most pages
    of the smallest page size make, the bound for a given packet being tighter.
    """
    levels: range | None
    """Compression levels of a sender (QEMU: `multifd-zlib-level` and so on), None without."""
    summary: str
    """How pages become payload, in one sentence."""
    _decoder: Callable[[int | None], Decoder] = field(repr=False)
    _encoder: Callable[..., Encoder] = field(repr=False)

    def payload_size(self, normal_pages: int, next_packet_size: int, page_size: int) -> int:
        """Return the bytes of payload that follow a packet.

        None follow a packet without normal pages, whatever its `next_packet_size` says: senders
        of 5.0 to 8.1 leave an old value there. Without compression the number of pages decides
        and `next_packet_size` is not looked at, as in QEMU's receivers.
        """
        if not normal_pages:
            return 0
        return next_packet_size if self.flag else normal_pages * page_size

    def decoder(self) -> Decoder:
        """Return a decoder for one channel."""
        return self._decoder(self.limit)

    def encoder(self, level: int | None = None) -> Encoder:
        """Return an encoder for one channel.

        Args:
            level: Compression level, None for QEMU's default, 1.

        Raises:
            ValueError: the method does not have that level.
        """
        if self.levels is None:
            if level is not None:
                raise ValueError(f"{self.name} has no compression levels, level is {level}")
            return self._encoder()
        level = DEFAULT_LEVEL if level is None else level
        if level not in self.levels:
            bounds = f"{self.levels[0]} to {self.levels[-1]}"
            raise ValueError(f"compression level of {self.name} is {level}, must be {bounds}")
        return self._encoder(level)


_BUFFER = 2 * MULTIFD_PACKET_SIZE
_PAGEWISE = MULTIFD_PACKET_SIZE + 4 * page_count(PAGE_SIZES[0])

METHODS: tuple[PayloadMethod, ...] = (
    PayloadMethod(
        "none", 0, "4.0", None, None,
        "The pages, one after the other.",
        RawDecoder, RawEncoder,
    ),
    PayloadMethod(
        "zlib", 0x2, "5.0", _BUFFER, range(10),
        "One zlib stream (RFC 1950) per channel, never ended: the pages of a packet are deflated "
        "in order and followed by a sync flush.",
        ZlibDecoder, ZlibEncoder,
    ),
    PayloadMethod(
        "zstd", 0x4, "5.0", _BUFFER, range(21),
        "One zstd frame (RFC 8878) per channel, never ended: the pages of a packet are compressed "
        "in order and followed by a flush.",
        ZstdDecoder, ZstdEncoder,
    ),
    PayloadMethod(
        "qpl", 0x8, "9.1", _PAGEWISE, None,
        "A table of u32 big-endian lengths, one for each page, then the pages: each a raw deflate "
        "stream (RFC 1951) with a window of 4 KiB, or uncompressed if its length is the page size.",
        QplDecoder, partial(PagewiseEncoder, -12),
    ),
    PayloadMethod(
        "uadk", 0x10, "9.1", _PAGEWISE, None,
        "A table of u32 big-endian lengths, one for each page, then the pages: each a zlib stream "
        "(RFC 1950) with a window of 4 KiB, or uncompressed if its length is the page size.",
        UadkDecoder, partial(PagewiseEncoder, 12),
    ),
    PayloadMethod(
        "qatzip", 0x20, "9.2", _BUFFER, range(1, 10),
        "Gzip members (RFC 1952), each with up to 64 KiB of the pages of the packet, or one "
        "member with all of them, its sizes in a header field QZ.",
        QatzipDecoder, QatzipEncoder,
    ),
)  # fmt: skip
_BY_FLAG = {method.flag: method for method in METHODS}


def method_of(flags: int) -> PayloadMethod | None:
    """Return the method that `flags` names, None if its method bits name none.

    The bits are compared as one number, as in QEMU: two methods' bits together are no method.
    """
    return _BY_FLAG.get(flags & METHOD_MASK)
