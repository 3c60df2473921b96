"""Packets in columns as lines, in the very words of `rows` and `messages`.

The words are not written here again. What `row` and `describe` make of one packet is made with
placeholders in the place of its values, and these are filled in for all packets alike.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.views.messages import clock, describe
from multifd_proto.views.rows import row, text

Channels = Callable[[int], int | None]
"""Returns the id of a connection's channel."""
_SECOND = 10**9
_NUMBERS = (
    "flags", "pages_alloc", "normal_pages", "zero_pages", "next_packet_size", "packet_num",
)  # fmt: skip


class Columns:
    """The rows of a batch: for each key of a row a list of values."""

    def __init__(self, batch: PacketBatch, channels: Channels, *, offsets: bool) -> None:
        stream = int(batch.stream[0])
        sample = row(stream, channels(stream), batch.packet(0), offsets=offsets)
        assert sample
        self.batch = batch
        self.channels = channels
        self._offsets = offsets
        self.names = list(sample)

    def __len__(self) -> int:
        return len(self.batch)

    def of(self, batch: PacketBatch) -> Columns:
        """Return the rows of another batch."""
        return Columns(batch, self.channels, offsets=self._offsets)

    def values(self, name: str) -> list[Any] | None:
        """Return the values of a key; None where it is not one of a packet's row."""
        if name not in self.names:
            return None
        match name:
            case "type":
                return ["packet"] * len(self)
            case "channel":
                return list(map(self.channels, self.batch.stream.tolist()))
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
        starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
        said = np.array([_ramblock(names[place].tobytes()) for place in starts], object)
        return list(np.repeat(said, np.diff(starts, append=len(names))))


@lru_cache(maxsize=1024)
def _ramblock(field: bytes) -> str:
    return text(field.partition(b"\0")[0])


def _clock(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    seconds, rest = np.divmod(columns.batch.time, _SECOND)
    return seconds, rest


# ---- JSON and CSV --------------------------------------------------------------------------------


def json_lines(columns: Columns) -> str:
    """Return the rows as JSON, a line each, with the time in seconds at its end."""
    return _lines(columns, _json_lines)


def _json_lines(columns: Columns) -> list[str]:
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
    return list(map(line.__mod__, zip(*lists, seconds.tolist(), rest.tolist(), strict=True)))


def _lines(columns: Columns, make: Callable[[Columns], list[str]]) -> str:
    """Return the lines of a batch, made for all of what it was cut from at once."""
    whole, start = columns.batch.cut_from
    made = _MADE.setdefault(whole, {})
    if make not in made:
        made[make] = make(columns.of(whole))
    return "".join(made[make][start : start + len(columns)])


_MADE: WeakKeyDictionary[PacketBatch, dict[Callable[[Columns], list[str]], list[str]]] = (
    WeakKeyDictionary()
)
_OTHERS = ("channel", "round", "ramblock", "page_offsets")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(", ", ": "))


def csv_lines(columns: Columns, names: list[str]) -> str:
    """Return the rows as CSV, with the columns asked for."""
    seconds, rest = _clock(columns)
    nothing = [None] * len(columns)
    lists = {name: columns.values(name) or nothing for name in names}
    lists["time"] = [f"{s}.{r:09d}" for s, r in zip(seconds.tolist(), rest.tolist(), strict=True)]
    if offsets := columns.values("page_offsets"):
        lists["page_offsets"] = [" ".join(map(str, row)) for row in offsets]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(zip(*lists.values(), strict=True))
    return out.getvalue()


# ---- for people ----------------------------------------------------------------------------------


def text_lines(columns: Columns) -> str:
    """Return what `describe` says of each row, a line each."""
    return _lines(columns, _text_lines)


def _text_lines(columns: Columns) -> list[str]:
    kinds = _kinds(columns.batch)
    times, channels = _times(columns), _who(columns)
    first = int(kinds[0])
    if (kinds == first).all():
        return _fill(columns, first, slice(None), times, channels)
    lines = np.empty(len(columns), object)
    for kind in np.unique(kinds).tolist():
        which = np.flatnonzero(kinds == kind)
        lines[which] = _fill(columns, kind, which, times, channels)
    return list(lines)


def _fill(
    columns: Columns,
    kind: int,
    which: slice | NDArray[np.intp],
    times: NDArray[np.object_],
    channels: NDArray[np.object_],
) -> list[str]:
    """Return the lines of packets of one kind."""
    names, line = _line(kind)
    lists = [times[which], channels[which]]
    for name in names:
        values = columns.array(name)
        assert values is not None
        lists.append(np.asarray(values)[which])
    return list(map(line.__mod__, zip(*(values.tolist() for values in lists), strict=True)))


def _kinds(batch: PacketBatch) -> NDArray[np.int64]:
    """Return what the words for each packet depend on: its flags, and below them what else does."""
    kind = batch.flags
    for part in (
        batch.round < 0,
        batch.normal_pages > 0,
        batch.zero_pages > 0,
        batch.payload > 0,
        batch.next_packet_size == batch.payload,
    ):
        kind = kind << 1 | part
    return kind


@lru_cache(maxsize=4096)
def _line(kind: int) -> tuple[list[str], str]:
    """Return the line of a kind of packet, and the names of the values for its placeholders.

    Time and channel are the first two of these.
    """
    lost, normal, zero, payload, same = (kind >> bit & 1 for bit in (4, 3, 2, 1, 0))
    used: list[str] = []  # in the order of the line
    place = {name: _Placeholder(name, used) for name in _VARYING}
    values: dict[str, Any] = {"channel": 0, "time": 0, "type": "packet", **place}
    values |= {"flags": kind >> 5} | ({"round": None} if lost else {})
    for name, there in (("normal_pages", normal), ("zero_pages", zero), ("payload", payload)):
        values[name] = place[name] if there else 0
    values["next_packet_size"] = values["payload"] if same else place["next_packet_size"]
    said = describe(values)
    head = _head(0, 0)
    assert said.startswith(clock(0) + head)
    return used, "%s%s" + said[len(clock(0) + head) :] + "\n"


_VARYING = (
    "offset", "round", "normal_pages", "zero_pages", "next_packet_size", "packet_num", "ramblock",
    "payload",
)  # fmt: skip


class _Placeholder:
    """Stands for a value in a line, and notes where it is used."""

    def __init__(self, name: str, used: list[str]) -> None:
        self._name = name
        self._used = used

    def __format__(self, spec: str) -> str:
        self._used.append(self._name)
        return f"%{spec or 's'}"


@lru_cache(maxsize=4096)
def _head(stream: int, channel: int | None) -> str:
    """Return what `describe` says between time and offset."""
    said = describe(
        {"stream": stream, "channel": channel, "time": 0, "type": "eof", "offset": 0}
        | {"reset": False, "due": 0}
    )
    return said[len(clock(0)) : said.index("@")]


def _who(columns: Columns) -> NDArray[np.object_]:
    streams = columns.batch.stream.tolist()
    heads = {stream: _head(stream, columns.channels(stream)) for stream in set(streams)}
    return np.array([heads[stream] for stream in streams], object)


def _times(columns: Columns) -> NDArray[np.object_]:
    seconds, rest = _clock(columns)
    days = {s: f"{datetime.fromtimestamp(s, UTC):%H:%M:%S}" for s in set(seconds.tolist())}
    micro = (rest // 1000).tolist()
    times = np.array(
        [f"{days[s]}.{m:06d}" for s, m in zip(seconds.tolist(), micro, strict=True)], object
    )
    times[columns.batch.time == 0] = clock(0)
    return times
