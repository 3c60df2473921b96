"""Stripping many frames at once: those that keep nothing but their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.plain import PlainSegments
from multifd_proto.capture.columns.records import HEAD, Integers, Records
from multifd_proto.capture.link import Frame, link_type
from multifd_proto.capture.strip.track import Track
from multifd_proto.wire import pcapng

_SYN = 2
_HEAD = pcapng.packet_head(0, 0, 0, 0)
_TAIL = len(pcapng.packet_tail(0))
_LIMIT = 2**63 - 1

Mask = NDArray[np.bool_]


@dataclass(eq=False)
class Bare:
    """Frames of a table, and which of them keep nothing but their headers."""

    records: Records
    which: Mask
    header: Integers
    """Bytes of the headers of each."""

    def frame(self, index: int) -> Frame:
        """Return a frame, to be stripped by itself."""
        records = self.records
        captured, length = int(records.captured[index]), int(records.length[index])
        view = records.content.view(int(records.place[index]), captured)
        network = records.networks[int(records.interface[index])]
        return int(records.time[index]), network, view, 0, captured, max(length, captured)

    @property
    def count(self) -> int:
        """How many keep nothing else."""
        return int(self.which.sum())

    def blocks(self, interface: Callable[[int], int]) -> Iterator[int | bytes]:
        """Yield packets of a pcapng, as many as can be at once, and the numbers of other frames.

        Args:
            interface: returns the number of that for a link type.
        """
        rows, done = np.flatnonzero(self.which), 0
        packets, ends = b"", [0]
        if len(rows):
            network = self.records.networks[int(self.records.interface[rows[0]])]
            packets, ends = self._packets(rows, interface(link_type(network)))
        for index in np.flatnonzero(~self.which).tolist():
            end = int(np.searchsorted(rows, index))
            if end > done:
                yield packets[ends[done] : ends[end]]
                done = end
            yield index
        yield packets[ends[done] :]

    def _packets(self, rows: NDArray[np.intp], number: int) -> tuple[bytes, list[int]]:
        """Return packets of some frames, and where each begins and the last one ends."""
        header = self.header[rows]
        size = len(_HEAD) + header + -header % 4 + _TAIL
        ends = np.append(0, np.cumsum(size))
        out = np.zeros(int(ends[-1]), np.uint8)
        for width in np.unique(header).tolist():
            same = header == width
            made = self._of_width(rows[same], width, number)
            if len(made) == len(rows):
                out = made.reshape(-1)
            else:
                out[ends[:-1][same][:, None] + np.arange(made.shape[1])] = made
        return out.tobytes(), ends.tolist()

    def _of_width(self, rows: NDArray[np.intp], width: int, number: int) -> NDArray[np.uint8]:
        records = self.records
        size = len(_HEAD) + width + -width % 4 + _TAIL
        made = np.zeros((len(rows), size), np.uint8)
        made[:, : len(_HEAD)] = np.frombuffer(pcapng.packet_head(number, 0, width, 0), np.uint8)
        time = np.maximum(records.time[rows], 0)
        length = np.maximum(records.length[rows], records.captured[rows])
        for place, value in ((12, time >> 32), (16, time & 0xFFFFFFFF), (24, length)):
            made[:, place : place + 4] = value.astype("<u4").view(np.uint8).reshape(-1, 4)
        made[:, len(_HEAD) : len(_HEAD) + width] = records.head[rows, :width]
        made[:, -_TAIL:] = np.frombuffer(pcapng.packet_tail(width)[-_TAIL:], np.uint8)
        return made


class Passed(NamedTuple):
    """What a table has of a direction."""

    track: Track | None
    size: int
    """Bytes of payload in frames that keep nothing but their headers."""
    begin: int
    """Where in the stream the segments of the table begin, if they simply follow one another."""
    end: int


def bare_frames(
    records: Records, track_of: Callable[[bytes], Track | None] | None
) -> tuple[Bare, list[Passed]]:
    """Find the frames that keep nothing but their headers.

    Args:
        records: a table.
        track_of: returns what is known of a direction, by the key of its segments; None where
            that changes within the table.

    """
    if track_of is None or (records.interface != records.interface[0]).any():
        nothing = np.zeros(len(records), np.int64)
        return Bare(records, nothing > 0, nothing), []
    plain = PlainSegments(records, tunnels=False)
    header = plain.body - records.place
    good = plain.done & (plain.missing == 0) & (plain.place == plain.body) & (header <= HEAD)
    passed = []
    for flow, key in plain.keys.items():
        rows = np.flatnonzero(plain.done & (plain.flow == np.uint64(flow)))
        track, begin, end = track_of(key), 0, 0
        if track:
            bare, begin, end = _of_track(plain, rows, track)
            good[rows] &= bare
        size = int(plain.size[rows][good[rows]].sum())
        passed.append(Passed(track, size, begin, end))
    return Bare(records, good, header), passed


def _of_track(plain: PlainSegments, rows: NDArray[np.intp], track: Track) -> tuple[Mask, int, int]:
    """Tell which segments of a direction hold nothing that is kept, and where all of them are.

    None is told, unless all of them simply follow one another behind all that was there before.
    """
    none = np.zeros(len(rows), bool), 0, 0
    data = (plain.size[rows] > 0) | (plain.missing[rows] != 0)
    filled = rows[data]
    if not len(filled):
        return ~none[0], 0, 0
    seq, size = plain.seq[filled], plain.size[filled]
    if plain.missing[filled].any() or (plain.flags[filled] & _SYN).any():
        return none
    begin = track.place(int(seq[0]))
    steps = np.diff(seq, prepend=seq[:1]).view(np.int32)
    start = begin + np.cumsum(steps, dtype=np.int64)
    end = start + size
    if begin < track.position or not np.array_equal(start[1:], end[:-1]):
        return none
    starts = np.frombuffer(track.kept.starts, np.uint64).astype(np.int64)
    ends = np.frombuffer(track.kept.ends, np.uint64).astype(np.int64)
    index = np.searchsorted(ends, start, "right")
    within = index < len(starts)
    kept = within & (np.append(starts, _LIMIT)[index] < end)
    good = np.ones(len(rows), bool)
    good[data] = ~kept
    return good, begin, int(end[-1])
