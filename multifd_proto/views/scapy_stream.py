# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the first message of a stream ends: for scapy's own sessions and stream sockets.

Scapy's `TCPSession` cannot tell lost bytes: it fills them with zeros. So a stream is followed only
as long as each message begins where the one before it ends; from where it does not, everything is
`Raw`, as any page of a guest may look like a packet. `MultiFDSession` knows what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.machine.resync import (
    PEEK,
    START,
    infer_page_count,
    starts_with_packet,
)
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE
from multifd_proto.wire.payload import method_of
from multifd_proto.wire.schema import (
    MULTIFD_PACKET_SIZE,
    Message,
    MultiFDInit,
    MultiFDPacketDeviceState,
    RamPacket,
)

LARGEST = 64 << 20
"""Bytes of payload that are waited for; a packet that claims more is not followed."""


@dataclass
class Place:
    """What is remembered of a stream between two messages."""

    page_size: int | None
    """Target page size in bytes; None until a packet tells."""
    layout: type[RamPacket]
    device_state: bool
    """Device-state packets exist."""
    begun: bool = False
    """A message was seen: none that follows can be an init."""
    lost: bool = False

    def measure(self, data: bytes, *, ended: bool = False) -> tuple[type[Message], int] | None:
        """Return the layout of the message at the front of `data`, and the size of it in bytes.

        The size is that of what is needed to get any further, where that is more than `data`.
        Returns None where no message is; then none will ever be.

        Args:
            data: what has come of the stream, from where the message before ended.
            ended: nothing will follow.
        """
        found = None if self.lost else self._measure(data, ended)
        self.lost = found is None
        return found

    def _measure(self, data: bytes, ended: bool) -> tuple[type[Message], int] | None:
        if not data.startswith(START[: len(data)]):
            return None
        if len(data) < PEEK:
            return Message, PEEK
        if not self.begun and not starts_with_packet(data[:PEEK]):
            return MultiFDInit, MultiFDInit.size()
        if self.device_state and int.from_bytes(data[8:12], "big") & FLAG_DEVICE_STATE:
            return _with_payload(data, MultiFDPacketDeviceState, MultiFDPacketDeviceState.size())
        if not self.page_size:
            count = infer_page_count(data, ended)
            if count is None:
                return self.layout, len(data) + 1
            self.page_size = MULTIFD_PACKET_SIZE // count
        head = self.layout.size(MULTIFD_PACKET_SIZE // self.page_size)
        return _with_payload(data, self.layout, head)


def _with_payload(
    data: bytes, layout: type[RamPacket | MultiFDPacketDeviceState], head: int
) -> tuple[type[Message], int] | None:
    if len(data) < head:
        return layout, head
    packet = layout.parse(data[:head])
    size = packet.next_packet_size
    if not isinstance(packet, MultiFDPacketDeviceState):
        size = payload_size(packet.flags, packet.normal_pages, size, len(packet.offset))
    return (layout, head + size) if size <= LARGEST else None


def payload_size(flags: int, normal_pages: int, next_packet_size: int, page_count: int) -> int:
    """Return how many bytes follow a RAM packet; 0 where a receiver would refuse the packet."""
    if not 0 < normal_pages <= page_count:
        return 0
    method = method_of(flags)
    if not method:
        return next_packet_size
    return method.payload_size(normal_pages, next_packet_size, MULTIFD_PACKET_SIZE // page_count)
