"""Payloads for the tests: pages, payloads made by hand, and what decoders make of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from hypothesis import strategies as st

from multifd_proto.wire.payload import METHODS, Decoder, PayloadFault, PayloadMethod
from multifd_proto.wire.schema import PAGE_SIZES

METHOD = {method.name: method for method in METHODS}
Decoded = tuple[bytes, PayloadFault | None]

methods = st.sampled_from(METHODS)
page_sizes = st.sampled_from(PAGE_SIZES)


@st.composite
def packets(draw: st.DrawFn, page_size: int) -> list[list[bytes]]:
    """The pages of up to four packets of a channel: random, zero, and of few values."""
    seed = draw(st.integers(0, 1 << 16))
    kinds = draw(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=4))
    return [[page(kind, seed + i, page_size) for i, kind in enumerate(ks)] for ks in kinds]


def page(kind: int, seed: int, page_size: int) -> bytes:
    """A page of zeros (0), one that compresses (1), or one that does not (2)."""
    if kind == 0:
        return bytes(page_size)
    text = b"".join(struct.pack(">I", seed + n) for n in range(page_size // 4))
    if kind == 1:
        return text
    state, out = seed + 1, bytearray()
    while len(out) < page_size:
        state = zlib.crc32(struct.pack(">Q", state + len(out)), state)
        out += struct.pack(">I", state)
    return bytes(out)


def decode(
    decoder: Decoder,
    payload: bytes,
    pages: int = 1,
    page_size: int = 1024,
    *,
    size: int | None = None,
    step: int | None = None,
) -> Decoded:
    """Decode one payload, fed in pieces of `step` bytes; None feeds it whole."""
    decoder.start(pages, page_size, len(payload) if size is None else size)
    step = step or max(1, len(payload))
    pieces = (payload[at : at + step] for at in range(0, len(payload), step))
    memory = b"".join(bytes(chunk) for piece in pieces for chunk in decoder.feed(piece))
    return memory, decoder.finish()


def in_any_cut(method: PayloadMethod, payload: bytes, pages: int = 1) -> Decoded:
    """Decode a channel's first payload whole and byte by byte; both come to the same."""
    whole = decode(method.decoder(), payload, pages)
    assert decode(method.decoder(), payload, pages, step=1) == whole
    return whole


def pagewise(*pages: bytes, lengths: Sequence[int] | None = None) -> bytes:
    """A payload of qpl or uadk: the table of lengths, true or not, then the pages."""
    table = lengths or [len(page) for page in pages]
    return struct.pack(f">{len(table)}I", *table) + b"".join(pages)


def deflate(data: bytes, wbits: int, *, mode: int = zlib.Z_FINISH) -> bytes:
    """What zlib makes of `data` in the form `wbits`."""
    stream = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return stream.compress(data) + stream.flush(mode)
