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
    steps = _steps(held, chain, starts)
    if not np.array_equal(steps[-1, :-1], starts[1:]):
        return None
    moved = steps[:-1] < steps[1:]
    places, after = steps[:-1].T[moved.T], steps[1:].T[moved.T]
    if (after - places > chain.most).any():
        return None
    whole = after <= len(held)
    count = len(places) if whole.all() else int(whole.argmin())
    return places[:count], int(after[count - 1]) if count else 0


def _starts(held: memoryview, chain: Chain) -> Integers:
    """Return the first record, and a plausible one in each part where one is found."""
    data = held.obj
    assert isinstance(data, bytes | bytearray)
    starts = [0]
    for begin in range(_PART, len(held) - _PART, _PART):
        for pattern in chain.patterns(held, starts[-1]):
            place = data.find(pattern, begin, begin + _SEARCHED)
            while place >= 0 and not _is_start(held, place, chain):
                place = data.find(pattern, place + 1, begin + _SEARCHED)
            if place >= 0:
                starts.append(place)
                break
    return np.array(starts, np.int64)


def _is_start(held: memoryview, place: int, chain: Chain) -> bool:
    for _ in range(_PROOF):
        size = chain.plausible(held, place) if place + _HEADER <= len(held) else 0
        if not size:
            return False
        place += size
    return True


def _steps(held: memoryview, chain: Chain, starts: Integers) -> NDArray[np.int64]:
    """Walk all chains; return their places, step by step, each until it is in the next part."""
    last = len(held) - chain.least
    word: NDArray[np.void] = np.ndarray((last + 1,), "V4", held, chain.size_at, (1,))
    ends = np.append(starts[1:], last + 1)
    steps = [starts]
    while (going := steps[-1] < ends).any():
        place = steps[-1]
        size = word[np.minimum(place, last)].view(chain.order + "u4").astype(np.int64)
        size = np.maximum(size + chain.besides, chain.least)
        steps.append(np.where(going, place + size, place))
    return np.array(steps)
