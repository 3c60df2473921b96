"""Where small records are: many chains of them walked in lockstep.

Each record says where the next one is, so records have to be walked one after the other; a million
of them in a gigabyte takes Python longer than all the rest. So a stretch is cut into parts, a
plausible record is searched in each, and from all of these the chains are walked at once, with
numpy. What was plausible is then proved: each chain has to arrive where the next one began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import Integers

_PART = 128 << 10
"""Bytes of a stretch that a chain walks."""
_SEARCHED = 32 << 10
"""Bytes in which a plausible record is searched."""
_PROOF = 4
"""Plausible records in a row that make the first one worth a try."""
_LEAST = 8
"""Chains below which it is not worth it."""
_ROUND = 16
"""Steps from one look at whether all chains have arrived to the next."""
_HEADER = 32
"""Bytes that tell whether a record is plausible."""


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
    plausible: Callable[[memoryview, int], int]
    """Returns the size in bytes of what may be a record at a place; 0 if it cannot be one."""


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
    data = held.obj  # which can be searched
    assert isinstance(data, bytes | bytearray)
    base = np.frombuffer(held, np.uint8).ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
    starts = [0]
    for begin in range(_PART, len(held) - _PART, _PART):
        for pattern in chain.patterns(held, starts[-1]):
            end = base + begin + _SEARCHED
            place = data.find(pattern, base + begin, end)
            while place >= 0 and not _is_start(held, place - base, chain):
                place = data.find(pattern, place + 1, end)
            if place >= 0:
                starts.append(place - base)
                break
    return np.array(starts, np.int64)


def _is_start(held: memoryview, place: int, chain: Chain) -> bool:
    for _ in range(_PROOF):
        size = chain.plausible(held, place) if place + _HEADER <= len(held) else 0
        if not size:
            return False
        place += size
    return True


def _steps(held: memoryview, chain: Chain, starts: Integers, ends: Integers) -> NDArray[np.int64]:
    """Walk all chains, step by step, until each has left its part; some go on beyond it."""
    last = len(held) - chain.size_at - 4
    word: NDArray[np.void] = np.ndarray((last + 1,), "V4", held, chain.size_at, (1,))
    order, besides = chain.order + "u4", chain.besides
    place, steps = starts, [starts]
    while (place < ends).any() and len(steps) <= int((ends - starts).max()) // chain.least:
        for _ in range(_ROUND):
            size = word[np.minimum(place, last)].view(order)
            place = place + size
            if besides:
                place += besides
            steps.append(place)
    return np.array(steps)
