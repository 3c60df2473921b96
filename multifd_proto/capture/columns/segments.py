"""TCP segments as columns, out of records."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import HEAD, Bytes, Integers, Records
from multifd_proto.capture.fragments import Datagrams, Pending
from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.ip import Segment, decode
from multifd_proto.capture.link import Network, NotKept, Undecodable, link_type
from multifd_proto.capture.tunnels import UDP, VNI_VALID, VXLAN

_COOKED_2 = 276
_IP = (0x0800, 0x86DD)
_ETHERTYPE = {1: 12, 113: 14}  # Ethernet and Linux cooked: place of the first one
_IP_START = {_COOKED_2: 20, 0: 4, 108: 4, **dict.fromkeys((12, 14, 101, 228, 229), 0)}
_VLANS = (0x8100, 0x88A8, 0x9100)
_TCP = 6
_FRAGMENTED = 0x3FFF
_VXLAN_HEADERS = 20 + 8 + 8 + 14  # IPv4, UDP, VXLAN, Ethernet
_SECRET = np.array([secrets.randbits(64) | 1 for _ in range(9)], np.uint64)
"""Multipliers of the hash of addresses and ports: nobody can make two flows alike."""


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
    return out.segments()


class PlainSegments:
    """Segments of records of the same shape, an item a record; others may be filled in.

    Attributes:
        done: It is known what a record holds.
        segment: That is a segment, if it is known.
        filled: The record is not empty.
        body: Where the payload would start in the input, had all of the headers been captured.
    """

    def __init__(self, records: Records, *, tunnels: bool) -> None:
        """Decode all records that are plain.

        Args:
            records: a table.
            tunnels: look into those of VXLAN, too.
        """
        count = len(records)
        self.done = np.zeros(count, bool)
        self.segment = np.ones(count, bool)
        self.flow = np.zeros(count, np.uint64)
        self.seq = np.zeros(count, np.uint32)
        self.flags = np.zeros(count, np.uint8)
        self.place = np.zeros(count, np.int64)
        self.body = np.zeros(count, np.int64)
        self.size = np.zeros(count, np.int64)
        self.missing = np.zeros(count, np.int64)
        self.keys: dict[int, bytes] = {}
        self._records = records
        self.filled = np.maximum(records.length, records.captured) > 0
        shape = np.where(self.filled, _shapes(records, tunnels), -1)
        for kind in _distinct(shape):
            if kind >= 0:
                which = np.flatnonzero(shape == kind) if (shape != kind).any() else slice(None)
                _decode_alike(records, which, int(kind) >> 1, int(kind) & 1, self)

    def skip(self, index: int) -> None:
        """A record holds no segment."""
        self.done[index], self.segment[index] = True, False

    def segments(self) -> Segments:
        """Return those that are segments."""
        records = self._records
        which = slice(None) if self.segment.all() else np.flatnonzero(self.segment)
        row = np.arange(records.first, records.first + len(records))
        return Segments(
            content=records.content,
            row=row[which],
            time=records.time[which],
            flow=self.flow[which],
            seq=self.seq[which],
            flags=self.flags[which],
            place=self.place[which],
            size=self.size[which],
            missing=self.missing[which],
            keys=self.keys,
        )


def _shapes(records: Records, tunnels: bool) -> Integers:
    """Return where the IP header of each record starts, times two, plus one for IPv6."""
    head = records.head
    interfaces = _distinct(records.interface)
    if len(interfaces) == 1:
        start = _ip_starts(head, records.networks[interfaces[0]])
    else:
        start = np.full(len(records), -1, np.int64)
        for number in interfaces:
            same = records.interface == number
            start[same] = _ip_starts(head[same], records.networks[number])
    start = _inside_vxlan(head, start) if tunnels else start
    starts = _distinct(start)
    every = head[:, starts[0]] if len(starts) == 1 else head[np.arange(len(head)), start]
    version = every >> 4
    known = (start >= 0) & ((version == 4) | (version == 6))
    return np.where(known, start * 2 + (version == 6), -1)


def _ip_starts(head: NDArray[np.uint8], network: Network) -> Integers:
    """Return where the IP header starts in frames of an interface, or -1."""
    link = _plain_link(network)
    if link in _ETHERTYPE:
        return _behind_vlans(head, _ETHERTYPE[link])
    start = np.full(len(head), _IP_START.get(link, -1), np.int64)
    if link == _COOKED_2:  # the protocol comes first there
        start[~np.isin(_u16(head, 0), _IP)] = -1
    return start


def _inside_vxlan(head: NDArray[np.uint8], start: Integers) -> Integers:
    """Return where the inner packet starts, if it is of IPv4 in Ethernet, over plain IPv4."""
    for ip in _distinct(start):
        inner = ip + _VXLAN_HEADERS
        if ip < 0 or inner + 40 > HEAD or not (head[:, ip + 9] == UDP).any():
            continue
        plain = (start == ip) & (head[:, ip] == 0x45) & (head[:, ip + 9] == UDP)
        plain &= (_u16(head, ip + 6) & _FRAGMENTED == 0) & np.isin(_u16(head, ip + 22), VXLAN)
        plain &= (head[:, ip + 28] & VNI_VALID > 0) & (_u16(head, inner - 2) == _IP[0])
        size = _u16(head, inner + 2)
        plain &= (size > 0) & (size + _VXLAN_HEADERS <= _u16(head, ip + 2))
        start = np.where(plain, inner, start)
    return start


def _plain_link(network: Network) -> int:
    """Return the link type of frames that are what they were on the wire, or -1."""
    try:
        return -1 if isinstance(network, NotKept) else link_type(network)
    except Undecodable:
        return -1


def _behind_vlans(head: NDArray[np.uint8], place: int) -> Integers:
    """Return the place behind an ethertype of IP and up to two tags before it, or -1."""
    ethertype = _u16(head, place)
    if (ethertype == ethertype[0]).all() and ethertype[0] in _IP:
        return np.full(len(head), place + 2, np.int64)
    start = np.full(len(head), -1, np.int64)
    tagged = np.ones(len(head), bool)
    for _ in range(3):
        ethertype = _u16(head, place)
        start[tagged & np.isin(ethertype, _IP)] = place + 2
        tagged &= np.isin(ethertype, _VLANS)
        if not tagged.any():
            break
        place += 4
    return start


def _decode_alike(
    records: Records,
    which: NDArray[np.intp] | slice,
    ip: int,
    six: int,
    out: PlainSegments,
) -> None:
    """Decode records whose IP header starts at `ip`; leave those that are not plain TCP."""
    head = records.head[which]
    start, captured = records.place[which], records.captured[which]
    length = np.maximum(records.length[which], captured)
    tcp = ip + (40 if six else 20)
    if six:
        size = _u16(head, ip + 4)
        plain = (head[:, ip + 6] == _TCP) & (size > 0)
        end = start + tcp + size
        key = head[:, ip + 8 : tcp + 4]
    else:
        total = _u16(head, ip + 2)
        plain = (head[:, ip] == 0x45) & (head[:, ip + 9] == _TCP)
        plain &= _u16(head, ip + 6) & _FRAGMENTED == 0
        end = start + np.where(total > 0, total + ip, length)
        key = head[:, ip + 12 : tcp + 4]
    offset = head[:, tcp + 12]
    body = start + tcp + (offset >> 4).astype(np.int64) * 4
    plain &= (captured >= tcp + 20) & (offset >= 0x50) & (body <= end)
    stop = np.minimum(start + captured, end)
    place = np.minimum(body, stop)
    flow = _flows(key, plain, out.keys)
    columns = (flow, _u32(head, tcp + 4), head[:, tcp + 13], place, body, stop - place)
    names = ("flow", "seq", "flags", "place", "body", "size")
    missing = end - np.maximum(body, stop)
    for name, column in zip((*names, "missing"), (*columns, missing), strict=True):
        getattr(out, name)[which] = column
    out.done[which] = plain


def _flows(
    key: NDArray[np.uint8], plain: NDArray[np.bool_], keys: dict[int, bytes]
) -> NDArray[np.uint64]:
    """Return a hash of each key, and remember the keys."""
    words = key.view(np.uint32)
    flow: NDArray[np.uint64] = words[:, 0] * _SECRET[0]
    for number in range(1, words.shape[1]):  # faster than a product of matrices
        flow += words[:, number] * _SECRET[number]
    unseen = plain.copy()
    for known in keys:
        unseen &= flow != known
    while unseen.any():
        index = int(unseen.argmax())
        keys[int(flow[index])] = key[index].tobytes()
        unseen &= flow != flow[index]
    return flow


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
    out.flow[index] = _flows(padded, np.ones(1, bool), out.keys)[0]
    out.seq[index], out.flags[index] = seq, flags
    if whole is not view:
        place = records.content.add(whole)
    out.place[index], out.size[index] = place + start, stop - start
    out.missing[index] = missing


def _u16(head: NDArray[np.uint8], place: int) -> Integers:
    return head[:, place : place + 2].view(">u2")[:, 0].astype(np.int64)


def _u32(head: NDArray[np.uint8], place: int) -> NDArray[np.uint32]:
    return head[:, place : place + 4].view(">u4")[:, 0].astype(np.uint32)


def _distinct(values: Integers) -> list[int]:
    """Return the distinct ones of values that nearly always are all the same."""
    if len(values) and (values == values[0]).all():
        return [int(values[0])]
    return [int(value) for value in np.unique(values)]


assert max((*_IP_START.values(), 14 + 8 + 2)) + 60 <= HEAD
