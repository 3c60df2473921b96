"""What went over the channels, counted as QEMU counts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from multifd_proto.machine.events import DeviceStateReceived, PacketReceived


@dataclass
class ChannelStatistics:
    """Counts of one channel."""

    id: int | None = None
    """The channel's id, None before its init message."""
    packets: int = 0
    """RAM packets, SYNC packets among them."""
    syncs: int = 0
    normal: int = 0
    """Pages with content (QEMU: `normal` of `query-migrate`'s `ram`)."""
    zero: int = 0
    """Pages of zeros that went in packets (QEMU: part of `duplicate`)."""
    bytes: int = 0
    """Bytes of packets and payload (QEMU: `multifd-bytes`); the init message is not counted."""
    device_state: int = 0
    """Device-state packets."""

    def count(self, head: PacketReceived | DeviceStateReceived) -> None:
        """Count a packet, its payload included."""
        if isinstance(head, DeviceStateReceived):
            self.device_state += 1
            self.bytes += type(head.packet).size() + head.payload
            return
        packet = head.packet
        self.packets += 1
        self.syncs += head.sync
        self.normal += packet.normal_pages
        self.zero += packet.zero_pages
        self.bytes += type(packet).size(len(packet.offset)) + head.payload


def total(channels: Iterable[ChannelStatistics]) -> ChannelStatistics:
    """Return the sums over channels; their `id` is None."""
    parts = list(channels)
    names = [field.name for field in fields(ChannelStatistics) if field.name != "id"]
    return ChannelStatistics(**{name: sum(getattr(part, name) for part in parts) for name in names})
