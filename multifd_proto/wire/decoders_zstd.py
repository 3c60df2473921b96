"""The payload decoder of zstd."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import zstandard

from multifd_proto.wire.decoders import (
    LASTING,
    Bytes,
    Decoder,
    PayloadFault,
    PayloadFaultKind,
    Undecodable,
    reason,
)

ZSTD_WINDOW = 1 << 27
"""Largest window in bytes that is accepted: libzstd's default, hence that of QEMU's receivers.

QEMU's own senders need a quarter of it, 32 MiB, at their highest level, 20.
"""


class ZstdDecoder(Decoder):
    """`zstd`: one frame for all payloads of a channel.

    QEMU's receivers take a frame that ends with a page and another one after it, though no QEMU
    writes that. It is a fault here, but the one that does not break the channel.
    """

    streaming = True

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self._context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._next_frame()

    def _next_frame(self) -> None:
        self._frame = self._context.decompressobj()
        self._units = _frame_units()
        self._want = next(self._units)
        self._unit = bytearray()

    def _begin(self) -> None:
        super()._begin()
        self._ended: int | None = None

    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        at = self._taken - 1
        while data:
            part = data[: self._want - len(self._unit)]
            data = data[len(part) :]
            at += len(part)
            self._unit += part
            if len(self._unit) == self._want:
                yield self._decompress_unit(at)

    def _decompress_unit(self, at: int) -> bytes:
        """Decompress a unit whose last byte is payload byte `at`, and find out what is next."""
        unit = bytes(self._unit)
        self._unit.clear()
        try:
            chunk = self._frame.decompress(unit)
            if self._frame.eof:
                self._ended = at
                self._next_frame()
            else:
                self._want = self._units.send(unit)
        except zstandard.ZstdError as error:
            seen = f"zstd: {reason(error)} at payload byte {at}"
            raise Undecodable(PayloadFaultKind.CORRUPT, seen, self._demand) from None
        return chunk

    def _overlooked(self) -> PayloadFault | None:
        if self._ended is not None:
            seen = f"zstd frame that ends at payload byte {self._ended}"
            return PayloadFault(PayloadFaultKind.ENDED, seen, LASTING)
        if self._unit:  # QEMU's receivers drop what no page needed, and so lose their place
            seen = f"payload that ends {len(self._unit)} bytes into {self._want}"
            return PayloadFault(PayloadFaultKind.CORRUPT, seen, "whole zstd blocks, flushed")
        return None


def _frame_units() -> Generator[int, bytes, None]:
    """Yield the sizes of a frame's units (RFC 8878, 3.1.1); wants each unit before the next.

    libzstd is fed by the unit because its Python binding does not bound the output: a block
    decodes to 128 KiB at most, but takes as little as four bytes.
    """
    head = yield 5
    if head[:4] != zstandard.FRAME_HEADER:  # libzstd has refused all but one other magic by now
        raise zstandard.ZstdError("Skippable frame")
    yield zstandard.frame_header_size(head) - 5
    last = False
    while not last:
        header = int.from_bytes((yield 3), "little")
        last, run = bool(header & 1), header >> 1 & 3 == 1
        size = 1 if run else header >> 3
        if size:
            yield size
    yield 4  # the checksum: a frame without one has ended before it is asked for
