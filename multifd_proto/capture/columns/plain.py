"""Plain TCP out of records, as columns: those whose headers are all of one shape at once."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import HEAD, Integers, Records
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
        self.filled = np.maximum(records.length, records.captured) > 0
        shape = np.where(self.filled, _shapes(records, tunnels), -1)
        for kind in _distinct(shape):
            if kind >= 0:
                which = np.flatnonzero(shape == kind) if (shape != kind).any() else slice(None)
                _decode_alike(records, which, int(kind) >> 1, int(kind) & 1, self)

    def skip(self, index: int) -> None:
        """A record holds no segment."""
        self.done[index], self.segment[index] = True, False


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
    flow = flows_of(key, plain, out.keys)
    columns = (flow, _u32(head, tcp + 4), head[:, tcp + 13], place, body, stop - place)
    names = ("flow", "seq", "flags", "place", "body", "size")
    missing = end - np.maximum(body, stop)
    for name, column in zip((*names, "missing"), (*columns, missing), strict=True):
        getattr(out, name)[which] = column
    out.done[which] = plain


def flows_of(
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
