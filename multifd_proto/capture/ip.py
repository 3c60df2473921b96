"""From frames to TCP segments: out of tunnels, put together of fragments; the TCP header."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from multifd_proto.capture.fragments import FRAGMENT, Datagrams, Pending
from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.link import Frame, NotKept, Undecodable, upper_pdu
from multifd_proto.capture.packets import Packet, packet_of
from multifd_proto.capture.tunnels import UDP, inside
from multifd_proto.capture.upper_pdu import segment_of

Segment = tuple[int, bytes, int, int, memoryview, int, int, int]
"""A TCP segment: time, key of its direction (source and destination address, then source and
destination port, as on the wire), sequence number, flags, the view it lies in, the places where
the captured payload starts and stops, and the bytes of payload behind that were not captured;
less than 0: they were, but were not kept when the capture was stripped."""

_TCP = 6
_FRAGMENTED = 0x3FFF  # of IPv4: more fragments, or an offset
_TUNNELS = 2

_PLAIN = struct.Struct(">2xH2xHxB2x12sI4xBB").unpack_from  # IPv4 without options, and TCP
_HEAD = struct.Struct(">4sI4xBB").unpack_from


def segments(
    frames: Iterable[Frame], info: CaptureInfo, datagrams: Datagrams | None = None
) -> Iterator[Segment]:
    """Yield the TCP segments of the frames; count the frames, and those that hold none."""
    for frame in frames:
        time, _, _, start, _, end = frame
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
            segment = decode(frame, datagrams)
        except Pending:
            continue
        except Undecodable as reason:
            info.skipped[str(reason)] += 1
        else:
            yield segment


def decode(frame: Frame, datagrams: Datagrams | None = None) -> Segment:
    """Decode a frame.

    Args:
        frame: the frame.
        datagrams: what takes fragments; without it they are refused.

    Raises:
        Pending: It is a fragment, and not the last of its datagram.
        Undecodable: It holds no TCP segment that can be read.
    """
    time, network, view, start, stop, end = frame
    if type(network) is NotKept:
        segment = decode((time, network.network, view, start, stop, end), datagrams)
        return (*segment[:7], -segment[7])
    if network is upper_pdu:
        return segment_of(time, view, start, stop)
    start = network(view, start, stop)
    plain = False
    if stop - start >= 40 and view[start] == 0x45:  # nearly always: all in one go
        total, fragment, protocol, key, seq, size, flags = _PLAIN(view, start)
        plain = protocol == _TCP and not fragment & _FRAGMENTED
        place = start + 20
        end = start + total if total and plain else end
    if not plain:
        packet = packet_with_tcp(view, start, stop, end, datagrams)
        view, place, stop, end = packet.view, packet.body, packet.stop, packet.end
        if stop - place < 20:
            raise Undecodable("header cut short")
        ports, seq, size, flags = _HEAD(view, place)
        key = packet.addresses + ports
    body = place + (size >> 4) * 4
    if size < 0x50 or body > end:
        raise Undecodable("header malformed")
    if body > stop:
        return time, key, seq, flags, view, stop, stop, end - body
    if end > stop:
        return time, key, seq, flags, view, body, stop, end - stop
    return time, key, seq, flags, view, body, end, 0


def packet_with_tcp(
    view: memoryview, start: int, stop: int, end: int, datagrams: Datagrams | None = None
) -> Packet:
    """Return the packet that holds a segment: the one at `start`, or one that is in it.

    Raises:
        Pending: There is a fragment, and not the last of its datagram.
        Undecodable: There is none.
    """
    for _ in range(_TUNNELS + 1):
        packet = packet_of(view, start, stop, end)
        if packet.fragment:
            if not datagrams:
                raise Undecodable(FRAGMENT if packet.protocol == _TCP else "not TCP")
            packet = datagrams.whole(packet, packet.fragment)
        if packet.protocol == _TCP:
            return packet
        if packet.protocol != UDP:
            break
        view, start, stop, end = inside(packet)
    else:
        raise Undecodable(f"more than {_TUNNELS} tunnels in one another")
    raise Undecodable("not TCP")
