"""IP packets: the headers of IPv4, and of IPv6 with its extension headers."""

from __future__ import annotations

import struct
from typing import NamedTuple

from multifd_proto.capture.link import Undecodable

_FRAGMENT = 44
_AUTHENTICATION = 51
_HOP_BY_HOP = 0
_EXTENSIONS = (_HOP_BY_HOP, 43, 60, _FRAGMENT, _AUTHENTICATION)  # and routing, destination options
_JUMBO = 0xC2

_IPV4 = struct.Struct(">BxHHHxB2x8s").unpack_from
_IPV6 = struct.Struct(">4xHBx32s").unpack_from
_FRAGMENT_HEADER = struct.Struct(">BxHI").unpack_from


class Fragment(NamedTuple):
    """What a packet says about the datagram that it is a part of."""

    identification: int
    offset: int
    """Of its payload in the datagram's, in bytes."""
    more: bool
    header: int
    """Where the headers that all parts have end in the view."""
    protocol_at: int
    """Where these say what comes behind them."""


class Packet(NamedTuple):
    """An IP packet in a view."""

    view: memoryview
    start: int
    body: int
    """Where the payload starts."""
    stop: int
    """Where what was captured stops, be it of this packet or of padding behind it."""
    end: int
    """Where the packet ends."""
    protocol: int
    """Of the payload."""
    addresses: bytes
    """Source and destination."""
    fragment: Fragment | None


def packet_of(view: memoryview, start: int, stop: int, end: int) -> Packet:
    """Return the packet at `start`, of a frame captured up to `stop` that ends at `end`.

    A length of 0 stands for one that the field cannot hold (segmentation offload, BIG TCP): the
    frame's length decides.

    Raises:
        Undecodable: There is none, or its headers are not whole.
    """
    if stop <= start:
        raise Undecodable("header cut short")
    version = view[start] >> 4
    if version == 4:
        return _ipv4(view, start, stop, end)
    if version == 6:
        return _ipv6(view, start, stop, end)
    raise Undecodable("not IP")


def _ipv4(view: memoryview, start: int, stop: int, end: int) -> Packet:
    if stop - start < 20:
        raise Undecodable("header cut short")
    head, total, identification, flags, protocol, addresses = _IPV4(view, start)
    if head < 0x45:
        raise Undecodable("header malformed")
    body = start + (head & 15) * 4
    offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
    fragment = None
    if offset or more:
        fragment = Fragment(identification, offset, more, body, start + 9)
    end = start + total if total else end
    return Packet(view, start, body, stop, end, protocol, addresses, fragment)


def _ipv6(view: memoryview, start: int, stop: int, end: int) -> Packet:
    if stop - start < 40:
        raise Undecodable("header cut short")
    length, protocol, addresses = _IPV6(view, start)
    place, protocol_at = start + 40, start + 6
    end = place + length if length else end
    while protocol in _EXTENSIONS:
        if stop - place < 8:
            raise Undecodable("header cut short")
        if protocol == _HOP_BY_HOP and not length:
            end = start + 40 + _jumbo_length(view, place, stop, end - start - 40)
        size = view[place + 1]
        extent = (size + 2) * 4 if protocol == _AUTHENTICATION else (size + 1) * 8
        if protocol == _FRAGMENT:
            following, field, identification = _FRAGMENT_HEADER(view, place)
            if field & 0xFFF9:  # else this one is all of it
                fragment = Fragment(
                    identification, field & 0xFFF8, bool(field & 1), place, protocol_at
                )
                return Packet(
                    view, start, place + 8, stop, end, following, addresses, fragment
                )  # fmt: skip
            extent = 8
        protocol, protocol_at = view[place], place
        place += extent
    return Packet(view, start, place, stop, end, protocol, addresses, None)


def _jumbo_length(view: memoryview, place: int, stop: int, default: int) -> int:
    """Return what the jumbo option of a hop-by-hop header says (RFC 2675), if there is one."""
    stop = min(stop, place + 8 + 8 * view[place + 1])
    place += 2
    while stop - place >= 6:
        if view[place] == _JUMBO:
            return int.from_bytes(view[place + 2 : place + 6], "big")
        place += 2 + view[place + 1] if view[place] else 1  # type 0 is one byte of padding
    return default
