"""Packets in columns as lines, in the very words of `rows` and `messages`.

The words are not written here again. What `row` and `describe` make of one packet is made with
placeholders in the place of its values, and these are filled in for all packets alike.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.views.messages import clock, describe
from multifd_proto.views.rows import row, text

Channels = Mapping[int, int | None]
"""Id of the channel of each connection."""
_SECOND = 10**9
_NUMBERS = (
    "flags", "pages_alloc", "normal_pages", "zero_pages", "next_packet_size", "packet_num",
)  # fmt: skip


class Columns:
    """The rows of a batch: for each key of a row a list of values."""

    def __init__(self, batch: PacketBatch, channels: Channels, *, offsets: bool) -> None:
        stream = int(batch.stream[0])
        sample = row(stream, channels[stream], batch.packet(0), offsets=offsets)
        assert sample
        self.batch = batch
        self.channels = channels
        self.names = list(sample)

    def __len__(self) -> int:
        return len(self.batch)

    def values(self, name: str) -> list[Any] | None:
        """Return the values of a key; None where it is not one of a packet's row."""
        if name not in self.names:
            return None
        match name:
            case "type":
                return ["packet"] * len(self)
            case "channel":
                return [self.channels[stream] for stream in self.batch.stream.tolist()]
            case "round":
                return [None if r < 0 else r for r in self.batch.round.tolist()]
            case "ramblock":
                return self._ramblocks()
            case "page_offsets":
                pages = zip(self.batch.offsets.tolist(), self.batch.pages.tolist(), strict=True)
                return [offsets[:count] for offsets, count in pages]
            case "magic" | "version":
                return list(self.batch.heads[name].tolist())
        return list(getattr(self.batch, name).tolist())

    def array(self, name: str) -> list[Any] | NDArray[Any] | None:
        """Return the same, as an array where the batch has one."""
        if name in ("stream", "offset", "time", "payload") or name in _NUMBERS:
            return cast("NDArray[Any]", getattr(self.batch, name))
        return self.values(name)

    def _ramblocks(self) -> list[str]:
        names = self.batch.heads["ramblock"]
        if (names == names[0]).all():
            return [_ramblock(names[0].tobytes())] * len(self)
        return [_ramblock(name.tobytes()) for name in names]


@lru_cache(maxsize=1024)
def _ramblock(field: bytes) -> str:
    return text(field.partition(b"\0")[0])


def _clock(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    seconds, rest = np.divmod(columns.batch.time, _SECOND)
    return seconds, rest


# ---- JSON and CSV --------------------------------------------------------------------------------


def json_lines(columns: Columns) -> str:
    """Return the rows as JSON, a line each, with the time in seconds at its end."""
    pairs, lists = [], []
    for name in columns.names:
        if name == "time":
            continue
        values = columns.values(name)
        assert values
        if all(value == values[0] for value in values):
            said = json.dumps(values[0]).replace("%", "%%")
        else:
            said = "%s"
            lists.append([_json(value) for value in values] if name in _OTHERS else values)
        pairs.append(f'"{name}": {said}')
    line = f'{{{", ".join(pairs)}, "time": %d.%09d}}\n'
    seconds, rest = _clock(columns)
    return "".join(map(line.__mod__, zip(*lists, seconds.tolist(), rest.tolist(), strict=True)))


_OTHERS = ("channel", "round", "ramblock", "page_offsets")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "))


def csv_lines(columns: Columns, names: list[str]) -> str:
    """Return the rows as CSV, with the columns asked for."""
    seconds, rest = _clock(columns)
    nothing = [None] * len(columns)
    lists = {name: columns.values(name) or nothing for name in names}
    lists["time"] = [f"{s}.{r:09d}" for s, r in zip(seconds.tolist(), rest.tolist(), strict=True)]
    if "page_offsets" in lists:
        lists["page_offsets"] = [" ".join(map(str, offsets)) for offsets in lists["page_offsets"]]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(zip(*lists.values(), strict=True))
    return out.getvalue()


# ---- for people ----------------------------------------------------------------------------------


def text_lines(columns: Columns) -> str:
    """Return what `describe` says of each row, a line each."""
    lines = np.empty(len(columns), object)
    kinds = _kinds(columns)
    for kind in np.unique(kinds, axis=0):
        which = np.flatnonzero((kinds == kind).all(axis=1))
        part = Columns(columns.batch[which], columns.channels, offsets=False)
        stream, *rest = kind.tolist()
        names, line = _line(stream, columns.channels[stream], *rest)
        values = (part.values(name) for name in names)
        lines[which] = list(map(line.__mod__, zip(_times(part), *values, strict=True)))
    return "".join(lines)


def _kinds(columns: Columns) -> NDArray[np.int64]:
    """Return what the words for each packet depend on, see `_line`."""
    batch = columns.batch
    parts = (
        batch.stream,
        batch.flags,
        batch.round < 0,
        batch.normal_pages > 0,
        batch.zero_pages > 0,
        batch.payload > 0,
        batch.next_packet_size == batch.payload,
    )
    return np.stack([part.astype(np.int64) for part in parts], axis=1)


@lru_cache(maxsize=4096)
def _line(
    stream: int,
    channel: int | None,
    flags: int,
    lost: int,
    normal: int,
    zero: int,
    payload: int,
    same: int,
) -> tuple[list[str], str]:
    """Return the line of a kind of packet, and the names of the values for its placeholders."""
    used: list[str] = []  # in the order of the line
    place = {name: _Placeholder(name, used) for name in _VARYING}
    values: dict[str, Any] = {"stream": stream, "channel": channel, "time": 0, "type": "packet"}
    values |= place | {"flags": flags}
    values |= {} if not lost else {"round": None}
    for name, there in (("normal_pages", normal), ("zero_pages", zero), ("payload", payload)):
        values[name] = place[name] if there else 0
    values["next_packet_size"] = values["payload"] if same else place["next_packet_size"]
    said = describe(values)
    return used, "%s" + said[_CLOCK:] + "\n"


_VARYING = (
    "offset", "round", "normal_pages", "zero_pages", "next_packet_size", "packet_num", "ramblock",
    "payload",
)  # fmt: skip
_CLOCK = len(clock(0))


class _Placeholder:
    """Stands for a value in a line, and notes where it is used."""

    def __init__(self, name: str, used: list[str]) -> None:
        self._name = name
        self._used = used

    def __format__(self, spec: str) -> str:
        self._used.append(self._name)
        return f"%{spec or 's'}"


def _times(columns: Columns) -> list[str]:
    seconds, rest = _clock(columns)
    days = {s: f"{datetime.fromtimestamp(s, UTC):%H:%M:%S}" for s in set(seconds.tolist())}
    micro = (rest // 1000).tolist()
    times = [f"{days[s]}.{m:06d}" for s, m in zip(seconds.tolist(), micro, strict=True)]
    for index in np.flatnonzero(columns.batch.time == 0).tolist():
        times[index] = clock(0)
    return times
