"""What a source sends: the packets of its channels, and the main stream around them.

Nothing here waits or keeps a round: the edge decides which page goes into which packet of which
channel, and when, and has these classes make the bytes. What they make conforms to the
specification in every dialect; what real senders are known to do beside it is not imitated.

A source owes the receiver this order (SYNC-9): `MainWriter.start`, one SYNC packet on every
channel, `MainWriter.mark`; then for each round `part` (`end` for the last one), the round's
packets on any channels and its `zeros` on the main stream, one SYNC packet on every channel,
`mark`; at last `finish`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Protocol

from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC, Dialect, dialect_of
from multifd_proto.wire.main_records import (
    COMMANDS,
    Command,
    Footer,
    SectionEnd,
    SectionPart,
    SectionStart,
)
from multifd_proto.wire.payload import METHODS, PayloadMethod
from multifd_proto.wire.ram_records import (
    MAX_RUN,
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import (
    PAGE_SIZES,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

PING = 1
"""What the destination is asked to repeat on the return path (QEMU: `qemu_savevm_send_ping`)."""
_NAME_SIZE = 256
_COMMANDS = {name: number for number, name in COMMANDS.items()}
_RETURN_PATH = (
    Command(_COMMANDS["OPEN_RETURN_PATH"]),
    Command(_COMMANDS["PING"], PING.to_bytes(4, "big")),
)


class ZeroPages(Enum):
    """How a page of zeros travels (QEMU: migration parameter `zero-page-detection`)."""

    MULTIFD = "multifd"
    """Listed in packets, since 9.0."""
    LEGACY = "legacy"
    """As a word on the main stream."""
    NONE = "none"
    """As any other page."""


@dataclass(frozen=True)
class SourceParameters:
    """What a source is configured for, all but its memory."""

    dialect: Dialect
    channels: int = 2
    uuid: bytes = bytes(16)
    """16 bytes, in text order."""
    page_size: int = 4096
    """Target page size in bytes."""
    method: PayloadMethod = METHODS[0]
    detection: ZeroPages | None = None
    """None for what the dialect's own machine types use."""

    def __post_init__(self) -> None:
        """Refuse what no source can be.

        Raises:
            ValueError: a value is out of its bounds, or the dialect has not got it.
        """
        dialect, name = self.dialect, self.dialect.name
        if not 1 <= self.channels <= 255:
            raise ValueError(f"number of channels is {self.channels}, must be 1 to 255")
        if len(self.uuid) != 16:
            raise ValueError(f"uuid is {len(self.uuid)} bytes, must be 16")
        if self.page_size not in PAGE_SIZES:
            raise ValueError(f"page size is {self.page_size}, must be one of {PAGE_SIZES}")
        if dialect.index < dialect_of(self.method.since).index:
            since = f"{self.method.since} and newer"
            raise ValueError(f"compression {self.method.name} is of {since}, dialect is {name}")
        if self.detection is ZeroPages.MULTIFD and not self._in_packets:
            raise ValueError(f"zero pages travel in packets since 9.0, dialect is {name}")

    @property
    def _in_packets(self) -> bool:
        return self.dialect.packet is MultiFDPacket

    @property
    def zero_pages(self) -> ZeroPages:
        """How a page of zeros travels."""
        return self.detection or (ZeroPages.MULTIFD if self._in_packets else ZeroPages.LEGACY)

    @property
    def page_count(self) -> int:
        """Pages in a full packet."""
        return page_count(self.page_size)


@dataclass
class PacketWriter:
    """Makes the messages of all channels of one migration; channels may share it across threads.

    Packet numbers are given out as packets are built. So that they rise on each channel, a channel
    has to build its packets in the order in which it sends them (PKT-20 to PKT-23).
    """

    parameters: SourceParameters
    _numbers: Iterator[int] = field(default_factory=count)  # next() of it is atomic

    def init(self, channel: int) -> bytes:
        """Return the preamble of a channel."""
        return MultiFDInit(uuid=self.parameters.uuid, id=channel).build()

    def pages(
        self, block: bytes, normal: Sequence[int], zero: Sequence[int], payload_size: int
    ) -> bytes:
        """Return the head of a packet with pages, in front of their payload.

        Args:
            block: name of the RAM block, at most 255 bytes.
            normal: offsets in the block, in bytes, of the pages in the payload, in its order.
            zero: offsets of pages of zeros; none but with `ZeroPages.MULTIFD`.
            payload_size: bytes of payload that follow.
        """
        room = self.parameters.page_count
        fields: dict[str, Any] = {"zero_pages": len(zero)} if zero else {}
        unused = (0,) * (room - len(normal) - len(zero))
        return self._build(
            flags=self.parameters.method.flag,
            pages_alloc=room,
            normal_pages=len(normal),
            next_packet_size=payload_size,
            ramblock=block.ljust(_NAME_SIZE, b"\0"),
            offset=(*normal, *zero, *unused),
            **fields,
        )

    def sync(self) -> bytes:
        """Return a SYNC packet."""
        room = self.parameters.page_count
        alloc = room if self.parameters.dialect.sync_alloc else 0
        return self._build(flags=FLAG_SYNC, pages_alloc=alloc, offset=(0,) * room)

    def device_state(self, idstr: bytes, instance_id: int, size: int) -> bytes:
        """Return the head of a packet with `size` bytes of a device's state, which follow it.

        Only in dialects with `device_state`, and without compression (DEV-4).
        """
        name = idstr.ljust(_NAME_SIZE, b"\0")
        return MultiFDPacketDeviceState(
            flags=FLAG_DEVICE_STATE, idstr=name, instance_id=instance_id, next_packet_size=size
        ).build()

    def _build(self, **fields: Any) -> bytes:
        return self.parameters.dialect.packet(packet_num=next(self._numbers), **fields).build()


class Surroundings(Protocol):
    """What the main stream holds beside the sections of memory: devices, and how to mark rounds."""

    @property
    def prefix(self) -> bytes:
        """Everything before the START of `ram`."""

    @property
    def ram_section_id(self) -> int:
        """Number of the `ram` section."""

    @property
    def ram_version(self) -> int:
        """Version of the `ram` section."""

    @property
    def modern(self) -> bool:
        """Rounds are marked by MULTIFD_FLUSH words, not by EOS."""

    @property
    def switchover(self) -> bytes:
        """What stands before the END of `ram`."""

    @property
    def suffix(self) -> bytes:
        """Everything after the END of `ram` and its footer."""


@dataclass(frozen=True)
class MainWriter:
    """Makes the pieces of the main stream, in the order of its methods."""

    around: Surroundings
    blocks: Sequence[RamBlockEntry]
    """The RAM blocks, in the order in which they are announced."""
    return_path: bool
    """The destination is told to answer: it repeats `PING`, and at the end says how it went."""

    def start(self) -> bytes:
        """Return the stream up to the list of blocks, which a mark has to follow."""
        around, commands = self.around, _RETURN_PATH if self.return_path else ()
        section = SectionStart(around.ram_section_id, b"ram", 0, around.ram_version)
        total = sum(block.used_length for block in self.blocks)
        records = (*commands, section, RamSetup(total, tuple(self.blocks)))
        return around.prefix + b"".join(record.build() for record in records)

    def part(self) -> bytes:
        """Return the head of a round's section; its zero pages and a mark have to follow."""
        return SectionPart(self.around.ram_section_id).build()

    def end(self) -> bytes:
        """Return the head of the last round's section: the same, in place of `part`."""
        return self.around.switchover + SectionEnd(self.around.ram_section_id).build()

    def zeros(self, block: bytes, offsets: Sequence[int]) -> bytes:
        """Return words for pages of zeros (`ZeroPages.LEGACY`).

        Args:
            block: name of the RAM block.
            offsets: of the pages in it, in bytes.
        """
        runs = (offsets[at : at + MAX_RUN] for at in range(0, len(offsets), MAX_RUN))
        return b"".join(RamZero(block, tuple(run)).build() for run in runs)

    def mark(self) -> bytes:
        """Return the end of a section with the mark of its round: after all SYNC packets of it."""
        flush = RamFlush().build() if self.around.modern else b""
        return flush + RamEos().build() + Footer(self.around.ram_section_id).build()

    def finish(self) -> bytes:
        """Return the rest of the stream: devices, end, description."""
        return self.around.suffix
