"""Hypothesis strategies for bytes that are nearly right: damage, cuts, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

Piece = bytes | int
"""Bytes of a stream, or how many are missing there."""
Gap = tuple[int, int]
"""Place in the data, and how many bytes are missing before it."""
WORDS = (0, 1, 2, 127, 128, 255, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
"""Numbers at which something ends, in some format."""
_MOST = 300


def _flip(draw: DrawFn, data: bytes, _tokens: Sequence[bytes]) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]


def _word(draw: DrawFn, data: bytes, _tokens: Sequence[bytes]) -> bytes:
    size = draw(st.sampled_from((1, 2, 4, 8)))
    value = draw(st.sampled_from(WORDS) | st.integers(0, (1 << 8 * size) - 1))
    word = (value % (1 << 8 * size)).to_bytes(size, draw(st.sampled_from(("big", "little"))))
    at = draw(st.integers(0, max(0, len(data) - size)))
    return data[:at] + word + data[at + size :]


def _drop(draw: DrawFn, data: bytes, _tokens: Sequence[bytes]) -> bytes:
    at, length = draw(st.integers(0, len(data) - 1)), draw(st.integers(1, _MOST))
    return data[:at] + data[at + length :]


def _repeat(draw: DrawFn, data: bytes, _tokens: Sequence[bytes]) -> bytes:
    at, length = draw(st.integers(0, len(data) - 1)), draw(st.integers(1, _MOST))
    return data[: at + length] + data[at:]


def _insert(draw: DrawFn, data: bytes, tokens: Sequence[bytes]) -> bytes:
    at = draw(st.integers(0, len(data)))
    new = draw(st.sampled_from(tokens) | st.binary(max_size=16) if tokens else st.binary())
    return data[:at] + new + data[at:]


def _truncate(draw: DrawFn, data: bytes, _tokens: Sequence[bytes]) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


DAMAGE: list[Callable[[DrawFn, bytes, Sequence[bytes]], bytes]] = [
    _flip, _word, _drop, _repeat, _insert, _truncate,
]  # fmt: skip
"""What can be done to bytes."""
_DAMAGE = st.sampled_from(DAMAGE)
_UP_TO = cache(lambda most: st.integers(0, most))
_MISSING = st.sampled_from((1, 8, 64)) | st.integers(1, 9000)


def damaged(draw: DrawFn, data: bytes, tokens: Sequence[bytes] = (), most: int = 3) -> bytes:
    """Return bytes with some damage.

    Args:
        draw: of Hypothesis.
        data: what is damaged.
        tokens: words of the format, that are put in anywhere.
        most: damages that are done to it.
    """
    for _ in range(draw(_UP_TO(most))):
        if data:
            data = draw(_DAMAGE)(draw, data, tokens)
    return data


def places(draw: DrawFn, length: int, most: int = 12) -> tuple[int, ...]:
    """Return places in so many bytes, in order."""
    return (*sorted(draw(st.lists(st.integers(0, length), max_size=most))),)


def gaps(draw: DrawFn, length: int, most: int = 2) -> tuple[Gap, ...]:
    """Return places in so many bytes, and how many bytes are missing there; mostly none."""
    if draw(st.booleans()):
        return ()
    one = st.tuples(st.integers(0, length), _MISSING)
    return (*sorted(draw(st.lists(one, min_size=1, max_size=most))),)


def pieces(data: bytes, cuts: Sequence[int] = (), missing: Sequence[Gap] = ()) -> Iterator[Piece]:
    """Yield the pieces of a stream: its bytes, cut at some places, and what is missing."""
    bounds = sorted({0, len(data), *cuts, *(at for at, _ in missing)})
    for begin, end in pairwise([*bounds, len(data)]):
        yield from (length for at, length in missing if at == begin)
        if begin < end:
            yield data[begin:end]


def every(length: int, most: int = 400) -> range:
    """Return the places that cut bytes into single ones, or into so many pieces at most."""
    return range(0, length, 1 + length // most)
