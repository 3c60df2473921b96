"""Sums over the packets of a batch: what `Traffic` and `Timeline` count, at a few calls a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from multifd_proto.machine.batch import Integers, PacketBatch

_NEVER = np.iinfo(np.int64).max


class Sums(NamedTuple):
    """What some packets come to."""

    packets: int
    syncs: int
    normal: int
    zero: int
    resent: int
    payload: int
    first: int
    """Earliest and latest time in nanoseconds; 0 where no clock is known."""
    last: int


class PacketSums:
    """Sums over groups of a batch's packets."""

    def __init__(self, batch: PacketBatch, resent: Integers) -> None:
        """Take packets, and how many pages of each had been sent before."""
        self._batch = batch
        ones = np.ones(len(batch), np.int64)
        columns = (
            ones, batch.sync, batch.normal_pages, batch.zero_pages, resent, batch.payload
        )  # fmt: skip
        self._counts = np.stack([column.astype(np.int64) for column in columns])

    def by(self, key: Integers, *, payloads: bool = True) -> Iterator[tuple[int, Sums]]:
        """Yield the sums of the packets with each key, in the order of the first of them.

        Args:
            key: of each packet; those with a negative one are left out.
            payloads: the end of the payload counts for the time as well.
        """
        first, last = self._times(payloads)
        order = np.argsort(key, kind="stable")
        order = order[np.searchsorted(key[order], 0) :]
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        if not len(starts):
            return
        counts = np.add.reduceat(self._counts[:, order], starts, axis=1).T.tolist()
        firsts = np.minimum.reduceat(first[order], starts)
        lasts = np.maximum.reduceat(last[order], starts)
        firsts[firsts == _NEVER] = 0
        keys, places = key[order][starts].tolist(), order[starts]
        found = list(zip(keys, counts, firsts.tolist(), lasts.tolist(), strict=True))
        for index in np.argsort(places).tolist():
            number, sums, begun, over = found[index]
            yield number, Sums._make((*sums, begun, over))

    def _times(self, payloads: bool) -> tuple[Integers, Integers]:
        time, ended = self._batch.time, self._batch.ended
        first = np.where(time > 0, time, _NEVER)
        if not payloads:
            return first, time
        return np.minimum(first, np.where(ended > 0, ended, _NEVER)), np.maximum(time, ended)


def totals(keys: Integers, values: Integers) -> list[tuple[int, int]]:
    """Return each key and the sum of its values."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    if not len(starts):
        return []
    sums = np.add.reduceat(values[order], starts)
    return list(zip(keys[starts].tolist(), sums.tolist(), strict=True))
