"""What one would write on dpkt: count the multifd packets of a capture.

python benchmarks/decode/with_dpkt.py FILE
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import dpkt

INIT, HEAD, MAGIC = 64, 1344, 0x11223344
_START = struct.Struct(">IIIIII")


class Channel:
    """One direction of a connection: bytes in order, of which only heads are kept."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.packets = 0
        self._buffer = bytearray()
        self._skip = INIT
        self._early: dict[int, bytes] = {}

    def add(self, seq: int, data: bytes) -> None:
        """Take a segment, in order or not."""
        ahead = (seq - self.expected) & 0xFFFFFFFF
        if ahead >= 1 << 31:  # again, at least in part
            data, ahead = data[(self.expected - seq) & 0xFFFFFFFF :], 0
        if ahead:
            self._early[seq] = data
            return
        while data:
            self.expected = (self.expected + len(data)) & 0xFFFFFFFF
            self._read(data)
            data = self._early.pop(self.expected, b"")

    def _read(self, data: bytes) -> None:
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += memoryview(data)[skipped:]
        at = 0
        while len(self._buffer) - at >= HEAD:
            magic, _, _, _, _, size = _START.unpack_from(self._buffer, at)
            if magic != MAGIC:
                raise ValueError("out of step")
            self.packets += 1
            at += HEAD + size
        self._skip += max(0, at - len(self._buffer))
        del self._buffer[:at]


def main(path: Path) -> None:
    """Print the number of packets in a capture."""
    channels: dict[tuple[bytes, int], Channel] = {}
    mains = set()
    with path.open("rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            tcp = ip.data
            if tcp.dport != 49152:
                continue
            key = (ip.src, tcp.sport)
            if tcp.flags & dpkt.tcp.TH_SYN:
                channels[key] = Channel((tcp.seq + 1) & 0xFFFFFFFF)
            elif tcp.data and key not in mains:
                if tcp.data[:4] == b"QEVM":
                    mains.add(key)
                else:
                    channels[key].add(tcp.seq, tcp.data)
    print(sum(channel.packets for channel in channels.values()))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
