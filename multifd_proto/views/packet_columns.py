"""The rows of packets in columns, key by key; and those on their payloads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.views.rows import row, text
from multifd_proto.views.typeset import Column, Words
from multifd_proto.wire.schema import RamPacket

Channels = Callable[[int], int | None]
"""Returns the id of a connection's channel."""
_ARRAYS = (
    "stream", "offset", "time", "payload", "magic", "version", "flags", "pages_alloc",
    "normal_pages", "zero_pages", "next_packet_size", "packet_num",
)  # fmt: skip
"""Keys whose values are numbers in every row."""
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

    @property
    def times(self) -> NDArray[np.int64]:
        """The time of each row, in nanoseconds since the epoch."""
        return self.batch.time

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
        return list(self._numbers(name).tolist())

    def array(self, name: str) -> list[Any] | NDArray[Any] | None:
        """Return the same, as an array where the batch has one."""
        return self._numbers(name) if name in _ARRAYS else self.values(name)

    def _numbers(self, name: str) -> NDArray[Any]:
        if name in ("magic", "version"):  # which nobody else asks of a batch
            return self.batch.field(name)
        return cast("NDArray[Any]", getattr(self.batch, name))

    def column(self, name: str, say: Callable[[Any], str]) -> Column:
        """Return the same for `typeset`, with words for what is not a number."""
        match name:
            case "type":
                return Words([say("packet")], np.zeros(len(self), np.int64))
            case "channel":
                return Words.for_numbers(self.batch.stream, lambda s: say(self.channels(s)))
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


class Payloads:
    """The rows on the payloads of packets, whose digests are known."""

    names = ("stream", "channel", "offset", "type", "length", "xxh3")

    def __init__(self, packets: Columns) -> None:
        self._packets = packets
        self.batch = packets.batch
        self.channels = packets.channels
        self.times = np.maximum(packets.batch.ended, 0)

    def __len__(self) -> int:
        return len(self._packets)

    def column(self, name: str, say: Callable[[Any], str]) -> Column:
        """Return the values of a key for `typeset`, with words for what is not a number."""
        batch = self.batch
        assert batch.digest is not None
        match name:
            case "type":
                return Words([say("payload")], np.zeros(len(self), np.int64))
            case "offset":
                return batch.offset + batch.heads.dtype.itemsize
            case "length":
                return batch.payload
            case "xxh3":
                return Words.of(say(f"{digest:016x}") for digest in batch.digest.tolist())
        return self._packets.column(name, say)
