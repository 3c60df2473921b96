"""Records of a capture file as columns: where each frame is, and its first bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.link import Network

Integers = NDArray[np.int64]

HEAD = 104
"""Bytes of each frame that are looked at: link layer, IP and TCP header, if they are plain."""
_BESIDE = -(1 << 40)
"""Where what is not in the input is said to be."""


class Bytes:
    """The bytes of an input around some records: in memory, or to be read where they are wanted.

    Attributes:
        held: What is in memory; empty where records are hopped over.
        base: Place of its first byte in the input.
    """

    __slots__ = ("_beside", "_file", "base", "held")

    def __init__(self, held: memoryview, base: int, file: int | None) -> None:
        self.held = held
        self.base = base
        self._file = file
        self._beside = bytearray()

    def add(self, data: memoryview) -> int:
        """Add bytes that were put together of some in the input; return their place."""
        self._beside = self._beside + data  # anew, as there may be views
        return _BESIDE + len(self._beside) - len(data)

    def view(self, place: int, size: int) -> memoryview:
        """Return bytes of the input; they are valid until the next records are read."""
        if place < 0:
            start = place - _BESIDE
            return memoryview(self._beside)[start : start + size]
        start = place - self.base
        if start >= 0 and start + size <= len(self.held):
            return self.held[start : start + size]
        assert self._file is not None, "records in memory are asked for nothing else"
        return memoryview(os.pread(self._file, size, place))

    def views(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """Return several ranges of bytes, each from its first place to the one behind it."""
        held, base, top = self.held, self.base, self.base + len(self.held)
        return [
            held[start - base : stop - base]
            if start >= base and stop <= top
            else self.view(start, stop - start)
            for start, stop in ranges
        ]


@dataclass(eq=False)
class Records:
    """Some consecutive records that hold a frame each; an item a record, but for `head`."""

    content: Bytes
    first: int
    """Number of the first one in the input."""
    place: Integers
    """Where the frame starts in the input, in bytes."""
    captured: Integers
    """Bytes of the frame that were captured."""
    length: Integers
    """Bytes that it had."""
    time: Integers
    """Nanoseconds since the epoch."""
    head: NDArray[np.uint8]
    """The first `HEAD` bytes of each frame; what is behind `captured` means nothing."""
    interface: Integers
    """Number of the interface of each record."""
    networks: list[Network]
    """What finds the IP header, by interface."""

    def __len__(self) -> int:
        return len(self.place)
