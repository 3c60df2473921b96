"""Records of a pcap as columns."""

from __future__ import annotations

import struct

import numpy as np

from multifd_proto.capture.columns.lockstep import Chain, gather
from multifd_proto.capture.columns.records import Integers, Records
from multifd_proto.capture.columns.walk import Walked
from multifd_proto.capture.link import Network

_HEADER = 16
_SECOND = 1_000_000_000


class PcapRecords:
    """Knows the records of a pcap."""

    header = _HEADER
    tail = 0

    def __init__(self, order: str, tick: int, network: Network, most: int) -> None:
        """Take what the file's header says.

        Args:
            order: byte order, as `struct` has it.
            tick: of the time, in nanoseconds.
            network: finds the IP header of a frame.
            most: bytes that a record may have.
        """
        self._fields = struct.Struct(order + "4I").unpack_from
        self._captured = struct.Struct(order + "8xI").unpack_from
        self._seconds = struct.Struct(order + "I").pack
        self._word = order + "u4"
        self._tick = tick
        self._network = network
        self._most = most
        self.chain = Chain(8, order, _HEADER, _HEADER, most, self._patterns, self._plausible)

    def records(self, walked: Walked, first: int) -> Records:
        """Return what records hold."""
        header = np.ascontiguousarray(walked.rows[:, :_HEADER]).view(self._word).astype(np.int64)
        return Records(
            content=walked.content,
            first=first,
            place=walked.place + _HEADER,
            captured=header[:, 2],
            length=header[:, 3],
            time=header[:, 0] * _SECOND + header[:, 1] * self._tick,
            head=walked.rows[:, _HEADER:],
            interface=np.zeros(len(walked.place), np.int64),
            networks=[self._network],
        )

    def size(self, row: bytes) -> int:
        """Return the bytes of the record with these first bytes; 0 if it claims too many."""
        (captured,) = self._captured(row)
        size: int = captured + _HEADER
        return size if size <= self._most else 0

    def places(self, held: memoryview, most: int) -> tuple[list[int], int]:
        """Return where up to so many whole records in memory are, and where they end."""
        captured, stop, limit = self._captured, len(held), self._most
        last = stop - _HEADER
        place = 0
        places: list[int] = []
        append = places.append
        while place <= last and len(places) < most:
            size = captured(held, place)[0] + _HEADER
            if place + size > stop or size > limit:
                break
            append(place)
            place += size
        return places, place

    def _patterns(self, held: memoryview, place: int) -> tuple[bytes, ...]:
        """Return the seconds of the records that follow: the same, or one more."""
        (seconds, *_) = self._fields(held, place)
        return self._seconds(seconds), self._seconds(min(seconds + 1, 0xFFFFFFFF))

    def _plausible(self, held: memoryview, places: Integers) -> Integers:
        header = gather(held, places, _HEADER).view(self._word).astype(np.int64)
        _, ticks, captured, length = header.T
        plain = (ticks * self._tick < _SECOND) & (captured <= length) & (length <= self._most)
        return np.where(plain, captured + _HEADER, 0)
