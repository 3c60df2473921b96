"""Where small records are: many chains of them walked in lockstep.

Each record says where the next one is, so records have to be walked one after the other; a million
of them in a gigabyte takes Python longer than all the rest. So a stretch is cut into parts, a
plausible record is searched in each, and from all of these the chains are walked at once, with
numpy. What was plausible is then proved: each chain has to arrive where the next one began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import Integers

Rows = NDArray[np.uint8]

_PART = 88 << 10
"""Bytes of a stretch that a chain walks: no power of two, or they meet in the same cache lines."""
_SEARCHED = 32 << 10
"""Bytes in which a plausible record is searched."""
_PROOF = 4
"""Plausible records in a row that make the first one worth a try."""
_LEAST = 8
"""Chains below which it is not worth it."""
_ROUND = 16
"""Steps from one look at whether all chains have arrived to the next."""
_TRIES = 4
"""Places in a part that are tried."""


@dataclass(frozen=True)
class Chain:
    """How the records of a format follow one another."""

    size_at: int
    """Where in a record its size is, a u32 in bytes."""
    order: str
    """Byte order, as numpy has it."""
    besides: int
    """Bytes of a record that its size does not count."""
    least: int
    """Bytes of the smallest record."""
    most: int
    """Bytes that a record may have."""
    patterns: Callable[[memoryview, int], tuple[bytes, ...]]
    """Returns what the records after the one at a place are likely to begin with."""
    plausible: Callable[[memoryview, Integers], Integers]
    """Returns the size in bytes of what may be a record at each place; 0 if it cannot be one."""


def gather(held: memoryview, places: Integers, width: int) -> Rows:
    """Return the bytes at some places, in rising order; what is behind the end is zeros."""
    last = len(held) - width
    if not len(places) or not width:
        return np.zeros((len(places), width), np.uint8)
    if int(places[-1]) > last:
        whole, cut = int(np.searchsorted(places, last, "right")), max(last + 1, 0)
        rest = memoryview(bytes(held[cut:]) + bytes(2 * width))
        rows = gather(held, places[:whole], width), gather(rest, places[whole:] - cut, width)
        return np.concatenate(rows)
    every: NDArray[np.void] = np.ndarray((last + 1,), np.dtype((np.void, width)), held, 0, (1,))
    return every[places].view(np.uint8).reshape(-1, width)


def walk(held: memoryview, chain: Chain) -> tuple[Integers, int] | None:
    """Return the places of the whole records in memory, and the place behind the last one.

    None where that cannot be proved, or would not be faster than walking from one to the next.
    """
    starts = _starts(held, chain)
    if len(starts) < max(_LEAST, len(held) // _PART // 2):
        return None
    ends = np.append(starts[1:], len(held) - chain.least + 1)
    steps = _steps(held, chain, starts, ends)
    inside = steps < ends
    if inside[-1].any() or not np.array_equal(_first_outside(steps, inside)[:-1], starts[1:]):
        return None
    places, after = steps[:-1].T[inside[:-1].T], steps[1:].T[inside[:-1].T]
    if (after - places > chain.most).any():
        return None
    whole = after <= len(held)
    count = len(places) if whole.all() else int(whole.argmin())
    return places[:count], int(after[count - 1]) if count else 0


def _first_outside(steps: NDArray[np.int64], inside: NDArray[np.bool_]) -> Integers:
    return np.asarray(steps[inside.sum(axis=0), np.arange(steps.shape[1])])


def _starts(held: memoryview, chain: Chain) -> Integers:
    """Return the first record, and a plausible one in each part where one is found."""
    parts = range(_PART, len(held) - _PART, _PART)
    search = [(begin, begin + _SEARCHED) for begin in parts]
    starts = [np.zeros(1, np.int64)]
    for _ in range(_TRIES):
        found = list(_candidates(held, chain, search))
        places = np.array([place for place, _ in found], np.int64)
        good = _are_starts(held, places, chain)
        starts.append(places[good])
        search = [(found[index][0] + 1, found[index][1]) for index in np.flatnonzero(~good)]
        if not search:
            break
    return np.sort(np.concatenate(starts))


def _candidates(
    held: memoryview, chain: Chain, search: list[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the first place in each stretch that begins as a record does, and the stretch's end."""
    data = held.obj  # which can be searched
    assert isinstance(data, bytes | bytearray | mmap)
    base = np.frombuffer(held, np.uint8).ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
    last, find = 0, data.find
    for begin, stop in search:
        for pattern in chain.patterns(held, last):
            place = find(pattern, base + begin, base + stop)
            if place >= 0:
                last = place - base
                yield last, stop
                break


def _are_starts(held: memoryview, places: Integers, chain: Chain) -> NDArray[np.bool_]:
    """Tell at which places a few plausible records follow one another."""
    good, last = np.ones(len(places), bool), len(held) - chain.least
    for _ in range(_PROOF):
        size = chain.plausible(held, np.minimum(places, last))
        good &= (size > 0) & (places <= last)
        places = places + size
    return good


def _steps(held: memoryview, chain: Chain, starts: Integers, ends: Integers) -> NDArray[np.int64]:
    """Walk all chains, step by step, until each has left its part; some go on beyond it."""
    last = len(held) - chain.size_at - 4
    word: NDArray[np.void] = np.ndarray((last + 1,), "V4", held, chain.size_at, (1,))
    order = np.dtype(chain.order + "u4")
    # beside arrays, as numpy takes longer to tell what a number is than to add it
    lasts, besides = np.full(len(starts), last), np.full(len(starts), chain.besides)
    place, steps = starts, [starts]
    while (place < ends).any() and len(steps) <= int((ends - starts).max()) // chain.least:
        for _ in range(_ROUND):
            place = place + word[np.minimum(place, lasts)].view(order)
            place += besides
            steps.append(place)
    return np.array(steps)
