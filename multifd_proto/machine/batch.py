"""Many packets at once, as columns: what a channel tells of a clean stretch of its stream.

A batch says the same as the events `HeaderReceived`, `PacketReceived` and `PayloadReceived` of each
of its packets, one packet after the other, at a hundredth of their cost. Only packets that leave
nothing to interpret become columns: all bytes of the head were seen, its start is right, it is no
device state, it has no more normal pages than offsets, and its payload is not looked at and whole,
or to come.
Everything else is told by events, one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.events import Event, HeaderReceived, PacketReceived, PayloadReceived
from multifd_proto.machine.heads import Heads
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import method_of
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE, MultiFDPacketHdr, RamPacket

Integers = NDArray[np.int64]


@dataclass(eq=False)
class PacketBatch:
    """Packets of one page size and one layout, of any of a migration's channels.

    Each attribute but the first is a column with an item a packet, in the order in which their
    heads became complete in the capture.
    """

    layout: type[RamPacket]
    heads: Heads
    """The heads, of `layout.dtype(page_count)`."""
    stream: Integers
    """Number of the packet's connection."""
    offset: Integers
    """Place of the head in its stream, in bytes."""
    time: Integers
    """When the head's first byte was captured, in nanoseconds since the epoch."""
    payload: Integers
    """Bytes of payload."""
    ended: Integers
    """When the payload's last byte was captured, `time` where there is none; -1 where it is not
    over: its end comes as an event of its own."""
    round: Integers
    """SYNC packets before this one on the channel; -1 where lost bytes hide the count."""
    row: Integers
    """Place in the order of the capture: that of the record with the head's last byte."""
    digest: NDArray[np.uint64] | None = None
    """XXH3 (64 bits) of each payload that is over, if that was asked for."""

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, part: slice | NDArray[np.intp] | NDArray[np.bool_]) -> PacketBatch:
        """Return some of the packets, in the order asked for."""
        columns: dict[str, Any] = {
            name: column[part] for name in _COLUMNS if (column := getattr(self, name)) is not None
        }
        made = replace(self, **columns)
        if isinstance(part, slice):
            whole, start = self.cut_from
            vars(made)["cut"] = whole, start + part.indices(len(self))[0]
        return made

    @property
    def cut_from(self) -> tuple[PacketBatch, int]:
        """The batch that it is a stretch of, and where in it: itself, if it was not cut."""
        cut: tuple[PacketBatch, int] = vars(self).get("cut") or (self, 0)
        return cut

    def of(self, streams: list[int]) -> PacketBatch:
        """Return the packets of some connections."""
        return self[np.isin(self.stream, streams)]

    @classmethod
    def joined(cls, batches: list[PacketBatch]) -> PacketBatch:
        """Return batches of one layout and page size as one, in the order of the capture."""
        if len(batches) == 1:
            return batches[0]
        order = np.argsort(np.concatenate([batch.row for batch in batches]), kind="stable")
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(batch, name) for batch in batches])[order]
            for name in _COLUMNS[1:]
            if getattr(batches[0], name) is not None
        }
        heads = Heads.joined([batch.heads for batch in batches])[order]
        return replace(batches[0], heads=heads, **columns)

    # ---- columns in the machine's byte order ---------------------------------------------------

    @property
    def page_count(self) -> int:
        """Items of each packet's `offset`."""
        return int(self.heads.dtype["offset"].shape[0])

    @property
    def page_size(self) -> int:
        """Target page size in bytes."""
        return MULTIFD_PACKET_SIZE // self.page_count

    @property
    def flags(self) -> Integers:
        """The flags word."""
        return self.field("flags")

    @property
    def pages_alloc(self) -> Integers:
        """Pages that the packet claims room for."""
        return self.field("pages_alloc")

    @property
    def normal_pages(self) -> Integers:
        """Pages with content."""
        return self.field("normal_pages")

    @property
    def zero_pages(self) -> Integers:
        """Pages of zeros; none where the layout has no such field."""
        if "zero_pages" not in (self.heads.dtype.names or ()):
            return np.zeros(len(self), np.int64)
        return self.field("zero_pages")

    @property
    def next_packet_size(self) -> Integers:
        """What the packet says of its payload's size in bytes."""
        return self.field("next_packet_size")

    @property
    def packet_num(self) -> NDArray[np.uint64]:
        """Number of the packet in the migration."""
        return self.field("packet_num")

    @property
    def offsets(self) -> NDArray[np.uint64]:
        """Offsets of pages in the block: a row of `page_count` items a packet."""
        return self.field("offset")

    def field(self, name: str) -> NDArray[Any]:
        """Return a field of each head: integers of 64 bits where it is one of 32, else as it is."""
        whole, start = self.cut_from
        known = vars(whole).setdefault("known", {})
        if name not in known:
            values = whole.heads.field(name)
            known[name] = values.astype(np.int64) if values.dtype == np.uint32 else values
        column: NDArray[Any] = known[name][start : start + len(self)]
        return column

    @cached_property
    def names(self) -> tuple[list[bytes], Integers]:
        """The name fields that there are, 256 bytes each, and the number of each packet's."""
        fields = self.field("ramblock")
        words = fields.view(np.uint64).reshape(len(fields), -1)
        changes = np.append(True, (words[1:] != words[:-1]).any(1))
        names: dict[bytes, int] = {}
        codes = [names.setdefault(f.tobytes(), len(names)) for f in fields[changes[: len(fields)]]]
        return list(names), np.array(codes, np.int64)[np.cumsum(changes[: len(fields)]) - 1]

    @cached_property
    def sync(self) -> NDArray[np.bool_]:
        """The packet ends a round on its channel."""
        return (self.flags & FLAG_SYNC).astype(np.bool_)

    @cached_property
    def pages(self) -> Integers:
        """Normal and zero pages."""
        return self.normal_pages + self.zero_pages

    # ---- the same as events --------------------------------------------------------------------

    def packet(self, index: int) -> PacketReceived:
        """Return the event of one packet's head."""
        packet = self.layout.parse(self.heads.one(index))
        round_ = int(self.round[index])
        return PacketReceived(
            offset=int(self.offset[index]),
            time=int(self.time[index]),
            packet=packet,
            known=self.heads.dtype.itemsize,
            payload=int(self.payload[index]),
            round=round_ if round_ >= 0 else None,
        )

    def events(self, index: int) -> Iterator[Event]:
        """Yield the events of one packet, as a channel gives them."""
        head = self.packet(index)
        packet = head.packet
        header = MultiFDPacketHdr(packet.magic, packet.version, packet.flags)
        yield HeaderReceived(head.offset, head.time, header)
        yield head
        if self.ended[index] < 0:
            return
        yield PayloadReceived(
            offset=head.offset + self.heads.dtype.itemsize,
            time=int(self.ended[index]),
            head=head,
            size=head.payload,
            missing=0,
            method=method_of(packet.flags),
            decoded=False,
            fault=None,
            digest=None if self.digest is None else int(self.digest[index]),
        )


_COLUMNS = [f.name for f in fields(PacketBatch)[1:]]
