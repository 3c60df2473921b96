"""Messages as lines for people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from multifd_proto.views.rows import Row
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC
from multifd_proto.wire.payload import METHOD_MASK, method_of


def describe(row: Row) -> str:
    """Return one line about a message: time, where it is, what it says."""
    who = "main" if row["type"] == "main" else _channel(row)
    return f"{clock(row['time'])} {who:<6} @{row['offset']:#011x} {_SAY[row['type']](row)}"


def clock(time: int) -> str:
    """Return the time of day in UTC, in microseconds, of nanoseconds since the epoch."""
    if not time:
        return "-".ljust(15)
    seconds, nanoseconds = divmod(time, 10**9)
    day = datetime.fromtimestamp(seconds, UTC)
    return f"{day:%H:%M:%S}.{nanoseconds // 1000:06d}"


def _channel(row: Row) -> str:
    return f"ch {row['channel']}" if row["channel"] is not None else f"tcp {row['stream']}"


def _flags(flags: int) -> str:
    names = ["SYNC"] if flags & FLAG_SYNC else []
    names += ["DEVICE_STATE"] if flags & FLAG_DEVICE_STATE else []
    if flags & METHOD_MASK:
        method = method_of(flags)
        names.append(method.name if method else f"method {flags & METHOD_MASK:#x}?")
    rest = flags & ~(FLAG_SYNC | FLAG_DEVICE_STATE | METHOD_MASK)
    return " ".join(names + ([f"{rest:#x}?"] if rest else []))


def _packet(row: Row) -> str:
    if row["packet_num"] is None:
        return f"packet, cut: {row['payload']} bytes of payload"
    said = [f"r{'?' if row['round'] is None else row['round']} packet {row['packet_num']}"]
    said.append(_flags(row["flags"]))
    if row["normal_pages"] or row["zero_pages"]:
        block = row["ramblock"] if row["ramblock"] is not None else "?"
        said.append(f"{row['normal_pages']} normal {row['zero_pages'] or 0} zero pages of {block}")
    if row["payload"]:
        said.append(f"+ {row['payload']} bytes")
    if row["next_packet_size"] != row["payload"]:
        said.append(f"(next_packet_size {row['next_packet_size']})")
    return " ".join(filter(None, said))


def _main(row: Row) -> str:
    shown = {k: v for k, v in row.items() if k not in _HEAD and v not in (None, [], "")}
    if "zero_pages" in shown:
        return f"r{row['round']} {row['zero_pages']} zero pages of {row['ramblock']}"
    if "magic" in shown:
        shown["magic"] = f"{shown['magic']:#x}"
    values = " ".join(f"{name}={_short(value)}" for name, value in shown.items())
    return f"r{row['round']} {row['record']} {values}".rstrip()


_HEAD = ("stream", "channel", "offset", "time", "type", "round", "record", "page_offsets")


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, dict):
        return " ".join(str(v) for v in value.values() if v is not None)
    said = str(value)
    return said if len(said) <= 60 else said[:57] + "..."


_SAY: dict[str, Callable[[Row], str]] = {
    "init": lambda row: f"init: channel {row['id']} of machine {row['uuid']}",
    "packet": _packet,
    "device_state": lambda row: (
        f"device state of {row['idstr']}/{row['instance_id']} + {row['payload']} bytes"
    ),
    "main": _main,
    "payload": lambda row: f"payload of {row['length']} bytes, xxh3 {row['xxh3']}",
    "gap": lambda row: f"GAP: {row['length']} bytes {row['reason']}",
    "eof": lambda row: (
        f"{'reset' if row['reset'] else 'end'}"
        + (f", {row['due']} bytes before the end of a message" if row["due"] else "")
    ),
}
