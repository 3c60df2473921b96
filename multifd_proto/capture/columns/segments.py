"""TCP segments as columns, out of records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.plain import PlainSegments, flows_of
from multifd_proto.capture.columns.records import Bytes, Integers, Records
from multifd_proto.capture.fragments import Datagrams, Pending
from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.ip import Segment, decode
from multifd_proto.capture.link import Undecodable


@dataclass(eq=False)
class Segments:
    """Segments as columns, in the order of the capture."""

    content: Bytes
    row: Integers
    """Number of the record in the input."""
    time: Integers
    flow: NDArray[np.uint64]
    """Which direction of which connection: equal for equal addresses and ports."""
    seq: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    place: Integers
    """Where the captured payload starts in the input."""
    size: Integers
    """Bytes of it."""
    missing: Integers
    """Bytes of payload behind it that were not captured."""
    keys: dict[int, bytes]
    """Addresses and ports of each `flow`, as `Segment` has them."""

    def __len__(self) -> int:
        return len(self.row)

    def part(self, which: slice | NDArray[np.intp]) -> Segments:
        """Return some of them."""
        return replace(self, **{name: getattr(self, name)[which] for name in _COLUMNS})

    def by_flow(self) -> Iterator[tuple[bytes, NDArray[np.intp]]]:
        """Yield addresses and ports of each direction, and which segments are its."""
        for flow, key in self.keys.items():
            which = np.flatnonzero(self.flow == np.uint64(flow))
            if len(which):
                yield key, which

    def singly(self) -> Iterator[Segment]:
        """Yield them one by one."""
        columns = (getattr(self, name).tolist() for name in _COLUMNS[1:])
        for time, flow, seq, flags, place, size, missing in zip(*columns, strict=True):
            view = self.content.view(place, size)
            yield time, self.keys[flow], seq, flags, view, 0, size, missing


_COLUMNS = ("row", "time", "flow", "seq", "flags", "place", "size", "missing")


def keep_memory() -> None:
    """Have the C library keep what arrays leave, for those of the next table.

    GNU's gives memory back to the system whenever this much is free, and to get it again page by
    page takes longer than all that is done with it. It learns from what is freed.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


def segments_of(records: Records, info: CaptureInfo, datagrams: Datagrams) -> Segments:
    """Return the TCP segments of records; count the records, and those that hold none.

    Records of the same shape (link layer, VLAN tags, version of IP without options) are decoded
    together, all others one by one as `multifd_proto.capture.ip` does.
    """
    out = PlainSegments(records, tunnels=True)
    filled = out.filled
    info.records += len(records)
    for index in np.flatnonzero(~filled).tolist():
        out.skip(index)
        info.skipped["empty"] += 1
    for index in np.flatnonzero(~out.done).tolist():
        _decode_singly(records, index, out, info, datagrams)
    if filled.any():
        first, last = int(records.time[filled].min()), int(records.time[filled].max())
        info.first = first if info.first is None else min(info.first, first)
        info.last = last if info.last is None else max(info.last, last)
    return _of(out, records)


def _of(plain: PlainSegments, records: Records) -> Segments:
    """Return those that are segments."""
    which = slice(None) if plain.segment.all() else np.flatnonzero(plain.segment)
    row = np.arange(records.first, records.first + len(records))
    return Segments(
        content=records.content,
        row=row[which],
        time=records.time[which],
        flow=plain.flow[which],
        seq=plain.seq[which],
        flags=plain.flags[which],
        place=plain.place[which],
        size=plain.size[which],
        missing=plain.missing[which],
        keys=plain.keys,
    )


def _decode_singly(
    records: Records,
    index: int,
    out: PlainSegments,
    info: CaptureInfo,
    datagrams: Datagrams,
) -> None:
    place, captured = int(records.place[index]), int(records.captured[index])
    view = records.content.view(place, captured)
    length = max(captured, int(records.length[index]))
    network = records.networks[int(records.interface[index])]
    try:
        _, key, seq, flags, whole, start, stop, missing = decode(
            (0, network, view, 0, captured, length), datagrams
        )
    except Pending:
        out.skip(index)
        return
    except Undecodable as reason:
        out.skip(index)
        info.skipped[str(reason)] += 1
        return
    padded = np.frombuffer(key, np.uint8).reshape(1, -1)
    out.flow[index] = flows_of(padded, np.ones(1, bool), out.keys)[0]
    out.seq[index], out.flags[index] = seq, flags
    if whole is not view:
        place = records.content.add(whole)
    out.place[index], out.size[index] = place + start, stop - start
    out.missing[index] = missing
