"""The payload decoders that rest on deflate: zlib, qpl, uadk and qatzip."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Iterator
from typing import ClassVar

from multifd_proto.wire.decoders import (
    CHUNK,
    LASTING,
    Bytes,
    Decoder,
    PayloadFault,
    PayloadFaultKind,
    Undecodable,
    reason,
)
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE


class _InflatingDecoder(Decoder):
    def _inflate(
        self, stream: zlib._Decompress, data: memoryview, at: int
    ) -> Generator[Bytes, None, int]:
        """Yield what `data`, from payload byte `at` on, inflates to; return how much was used.

        Never inflates more than one byte that there is no room for: that one tells surplus.
        """
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            before, room = stream.copy(), self._room
            try:
                yield from self._inflate_piece(stream, piece)
            except zlib.error:
                yield from self._inflate_bytes(before, piece, at + start, room - self._room)
            if stream.eof:
                return start + len(piece) - len(stream.unused_data)
        return len(data)

    def _inflate_piece(self, stream: zlib._Decompress, piece: Bytes) -> Iterator[bytes]:
        while True:
            most = min(CHUNK, self._room + 1)
            chunk = stream.decompress(piece, most)
            yield chunk
            piece = stream.unconsumed_tail
            if len(chunk) < most:
                return

    def _inflate_bytes(
        self, stream: zlib._Decompress, piece: memoryview, at: int, done: int
    ) -> Iterator[bytes]:
        """Inflate, up to its fault, a piece that has one and of which `done` bytes are handed out.

        Byte by byte, since zlib drops what it has inflated when it comes upon a fault; so the cut
        of the input shows neither in the memory handed out nor in the fault.
        """
        for index in range(len(piece)):
            try:
                chunk = stream.decompress(piece[index : index + 1])
            except zlib.error as error:
                seen = f"inflate: {reason(error)} at payload byte {at + index}"
                raise Undecodable(PayloadFaultKind.CORRUPT, seen, self._demand) from None
            yield chunk[done:]
            done -= min(done, len(chunk))


_SYNC_FLUSH = b"\0\0\xff\xff"


class ZlibDecoder(_InflatingDecoder):
    """`zlib`: one zlib stream for all payloads of a channel."""

    streaming = True

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self._stream = zlib.decompressobj()

    def _begin(self) -> None:
        super()._begin()
        self._tail = b""

    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        self._tail = (self._tail + bytes(data[-4:]))[-4:]
        used = yield from self._inflate(self._stream, data, self._taken)
        if self._stream.eof:
            seen = f"zlib stream that ends at payload byte {self._taken + used - 1}"
            raise Undecodable(PayloadFaultKind.ENDED, seen, LASTING)

    def _overlooked(self) -> PayloadFault | None:
        if not self._demanded or self._tail == _SYNC_FLUSH:
            return None
        seen, demanded = f"payload that ends {self._tail.hex(' ')}", _SYNC_FLUSH.hex(" ")
        return PayloadFault(PayloadFaultKind.UNFLUSHED, seen, f"{demanded}, a sync flush")


class QatzipDecoder(_InflatingDecoder):
    """`qatzip`: gzip members, with their sizes in a header field QZ or without that field.

    Receivers with the hardware go by these sizes, those without it ignore them.
    """

    _HEAD, _TRAILER = 24, 8

    def _begin(self) -> None:
        super()._begin()
        self._members = 0
        self._next_member()

    def _next_member(self) -> None:
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._head = bytearray()
        self._used = 0
        self._room_before = self._room

    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        at = self._taken
        while data:
            used = yield from self._inflate(self._stream, data, at)
            self._head += data[: min(used, self._HEAD - len(self._head))]
            self._used += used
            at += used
            data = data[used:]
            if self._stream.eof:
                self._check_sizes()
                self._members += 1
                self._next_member()

    def _check_sizes(self) -> None:
        """Compare the field QZ (QATzip: `QzExtraField_T`, little-endian) with the member."""
        if self._head[3:4] != b"\x04" or self._head[10:16] != b"\x0c\0QZ\x08\0":
            return
        said = struct.unpack_from("<II", self._head, 16)
        real = self._room_before - self._room, self._used - self._HEAD - self._TRAILER
        if said != real:
            seen = f"sizes {said[0]} and {said[1]} in the QZ field of member {self._members}"
            raise Undecodable(PayloadFaultKind.CORRUPT, seen, f"{real[0]} and {real[1]}")

    def _end(self) -> None:
        if self._used:
            seen = f"member {self._members} cut off after {self._used} bytes"
            raise Undecodable(PayloadFaultKind.UNFINISHED, seen, "complete gzip members")
        super()._end()


class _PagewiseDecoder(Decoder):
    """A table of lengths (u32, big-endian), then each page: raw if as long as a page."""

    wbits: ClassVar[int]
    """Form of a compressed page, as `zlib.decompressobj` wants it."""

    def _begin(self) -> None:
        super()._begin()
        self._table = bytearray()
        self._lengths: tuple[int, ...] = ()
        self._page = bytearray()
        self._index = self._got = 0
        pages, size, table = self._pages, self._size, 4 * self._pages
        if self._demanded > MULTIFD_PACKET_SIZE:  # else the peer says how long a table we keep
            most = MULTIFD_PACKET_SIZE // self._page_size
            seen = f"length table of {pages} pages"
            raise Undecodable(PayloadFaultKind.LENGTHS, seen, f"at most {most}")
        if pages and not table < size <= table + self._demanded:
            demanded = f"{table + 1} to {table + self._demanded} for {pages} pages"
            raise Undecodable(PayloadFaultKind.LENGTHS, f"next_packet_size {size}", demanded)

    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        data = self._collect_table(data)
        while data and self._index < len(self._lengths):
            length = self._lengths[self._index]
            part = data[: length - self._got]
            data = data[len(part) :]
            self._got += len(part)
            if length == self._page_size:
                yield part
            else:
                self._page += part
            if self._got == length:
                if self._page:
                    yield self._inflated_page()
                self._index, self._got = self._index + 1, 0

    def _collect_table(self, data: memoryview) -> memoryview:
        missing = 4 * self._pages - len(self._table)
        self._table += data[:missing]
        if missing and len(data) >= missing:
            self._lengths = struct.unpack(f">{self._pages}I", self._table)
            self._check_lengths()
        return data[missing:]

    def _check_lengths(self) -> None:
        for page, length in enumerate(self._lengths):
            if not 0 < length <= self._page_size:
                seen = f"length {length} of page {page}"
                raise Undecodable(PayloadFaultKind.LENGTHS, seen, f"1 to {self._page_size}")
        total, rest = sum(self._lengths), self._size - len(self._table)
        if total != rest:
            seen, demanded = f"lengths that add up to {total}", f"{rest}, all that follows them"
            raise Undecodable(PayloadFaultKind.LENGTHS, seen, demanded)

    def _inflated_page(self) -> bytes:
        stream, where = zlib.decompressobj(self.wbits), f"page {self._index}"
        demanded = f"{self._page_size} bytes"
        try:
            page = stream.decompress(self._page, self._page_size + 1)
        except zlib.error as error:
            seen = f"inflate: {reason(error)} in {where}"
            raise Undecodable(PayloadFaultKind.CORRUPT, seen, demanded) from None
        self._page.clear()
        if len(page) > self._page_size:
            seen = f"more than {demanded} in {where}"
            raise Undecodable(PayloadFaultKind.SURPLUS, seen, demanded)
        if not stream.eof:
            seen = f"stream of {where} cut off"
            raise Undecodable(PayloadFaultKind.UNFINISHED, seen, demanded)
        if len(page) < self._page_size:
            raise Undecodable(PayloadFaultKind.SHORT, f"{len(page)} bytes in {where}", demanded)
        if stream.unused_data:
            seen = f"{len(stream.unused_data)} bytes after the stream of {where}"
            raise Undecodable(PayloadFaultKind.TRAILING, seen, "none")
        return page


class QplDecoder(_PagewiseDecoder):
    """`qpl`: a compressed page is a raw deflate stream."""

    wbits = -zlib.MAX_WBITS


class UadkDecoder(_PagewiseDecoder):
    """`uadk`: a compressed page is a zlib stream."""

    wbits = zlib.MAX_WBITS
