"""Packets in columns as lines, in the very words of `rows` and `messages`.

The words are not written here again. What `row` and `describe` make of one packet is made with
placeholders in the place of its values, and these are filled in for all packets alike.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.views.messages import clock, describe
from multifd_proto.views.rows import row, text
from multifd_proto.views.typeset import Cells, Column, Lines, Words, stacked, typeset
from multifd_proto.wire.schema import RamPacket

Channels = Callable[[int], int | None]
"""Returns the id of a connection's channel."""
_SECOND = 10**9
_STARTS = ("magic", "version")
_NUMBERS = (
    "flags", "pages_alloc", "normal_pages", "zero_pages", "next_packet_size", "packet_num",
)  # fmt: skip


_NAMES: dict[tuple[type[RamPacket], bool], list[str]] = {}
"""Keys of a packet's row, by its layout and whether offsets are asked for."""


class Columns:
    """The rows of a batch: for each key of a row a list of values."""

    def __init__(self, batch: PacketBatch, channels: Channels, *, offsets: bool) -> None:
        self.batch = batch
        self.channels = channels
        self._offsets = offsets
        kind = batch.layout, offsets
        if kind not in _NAMES:
            _NAMES[kind] = list(row(0, 0, batch.packet(0), offsets=offsets) or ())
        self.names = _NAMES[kind]

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
                blocks = self._ramblocks()
                return [blocks.said[which] for which in blocks.which.tolist()]
            case "page_offsets":
                pages = zip(self.batch.offsets.tolist(), self.batch.pages.tolist(), strict=True)
                return [offsets[:count] for offsets, count in pages]
        if name in _STARTS:
            return list(self.batch.field(name).tolist())
        return list(getattr(self.batch, name).tolist())

    def array(self, name: str) -> list[Any] | NDArray[Any] | None:
        """Return the same, as an array where the batch has one."""
        if name in ("stream", "offset", "time", "payload") or name in _NUMBERS:
            return cast("NDArray[Any]", getattr(self.batch, name))
        if name in _STARTS:
            return self.batch.field(name)
        return self.values(name)

    def column(self, name: str, say: Callable[[Any], str]) -> Column:
        """Return the same for `typeset`, with words for what is not a number."""
        match name:
            case "type":
                return Words([say("packet")], np.zeros(len(self), np.int64))
            case "channel":
                streams, which = np.unique(self.batch.stream, return_inverse=True)
                return Words([say(self.channels(s)) for s in streams.tolist()], which)
            case "ramblock":
                blocks = self._ramblocks()
                return Words([say(block) for block in blocks.said], blocks.which)
            case "round" if (self.batch.round >= 0).all():
                return self.batch.round
        values = self.array(name)
        assert values is not None
        return values if isinstance(values, np.ndarray) else Words.of(map(say, values))

    def _ramblocks(self) -> Words:
        names, which = self.batch.names
        return Words([_ramblock(name) for name in names], which)


@lru_cache(maxsize=1024)
def _ramblock(field: bytes) -> str:
    return text(field.partition(b"\0")[0])


def _clock(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    seconds, rest = np.divmod(columns.batch.time, _SECOND)
    return seconds, rest


# ---- JSON and CSV --------------------------------------------------------------------------------


def json_lines(columns: Columns) -> str:
    """Return the rows as JSON, a line each, with the time in seconds at its end."""
    return _lines(columns, _json_cells)


def _json_cells(columns: Columns) -> Cells:
    names = [name for name in columns.names if name != "time"]
    pairs = ", ".join(f'"{name}": %s' for name in names)
    values = [columns.column(name, _json) for name in names]
    return typeset(f'{{{pairs}, "time": %d.%09d}}\n', [*values, *_clock(columns)], len(columns))


def _lines(columns: Columns, make: Callable[[Columns], Cells]) -> str:
    """Return the lines of a batch, made for all of what it was cut from at once."""
    whole, start = columns.batch.cut_from
    made = _MADE.setdefault(whole, {})
    if make not in made:
        made[make] = Lines(make(columns.of(whole)))
    return made[make].part(start, start + len(columns))


_MADE: WeakKeyDictionary[PacketBatch, dict[Callable[[Columns], Cells], Lines]] = WeakKeyDictionary()


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
    return _lines(columns, _text_cells)


def _text_cells(columns: Columns) -> Cells:
    kinds = _kinds(columns.batch)
    times, who = _times(columns), _who(columns)
    parts = []
    for kind in np.unique(kinds).tolist():
        which = np.flatnonzero(kinds == kind)
        names, line = _line(kind)
        values = [who, *(columns.column(name, str) for name in names)]
        if line.startswith(_TIME):
            values = [*times, *values]
        parts.append((which, typeset(line, [column[which] for column in values], len(which))))
    return stacked(parts, len(columns))


def _kinds(batch: PacketBatch) -> NDArray[np.int64]:
    """Return what the words for each packet depend on: its flags, and below them what else does."""
    kind = batch.flags
    for part in (
        batch.round < 0,
        batch.normal_pages > 0,
        batch.zero_pages > 0,
        batch.payload > 0,
        batch.next_packet_size == batch.payload,
        batch.time == 0,
    ):
        kind = kind << 1 | part
    return kind


@lru_cache(maxsize=4096)
def _line(kind: int) -> tuple[list[str], str]:
    """Return the line of a kind of packet, and the names of the values for its placeholders.

    Before these come the two of the time, where it is known, and the channel.
    """
    lost, normal, zero, payload, same, timeless = (kind >> bit & 1 for bit in (5, 4, 3, 2, 1, 0))
    used: list[str] = []  # in the order of the line
    place = {name: _Placeholder(name, used) for name in _VARYING}
    values: dict[str, Any] = {"channel": 0, "time": 0, "type": "packet", **place}
    values |= {"flags": kind >> 6} | ({"round": None} if lost else {})
    for name, there in (("normal_pages", normal), ("zero_pages", zero), ("payload", payload)):
        values[name] = place[name] if there else 0
    values["next_packet_size"] = values["payload"] if same else place["next_packet_size"]
    said = describe(values)
    head = _head(0, 0)
    assert said.startswith(clock(0) + head)
    return used, (clock(0) if timeless else _TIME) + "%s" + said[len(clock(0) + head) :] + "\n"


_TIME = "%s%06d"
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


def _who(columns: Columns) -> Words:
    streams, which = np.unique(columns.batch.stream, return_inverse=True)
    return Words([_head(s, columns.channels(s)) for s in streams.tolist()], which)


def _times(columns: Columns) -> tuple[Words, NDArray[np.int64]]:
    seconds, rest = _clock(columns)
    known, which = np.unique(seconds, return_inverse=True)
    return Words([clock(s * _SECOND + 1)[:-6] for s in known.tolist()], which), rest // 1000
