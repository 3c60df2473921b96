"""Captures for the tests: frames and files by scapy or by hand, and what a reader made of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import (
    CookedLinux,
    CookedLinuxV2,
    Dot1AD,
    Dot1Q,
    Ether,
    Loopback,
    LoopbackOpenBSD,
)
from scapy.packet import Packet
from scapy.utils import RawPcapNgWriter, RawPcapWriter

from multifd_proto.capture.events import Data, End, Gap, Half, Opened, Skipped, StreamEvent
from multifd_proto.capture.streams import CaptureReader, Limits

EPOCH = 1_700_000_000 * 10**9
STEP = 15_625_000
"""Nanoseconds between frames: 1/64 s, which scapy's float seconds hold exactly."""

LINKS: dict[str, tuple[int, Callable[[Packet], Packet]]] = {
    "ethernet": (1, lambda ip: Ether(src="02::1", dst="02::2") / ip),
    "vlan": (1, lambda ip: Ether(src="02::1", dst="02::2") / Dot1Q(vlan=7) / ip),
    "qinq": (1, lambda ip: Ether(src="02::1", dst="02::2") / Dot1AD(vlan=7) / Dot1Q(vlan=8) / ip),
    "cooked": (113, lambda ip: CookedLinux() / ip),
    "cooked vlan": (113, lambda ip: CookedLinux() / Dot1Q(vlan=7) / ip),
    "cooked v2": (276, lambda ip: CookedLinuxV2() / ip),
    "cooked v2 vlan": (276, lambda ip: CookedLinuxV2() / Dot1Q(vlan=7) / ip),
    "null": (0, lambda ip: Loopback() / ip),
    "null, other byte order": (0, lambda ip: LoopbackOpenBSD() / ip),
    "loop": (108, lambda ip: LoopbackOpenBSD() / ip),
    "raw": (101, lambda ip: ip),
    "raw 12": (12, lambda ip: ip),
    "raw 14": (14, lambda ip: ip),
}


@dataclass
class Frame:
    """A frame of a capture file: what was captured, when, and how long it was on the wire."""

    data: bytes
    time: int = EPOCH
    length: int | None = None

    def snapped(self, size: int) -> Frame:
        return Frame(self.data[:size], self.time, len(self.data))


@dataclass
class Talk:
    """One TCP connection between 10.0.0.1:40000 and 10.0.0.2:49152, or fd00::1 and fd00::2."""

    isn: int = 1000
    peer_isn: int = 5000
    version: int = 4
    link: str = "ethernet"
    port: int = 40000
    frames: list[Frame] = field(default_factory=list)

    def send(
        self, flags: str, offset: int = -1, data: bytes = b"", *, forward: bool = True, **ip: Any
    ) -> Talk:
        """Add a frame; the payload is at an offset of the stream, -1 is the place of the SYN."""
        hosts = ("10.0.0.1", "10.0.0.2") if self.version == 4 else ("fd00::1", "fd00::2")
        ports = (self.port, 49152)
        if not forward:
            hosts, ports = hosts[::-1], ports[::-1]
        network = (IP if self.version == 4 else IPv6)(src=hosts[0], dst=hosts[1], **ip)
        seq = (self.isn if forward else self.peer_isn) + 1 + offset
        segment = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq % 2**32, ack=1)
        return self.add(network / segment / data)

    def add(self, packet: Packet) -> Talk:
        frame = LINKS[self.link][1](packet)
        self.frames.append(Frame(bytes(frame), EPOCH + STEP * len(self.frames)))
        return self

    def handshake(self) -> Talk:
        return self.send("S").send("SA", forward=False).send("A", 0)

    def stream(self, data: bytes, size: int) -> Talk:
        for offset in range(0, len(data), size):
            self.send("PA", offset, data[offset : offset + size])
        return self


def write_pcap(
    path: Path, frames: Iterable[Frame], link_type: int = 1, *, nano: bool = True, order: str = "<"
) -> Path:
    """Write a capture file with scapy."""
    writer = RawPcapWriter(str(path), endianness=order, nano=nano)
    writer.linktype = link_type  # as an argument, 0 means none
    writer.write_header(None)
    for frame in frames:
        seconds, rest = divmod(frame.time, 10**9)
        writer.write_packet(
            frame.data,
            sec=seconds,
            usec=rest if nano else rest // 1000,
            wirelen=frame.length or len(frame.data),
        )
    writer.close()
    return path


def write_pcapng(path: Path, frames: Iterable[Frame], link_type: int = 1) -> Path:
    """Write a pcapng file of microseconds with scapy."""
    writer = RawPcapNgWriter(str(path))
    writer.linktype = link_type
    writer.write_header(None)
    for frame in frames:
        writer.write_packet(
            frame.data, sec=frame.time / 10**9, wirelen=frame.length or len(frame.data)
        )
    writer.close()
    return path


class Blocks:
    """pcapng by hand, for what scapy does not write."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.data = b""
        self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, 1, 0, -1))

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.order + form, *values)

    def block(self, kind: int, body: bytes) -> Blocks:
        body += bytes(-len(body) % 4)
        size = self.pack("I", len(body) + 12)
        self.data += self.pack("I", kind) + size + body + size
        return self

    def options(self, options: dict[int, bytes]) -> bytes:
        if not options:
            return b""
        return b"".join(
            self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)
            for code, value in options.items()
        ) + self.pack("HH", 0, 0)

    def interface(
        self, link_type: int = 1, snap: int = 0, options: dict[int, bytes] | None = None
    ) -> Blocks:
        return self.block(1, self.pack("HHI", link_type, 0, snap) + self.options(options or {}))

    def packet(self, frame: Frame, ticks: int, interface: int = 0) -> Blocks:
        head = (interface, ticks >> 32, ticks & 0xFFFFFFFF, len(frame.data))
        return self.block(6, self.pack("5I", *head, frame.length or len(frame.data)) + frame.data)


@dataclass
class Seen:
    """The events of one half, checked: they tile the stream from 0 on and times never decrease."""

    half: Half
    events: list[StreamEvent] = field(default_factory=list)
    length: int = 0

    def add(self, event: StreamEvent) -> None:
        assert not self.end
        assert not self.events or event.time >= self.events[-1].time
        self.events.append(event)
        if isinstance(event, End):
            assert event.offset == self.length
        elif not isinstance(event, Opened):
            size = len(event.data) if isinstance(event, Data) else event.length
            assert size > 0
            assert event.offset == self.length
            self.length += size

    @property
    def end(self) -> End | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, End) else None

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        return [(e.offset, e.length, e.reason) for e in self.events if isinstance(e, Gap)]

    @property
    def skipped(self) -> list[tuple[int, int]]:
        return [(e.offset, e.length) for e in self.events if isinstance(e, Skipped)]

    @property
    def data(self) -> bytes:
        """The bytes of the stream, with '?' for those of gaps and '-' for skipped ones."""
        parts = []
        for event in self.events:
            if isinstance(event, Data):
                parts.append(bytes(event.data))
            elif isinstance(event, Gap | Skipped):
                parts.append((b"?" if isinstance(event, Gap) else b"-") * event.length)
        return b"".join(parts)


def collect(events: Iterable[StreamEvent]) -> list[Seen]:
    """Sort events by half: both of connection 0, both of connection 1, and so on."""
    seen: dict[Half, Seen] = {}
    for event in events:
        if isinstance(event, Opened):
            for half in (event.half, event.reverse):
                assert half not in seen
                seen[half] = Seen(half)
        else:
            seen[event.half].add(event)
    return sorted(seen.values(), key=lambda s: (s.half.stream, not s.half.forward))


def read(*paths: Path, limits: Limits | None = None) -> tuple[list[Seen], CaptureReader]:
    """Read captures to their end."""
    reader = CaptureReader(paths, limits=limits or Limits())
    return collect(reader), reader
