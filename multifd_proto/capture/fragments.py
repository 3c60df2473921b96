"""Datagrams out of IP fragments, within limits on memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Undecodable
from multifd_proto.capture.packets import Fragment, Packet, packet_of
from multifd_proto.capture.pieces import PIECE
from multifd_proto.capture.tunnels import UDP, is_tunnel

FRAGMENT = "IP fragment"
_TCP = 6
_AGE = 4096
"""Fragments after which the identification of a datagram may be used again."""
_LARGEST = 0xFFFF
_PARTS = 256


class Pending(Undecodable):
    """A fragment is kept until the others of its datagram are there."""


@dataclass
class _Datagram:
    born: int
    parts: dict[int, bytes] = field(default_factory=dict)
    """Payloads by offset."""
    frames: int = 0
    header: bytes = b""
    length: int | None = None
    refused: str = ""

    @property
    def cost(self) -> int:
        return PIECE * (len(self.parts) + 1) + sum(map(len, self.parts.values()))

    def contradicts(self, offset: int, size: int, more: bool) -> bool:
        """Tell whether a part overlaps with one that is there, or one of both is past the end."""
        stop, length = offset + size, self.length
        if length is not None and (stop > length or not more):
            return True
        if not more:  # nothing may be behind
            stop = _LARGEST
        return any(
            start < stop and offset < start + len(part) for start, part in self.parts.items()
        )


class Datagrams:
    """The datagrams of an input that are not whole yet.

    As long as a fragment is not part of a whole one, it is counted as skipped.
    """

    def __init__(self, info: CaptureInfo, limits: Limits) -> None:
        self._info = info
        self._limit = limits.fragments
        self._seen = self._cost = 0
        self._datagrams: dict[tuple[bytes, int, int], _Datagram] = {}

    def whole(self, packet: Packet, fragment: Fragment) -> Packet:
        """Take a fragment; return the datagram that it makes whole.

        Raises:
            Pending: It makes none whole.
            Undecodable: The datagram is none that could be of use.
        """
        key = packet.addresses, fragment.identification, packet.protocol
        size = packet.end - packet.body
        if packet.protocol not in (_TCP, UDP):
            raise Undecodable("not TCP")
        if packet.end > packet.stop or size <= 0:
            raise Undecodable(FRAGMENT)
        if fragment.more and size % 8:
            raise Undecodable("IP fragment malformed")
        self._forget_old()
        datagram = self._datagrams.setdefault(key, _Datagram(self._seen))
        self._cost -= datagram.cost if datagram.parts else 0
        self._add(datagram, packet, fragment)
        if datagram.length != sum(map(len, datagram.parts.values())) or not datagram.header:
            self._cost += datagram.cost
            self._make_room()
            self._count(1)
            raise Pending(FRAGMENT)
        del self._datagrams[key]
        self._count(1 - datagram.frames)
        return _joined(datagram)

    def _add(self, datagram: _Datagram, packet: Packet, fragment: Fragment) -> None:
        offset, view = fragment.offset, packet.view
        data = bytes(view[packet.body : packet.end])
        first = not offset and not datagram.header
        if first and packet.protocol == UDP and not is_tunnel(packet):
            datagram.refused = "not TCP"
        elif datagram.parts.get(offset) != data:  # else it was captured twice
            if datagram.contradicts(offset, len(data), fragment.more):
                datagram.refused = "IP fragments overlap"
            elif len(datagram.parts) == _PARTS:
                datagram.refused = f"IP datagram of more than {_PARTS} fragments"
        if datagram.refused:
            datagram.parts.clear()
            raise Undecodable(datagram.refused)
        datagram.frames += 1
        datagram.parts[offset] = data
        if not fragment.more:
            datagram.length = offset + len(data)
        if first:
            header = bytearray(view[packet.start : fragment.header])
            header[fragment.protocol_at - packet.start] = packet.protocol
            datagram.header = bytes(header)

    def _count(self, frames: int) -> None:
        skipped = self._info.skipped
        skipped[FRAGMENT] += frames
        if not skipped[FRAGMENT]:
            del skipped[FRAGMENT]

    def _forget_old(self) -> None:
        self._seen += 1
        while self._datagrams and next(iter(self._datagrams.values())).born < self._seen - _AGE:
            self._forget_first()

    def _make_room(self) -> None:
        while self._cost > self._limit:
            self._forget_first()

    def _forget_first(self) -> None:
        datagram = self._datagrams.pop(next(iter(self._datagrams)))
        self._cost -= datagram.cost if datagram.parts else 0


def _joined(datagram: _Datagram) -> Packet:
    payload = b"".join(part for _, part in sorted(datagram.parts.items()))
    header = bytearray(datagram.header)
    size = len(header) + len(payload)
    if size > _LARGEST:
        raise Undecodable("IP fragment malformed")
    if header[0] >> 4 == 4:
        struct.pack_into(">H2xH", header, 2, size, 0)
    else:
        struct.pack_into(">H", header, 4, size - 40)
    whole = memoryview(bytes(header) + payload)
    return packet_of(whole, 0, len(whole), len(whole))
