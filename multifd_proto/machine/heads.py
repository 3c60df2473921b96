"""Heads of packets that stay where they are in memory, in an order of their own.

To move whole heads takes longer than most of what is done with them: only the fields that are asked
for are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Heads:
    """Heads of one layout and page size.

    Attributes:
        dtype: of each, see `Message.dtype`.
    """

    __slots__ = ("_order", "_parts", "dtype")

    def __init__(self, parts: Sequence[NDArray[np.void]], order: Integers | None = None) -> None:
        """Take arrays of heads.

        Args:
            parts: arrays of one dtype, at least one.
            order: places in all of them, one behind the other; None for all as they are.
        """
        self._parts = parts
        self._order = np.arange(sum(map(len, parts))) if order is None else order
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, part: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Heads:
        """Return some of them, in the order asked for."""
        return Heads(self._parts, self._order[part])

    @classmethod
    def joined(cls, several: Sequence[Heads]) -> Heads:
        """Return heads of several kinds of places as one, one behind the other."""
        parts = [part for heads in several for part in heads._parts]
        begins = np.cumsum([0, *(sum(map(len, heads._parts)) for heads in several)]).tolist()
        orders = [heads._order + begin for heads, begin in zip(several, begins, strict=False)]
        return cls(parts, np.concatenate(orders))

    def field(self, name: str) -> NDArray[Any]:
        """Return a field of each head, an integer in the machine's byte order."""
        field, end = self.dtype[name], 0
        whole = np.empty((sum(map(len, self._parts)), *field.shape), field.base.newbyteorder("="))
        for part in self._parts:
            begin, end = end, end + len(part)
            whole[begin:end] = part[name]
        return whole[self._order]

    def one(self, index: int) -> bytes:
        """Return the bytes of one head."""
        place = int(self._order[index])
        for part in self._parts:
            if place < len(part):
                return bytes(part[place].tobytes())
            place -= len(part)
        raise IndexError(index)
