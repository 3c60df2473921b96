"""Packets in columns as rows of the tables `packets` and `pages`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow

from multifd_proto.capture.follow import Follower
from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.views.dataset_schema import TABLES
from multifd_proto.views.packet_lines import Columns

_PAGES = 1 << 15
"""Pages that are looked at together, at most."""
_OF_PACKETS = [name for name in TABLES["pages"] if name not in ("page_offset", "zero")]


def slices(batch: PacketBatch) -> Iterator[PacketBatch]:
    """Yield a batch in parts that need little memory."""
    step = max(1, _PAGES // batch.page_count)
    for begin in range(0, len(batch), step):
        yield batch[begin : begin + step]


def packets(follower: Follower, batch: PacketBatch) -> dict[str, Any]:
    """Return columns of `packets`."""
    streams, places = np.unique(batch.stream, return_inverse=True)
    connections = [follower.connections[stream] for stream in streams.tolist()]
    columns = Columns(
        batch, {c.half.stream: c.channel for c in connections}.__getitem__, offsets=False
    )
    out = {name: columns.array(name) for name in TABLES["packets"] if name in columns.names}
    sessions = [c.session.number if c.session else None for c in connections]
    out["migration"] = pyarrow.array(sessions, pyarrow.int32()).take(pyarrow.array(places))
    ids = pyarrow.array([c.channel for c in connections], pyarrow.int16())
    out["channel"] = ids.take(pyarrow.array(places))
    out["round"] = pyarrow.array(batch.round, pyarrow.int32(), mask=batch.round < 0)
    out["ramblock"] = pyarrow.array(out["ramblock"]).dictionary_encode()
    return out | times("time", batch.time)


def pages(batch: PacketBatch, packets: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the number of pages in a batch, and columns of `pages`.

    Args:
        batch: the packets that hold them.
        packets: what the function of this name returns of them.
    """
    counts = np.minimum(batch.pages, batch.page_count)
    place = np.arange(batch.page_count)
    there = place < counts[:, None]
    which = pyarrow.array(np.repeat(np.arange(len(batch)), counts))
    out = {name: pyarrow.array(packets[name]).take(which) for name in _OF_PACKETS}
    out["page_offset"] = batch.offsets[there]
    out["zero"] = (place >= batch.normal_pages[:, None])[there]
    return len(which), out


def times(name: str, nanoseconds: Integers) -> dict[str, Any]:
    """Return times in the two columns that they have in each table."""
    unknown = nanoseconds == 0
    kind = pyarrow.timestamp("us", tz="UTC")
    return {
        name: pyarrow.array(nanoseconds // 1000, kind, mask=unknown),
        f"{name}_ns": pyarrow.array(nanoseconds, pyarrow.int64(), mask=unknown),
    }
