"""Tiny migrations: valid ones, and for each requirement one that violates it and nothing else.

A `Session` is what a sender puts on its connections, as a value. A base is a session that keeps
every rule that applies to it; a miniature is a function that makes one thing in it wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.wire.dialect import FLAG_SYNC, dialect_of
from multifd_proto.wire.main_records import (
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.payload import METHODS, Encoder
from multifd_proto.wire.ram_records import RamBlockEntry, RamEos, RamFlush, RamSetup, RamZero
from multifd_proto.wire.schema import (
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

PAGE_SIZE = 65536
"""Of most miniatures: a packet has 8 offsets then, and 384 bytes."""
COUNT = page_count(PAGE_SIZE)
UUID = bytes(range(16))
BLOCK = b"ram0"
LENGTH = 64 * PAGE_SIZE
METHOD = {method.name: method for method in METHODS}

Head = MultiFDPacket | MultiFDPacketDeviceState


@dataclass(frozen=True)
class Packet:
    """A packet's head and the bytes behind it."""

    head: Head
    payload: bytes = b""

    def build(self) -> bytes:
        """Return its bytes."""
        return self.head.build() + self.payload


@dataclass(frozen=True)
class Sender:
    """What is written on one channel: init, packets, and then perhaps only a part of it."""

    init: MultiFDInit
    packets: tuple[Packet, ...]
    cut: int = 0
    """Bytes at the end that are not written before the channel ends."""
    reverse: int = 0
    """Bytes that the receiver writes."""

    def build(self) -> bytes:
        """Return its bytes."""
        data = self.init.build() + b"".join(packet.build() for packet in self.packets)
        return data[: len(data) - self.cut]


@dataclass(frozen=True)
class Session:
    """A whole migration, as its sender puts it on the wire."""

    channels: tuple[Sender, ...]
    main: tuple[MainRecord, ...]
    parameters: MigrationParameters
    main_opened: int = 0
    """When the main stream's connection is opened; the channels' follow at 1, 2, ..."""
    main_tail: bytes | None = None
    """Bytes of the main stream as they are, instead of `main`."""
    tls: int = 0
    """Further connections that are encrypted."""

    def with_packet(self, channel: int, number: int, packet: Packet) -> Session:
        """Return it with another packet in a place."""
        sender = self.channels[channel]
        packets = (*sender.packets[:number], packet, *sender.packets[number + 1 :])
        return self.with_sender(channel, replace(sender, packets=packets))

    def with_head(self, channel: int, number: int, **values: object) -> Session:
        """Return it with other values in the head of a packet."""
        packet = self.channels[channel].packets[number]
        head = replace(packet.head, **values)  # type: ignore[arg-type]
        return self.with_packet(channel, number, replace(packet, head=head))

    def with_init(self, channel: int, **values: object) -> Session:
        """Return it with other values in an init message."""
        sender = self.channels[channel]
        init = replace(sender.init, **values)  # type: ignore[arg-type]
        return self.with_sender(channel, replace(sender, init=init))

    def with_sender(self, channel: int, sender: Sender) -> Session:
        """Return it with another channel in a place."""
        channels = (*self.channels[:channel], sender, *self.channels[channel + 1 :])
        return replace(self, channels=channels)

    def with_main(self, *edits: tuple[MainRecord, MainRecord]) -> Session:
        """Return it with records of the main stream replaced."""
        changes = dict(edits)
        return replace(self, main=tuple(changes.get(record, record) for record in self.main))

    def of(self, release: str) -> Session:
        """Return it as of another dialect."""
        return replace(self, parameters=replace(self.parameters, dialect=dialect_of(release)))


def sync(number: int, alloc: int = 0) -> Packet:
    """Return a SYNC packet."""
    offsets = (0,) * COUNT
    return Packet(
        MultiFDPacket(flags=FLAG_SYNC, pages_alloc=alloc, packet_num=number, offset=offsets)
    )


def pages(
    number: int,
    normal: tuple[int, ...],
    zero: tuple[int, ...] = (),
    encoder: tuple[str, Encoder] | None = None,
) -> Packet:
    """Return a packet of pages, given by their place in the block."""
    content = [bytes([65 + place % 26]) * PAGE_SIZE for place in normal]
    name, encode = encoder or ("none", METHOD["none"].encoder())
    payload = encode.encode(content) if content else b""
    offsets = tuple(place * PAGE_SIZE for place in normal + zero)
    return Packet(
        MultiFDPacket(
            flags=METHOD[name].flag,
            pages_alloc=COUNT,
            normal_pages=len(normal),
            zero_pages=len(zero),
            next_packet_size=len(payload),
            packet_num=number,
            ramblock=BLOCK.ljust(256, b"\0"),
            offset=offsets + (0,) * (COUNT - len(offsets)),
        ),
        payload,
    )


def device_state() -> Packet:
    """Return a device-state packet."""
    head = MultiFDPacketDeviceState(idstr=b"vfio".ljust(256, b"\0"), next_packet_size=12)
    return Packet(head, bytes(12))


SETUP = RamSetup(
    LENGTH + PAGE_SIZE, (RamBlockEntry(BLOCK, LENGTH), RamBlockEntry(b"rom", PAGE_SIZE))
)
START = SectionStart(1, b"ram", 0, 4)
ZERO = RamZero(b"rom", (0,))
FOOTER = Footer(1)
_FLUSH = RamFlush()


def main_stream(
    mark: MainRecord | None = _FLUSH, zero: MainRecord | None = None
) -> tuple[MainRecord, ...]:
    """Return a main stream with three marks: FLUSH words, or without them its EOS words."""
    flush = (mark,) if mark else ()
    parts = (zero,) if zero else ()
    return (
        MainHeader(), Configuration(b"none"),
        START, SETUP, *flush, RamEos(), FOOTER,
        SectionPart(1), *parts, *flush, RamEos(), FOOTER,
        SectionEnd(1), *flush, RamEos(), FOOTER,
        StreamEnd(),
    )  # fmt: skip


_GIVEN = MigrationParameters(
    dialect=dialect_of("10.0"),
    page_size=PAGE_SIZE,
    channels=2,
    uuid=UUID,
    ramblocks=(RamBlock(BLOCK, LENGTH), RamBlock(b"rom", PAGE_SIZE, migratable=False)),
)


def base(method: str = "none", alloc: int = 0) -> Session:
    """Return a valid migration: two channels, three rounds, pages sent again in the third."""
    one, two = ((method, METHOD[method].encoder()) for _ in range(2))
    first = (sync(0, alloc), pages(2, (0, 1), (2,), one), sync(4, alloc), pages(6, (1,), (), one))
    second = (sync(1, alloc), pages(3, (8, 9, 10), (), two), sync(5, alloc))
    channels = (
        Sender(MultiFDInit(uuid=UUID, id=0), (*first, sync(7, alloc))),
        Sender(MultiFDInit(uuid=UUID, id=1), (*second, sync(8, alloc))),
    )
    return Session(channels, main_stream(), _GIVEN)


def with_device_state() -> Session:
    """Return the valid migration with a device-state packet."""
    session = base()
    sender = session.channels[1]
    packets = (*sender.packets[:3], device_state(), *sender.packets[3:])
    return session.with_sender(1, replace(sender, packets=packets))


def legacy() -> Session:
    """Return a valid migration of 7.2: EOS words are the marks, zero pages on the main stream."""
    session = base(alloc=COUNT).of("7.2").with_packet(0, 1, pages(2, (0, 1)))
    return replace(session, main=main_stream(None, ZERO))


def undemanding() -> Session:
    """Return the valid migration, nothing about it being known beforehand but the dialect."""
    given = MigrationParameters(dialect=dialect_of("10.0"))
    return replace(base(), parameters=given)


BASES: dict[str, Callable[[], Session]] = {
    **{name: lambda name=name: base(name) for name in METHOD},  # type: ignore[misc]
    "device-state": with_device_state,
    "legacy": legacy,
    "undemanding": undemanding,
}
"""The valid migrations."""
