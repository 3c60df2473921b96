"""Link layers: where the IP packet starts in a frame."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

Network = Callable[[memoryview, int, int], int]
"""Finds the IP header of a frame that lies in the view from the first to the second place.

Raises:
    Undecodable: There is none.
"""
Frame = tuple[int, Network, memoryview, int, int, int]
"""A frame: time, its link layer, the view it lies in, the places where it starts, where what was
captured of it stops, and where it would stop if all of it had been captured."""

_U16 = struct.Struct(">H").unpack_from
_IP = (0x0800, 0x86DD)
_VLAN = (0x8100, 0x88A8, 0x9100)
_FAMILIES = (2, 10, 24, 28, 30)  # AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD and macOS


class Undecodable(Exception):
    """No TCP segment can be read from a frame; the reason is its text. Stays in this package."""


@dataclass(frozen=True, slots=True)
class NotKept:
    """A link layer in a stripped capture: what frames of it lack had been captured."""

    network: Network

    def __call__(self, view: memoryview, start: int, stop: int) -> int:
        """Find the IP header as in any frame of the link layer."""
        return self.network(view, start, stop)


class Interface(NamedTuple):
    """Link layer, snap length, and a time in ns as ticks * `factor` // `divisor` + `offset`."""

    network: Network
    snap: int
    factor: int = 1000
    divisor: int = 1
    offset: int = 0


def link_type(network: Network) -> int:
    """Return a link type whose frames are read as those of `network` are.

    Raises:
        Undecodable: There is none.
    """
    network = network.network if isinstance(network, NotKept) else network
    if network not in _TYPES:
        raise Undecodable("link type unknown")
    return _TYPES[network]


def link_layer(link_type: int) -> Network:
    """Return what finds the IP header in frames of a link type (a LINKTYPE number)."""
    return _LINKS.get(link_type) or refuse(f"link type {link_type} unknown")


def refuse(reason: str) -> Network:
    """Return what finds no IP header in any frame, for this reason."""

    def undecodable(_view: memoryview, _start: int, _stop: int) -> int:
        raise Undecodable(reason)

    return undecodable


def _behind_ethertype(skip: int, view: memoryview, start: int, stop: int) -> int:
    """Pass over `skip` bytes, an ethertype, and VLAN tags, each with the next ethertype."""
    place = start + skip
    while stop - place >= 2:
        (ethertype,) = _U16(view, place)
        if ethertype in _IP:
            return place + 2
        if ethertype not in _VLAN:
            raise Undecodable("not IP")
        place += 4
    raise Undecodable("header cut short")


def _linux_cooked_2(view: memoryview, start: int, stop: int) -> int:
    """The protocol comes first here, 18 bytes before a VLAN tag or the packet."""
    if stop - start < 20:
        raise Undecodable("header cut short")
    (protocol,) = _U16(view, start)
    if protocol in _VLAN:
        return _behind_ethertype(22, view, start, stop)
    if protocol not in _IP:
        raise Undecodable("not IP")
    return start + 20


def _loopback(view: memoryview, start: int, stop: int) -> int:
    """An address family in the byte order of the machine that captured it."""
    if stop - start < 4:
        raise Undecodable("header cut short")
    family = view[start : start + 4]
    if min(int.from_bytes(family, "big"), int.from_bytes(family, "little")) not in _FAMILIES:
        raise Undecodable("not IP")
    return start + 4


def _raw(_view: memoryview, start: int, _stop: int) -> int:
    return start


def upper_pdu(_view: memoryview, _start: int, _stop: int) -> int:
    """Find no IP header: what there is of it are tags, which `upper_pdu.segment_of` reads."""
    raise Undecodable("not IP")


UPPER_PDU = 252
"""LINKTYPE_WIRESHARK_UPPER_PDU: tags, then what a protocol above TCP has sent."""
RAW = 101
"""LINKTYPE_RAW: packets of IP."""
_LINKS: dict[int, Network] = {
    0: _loopback,  # LINKTYPE_NULL
    1: partial(_behind_ethertype, 12),  # LINKTYPE_ETHERNET
    **dict.fromkeys((12, 14, RAW, 228, 229), _raw),  # DLT_RAW, RAW, IPV4, IPV6
    108: _loopback,  # LINKTYPE_LOOP
    113: partial(_behind_ethertype, 14),  # LINKTYPE_LINUX_SLL
    276: _linux_cooked_2,  # LINKTYPE_LINUX_SLL2
    UPPER_PDU: upper_pdu,
}
_TYPES = {network: number for number, network in _LINKS.items()} | {_raw: RAW, _loopback: 0}
