"""The wire log of a scenario: its first and its last exchanges, whatever the sender sends."""

from __future__ import annotations

import time
from collections import deque

from multifd_proto.machine.events import (
    BytesMissing,
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.migration import MainReceived

from ..observation import Exchange

_FIRST, _LAST = 100, 300
_KEPT = 4096


class WireLog:
    """Collects exchanges."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._first: list[Exchange] = []
        self._last: deque[Exchange] = deque(maxlen=_LAST)

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What is kept, in order."""
        return (*self._first, *self._last)

    def note(self, wire: str, kind: str, what: str, data: bytes = b"", size: int = 0) -> None:
        """Add an exchange; the rest is as for `Exchange`."""
        now = time.monotonic() - self._begun
        line = Exchange(now, wire, kind, what, data[:_KEPT], size or len(data))
        if len(self._first) < _FIRST:
            self._first.append(line)
        else:
            self._last.append(line)

    def note_event(self, wire: str, event: Event) -> None:
        """Add what a connection has brought, message by message."""
        match event:
            case InitReceived(init=init):
                self.note(wire, "received", f"init of channel {init.id}", init.build())
            case PacketReceived(packet=packet):
                size = packet.size(len(packet.offset)) + event.payload
                self.note(wire, "received", _packet(event), packet.build(), size)
            case DeviceStateReceived(packet=device):
                what = f"device state of {event.idstr.decode('latin-1')}"
                self.note(wire, "received", what, device.build(), device.size() + event.payload)
            case MainReceived(record=record):
                self.note(wire, "received", type(record).__name__, size=event.size)
            case PayloadReceived(fault=fault) if fault:
                self.note(wire, "received", f"payload: {fault.seen}, not {fault.demanded}")
            case BytesMissing() | HeaderReceived() | PayloadReceived() | Ended():
                pass


def _packet(event: PacketReceived) -> str:
    packet = event.packet
    name = "SYNC" if event.sync else "packet"
    pages = f" of {packet.normal_pages} normal and {packet.zero_pages} zero pages"
    return f"{name}{pages if event.pages else ''}, number {packet.packet_num}"
