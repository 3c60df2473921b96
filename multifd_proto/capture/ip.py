"""From frames to TCP segments: IPv4, IPv6 with extension headers, the TCP header."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.link import Frame, Undecodable

Segment = tuple[int, bytes, int, int, memoryview, int, int, int]
"""A TCP segment: time, key of its direction (source and destination address, then source and
destination port, as on the wire), sequence number, flags, the view it lies in, the places where
the captured payload starts and stops, and the bytes of payload behind that were not captured."""

_TCP = 6
_FRAGMENT = 44  # the extension header of IPv6
_FRAGMENTED = 0x3FFF  # of IPv4: more fragments, or an offset
_HOP_BY_HOP = 0
_EXTENSIONS = (_HOP_BY_HOP, 43, 60)  # and routing, destination options
_JUMBO = 0xC2

_PLAIN = struct.Struct(">2xH2xHxB2x12sI4xBB").unpack_from  # IPv4 without options, and TCP
_IPV4 = struct.Struct(">BxH2xHxB2x8s").unpack_from
_IPV6 = struct.Struct(">4xHBx32s").unpack_from
_HEAD = struct.Struct(">4sI4xBB").unpack_from


def segments(frames: Iterable[Frame], info: CaptureInfo) -> Iterator[Segment]:
    """Yield the TCP segments of the frames; count the frames, and those that hold none."""
    for time, network, view, start, stop, end in frames:
        info.records += 1
        if start == end:  # a file that was not written to its end may have zeros there
            info.skipped["empty"] += 1
            continue
        if info.first is None or info.last is None:
            info.first = info.last = time
        elif time > info.last:
            info.last = time
        elif time < info.first:
            info.first = time
        try:
            segment = _segment(time, view, network(view, start, stop), stop, end)
        except Undecodable as reason:
            info.skipped[str(reason)] += 1
        else:
            yield segment


def _segment(time: int, view: memoryview, start: int, stop: int, end: int) -> Segment:
    """Decode an IP packet that starts, stops and ends as in a `Frame`."""
    if stop - start >= 40 and view[start] == 0x45:  # nearly always: all in one go
        total, fragment, protocol, key, seq, size, flags = _PLAIN(view, start)
        if protocol != _TCP or fragment & _FRAGMENTED:
            raise _not_whole_tcp(protocol)
        place = start + 20
        end = start + total if total else end
    else:
        place, end, addresses = _network(view, start, stop, end)
        if stop - place < 20:
            raise Undecodable("header cut short")
        ports, seq, size, flags = _HEAD(view, place)
        key = addresses + ports
    body = place + (size >> 4) * 4
    if size < 0x50 or body > end:
        raise Undecodable("header malformed")
    if body > stop:
        return time, key, seq, flags, view, stop, stop, end - body
    if end > stop:
        return time, key, seq, flags, view, body, stop, end - stop
    return time, key, seq, flags, view, body, end, 0


def _network(view: memoryview, start: int, stop: int, end: int) -> tuple[int, int, bytes]:
    """Return where the TCP header starts, where the packet ends, and its two addresses.

    A length of 0 stands for one that the field cannot hold (segmentation offload, BIG TCP): the
    frame's length decides.
    """
    if stop <= start:
        raise Undecodable("header cut short")
    version = view[start] >> 4
    if version == 4:
        return _ipv4(view, start, stop, end)
    if version == 6:
        return _ipv6(view, start, stop, end)
    raise Undecodable("not IP")


def _not_whole_tcp(protocol: int) -> Undecodable:
    return Undecodable("IP fragment" if protocol in (_TCP, _FRAGMENT) else "not TCP")


def _ipv4(view: memoryview, start: int, stop: int, end: int) -> tuple[int, int, bytes]:
    if stop - start < 20:
        raise Undecodable("header cut short")
    head, total, fragment, protocol, addresses = _IPV4(view, start)
    if protocol != _TCP or fragment & _FRAGMENTED:
        raise _not_whole_tcp(protocol)
    if head < 0x45:
        raise Undecodable("header malformed")
    return start + (head & 15) * 4, start + total if total else end, addresses


def _ipv6(view: memoryview, start: int, stop: int, end: int) -> tuple[int, int, bytes]:
    if stop - start < 40:
        raise Undecodable("header cut short")
    length, protocol, addresses = _IPV6(view, start)
    place = start + 40
    end = place + length if length else end
    while protocol in _EXTENSIONS:
        if stop - place < 8:
            raise Undecodable("header cut short")
        if protocol == _HOP_BY_HOP and not length:
            end = start + 40 + _jumbo_length(view, place, stop, end - start - 40)
        protocol, size = view[place], view[place + 1]
        place += 8 + 8 * size
    if protocol != _TCP:
        raise _not_whole_tcp(protocol)
    return place, end, addresses


def _jumbo_length(view: memoryview, place: int, stop: int, default: int) -> int:
    """Return what the jumbo option of a hop-by-hop header says (RFC 2675), if there is one."""
    stop = min(stop, place + 8 + 8 * view[place + 1])
    place += 2
    while stop - place >= 6:
        if view[place] == _JUMBO:
            return int.from_bytes(view[place + 2 : place + 6], "big")
        place += 2 + view[place + 1] if view[place] else 1  # type 0 is one byte of padding
    return default
