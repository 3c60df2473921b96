"""What a receiver refuses, and by which requirement: the checks before memory is touched.

Each function looks at one event in the order of QEMU's receivers and yields what is wrong with
it; the first fault is the one to fail with. They are what the requirements on receivers demand,
not what any release does: where real receivers crash or let a fault pass, these refuse.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from uuid import UUID

from multifd_proto.machine.events import (
    DeviceStateReceived,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.rule import Fault
from multifd_proto.wire.dialect import FLAG_SYNC, Dialect
from multifd_proto.wire.payload import METHOD_MASK
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_VERSION,
    MultiFDInit,
    MultiFDPacketHdr,
)

Refusals = Iterable[tuple[str, Fault]]
"""Requirement ids, each with the fault."""

MAX_DEVICE_STATE = 64 << 20
"""Bytes of a device-state packet that are taken; those of VFIO have about 1 MiB."""


def _start(magic: str, version: str, message: MultiFDInit | MultiFDPacketHdr) -> Refusals:
    if message.magic != MULTIFD_MAGIC:
        yield magic, Fault("magic", f"{message.magic:#010x}", f"{MULTIFD_MAGIC:#010x}")
    if message.version != MULTIFD_VERSION:
        yield version, Fault("version", str(message.version), str(MULTIFD_VERSION))


def refuse_init(
    event: InitReceived, parameters: MigrationParameters, taken: Container[int]
) -> Refusals:
    """Yield what is wrong with an init message.

    Args:
        event: the message.
        parameters: of the receiver; a UUID or number of channels that is None is not looked at.
        taken: ids of the channels that are set up.
    """
    init = event.init
    yield from _start("INIT-9", "INIT-10", init)
    if parameters.uuid is not None and init.uuid != parameters.uuid:
        fault = Fault("uuid", str(UUID(bytes=init.uuid)), str(UUID(bytes=parameters.uuid)))
        yield "INIT-11", fault
    if parameters.channels is not None and init.id >= parameters.channels:
        yield "INIT-12", Fault("id", str(init.id), f"below {parameters.channels}")
    if init.id in taken:
        yield "INIT-13", Fault("id", str(init.id), "that of no other channel")


def refuse_header(event: HeaderReceived) -> Refusals:
    """Yield what is wrong with the first 12 bytes of a packet."""
    yield from _start("PKT-24", "PKT-24", event.header)


def block_name(event: PacketReceived) -> bytes:
    """Return the name that a packet's block is looked up by: at most 255 bytes (PKT-26)."""
    return event.ramblock[:255]


def refuse_packet(
    event: PacketReceived,
    parameters: MigrationParameters,
    blocks: Mapping[bytes, RamBlock] | None,
) -> Refusals:
    """Yield what is wrong with the head of a RAM packet, before its payload is read.

    Args:
        event: the packet.
        parameters: of the receiver.
        blocks: the RAM blocks by name; None while the main stream has not told them.
    """
    yield from _refuse_counts(event, parameters)
    if event.pages:
        yield from _refuse_pages(event, blocks)
        yield from _refuse_method(event, parameters)


def _refuse_counts(event: PacketReceived, parameters: MigrationParameters) -> Refusals:
    packet, count = event.packet, len(event.packet.offset)
    dialect = parameters.dialect
    allowed = count * (dialect.alloc_bound if dialect else 1)
    if packet.pages_alloc > allowed:
        yield "PKT-25", Fault("pages_alloc", str(packet.pages_alloc), f"at most {allowed}")
    # a packet has room for `count` offsets, whatever it says that it has
    room = min(packet.pages_alloc, count)
    if packet.normal_pages > room:
        yield "PKT-25", Fault("normal_pages", str(packet.normal_pages), f"at most {room}")
    elif event.pages > room:
        left = room - packet.normal_pages
        yield "PKT-25", Fault("zero_pages", str(packet.zero_pages), f"at most {left}")


def _refuse_pages(event: PacketReceived, blocks: Mapping[bytes, RamBlock] | None) -> Refusals:
    if blocks is None:
        fault = Fault("first packet", f"one with {event.pages} pages", "a SYNC packet")
        yield "SYNC-1", fault
        return
    name = block_name(event)
    block = blocks.get(name)
    if block is None:
        known = ", ".join(name.decode("latin-1") for name in blocks) or "none"
        yield "PKT-26", Fault("ramblock", repr(name)[1:], f"one of {known}")
        return
    run, page_size = event.run, event.page_size
    # of a run, its ends tell all that is to be known
    offsets = {run[0], run[-1]} if run else event.page_offsets
    last = block.used_length - page_size
    if last < 0:
        yield "PKT-28", Fault("block", f"{block.used_length} bytes long", f"at least {page_size}")
    elif max(offsets) > last:
        yield "PKT-27", Fault("offset", f"{max(offsets):#x}", f"at most {last:#x}")
    elif any(map((page_size - 1).__and__, offsets)):
        wrong = next(offset for offset in offsets if offset % page_size)
        yield "PKT-31", Fault("offset", f"{wrong:#x}", f"a multiple of {page_size}")
    elif len(set(offsets)) < len(offsets):
        yield "PKT-31", Fault("an offset", "listed twice", "listed once")


def _refuse_method(event: PacketReceived, parameters: MigrationParameters) -> Refusals:
    packet, method = event.packet, parameters.compression
    if method is None:
        return
    flag = packet.flags & METHOD_MASK
    if flag != method.flag:
        yield "PAY-12", Fault("payload method", f"{flag:#x}", f"{method.flag:#x} ({method.name})")
        return
    limit = method.limit
    if not method.flag or limit is None:
        return
    if not packet.normal_pages and packet.next_packet_size:
        seen = str(packet.next_packet_size)
        yield "PAY-14", Fault("next_packet_size of zero pages", seen, "0")
    elif packet.next_packet_size > limit:
        yield "PAY-13", Fault("next_packet_size", str(packet.next_packet_size), f"at most {limit}")


def refuse_device_state(
    event: DeviceStateReceived, parameters: MigrationParameters, *, devices: bool = True
) -> Refusals:
    """Yield what is wrong with the head of a device-state packet.

    Args:
        event: the packet.
        parameters: of the receiver.
        devices: whether it takes the state of any device, or has none that takes it from channels.
    """
    packet = event.packet
    if b"\0" not in packet.idstr or not event.idstr:
        yield "DEV-1", Fault("idstr", repr(event.idstr[:32])[1:], "a name that ends with NUL")
    if packet.flags & FLAG_SYNC:
        yield "DEV-2", Fault("flags word", f"{packet.flags:#x}", "without SYNC")
    if packet.next_packet_size == 0:
        yield "DEV-3", Fault("next_packet_size", "0", "at least 1")
    elif packet.next_packet_size > MAX_DEVICE_STATE:
        seen = str(packet.next_packet_size)
        yield "DEV-6", Fault("next_packet_size", seen, f"at most {MAX_DEVICE_STATE}")
    if packet.flags & METHOD_MASK:
        yield "DEV-4", Fault("flags word", f"{packet.flags:#x}", "without method bits")
    elif parameters.compression is not None and parameters.compression.flag:
        yield "DEV-4", Fault("device state", f"sent with {parameters.compression.name}", "without")
    if not devices:
        seen = f"{event.idstr.decode('latin-1')!r}, instance {packet.instance_id}"
        yield "DEV-5", Fault("device", seen, "one that takes state from channels")


def refuse_payload(event: PayloadReceived) -> Refusals:
    """Yield what is wrong with a payload that was decoded."""
    if event.fault:
        yield "PAY-15", Fault("payload", event.fault.seen, event.fault.demanded)


def refuse_end(due: int, *, ragged: bool = False, dialect: Dialect | None = None) -> Refusals:
    """Yield what is wrong with the end of a channel.

    Args:
        due: bytes between it and the end of a message.
        ragged: inside TLS, it came without close_notify.
        dialect: of the receiver; None if it is not known.
    """
    if due:
        yield "CHAN-11", Fault("end of the stream", f"{due} bytes early", "between two packets")
    if ragged and dialect and dialect.close_notify:
        demanded = "after close_notify, which sources send since 10.0"
        yield "TLS-5", Fault("end of the stream", "without close_notify", demanded)
