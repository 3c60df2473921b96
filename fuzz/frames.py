"""A session as a capture: TCP segments of any size, in the order in which a script sends."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import cycle

from multifd_proto.conformance.script import Complete, Fin, Message, Open, Script, Step, completion
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE, Description

_RAW_IP = 101
_SNAP = 262144
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAP, _RAW_IP)
"""Of the capture file: pcap, times in microseconds, frames that begin with IP."""
_RECORD = struct.Struct("<IIII")
_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_FIN, _SYN, _ACK = 1, 2, 16
_HOSTS = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
_PORT, _FIRST_PORT = 4444, 40000
_ISN = 0xFFFFF000  # the sequence numbers of every session wrap


def session(
    steps: Sequence[Step], peer: Description, channels: int, sizes: Sequence[int], *, whole: bool
) -> list[bytes]:
    """Return the records of a capture file.

    Args:
        steps: of a session: connections are opened, messages sent.
        peer: what messages are made for.
        channels: number of channels.
        sizes: bytes of the segments, over and over; whole messages if there are none.
        whole: the session is brought to its end.
    """
    wires: dict[str, _Wire] = {}
    stage = Stage(Script((), channels=channels), peer, MACHINE)
    records: list[bytes] = []
    todo = [*steps, *([Complete()] if whole else [])]
    lengths = cycle(sizes)
    while todo:
        step = todo.pop(0)
        match step:
            case Open():
                wires[step.wire] = _Wire(len(wires))
                frames: Iterator[bytes] = wires[step.wire].open()
            case Complete():
                todo = completion(step, [*wires]) + todo
                continue
            case Fin():
                frames = wires[step.wire].end()
            case _ if isinstance(step, Message):
                data = stage.build(step).data
                frames = wires[step.wire].data(data, lengths if sizes else cycle([len(data)]))
            case _:
                continue
        for frame in frames:
            now = len(records) * 100
            records.append(_RECORD.pack(now // 10**6, now % 10**6, len(frame), len(frame)) + frame)
    return records


class _Wire:
    """One connection."""

    def __init__(self, number: int) -> None:
        self._ports = _FIRST_PORT + number, _PORT
        self._next = [_ISN, _ISN]

    def open(self) -> Iterator[bytes]:
        yield self._frame(0, _SYN)
        yield self._frame(1, _SYN | _ACK)
        yield self._frame(0, _ACK)

    def data(self, data: bytes, lengths: Iterator[int]) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            length = max(next(lengths), 1 + len(data) // 40)
            yield self._frame(0, _ACK, data[at : at + length])
            at += length
        yield self._frame(1, _ACK)

    def end(self) -> Iterator[bytes]:
        for side in (0, 1):
            yield self._frame(side, _FIN | _ACK)
            yield self._frame(1 - side, _ACK)

    def _frame(self, side: int, flags: int, data: bytes = b"") -> bytes:
        source, destination = _HOSTS[side], _HOSTS[1 - side]
        sequence, acknowledged = self._next[side], self._next[1 - side] if flags & _ACK else 0
        ports = self._ports[side], self._ports[1 - side]
        tcp = _TCP.pack(*ports, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)
        length = _IP.size + len(tcp) + len(data)
        self._next[side] = (sequence + len(data) + bool(flags & (_SYN | _FIN))) % 2**32
        ip = _IP.pack(0x45, 0, length, 0, 0x4000, 64, 6, 0, source, destination)
        return ip + tcp + data
