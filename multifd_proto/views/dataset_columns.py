"""Packets in columns as rows of the tables `packets` and `pages`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from multifd_proto.capture.follow import Follower
from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.views.dataset_schema import TABLES
from multifd_proto.views.packet_columns import Columns
from multifd_proto.views.typeset import Words

_PAGES = 1 << 14
"""Pages that are looked at together, at most."""


def slices(batch: PacketBatch) -> Iterator[PacketBatch]:
    """Yield a batch in parts that need little memory."""
    step = max(1, _PAGES // batch.page_count)
    for begin in range(0, len(batch), step):
        yield batch[begin : begin + step]


def packets(follower: Follower, batch: PacketBatch) -> dict[str, Any]:
    """Return columns of `packets`."""
    columns = _columns(follower, batch)
    own = _of_packets(follower, columns, slice(None))
    rest = [name for name in TABLES["packets"] if name in columns.names and name not in own]
    return {name: columns.array(name) for name in rest} | own


def pages(follower: Follower, batch: PacketBatch) -> tuple[int, dict[str, Any]]:
    """Return the number of pages in a batch, and columns of `pages`."""
    counts = np.minimum(batch.pages, batch.page_count)
    place = np.arange(batch.page_count)
    there = place < counts[:, None]
    which = np.repeat(np.arange(len(batch)), counts)
    own = {
        "page_offset": batch.offsets[there],
        "zero": (place >= batch.normal_pages[:, None])[there],
    }
    return len(which), _of_packets(follower, _columns(follower, batch), which) | own


def _columns(follower: Follower, batch: PacketBatch) -> Columns:
    return Columns(batch, lambda stream: follower.connections[stream].channel, offsets=False)


def _of_packets(follower: Follower, columns: Columns, which: Integers | slice) -> dict[str, Any]:
    """Return the columns that both tables have, for those packets."""
    batch = columns.batch
    streams, places = np.unique(batch.stream, return_inverse=True)
    connections = [follower.connections[stream] for stream in streams.tolist()]
    sessions = [c.session.number if c.session else None for c in connections]
    blocks = columns.column("ramblock", str)
    assert isinstance(blocks, Words)
    codes = pyarrow.array(blocks.which[which].astype(np.int32))
    rounds = batch.round[which].astype(np.int32)
    return {
        "migration": _nullable(sessions, places[which], np.int32),
        "stream": batch.stream[which],
        "channel": _nullable([c.channel for c in connections], places[which], np.int16),
        "offset": batch.offset[which],
        "packet_num": batch.packet_num[which],
        "round": _known(rounds, rounds < 0),
        "ramblock": pyarrow.DictionaryArray.from_arrays(codes, list(blocks.said)),
    } | times("time", batch.time[which])


def _nullable(values: list[int | None], places: Integers, kind: type[np.signedinteger[Any]]) -> Any:
    """Return values by their places; none of them is negative."""
    all_ = np.array([-1 if value is None else value for value in values], kind)[places]
    return _known(all_, all_ < 0)


def times(name: str, nanoseconds: Integers) -> dict[str, Any]:
    """Return times in the two columns that they have in each table."""
    unknown = nanoseconds == 0
    return {
        name: _known(nanoseconds // 1000, unknown),
        f"{name}_ns": _known(nanoseconds, unknown),
    }


def _known(values: NDArray[Any], unknown: NDArray[np.bool_]) -> Any:
    """Return values, empty where they are not known."""
    return pyarrow.array(values, mask=unknown if unknown.any() else None)
