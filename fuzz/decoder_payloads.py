"""Fuzzed: the decoders of all payload methods, with damage, other lengths, and bombs."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import zstandard
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from multifd_proto.conformance.stage import content

from multifd_proto.wire.payload import METHODS, Decoder

from .damage import damaged, every, pieces, places
from .decoder_feeding import same
from .decoder_subjects import Bytes, ByteSubject, limit
from .guard import Limits, Wrong

_METHODS = {method.name: method for method in METHODS}
_ZEROS = bytes(1 << 20)
_MOST = 1 << 20  # bytes of guest memory that a packet announces
_PAGE_SIZES = (1024, 4096, 65536)


@cache
def bombs() -> dict[str, bytes]:
    """Return for each method a payload that decodes to far more than any packet's pages."""
    zstd = zstandard.ZstdCompressor(level=3).compressobj()
    frame = b"".join(zstd.compress(_ZEROS) for _ in range(128)) + zstd.flush()
    return {
        "none": bytes(1 << 14),
        "zlib": _deflated(15),
        "zstd": frame,
        "qpl": _with_length(_deflated(-12)),
        "uadk": _with_length(_deflated(12)),
        "qatzip": _deflated(31),
    }


def _deflated(wbits: int) -> bytes:
    """Return zeros, deflated: as many as an input has room for."""
    stream = zlib.compressobj(9, zlib.DEFLATED, wbits)
    parts = [stream.compress(_ZEROS) for _ in range(20)]
    return b"".join(parts) + stream.flush(zlib.Z_SYNC_FLUSH)


def _with_length(page: bytes) -> bytes:
    return len(page).to_bytes(4, "big") + page


@st.composite
def payload_bytes(draw: DrawFn) -> Bytes:
    """Return payloads of one channel, one after the other, and the packets that they are of."""
    method = _METHODS[draw(st.sampled_from(sorted(_METHODS)))]
    size = draw(st.sampled_from(_PAGE_SIZES if method.flag else _PAGE_SIZES[:2]))
    encoder = method.encoder()
    data, packets = b"", []
    for normal in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)):
        salt = draw(st.integers(0, 3))
        pages = [content(n, salt, size) if salt else bytes(size) for n in range(normal)]
        payload = encoder.encode(pages)
        if not draw(st.integers(0, 15)):
            payload = bombs()[method.name]
        else:
            payload = damaged(draw, payload, most=2)
        claimed = draw(st.sampled_from((normal, normal, normal, normal + 1, 1, _MOST // size)))
        data += payload
        packets.append((claimed, len(payload)))
    data = limit(data)
    options = {"method": method.name, "page_size": size, "packets": (*packets,)}
    return Bytes("payload", data, places(draw, len(data)), options)


class PayloadSubject(ByteSubject):
    """The decoders of `wire.payload`."""

    name = "payload"
    limits = Limits(memory=12 << 20)
    patient = replace(limits, seconds=20.0)
    options: Mapping[str, Any] = {"method": "zlib", "page_size": 4096, "packets": ((1, 1 << 20),)}

    def strategy(self) -> SearchStrategy[Bytes]:
        """Return payloads."""
        return payload_bytes()

    def check(self, value: Bytes) -> Iterable[str]:
        """Demand the same memory and faults of all cuts, and no more than the packets announce."""
        whole = self._decode(value, ())
        name = f"payload {self.option(value, 'method')}"
        same(name, "cut", whole, self._decode(value, value.cuts))
        same(name, "byte by byte", whole, self._decode(value, every(len(value.data))))
        method = self.option(value, "method")
        for _, fault in whole:
            yield f"{method} {fault.kind.value if fault else 'whole'}"

    def _decode(self, value: Bytes, cuts: Iterable[int]) -> list[Any]:
        decoder = _METHODS[self.option(value, "method")].decoder()
        size, results, at = self.option(value, "page_size"), [], 0
        for normal, length in self.option(value, "packets"):
            part = value.data[at : at + length]
            decoder.start(normal, size, length)
            own = [cut - at for cut in cuts if at < cut < at + len(part)]
            memory = b"".join(_fed(decoder, part, own, normal * size))
            results.append((memory, decoder.finish()))
            at += length
        return results


def _fed(decoder: Decoder, part: bytes, cuts: Iterable[int], room: int) -> Iterator[bytes]:
    for piece in pieces(part, (*cuts,)):
        assert isinstance(piece, bytes)
        for chunk in decoder.feed(piece):
            room -= len(chunk)
            if room < 0:
                name = type(decoder).__name__
                raise Wrong("grows", f"{-room} bytes more than the packet's pages", name)
            yield bytes(chunk)
