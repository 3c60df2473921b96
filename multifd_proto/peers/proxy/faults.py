"""Faults by rule: `WHERE:ACTION`, such as `id=1,packet=3:magic=0`.

WHERE is made of parts with commas between them, all of which have to fit:

- `id=N`: the channel with that id; without it, every channel;
- `init`: the init message of a channel;
- `packet=N`, `sync=N`: the packet, or the SYNC packet, of that number on its channel, counted from
  0; without `=N`, each of them;
- `main,offset=N`: that byte of the main stream.

ACTION is one of

- `FIELD=VALUE`: a field of the message under QEMU's name gets a value: a number, `0xHEX`, or `+N`
  and `-N` to change it by; for a field of bytes, `0xHEX`, a UUID or text, and NULs fill the rest;
  `offset[I]=VALUE` is an item of an array;
- `payload[I]=VALUE`: that byte of the packet's payload;
- `byte=VALUE`: that byte of the main stream;
- `drop`: the message does not go on, nor does its payload; `repeat`: both go on twice;
- `truncate=N`: its first N bytes, with those of the payload, go on, then the stream ends;
- `close`: the stream ends before it; `reset`: both sides get a reset instead of it;
- `stall`, `stall=SECONDS`, `delay=SECONDS`: it waits, for ever or that long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from multifd_proto.errors import PeerError
from multifd_proto.wire.schema import (
    Message,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    Row,
)

_LAYOUTS: dict[str, tuple[type[Message], ...]] = {
    "init": (MultiFDInit,),
    "packet": (MultiFDPacket, MultiFDPacketDeviceState),
    "sync": (MultiFDPacket,),
    "main": (),
}
_ACTIONS: dict[str, dict[str, str]] = {
    "init": {"drop": "", "repeat": "", "truncate": "N", "close": "", "reset": "", "stall": "S?",
             "delay": "S"},
    "main": {"byte": "B", "close": "", "reset": "", "stall": "S?", "delay": "S"},
}  # fmt: skip
"""What takes which value: none, a number, a byte, seconds, or seconds that may be left out."""
_ACTIONS["packet"] = _ACTIONS["sync"] = {**_ACTIONS["init"], "payload": "B"}
_ACTION = re.compile(r"(?P<name>\w+)(?:\[(?P<index>\d+)\])?(?:=(?P<value>.*))?", re.DOTALL)
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,6}(\.\d+)?")


@dataclass(frozen=True)
class Place:
    """Where a fault is wanted."""

    message: str
    """`init`, `packet`, `sync` or `main`."""
    id: int | None = None
    """Id of the channel; None for all of them."""
    number: int | None = None
    """Which packet of its channel; None for all of them."""
    offset: int = 0
    """Which byte of the main stream."""


@dataclass(frozen=True)
class Action:
    """What is done there."""

    name: str
    """`drop` and so on, or the name of a field."""
    index: int = 0
    """Which item of an array, or byte of the payload."""
    value: int | bytes | float | None = None
    relative: bool = False
    """The value is added to what is there."""
    is_field: bool = False


@dataclass(frozen=True)
class Fault:
    """One rule."""

    text: str
    """As it was given."""
    place: Place
    action: Action


def parse_fault(text: str) -> Fault:
    """Read a rule.

    Raises:
        PeerError: it is none; says what is wrong, and what would be right.
    """
    where, colon, what = text.partition(":")
    if not colon:
        raise PeerError(f"fault {text!r} has no action, must be WHERE:ACTION")
    try:
        place = _place(where)
        return Fault(text, place, _action(place.message, what))
    except ValueError as error:
        raise PeerError(f"fault {text!r}: {error}") from None


_PARTS = "main, init, packet[=N], sync[=N], id=N and offset=N"


def _place(where: str) -> Place:
    messages: dict[str, int | None] = {}
    numbers: dict[str, int] = {}
    for part in where.split(","):
        name, equals, value = part.partition("=")
        if name in ("packet", "sync", "init", "main") and not equals:
            messages[name] = None
        elif name in ("packet", "sync"):
            messages[name] = _number(name, value, 1 << 62)
        elif name in ("id", "offset") and equals:
            numbers[name] = _number(name, value, 255 if name == "id" else 1 << 62)
        else:
            raise ValueError(f"place {part!r} is unknown, must be of {_PARTS}")
    if len(messages) != 1:
        seen = " and ".join(messages) or "none"
        raise ValueError(f"message is {seen}, must be one of main, init, packet and sync")
    (message, number) = messages.popitem()
    if message == "main" and "id" in numbers:
        raise ValueError("the main stream has no id, must be main,offset=N")
    if (message == "main") != ("offset" in numbers):
        raise ValueError("offset goes with main, and main with offset: must be main,offset=N")
    return Place(message, numbers.get("id"), number, numbers.get("offset", 0))


def _action(message: str, what: str) -> Action:
    match = _ACTION.fullmatch(what)
    name = match["name"] if match else what
    actions, fields = _ACTIONS[message], _fields(message)
    if match and name in actions and (match["index"] is None or name == "payload"):
        value = _argument(name, actions[name], match["value"])
        return Action(name, int(match["index"] or 0), value)
    if match and name in fields:
        return _set_field(fields[name], match["index"], match["value"])
    names = f"; or a field: {', '.join(fields)}" if fields else ""
    raise ValueError(f"action {what!r} is unknown, must be one of {', '.join(actions)}{names}")


def _fields(message: str) -> dict[str, Row]:
    return {row.name: row for layout in _LAYOUTS[message] for row in layout.rows()}


def _argument(name: str, kind: str, value: str | None) -> int | float | None:
    match kind:
        case "" if value is None:
            return None
        case "":
            raise ValueError(f"{name} has the value {value!r}, must have none")
        case "S?" if value is None:
            return None
        case "S" | "S?":
            text = value or ""
            if not _SECONDS.fullmatch(text):
                raise ValueError(f"{name} is {text!r}, must be seconds, such as 0.2")
            return float(text)
    return _number(name, value or "", 255 if kind == "B" else 1 << 62)


def _number(name: str, value: str, largest: int) -> int:
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{name} is {value!r}, must be a number")
    number = int(value, 0) if value[:2].lower() == "0x" else int(value)
    if number > largest:
        raise ValueError(f"{name} is {value}, must be at most {largest:#x}")
    return number


def _set_field(row: Row, index: str | None, value: str | None) -> Action:
    if not value:
        raise ValueError(f"{row.name} has no value, must be {row.name}=VALUE")
    if index is None and _is_array(row):
        raise ValueError(f"{row.name} is an array, must be {row.name}[I]=VALUE")
    if index is not None and not _is_array(row):
        raise ValueError(f"{row.name} is no array, must be {row.name}=VALUE")
    if row.type.startswith("bytes"):
        return Action(row.name, 0, _bytes(row, value), is_field=True)
    relative = value[0] in "+-"
    number = _number(row.name, value[relative:], (1 << _width(row) * 8) - 1)
    signed = -number if value[0] == "-" else number
    return Action(row.name, int(index or 0), signed, relative, is_field=True)


def _bytes(row: Row, value: str) -> bytes:
    """Return the value of a field of bytes, with the NULs that fill it."""
    try:
        if value[:2].lower() == "0x":
            data = bytes.fromhex(value[2:])
        else:
            data = UUID(value).bytes if row.name == "uuid" else value.encode()
    except ValueError:
        form = "a UUID or 0xHEX" if row.name == "uuid" else "text or 0xHEX of whole bytes"
        raise ValueError(f"{row.name} is {value!r}, must be {form}") from None
    if len(data) > row.size:
        raise ValueError(f"{row.name} is {len(data)} bytes, must be at most {row.size}")
    return data.ljust(row.size, b"\0")


def _is_array(row: Row) -> bool:
    return row.type.endswith("[page_count]")


def _width(row: Row) -> int:
    """Bytes of the integer that a row is, or is an array of."""
    return 8 if _is_array(row) else row.size


def set_field(head: bytearray, layout: type[Message], action: Action) -> str | None:
    """Set a field of a message.

    Args:
        head: the message, as it will go on.
        layout: what it is.
        action: which field and value.

    Returns:
        What was there and what is there now; None if this message has no such field or item.
    """
    count = (len(head) - layout.size()) // layout.item_size if layout.item_size else 0
    row = next((row for row in layout.rows(count) if row.name == action.name), None)
    if row is None or (action.index and action.index >= count):
        return None
    width = _width(row)
    place = slice(row.offset + action.index * width, row.offset + (action.index + 1) * width)
    before = bytes(head[place])
    if isinstance(action.value, bytes):
        head[place] = action.value
        return f"{row.name} {before.hex()} -> {action.value.hex()}"
    assert isinstance(action.value, int)
    old = int.from_bytes(before, "big")
    new = ((old if action.relative else 0) + action.value) % (1 << width * 8)
    head[place] = new.to_bytes(width, "big")
    item = f"[{action.index}]" if _is_array(row) else ""
    return f"{row.name}{item} {old:#x} -> {new:#x}"
