"""Link, IP and TCP headers of a frame, changed in place."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address

_FIN_PSH, _SYN = 1 | 8, 2
_NOP, _PADDING, _JUMBO, _ROUTING, _TCP = 1, 1, 0xC2, 43, 6
_MAC_PLACES = {1: ((0, 6), (6, 12)), 113: ((6, 12),), 276: ((12, 18),)}
"""Link type: where frames have addresses of hardware."""
_DOCUMENTATION = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")


class Addresses:
    """Addresses of documentation and of no maker, for real ones; the same for the same."""

    def __init__(self) -> None:
        self._hosts = (host for net in _DOCUMENTATION for host in IPv4Network(net).hosts())
        self._new: dict[bytes, bytes] = {}
        self._counts = {4: 0, 6: 0, 16: 0}

    def new(self, old: bytes) -> bytes:
        """Return what takes the place of an address: of IP, or of hardware (6 bytes)."""
        if old not in self._new:
            self._counts[len(old)] += 1
            self._new[old] = self._next(len(old))
        return self._new[old]

    def new_key(self, key: bytes) -> bytes:
        """Return the key of a direction (see `Segment`) with new addresses."""
        size = (len(key) - 4) // 2
        return self.new(key[:size]) + self.new(key[size:-4]) + key[-4:]

    def _next(self, size: int) -> bytes:
        count = self._counts[size]
        if size == 4:
            return next(self._hosts).packed
        if size == 6:
            return b"\x02" + count.to_bytes(5, "big")
        return IPv6Address(int(IPv6Address("2001:db8::")) + count).packed


class Headers:
    """The headers of one frame, which holds a TCP segment that can be read."""

    def __init__(self, data: bytes, link_type: int, ip: int) -> None:
        """Take headers.

        Args:
            data: the frame up to its payload.
            link_type: of the frame.
            ip: where its IP header is.
        """
        self.data = bytearray(data)
        self._link_type, self._ip = link_type, ip
        self._old = data[ip] >> 4 == 4
        self._extensions = [] if self._old else list(self._ipv6_extensions())
        if self._old:
            self._tcp = ip + (data[ip] & 15) * 4
        else:
            self._tcp = self._extensions[-1][2] if self._extensions else ip + 40

    def _ipv6_extensions(self) -> Iterator[tuple[int, int, int]]:
        """Yield type, place and end of the extension headers."""
        protocol, place = self.data[self._ip + 6], self._ip + 40
        while protocol != _TCP:
            end = place + 8 + 8 * self.data[place + 1]
            yield protocol, place, end
            protocol, place = self.data[place], end

    @property
    def oversize(self) -> bool:
        """The length of the packet does not fit the field for it."""
        return not any(self.data[self._ip + (2 if self._old else 4) :][:2])

    def cut(self, start: int, size: int, *, last: bool) -> Headers:
        """Return the headers of a part of the segment, as segmentation offload would make them.

        Args:
            start: of the part, in the payload.
            size: of the part in bytes.
            last: it is the last part.
        """
        part = Headers(bytes(self.data), self._link_type, self._ip)
        data, flags = part.data, self.data[self._tcp + 13]
        (seq,) = struct.unpack_from(">I", data, self._tcp + 4)
        seq += start + bool(start and flags & _SYN)
        struct.pack_into(">I", data, self._tcp + 4, seq % 2**32)
        data[self._tcp + 13] = flags & ~(_SYN if start else 0) & ~(0 if last else _FIN_PSH)
        part._set_length(size)
        return part

    def _set_length(self, payload: int) -> None:
        length = len(self.data) - self._ip + payload - (0 if self._old else 40)
        field = length if length < 2**16 else 0  # as offload writes it
        struct.pack_into(">H", self.data, self._ip + (2 if self._old else 4), field)
        for protocol, place, end in self._extensions:
            if not protocol:
                self._pad_jumbo(place + 2, end)
        self._checksum()

    def _pad_jumbo(self, place: int, end: int) -> None:
        """Make padding of the option that tells a length."""
        while place < end - 1:
            if self.data[place] == _JUMBO:
                self.data[place : place + 6] = bytes((_PADDING, 4, 0, 0, 0, 0))
            place += 2 + self.data[place + 1] if self.data[place] else 1

    def hide(self, addresses: Addresses) -> None:
        """Replace the addresses of IP and of hardware; options that can hold some are emptied."""
        size, start = (4, self._ip + 12) if self._old else (16, self._ip + 8)
        places = [(start, start + size), (start + size, start + 2 * size)]
        for begin, end in (*places, *_MAC_PLACES.get(self._link_type, ())):
            self.data[begin:end] = addresses.new(bytes(self.data[begin:end]))
        if self._old:
            rest = self._tcp - self._ip - 20
            self.data[self._ip + 20 : self._tcp] = bytes((_NOP,)) * rest
        for protocol, place, end in self._extensions:
            if protocol == _ROUTING:
                self.data[place + 8 : end] = bytes(end - place - 8)
        self._checksum()

    def _checksum(self) -> None:
        """Make the checksum of IPv4 right; that of TCP stays what it was."""
        if self._old:
            place = self._ip + 10
            self.data[place : place + 2] = b"\0\0"
            total = int.from_bytes(self.data[self._ip : self._tcp], "big") % 0xFFFF
            struct.pack_into(">H", self.data, place, 0xFFFF ^ total)
