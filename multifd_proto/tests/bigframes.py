"""Capture files from columns: frames of any link type as numpy rows, at a gigabyte a second."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PORT = 49152
FIRST_PORT = 40000

SEGMENT = np.dtype([
    ("connection", "i4"), ("back", "?"), ("seq", "i8"), ("ack", "i8"),
    ("begin", "i8"), ("length", "i8"), ("flags", "u1"), ("turn", "f8"),
])  # fmt: skip
"""One TCP segment.

`seq` and `ack` are places in the streams, -1 being that of a SYN; `back`: sent by the destination;
`begin` and `length`: its part of what its connection sends now, in bytes; `turn`: when it is
captured, relative to the others.
"""
FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10

_MAC = (b"\2\0\0\0\0\2\2\0\0\0\0\1", b"\2\0\0\0\0\1\2\0\0\0\0\2")
_EPOCH = 1_700_000_000 * 10**9
_IP4 = [
    ("version", "u1"), ("tos", "u1"), ("size", ">u2"), ("number", ">u2"), ("fragment", ">u2"),
    ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"), ("source", ">u4"), ("target", ">u4"),
]  # fmt: skip
_IP6 = [
    ("version", ">u4"), ("size", ">u2"), ("protocol", "u1"), ("hops", "u1"),
    ("source", "V16"), ("target", "V16"),
]  # fmt: skip
_TCP = [
    ("from", ">u2"), ("to", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("words", "u1"),
    ("flags", "u1"), ("window", ">u2"), ("check", ">u2"), ("urgent", ">u2"), ("options", "V12"),
]  # fmt: skip

LINKS = {"ethernet": 1, "vlan": 1, "qinq": 1, "sll": 113, "sll2": 276, "null": 0, "raw": 101}
"""Link type -> its number."""


def _link(link: str, ethertype: int, back: int) -> bytes:
    """Return a frame's bytes before the IP header."""
    match link:
        case "sll":
            return struct.pack(">HHH8sH", 4, 1, 6, _MAC[back][6:], ethertype)
        case "sll2":
            return struct.pack(">HHIHBB8s", ethertype, 0, 2, 1, 4, 6, _MAC[back][6:])
        case "null":
            return struct.pack("<I", 2 if ethertype == 0x0800 else 30)
        case "raw":
            return b""
    tags = {"vlan": b"\x81\0\0\7", "qinq": b"\x88\xa8\0\7\x81\0\0\x08"}.get(link, b"")
    return _MAC[back] + tags + struct.pack(">H", ethertype)


class Framer:
    """Turns segments into the records of a capture file."""

    def __init__(
        self, *, link: str, version: int, length_zero: bool, snap: int, isn: Sequence[int],
        order: str = "<", nano: bool = False, resolutions: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Make a framer for pcap, or pcapng if there are `resolutions`.

        Args:
            link: one of `LINKS`.
            version: of IP, 4 or 6.
            length_zero: IP headers tell no length, as those of GSO frames.
            snap: bytes that are captured of a frame.
            isn: initial sequence number of each connection.
            order: `<` or `>`: byte order of the file.
            nano: pcap counts nanoseconds.
            resolutions: `if_tsresol` of each interface of a pcapng; connections take turns.
        """
        self.records = 0
        self.snap = snap
        self._isn = np.array(isn, np.int64)
        self._version, self._length_zero = version, length_zero
        self._order, self._link_type = order, LINKS[link]
        self._nano, self._resolutions = nano, resolutions
        self._time = _EPOCH
        word = f"{order}u4"
        names = ["captured", "length"]
        names = (
            ["type", "total", "interface", "high", "low", *names]
            if resolutions
            else ["seconds", "fraction", *names]
        )
        self._record = 4 * len(names)
        ether = 0x0800 if version == 4 else 0x86DD
        links = [_link(link, ether, back) for back in (0, 1)]
        ip = np.dtype(_IP4 if version == 4 else _IP6)
        self._dtype = np.dtype(
            [(name, word) for name in names]
            + [("link", f"V{len(links[0])}"), ("ip", ip), ("tcp", np.dtype(_TCP))]
        )
        self.head = self._dtype.itemsize - self._record
        """Bytes of a frame before its TCP payload."""
        self._templates = np.zeros(2, self._dtype)
        for back in (0, 1):
            self._fill(self._templates[back : back + 1], back, links[back])

    def _fill(self, row: NDArray[np.void], back: int, link: bytes) -> None:
        if link:
            row["link"] = np.void(link)
        ip = row["ip"]
        if self._version == 4:
            ip["version"], ip["fragment"], ip["ttl"], ip["protocol"] = 0x45, 0x4000, 64, 6
            hosts: list[Any] = [0x0A000001, 0x0A000002]
        else:
            ip["version"], ip["protocol"], ip["hops"] = 0x60000000, 6, 64
            hosts = [np.void(b"\xfd" + bytes(14) + bytes([n])) for n in (1, 2)]
        ip["source"], ip["target"] = hosts[back], hosts[1 - back]
        row["tcp"]["words"], row["tcp"]["window"] = 0x80, 4096
        row["tcp"]["options"] = np.void(b"\1\1\10\12" + bytes(8))

    def start(self) -> bytes:
        """Return what the file begins with."""
        pack, snap = struct.Struct, self.snap
        if not self._resolutions:
            magic = 0xA1B23C4D if self._nano else 0xA1B2C3D4
            return pack(self._order + "IHHiIII").pack(magic, 2, 4, 0, 0, snap, self._link_type)
        out = pack(self._order + "IIIHHqI").pack(0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        interface = pack(self._order + "IIHHIHHB3xHHI")
        for resolution in self._resolutions:
            out += interface.pack(1, 32, self._link_type, 0, snap, 9, 1, resolution, 0, 0, 32)
        return out

    def frames(self, rows: NDArray[np.void], data: Sequence[bytes]) -> bytes:
        """Return the records of segments, in their order.

        Args:
            rows: of `SEGMENT`.
            data: by connection, what `begin` and `length` are a part of.
        """
        heads = self._heads(rows)
        captured = heads["captured"].astype(np.int64)
        size, views = self._dtype.itemsize, [memoryview(part) for part in data]
        raw = memoryview(heads.tobytes())
        parts: list[memoryview | bytes] = []
        columns = (rows["connection"], rows["begin"], captured - self.head, captured)
        for i, (connection, begin, length, whole) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            at = i * size
            parts.append(raw[at : at + min(size, whole + self._record)])
            if length > 0:
                parts.append(views[connection][begin : begin + length])
            if self._resolutions:
                parts.append(bytes(-whole % 4) + raw[at + 4 : at + 8])
        self.records += len(rows)
        return b"".join(parts)

    def _heads(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        heads = self._templates[rows["back"].astype(np.intp)]
        tcp, ip, back = heads["tcp"], heads["ip"], rows["back"]
        isn = self._isn[rows["connection"]]
        port = FIRST_PORT + rows["connection"]
        tcp["from"], tcp["to"] = np.where(back, PORT, port), np.where(back, port, PORT)
        tcp["flags"] = rows["flags"]
        # the destination's own numbers begin where the source's do
        tcp["seq"] = ((isn + 1 + rows["seq"]) & 0xFFFFFFFF).astype(np.uint32)
        acked = (rows["flags"] & ACK) != 0
        tcp["ack"] = np.where(acked, (isn + 1 + rows["ack"]) & 0xFFFFFFFF, 0).astype(np.uint32)
        size = rows["length"] + heads.dtype["tcp"].itemsize
        size += heads.dtype["ip"].itemsize if self._version == 4 else 0
        ip["size"] = np.where((size > 0xFFFF) | self._length_zero, 0, size)
        if self._version == 4:
            ip["number"] = (self.records + np.arange(len(rows))) & 0xFFFF
        length = rows["length"] + self.head
        heads["length"], heads["captured"] = length, np.minimum(length, self.snap)
        self._stamp(heads, rows, length)
        return heads

    def _stamp(
        self, heads: NDArray[np.void], rows: NDArray[np.void], length: NDArray[np.int64]
    ) -> None:
        """Tell the time: about 100 Gbit/s."""
        steps = 500 + length // 12
        times = self._time + steps.cumsum() - steps
        self._time += int(steps.sum())
        seconds, rest = np.divmod(times, 10**9)
        if not self._resolutions:
            heads["seconds"], heads["fraction"] = seconds, rest if self._nano else rest // 1000
            return
        interface = rows["connection"] % len(self._resolutions)
        units = [1 << (r & 127) if r & 128 else 10**r for r in self._resolutions]
        unit = np.array(units, np.int64)[interface]
        ticks = seconds * unit + rest * unit // 10**9
        heads["type"], heads["interface"] = 6, interface
        heads["high"], heads["low"] = ticks >> 32, ticks & 0xFFFFFFFF
        captured = heads["captured"].astype(np.int64)
        heads["total"] = captured + -captured % 4 + self._record + 4


class HoleyFile:
    """A file whose blocks of zeros are holes, if wanted."""

    def __init__(self, path: Path, *, holes: bool) -> None:
        self._file = path.open("wb", buffering=0)
        self._holes = holes
        self._rest = b""
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(self._rest)
            self._file.truncate(self.size)
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        if not self._holes:
            _write_all(self._file, memoryview(data))
            return
        data = self._rest + data
        whole = len(data) & -4096
        self._rest = data[whole:]
        blocks = np.frombuffer(data, np.uint64, whole // 8).reshape(-1, 512)
        used = np.concatenate([[False], blocks.any(axis=1), [False]])
        edges = np.flatnonzero(used[1:] != used[:-1]).reshape(-1, 2) * 4096
        start, view = self._file.tell(), memoryview(data)
        for begin, end in edges.tolist():
            self._file.seek(start + begin)
            _write_all(self._file, view[begin:end])
        self._file.seek(start + whole)


def _write_all(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def rows_of(values: Iterable[tuple[Any, ...]]) -> NDArray[np.void]:
    """Return segments from tuples in the order of `SEGMENT`."""
    return np.array(list(values), SEGMENT)
