"""Packet blocks of a pcapng as columns: one section's, as long as no other block comes between."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from multifd_proto.capture.columns.lockstep import Chain, gather
from multifd_proto.capture.columns.records import Integers, Records
from multifd_proto.capture.columns.walk import Walked
from multifd_proto.capture.link import Interface

_PACKET = 6
_HEADER = 28
_TRAILER = 4
_LEAST = _HEADER + _TRAILER
_EXACT = 1 << 62
"""Ticks times nanoseconds that fit into 64 bits."""


class PacketBlocks:
    """Knows the packet blocks of a section."""

    header = _HEADER
    tail = _TRAILER

    def __init__(self, order: str, interfaces: Sequence[Interface], most: int) -> None:
        """Take what the section says.

        Args:
            order: byte order, as `struct` has it.
            interfaces: of the section; there may be more of them later.
            most: bytes that a block may have.
        """
        self._fields = struct.Struct(order + "2I").unpack_from
        self._kind = struct.Struct(order + "I").pack(_PACKET)
        self._word = order + "u4"
        self._interfaces = interfaces
        self._most = most
        self.chain = Chain(4, order, 0, _LEAST, most, self._patterns, self._plausible)

    def records(self, walked: Walked, first: int) -> Records:
        """Return what packet blocks hold, up to the first that is none, or not as it should be."""
        count = self._well_formed(walked)
        words = self._words(walked)[:count]
        interface = words[:, 2]
        return Records(
            content=walked.content,
            first=first,
            place=walked.place[:count] + _HEADER,
            captured=words[:, 5],
            length=words[:, 6],
            time=self._times(interface, words[:, 3] << 32 | words[:, 4]),
            head=walked.rows[:count, _HEADER:],
            interface=interface,
            networks=[interface.network for interface in self._interfaces],
        )

    def _words(self, walked: Walked) -> Integers:
        header = np.ascontiguousarray(walked.rows[:, :_HEADER])
        return header.view(self._word).astype(np.int64)

    def _well_formed(self, walked: Walked) -> int:
        """Return how many blocks, from the first on, are packets as they should be."""
        words = self._words(walked)
        kind, size, interface, high, captured = (words[:, n] for n in (0, 1, 2, 3, 5))
        ends = np.ascontiguousarray(walked.ends).view(self._word)[:, 0]
        good = (kind == _PACKET) & (size % 4 == 0) & (size >= _LEAST) & (size == ends)
        good &= (size <= self._most) & (captured <= size - _LEAST)
        good &= interface < len(self._interfaces)
        for number, known in enumerate(self._interfaces):
            exact = high < (_EXACT // known.factor >> 32)
            good &= exact | (interface != number)
        return len(good) if good.all() else int(good.argmin())

    def _times(self, interface: Integers, ticks: Integers) -> Integers:
        time = np.zeros(len(ticks), np.int64)
        for number, known in enumerate(self._interfaces):
            same = interface == number
            time[same] = ticks[same] * known.factor // known.divisor + known.offset
        return time

    def size(self, row: bytes) -> int:
        """Return the bytes of the block with these first bytes; 0 if it is no packet."""
        kind, size = self._fields(row)
        return size if kind == _PACKET and _LEAST <= size <= self._most else 0

    def places(self, held: memoryview, most: int) -> tuple[list[int], int]:
        """Return where up to so many whole packets in memory are, and where they end."""
        fields, stop, limit = self._fields, len(held), self._most
        last = stop - _LEAST
        place = 0
        places: list[int] = []
        while place <= last and len(places) < most:
            kind, size = fields(held, place)
            if kind != _PACKET or not _LEAST <= size <= limit or place + size > stop:
                break
            places.append(place)
            place += size
        return places, place

    def _patterns(self, _held: memoryview, _place: int) -> tuple[bytes, ...]:
        return (self._kind,)

    def _plausible(self, held: memoryview, places: Integers) -> Integers:
        kind, size = gather(held, places, 8).view(self._word).astype(np.int64).T
        plain = (kind == _PACKET) & (size >= _LEAST) & (size <= self._most) & (size % 4 == 0)
        size = np.where(plain, size, _LEAST)
        end = np.minimum(places + size, len(held)) - _TRAILER
        (again,) = gather(held, end, _TRAILER).view(self._word).T
        return np.where(plain & (again == size), size, 0)
