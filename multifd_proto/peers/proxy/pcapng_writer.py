"""Writes what went over connections as a pcapng file, as if it had been captured on a wire.

A proxy sees streams, not packets; so the TCP/IP around the bytes is made up: a handshake, segments
with right sequence and acknowledgement numbers, FIN or RST as it happened. Frames are raw IP
(link type 101) with times in nanoseconds, in the order in which they were written. IP checksums are
valid; those of TCP cover the pseudo-header alone, as in captures of a machine's own traffic, whose
checksums the hardware was to complete.

The file is valid whenever the process ends, by `kill -9` as well. Blocks are only ever appended,
each within one `writev`, and the kernel cuts such a call at most once: what can be incomplete is
the very last block of the file. All before it is whole, and readers read up to there. When the disk
is full, what was begun is cut off again, and nothing more is written (`PcapngWriter.error`).
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

from multifd_proto.errors import PeerError
from multifd_proto.peers.connection import Buffer, after
from multifd_proto.peers.owner import Owner
from multifd_proto.wire.pcapng import interface, packet_head, packet_tail, section

SEGMENT = 60 * 1024
"""Bytes of payload in a segment, at most: with its headers it fits IP's 65535, and pages of all
sizes up to 4 KiB fall whole into it."""
_LINKTYPE_RAW = 101
_SNAP = 262144
_DESCRIPTION = b"connections of multifd-proto"
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_WINDOW = 65535
_SYN_OPTIONS = bytes.fromhex("0204ffd7 0103030e")  # MSS 65495, window scale 14: a window of 1 GiB
_PARTS = 900  # pieces of one writev: less than IOV_MAX, and a multiple of three
_TCP = struct.Struct("!HHIIBBHHH")
_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")


class End(NamedTuple):
    """One end of a recorded connection."""

    host: str
    """IP address, of version 4 or 6."""
    port: int


class PcapngWriter(Owner):
    """A pcapng file that grows. Any thread may write. Use it as a context manager."""

    def __init__(self, path: Path, comment: str = "") -> None:
        """Create the file, or empty it.

        Args:
            path: where; a pipe will do as well.
            comment: what readers show as the comment of the capture.

        Raises:
            PeerError: it cannot be written to.
        """
        self.path = path
        self.error = ""
        """Why nothing more is written; empty as long as all went well."""
        self.frames = 0
        """Packets written."""
        self.clock = time.time_ns
        """Tells the time of what is written, in nanoseconds since the epoch."""
        self.lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            raise PeerError(f"{path}: {error.strerror}") from None
        self._size = 0
        self._write([section(comment) + interface(_LINKTYPE_RAW, _DESCRIPTION, _SNAP)])
        if self.error:
            self.close()
            raise PeerError(self.error)

    def open(self, source: End, destination: End, *, isn: int | None = None) -> Conversation:
        """Begin a connection, which `source` opened: its handshake is written.

        Args:
            source: who connected.
            destination: who accepted.
            isn: sequence number that both directions begin with; None lets chance choose.
        """
        return Conversation(self, source, destination, isn)

    def close(self) -> None:
        """Close the file; may be called more than once."""
        with self.lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def append(self, frames: Iterator[tuple[bytes, Buffer]]) -> None:
        """Append packets: the headers and the payload of each. To be called with `lock` held."""
        now = self.clock()
        parts: list[Buffer] = []
        for head, data in frames:
            length = len(head) + len(data)
            parts.append(packet_head(0, now, length, length) + head)
            parts.append(data)
            parts.append(packet_tail(length))
            self.frames += 1
            if len(parts) >= _PARTS:
                self._write(parts)
                parts = []
        self._write(parts)

    def _write(self, parts: list[Buffer]) -> None:
        if self.error or not parts or self._file < 0:
            return
        begun = self._size
        rest: Sequence[Buffer] = parts
        try:
            while rest:  # a file takes all at once, a pipe need not
                done = os.writev(self._file, rest)
                self._size += done
                rest = after(rest, done)
        except OSError as error:
            self._size = begun
            self.error = f"{self.path}: {error.strerror}"
            self._cut()

    def _cut(self) -> None:
        """Take away what was begun; a pipe keeps it."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            return


class Conversation:
    """One connection in the file. Its two directions may be written by two threads."""

    def __init__(
        self, writer: PcapngWriter, source: End, destination: End, isn: int | None
    ) -> None:
        self._writer = writer
        self._ends = _same_version(source, destination)
        seq = secrets.randbits(32) if isn is None else isn
        self._next = {True: seq, False: seq if isn is not None else secrets.randbits(32)}
        """By direction (`True` is forward): the sequence number that comes next."""
        self._ended: set[bool] = set()
        self._over = False
        with writer.lock:
            writer.append(
                iter(
                    [
                        self._control(True, _SYN),
                        self._control(False, _SYN | _ACK),
                        self._control(True, _ACK),
                    ]
                )
            )

    def data(self, data: Buffer, *, forward: bool) -> None:
        """Write bytes that went on, and their acknowledgement.

        Args:
            data: the bytes; those of an ended direction are left out: they have no place.
            forward: from the end that opened the connection.
        """
        with self._writer.lock:
            if not self._over and forward not in self._ended and len(data):
                self._writer.append(self._segments(memoryview(data), forward))

    def end(self, *, forward: bool) -> None:
        """Write that a direction has ended, by FIN."""
        with self._writer.lock:
            if not self._over and forward not in self._ended:
                self._ended.add(forward)
                fin = self._control(forward, _FIN | _ACK)
                self._writer.append(iter([fin, self._control(not forward, _ACK)]))

    def reset(self, *, forward: bool) -> None:
        """Write that an end has broken the connection, by RST."""
        with self._writer.lock:
            if not self._over:
                self._over = True
                self._writer.append(iter([self._control(forward, _RST | _ACK)]))

    def _segments(self, view: memoryview, forward: bool) -> Iterator[tuple[bytes, Buffer]]:
        for start in range(0, len(view), SEGMENT):
            piece = view[start : start + SEGMENT]
            last = start + SEGMENT >= len(view)
            yield self._headers(forward, _ACK | (_PSH if last else 0), len(piece)), piece
            self._advance(forward, len(piece))
        yield self._control(not forward, _ACK)

    def _control(self, forward: bool, flags: int) -> tuple[bytes, Buffer]:
        head = self._headers(forward, flags, 0)
        self._advance(forward, bool(flags & (_SYN | _FIN)))
        return head, b""

    def _advance(self, forward: bool, count: int) -> None:
        self._next[forward] = (self._next[forward] + count) % 2**32

    def _headers(self, forward: bool, flags: int, size: int) -> bytes:
        (source, sport), (destination, dport) = self._ends if forward else self._ends[::-1]
        ack = self._next[not forward] if flags & _ACK else 0
        options = _SYN_OPTIONS if flags & _SYN else b""
        length = _TCP.size + len(options) + size
        checksum = _ones_sum(source + destination + struct.pack("!II", length, 6))
        head = len(options) + _TCP.size << 2
        seq = self._next[forward]
        tcp = _TCP.pack(sport, dport, seq, ack, head, flags, _WINDOW, checksum, 0)
        return _ip(source, destination, length) + tcp + options


def _ip(source: bytes, destination: bytes, length: int) -> bytes:
    if len(source) == 16:
        return _V6.pack(6 << 28, length, 6, 64, source, destination)
    fields = (0x45, 0, _V4.size + length, 0, 0x4000, 64, 6)
    checksum = 0xFFFF ^ _ones_sum(_V4.pack(*fields, 0, source, destination))
    return _V4.pack(*fields, checksum, source, destination)


def _ones_sum(data: bytes) -> int:
    """Return the sum that the Internet's checksums are made of (RFC 1071)."""
    # 2**16 is 1 modulo 65535, so that the number's rest is the sum of its 16-bit words
    return int.from_bytes(data, "big") % 0xFFFF


def _same_version(*ends: End) -> tuple[tuple[bytes, int], ...]:
    """Return addresses of one version of IP: where they differ, that of 4 is mapped into 6."""
    addresses = [ip_address(end.host.partition("%")[0]) for end in ends]
    if len({address.version for address in addresses}) > 1:
        addresses = [_mapped(address) for address in addresses]
    return tuple((a.packed, end.port) for a, end in zip(addresses, ends, strict=True))


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}") if address.version == 4 else IPv6Address(address)
