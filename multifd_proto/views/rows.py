"""Messages as flat rows, the form in which they are printed, exported and compared.

A row is a dict with `stream`, `channel`, `offset`, `time` and `type`, and the fields of that type
under QEMU's names. `time` is in nanoseconds since the epoch here.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

from multifd_proto.machine.events import (
    BytesMissing,
    DeviceStateReceived,
    Ended,
    Event,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.migration import MainReceived
from multifd_proto.wire.main_records import MainGap, MainHeader
from multifd_proto.wire.ram_records import RamPage, RamZero

Row = dict[str, Any]

COLUMNS: dict[str, str] = {
    "stream": "int32",
    "channel": "int16",
    "offset": "int64",
    "time": "int64",
    "type": "string",
    "round": "int32",
    "magic": "int64",
    "version": "int64",
    "flags": "int64",
    "pages_alloc": "int64",
    "normal_pages": "int64",
    "zero_pages": "int64",
    "next_packet_size": "int64",
    "packet_num": "uint64",
    "ramblock": "string",
    "payload": "int64",
    "uuid": "string",
    "id": "int16",
    "idstr": "string",
    "instance_id": "int64",
    "record": "string",
    "length": "int64",
    "reason": "string",
    "reset": "bool",
    "due": "int64",
    "xxh3": "string",
}
"""Columns of a table of rows, and their types; what a type lacks is empty."""


def text(name: bytes) -> str:
    """Return a name of the wire as text; bytes that are no UTF-8 stay visible as escapes."""
    return name.decode("utf-8", "backslashreplace")


def row(stream: int, channel: int | None, event: Event, *, offsets: bool = False) -> Row | None:
    """Return the row of an event; None for events that belong to another one's row.

    Args:
        stream: number of the connection.
        channel: id of the channel, None for the main stream or where it is not known.
        event: what happened.
        offsets: list the offsets of the pages, as `page_offsets`.
    """
    head = {"stream": stream, "channel": channel, "offset": event.offset, "time": event.time}
    match event:
        case InitReceived():
            init = event.init
            return head | {
                "type": "init",
                "magic": init.magic,
                "version": init.version,
                "uuid": str(UUID(bytes=init.uuid)),
                "id": init.id,
            }
        case PacketReceived():
            return head | _packet(event, offsets)
        case DeviceStateReceived():
            device = event.packet
            return head | {
                "type": "device_state",
                "magic": device.magic,
                "version": device.version,
                "flags": device.flags,
                "idstr": text(event.idstr),
                "instance_id": device.instance_id,
                "next_packet_size": device.next_packet_size,
                "payload": event.payload,
                "round": event.round,
            }
        case MainReceived():
            return head | _main(event, offsets)
        case PayloadReceived(digest=int(digest)):
            return head | {"type": "payload", "length": event.size, "xxh3": f"{digest:016x}"}
        case BytesMissing():
            return head | {"type": "gap", "length": event.length, "reason": event.reason}
        case Ended():
            return head | {"type": "eof", "reset": event.reset, "due": event.due}
    return None


_NUMBERS = (
    "magic", "version", "flags", "pages_alloc", "normal_pages", "next_packet_size", "packet_num",
)  # fmt: skip


def _packet(event: PacketReceived, offsets: bool) -> Row:
    """Return a RAM packet's fields; those that were not captured are None."""
    packet = event.packet
    known = {name: getattr(packet, name) if event.knows(name) else None for name in _NUMBERS}
    zero_known = event.known >= type(packet).end_of("ramblock") - len(packet.ramblock)
    fields_ = {
        "type": "packet",
        **known,
        "zero_pages": packet.zero_pages if zero_known else None,
        "ramblock": text(event.ramblock) if event.knows("ramblock") else None,
        "payload": event.payload,
        "round": event.round,
    }
    if offsets:
        fields_["page_offsets"] = list(event.page_offsets) if event.knows("offset") else None
    return fields_


def _main(event: MainReceived, offsets: bool) -> Row:
    record = event.record
    if isinstance(record, MainGap):
        return {"type": "gap", "length": record.length, "reason": "lost"}
    values: Row = {"type": "main", "record": type(record).__name__, "round": event.round}
    if isinstance(record, RamZero):
        values |= {"ramblock": text(record.block or b""), "zero_pages": len(record.offsets)}
        if offsets:
            values["page_offsets"] = list(record.offsets)
        return values
    if isinstance(record, RamPage):
        values |= {"ramblock": text(record.block or b""), "normal_pages": 1, "payload": record.size}
        return values | ({"page_offsets": [record.offset]} if offsets else {})
    if isinstance(record, MainHeader):
        return values | {"magic": int.from_bytes(record.magic, "big"), "version": record.version}
    return values | {f.name: _plain(getattr(record, f.name)) for f in fields(record)}


def _plain(value: Any) -> Any:
    """Return a field of a main-stream record in JSON's terms."""
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return getattr(value, "name", value)
