"""What a channel tells: one frozen value per message, payload, loss and end.

Offsets count bytes from the start of the channel's stream; times are nanoseconds since the
epoch of the first byte of what the event is about, 0 where no clock is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import PayloadFault, PayloadMethod
from multifd_proto.wire.schema import (
    MULTIFD_PACKET_SIZE,
    MultiFDInit,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    RamPacket,
)


class ChannelState(Enum):
    """Where a channel stands. Every state but `LOST` waits for a known number of bytes."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> ChannelState:
        """Attach the sentence that documents a state."""
        member = object.__new__(cls)
        member._value_ = value
        member.meaning = meaning
        return member

    AWAIT_INIT = "AWAIT_INIT", "waits for the 64 bytes of the init message"
    AWAIT_HEADER = "AWAIT_HEADER", "waits for the 12 bytes that every packet starts with"
    AWAIT_PACKET = (
        "AWAIT_PACKET",
        "waits for the rest of the packet: 308 + 8 x page_count bytes, or 264 for device state",
    )
    AWAIT_PAYLOAD = "AWAIT_PAYLOAD", "waits for as many bytes as the payload method says"
    LOST = "LOST", "bytes are missing: looks for the next plausible packet"
    CLOSED = "CLOSED", "the stream has ended"
    FAILED = "FAILED", "what was received cannot be followed: the rest is not looked at"


@dataclass(frozen=True, slots=True)
class Event:
    """Base: what every event knows."""

    offset: int
    time: int


@dataclass(frozen=True, slots=True)
class InitReceived(Event):
    """The init message is there, whole."""

    init: MultiFDInit


@dataclass(frozen=True, slots=True)
class HeaderReceived(Event):
    """The first 12 bytes of a packet are there."""

    header: MultiFDPacketHdr


@dataclass(frozen=True)  # slots have no room for what is cached
class PacketReceived(Event):
    """A RAM packet's head is there."""

    packet: RamPacket
    known: int
    """Leading bytes of the packet that were really seen; what is beyond them reads as zero."""
    payload: int
    """Bytes of payload that follow."""
    round: int | None
    """SYNC packets before this one on the channel; None where lost bytes hide the count."""

    @property
    def sync(self) -> bool:
        """The packet ends a round on its channel."""
        return bool(self.packet.flags & FLAG_SYNC)

    @property
    def pages(self) -> int:
        """Normal and zero pages of the packet."""
        return self.packet.normal_pages + self.packet.zero_pages

    @property
    def page_offsets(self) -> tuple[int, ...]:
        """Offsets of the packet's pages in their block, in bytes: normal pages, then zero pages."""
        return self.packet.offset[: self.pages]

    @property
    def page_size(self) -> int:
        """Target page size in bytes."""
        return MULTIFD_PACKET_SIZE // len(self.packet.offset)

    @cached_property
    def run(self) -> range | None:
        """`page_offsets` as a range, where each page is the one behind the page before it."""
        offsets, size = self.page_offsets, self.page_size
        run = range(offsets[0], offsets[0] + len(offsets) * size, size) if offsets else None
        return run if run and run[-1] == offsets[-1] and tuple(run) == offsets else None

    @cached_property
    def distinct_offsets(self) -> tuple[int, ...]:
        """`page_offsets`, each once and in ascending order."""
        if self.run:
            return self.page_offsets
        # a set would lose the order, which is nearly always right and makes sorting cheap
        return tuple(sorted(dict.fromkeys(self.page_offsets)))

    @property
    def ramblock(self) -> bytes:
        """The block's name: what is before the first NUL."""
        return self.packet.ramblock.partition(b"\0")[0]

    def knows(self, field: str) -> bool:
        """Tell whether a field was really seen."""
        packet = type(self.packet)
        return self.known >= (
            packet.size(len(self.packet.offset)) if field == "offset" else packet.end_of(field)
        )


@dataclass(frozen=True, slots=True)
class DeviceStateReceived(Event):
    """A device-state packet's head is there."""

    packet: MultiFDPacketDeviceState
    payload: int
    """Bytes of device data that follow."""
    round: int | None

    @property
    def idstr(self) -> bytes:
        """The device's name: what is before the first NUL."""
        return self.packet.idstr.partition(b"\0")[0]


@dataclass(frozen=True, slots=True)
class PayloadReceived(Event):
    """The last byte of a payload has gone by; a payload may have no bytes."""

    head: PacketReceived | DeviceStateReceived
    size: int
    missing: int
    """Bytes of it that were not seen."""
    method: PayloadMethod | None
    """How it is encoded; None for device state and where the flags name no single method."""
    decoded: bool
    """It was decoded, or decoding was tried: `fault` says how it went."""
    fault: PayloadFault | None
    digest: int | None = None
    """XXH3 (64 bits) of its bytes, if that was asked for and all of them were seen."""


@dataclass(frozen=True, slots=True)
class BytesMissing(Event):
    """Bytes that were not seen, or that could not be understood after such a loss."""

    length: int
    reason: str
    """`lost`, `snapped`, or `unsynchronised` for bytes passed over until the next packet."""
    hid: ChannelState
    """What the channel was waiting for."""


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The stream ended: by FIN, or by a reset."""

    state: ChannelState
    """Where the channel stood."""
    due: int
    """Bytes that were still due for the message it stood in; 0 at a boundary."""
    reset: bool
    by_peer: bool
    """The reset came from the receiver."""
