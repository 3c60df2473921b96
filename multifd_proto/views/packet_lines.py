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
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.views.messages import clock, describe
from multifd_proto.views.packet_columns import Columns, Payloads
from multifd_proto.views.typeset import Cells, Lines, Words, stacked, typeset

_SECOND = 10**9


def _clock(rows: Columns | Payloads) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    seconds, rest = np.divmod(rows.times, _SECOND)
    return seconds, rest


# ---- JSON and CSV --------------------------------------------------------------------------------


def json_lines(columns: Columns) -> str:
    """Return the rows as JSON, a line each, with the time in seconds at its end."""
    return _lines(columns, _json_cells, _json_cells)


def _json_cells(rows: Columns | Payloads) -> Cells:
    names = [name for name in rows.names if name != "time"]
    pairs = ", ".join(f'"{name}": %s' for name in names)
    values = [rows.column(name, _json) for name in names]
    seconds, rest = _clock(rows)
    values += [Words.for_numbers(seconds, str), rest]
    return typeset(f'{{{pairs}, "time": %s.%09d}}\n', values, len(rows))


def _lines(
    columns: Columns, packets: Callable[[Columns], Cells], payloads: Callable[[Payloads], Cells]
) -> str:
    """Return the lines of a batch, made for all of what it was cut from at once."""
    whole, start = columns.batch.cut_from
    made = _MADE.setdefault(whole, {})
    if packets not in made:
        made[packets] = Lines(_with_payloads(columns.of(whole), packets, payloads))
    each = 1 if whole.digest is None else 2
    return made[packets].part(start * each, (start + len(columns)) * each)


_MADE: WeakKeyDictionary[PacketBatch, dict[Callable[[Columns], Cells], Lines]] = WeakKeyDictionary()


def _with_payloads(
    columns: Columns, packets: Callable[[Columns], Cells], payloads: Callable[[Payloads], Cells]
) -> Cells:
    """Return the lines of packets, each with that of its payload behind it where it has a digest.

    A payload that is not over has an empty line: it comes as an event of its own.
    """
    cells = packets(columns)
    if columns.batch.digest is None:
        return cells
    behind = payloads(Payloads(columns))
    behind[columns.batch.ended < 0] = 0
    return stacked([(slice(0, None, 2), cells), (slice(1, None, 2), behind)], 2 * len(cells))


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
    return _lines(columns, _packet_cells, _payload_cells)


def _packet_cells(columns: Columns) -> Cells:
    return _text_cells(columns, _kinds(columns.batch), _line)


def _payload_cells(rows: Payloads) -> Cells:
    return _text_cells(rows, (rows.times == 0).astype(np.int64), _payload_line)


def _text_cells(
    rows: Columns | Payloads, kinds: NDArray[np.int64], line_of: Callable[[int], Template]
) -> Cells:
    times, who = _times(rows), _who(rows)
    parts = []
    for kind in np.unique(kinds).tolist():
        which = np.flatnonzero(kinds == kind)
        names, line = line_of(kind)
        values = [who, *(rows.column(name, str) for name in names)]
        if line.startswith(_TIME):
            values = [*times, *values]
        parts.append((which, typeset(line, [column[which] for column in values], len(which))))
    return stacked(parts, len(rows))


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


Template = tuple[list[str], str]
"""The line of a kind of row, and the names of the values for its placeholders.

Before these come the two of the time, where it is known, and the channel.
"""


@lru_cache(maxsize=4096)
def _line(kind: int) -> Template:
    """Return the line of a kind of packet."""
    lost, normal, zero, payload, same, timeless = (kind >> bit & 1 for bit in (5, 4, 3, 2, 1, 0))
    used: list[str] = []  # in the order of the line
    place = {name: _Placeholder(name, used) for name in _VARYING}
    values: dict[str, Any] = {"type": "packet", **place}
    values |= {"flags": kind >> 6} | ({"round": None} if lost else {})
    for name, there in (("normal_pages", normal), ("zero_pages", zero), ("payload", payload)):
        values[name] = place[name] if there else 0
    values["next_packet_size"] = values["payload"] if same else place["next_packet_size"]
    return used, _template(values, timeless)


@lru_cache
def _payload_line(timeless: int) -> Template:
    used: list[str] = []
    place = {name: _Placeholder(name, used) for name in ("offset", "length", "xxh3")}
    return used, _template({"type": "payload", **place}, timeless)


def _template(values: dict[str, Any], timeless: int) -> str:
    said = describe({"channel": 0, "time": 0} | values)
    head = clock(0) + _head(0, 0)
    assert said.startswith(head)
    return (clock(0) if timeless else _TIME) + "%s" + said[len(head) :] + "\n"


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


def _who(rows: Columns | Payloads) -> Words:
    return Words.for_numbers(rows.batch.stream, lambda stream: _head(stream, rows.channels(stream)))


def _times(rows: Columns | Payloads) -> tuple[Words, NDArray[np.int64]]:
    seconds, rest = _clock(rows)
    return Words.for_numbers(seconds, lambda second: clock(second * _SECOND + 1)[:-6]), rest // 1000
