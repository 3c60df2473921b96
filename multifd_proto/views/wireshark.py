"""The Wireshark dissector: `spec/multifd.lua`, written from the same truth as everything else.

What the bytes are (layouts, flags, payload methods, release differences, known deviations) and the
texts of the requirements are rendered here as Lua tables; what is done with them is the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from multifd_proto.capture import upper_pdu
from multifd_proto.wire.dialect import DIALECTS, FLAG_DEVICE_STATE, FLAG_SYNC, Dialect
from multifd_proto.wire.main_records import (
    COMMANDS,
    MAX_CONFIGURATION,
    STREAM_MAGIC,
    STREAM_VERSION,
    RecordType,
)
from multifd_proto.wire.payload import METHOD_MASK, METHODS
from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.ram_records import RamFlag
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_PACKET_SIZE,
    MULTIFD_VERSION,
    PAGE_SIZES,
    Message,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    Row,
    page_count,
)

SCRIPT = "multifd.lua"
"""Name of the dissector in the specification and in Wireshark's plugin folder."""

EVALUATED = (
    "CHAN-1", "CHAN-2",
    "INIT-1", "INIT-2", "INIT-7", "INIT-8",
    "PKT-1", "PKT-2", "PKT-3", "PKT-4", "PKT-5", "PKT-6", "PKT-7", "PKT-8", "PKT-9", "PKT-10",
    "PKT-14", "PKT-15", "PKT-16", "PKT-17", "PKT-18", "PKT-19", "PKT-20",
    "PAY-1", "PAY-2", "PAY-11",
    "SYNC-1", "SYNC-2", "SYNC-3", "SYNC-4",
    "DEV-1", "DEV-2", "DEV-3", "DEV-4",
    "MAIN-1",
)  # fmt: skip
"""The requirements whose violations the dissector shows as expert info."""

_DECODES = "payloads are not decoded"
_JOINT = "compares channels with each other"
_CONFIGURED = "needs to know how the migration was configured"
_BLOCKS = "needs the RAM blocks that the main stream announces"
_MAIN = "the main stream is not followed"
_OVER = "is judged when the whole migration has been seen"
NOT_EVALUATED: Mapping[str, str] = {
    "CHAN-3": _CONFIGURED,
    "CHAN-4": _JOINT,
    "TLS-1": _JOINT,
    "INIT-3": _JOINT,
    "INIT-4": _CONFIGURED,
    "INIT-5": _CONFIGURED,
    "INIT-6": _JOINT,
    "PKT-11": _BLOCKS,
    "PKT-12": _CONFIGURED,
    "PKT-13": _BLOCKS,
    "PKT-21": _JOINT,
    "PKT-22": _OVER,
    "PKT-23": _JOINT,
    **{f"PAY-{number}": _DECODES for number in range(3, 11)},
    "SYNC-5": _OVER,
    "SYNC-6": _OVER,
    "SYNC-7": _JOINT,
    "SYNC-8": _OVER,
    **{f"MAIN-{number}": _MAIN for number in range(2, 12)},
}
"""The other requirements that show on the wire, and why the dissector does not judge them."""

_LAYOUTS: Mapping[str, tuple[type[Message], str]] = {
    "init": (MultiFDInit, "multifd.init"),
    "packet": (MultiFDPacket, "multifd"),
    "packet_before_9": (MultiFDPacketBefore9, "multifd"),
    "device_state": (MultiFDPacketDeviceState, "multifd"),
}
_KINDS = {
    "magic": "hex", "flags": "hex", "uuid": "uuid", "ramblock": "name", "idstr": "name",
    "offset": "offset",
}  # fmt: skip
"""How a field is shown, where its type does not say it."""


def dissector() -> str:
    """Return the text of the dissector, a Lua script for Wireshark 4.0 and newer."""
    folder = files("multifd_proto.views").joinpath("templates", "wireshark")
    parts = sorted(folder.iterdir(), key=lambda part: part.name)
    template = "".join(part.read_text("utf-8") for part in parts)
    return template.replace("@data@\n", "".join(f"{line}\n" for line in _data()))


def _data() -> Iterator[str]:
    for name, value in _constants().items():
        yield f"local {name} = {_lua(value)}"
    yield from _table("LAYOUTS", {name: _layout(*of) for name, of in _LAYOUTS.items()})
    methods = [{"name": m.name, "flag": m.flag, "limit": m.limit} for m in METHODS]
    yield from _table("METHODS", methods)
    lowest = METHOD_MASK & -METHOD_MASK
    yield from _table("METHOD_NAMES", {m.flag // lowest: m.name for m in METHODS})
    yield from _table("COMMANDS", COMMANDS)
    yield from _table("DIALECTS", [_dialect(d) for d in DIALECTS])
    quirks = {
        q.name: {"dialects": _names(q.dialects), "reason": q.reason}
        for q in QUIRKS
        if set(q.requirements) & set(EVALUATED)
    }
    yield from _table("QUIRKS", quirks)
    requirements = {
        r.id: {"level": r.level.value, "dialects": _names(r.dialects), "text": r.text}
        for r in load().values()
        if r.id in EVALUATED
    }
    yield from _table("REQUIREMENTS", requirements)


def _constants() -> dict[str, Any]:
    return {
        "MAGIC": MULTIFD_MAGIC,
        "VERSION": MULTIFD_VERSION,
        "START": MultiFDPacketHdr().build()[: MultiFDPacketHdr.end_of("version")],
        "PACKET_SIZE": MULTIFD_PACKET_SIZE,
        "FLAG_SYNC": FLAG_SYNC,
        "METHOD_MASK": METHOD_MASK,
        "FLAG_DEVICE_STATE": FLAG_DEVICE_STATE,
        "PAGE_SIZES": list(PAGE_SIZES),
        "PAGE_COUNTS": sorted(map(page_count, PAGE_SIZES)),
        "PDU_END": upper_pdu.END,
        "PDU_TCP_INFO": upper_pdu.TCP_INFO,
        "STREAM_MAGIC": STREAM_MAGIC.decode(),
        "STREAM_VERSION": STREAM_VERSION,
        "MAX_CONFIGURATION": MAX_CONFIGURATION,
        "RECORD_SECTION_START": RecordType.SECTION_START.value,
        "RECORD_CONFIGURATION": RecordType.CONFIGURATION.value,
        "RECORD_COMMAND": RecordType.COMMAND.value,
        "RAM_MEM_SIZE": RamFlag.MEM_SIZE.value,
    }


def _layout(message: type[Message], prefix: str) -> dict[str, Any]:
    return {"size": message.size(), "rows": [_row(row, prefix) for row in message.rows()]}


def _row(row: Row, prefix: str) -> dict[str, Any]:
    kind = _KINDS.get(row.name) or re.sub(r"\[.*", "", row.type)
    return {
        "name": row.name,
        "abbr": f"{prefix}.{row.name}",
        "offset": row.offset,
        "size": row.size,
        "kind": kind,
        "meaning": row.meaning,
    }


def _dialect(dialect: Dialect) -> dict[str, Any]:
    return {
        "name": dialect.name,
        "flags": dialect.flags,
        "zero_pages": dialect.packet is MultiFDPacket,
        "sync_alloc": dialect.sync_alloc,
    }


def _names(dialects: frozenset[Dialect]) -> list[str]:
    return [d.name for d in DIALECTS if d in dialects]


def _table(name: str, items: Mapping[Any, Any] | list[Any]) -> Iterator[str]:
    """Yield a table as lines, an item each."""
    yield f"local {name} = {{"
    for item in _items(items):
        yield f"  {item},"
    yield "}"


def _items(value: Mapping[Any, Any] | list[Any]) -> Iterator[str]:
    if isinstance(value, list):
        yield from map(_lua, value)
        return
    for key, item in value.items():
        if item is not None:
            plain = isinstance(key, str) and re.fullmatch(r"[A-Za-z_]\w*", key)
            yield f"{key if plain else f'[{_lua(key)}]'} = {_lua(item)}"


def _lua(value: Any) -> str:
    """Return a value as Lua writes it."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case bytes():
            return '"' + "".join(f"\\{byte:03}" for byte in value) + '"'
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'
        case _:
            return f"{{ {', '.join(_items(value))} }}"
