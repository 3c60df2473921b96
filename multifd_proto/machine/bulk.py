"""A batch within its migration: what rules ask beyond the columns of the wire.

Everything here is as it was when each packet came: what its channel had said before, which of its
pages were there already.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.machine.bulk_marks import Mask
from multifd_proto.machine.bulk_pages import Lot, Pages
from multifd_proto.machine.events import Event, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.parameters import RamBlock
from multifd_proto.machine.rule import Found
from multifd_proto.wire.payload import METHOD_MASK, METHODS

_ONE_METHOD = np.isin(np.arange(METHOD_MASK + 1), [method.flag for method in METHODS])
"""Whether the method bits name a method, by their value."""


class Scene:
    """What a migration knows around a batch."""

    def __init__(self, migration: Migration, batch: PacketBatch) -> None:
        self.migration = migration
        self.batch = batch
        self._events: dict[int, tuple[Event, ...]] = {}

    @cached_property
    def by_channel(self) -> list[Integers]:
        """The places of each channel's packets."""
        order = np.argsort(self.batch.stream, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.batch.stream[order])) + 1)

    @cached_property
    def _firsts(self) -> list[int]:
        """The place of each channel's first packet."""
        return [int(places[0]) for places in self.by_channel]

    @cached_property
    def _before(self) -> Integers:
        """The place of the packet before on the channel; -1 for the first."""
        before = np.full(len(self.batch), -1)
        for places in self.by_channel:
            before[places[1:]] = places[:-1]
        return before

    def channel(self, place: int) -> ChannelInfo:
        """Return the channel of a packet, as it was before the batch."""
        return self.migration.streams[int(self.batch.stream[place])]

    # ---- one packet of it ------------------------------------------------------------------------

    def event(self, place: int, kind: type[Event]) -> Event:
        """Return one of the events of a packet."""
        events = self._events.get(place)
        if events is None:
            events = self._events[place] = tuple(self.batch.events(place))
        return next(event for event in events if isinstance(event, kind))

    def peer(self, place: int) -> ChannelInfo:
        """Return the channel of a packet, as it was before the packet."""
        channel, before = self.channel(place), int(self._before[place])
        if before < 0:
            return channel
        last = self.event(before, PacketReceived)
        assert isinstance(last, PacketReceived)
        return replace(channel, last=last, follows=True)

    # ---- what a rule has found -------------------------------------------------------------------

    def count(self, which: Any) -> int:
        """Count packets, told by a column or by one value for all."""
        return int(np.count_nonzero(which)) if np.ndim(which) else len(self.batch) * bool(which)

    def alike(self, found: Found) -> Iterator[list[int]]:
        """Yield the places of faulty packets, those whose faults are of one kind together."""
        faulty = found.faulty & found.applies
        if not self.count(faulty):
            return
        places = np.flatnonzero(np.broadcast_to(faulty, len(self.batch)))
        kinds = np.broadcast_to(found.kind, len(self.batch))[places]
        for kind in dict.fromkeys(kinds.tolist()):
            yield places[kinds == kind].tolist()

    # ---- what channels said before ---------------------------------------------------------------

    def last(self, column: NDArray[Any], of: Callable[[PacketReceived], int]) -> NDArray[Any]:
        """Return what the last packet of each packet's channel had in a column, or 0.

        Args:
            column: of the batch.
            of: returns the same of a packet's event.
        """
        found = column[self._before]
        for place in self._firsts:
            last = self.channel(place).last
            found[place] = of(last) if last else 0
        return found

    def at_firsts(self, ask: Callable[[ChannelInfo], object], later: bool) -> Mask:
        """Ask something of the channel of each first packet; `later` is said of the others."""
        found = np.full(len(self.batch), later)
        for place in self._firsts:
            found[place] = bool(ask(self.channel(place)))
        return found

    @cached_property
    def has_last(self) -> Mask:
        """The channel had a packet before."""
        return self.at_firsts(lambda c: c.last, later=True)

    @cached_property
    def last_num(self) -> NDArray[np.uint64]:
        """Number of the packet before on the channel."""
        return self.last(self.batch.packet_num, lambda e: e.packet.packet_num)

    @cached_property
    def follows(self) -> Mask:
        """The packet is the one right after the channel's last."""
        return self.at_firsts(lambda c: c.follows, later=True)

    @cached_property
    def numbers(self) -> tuple[Mask, int]:
        """Which numbers were there before, and how many came before there were too many.

        Asking takes note of the numbers of the batch.
        """
        return self.migration.numbers.add_all(self.batch.packet_num)

    @cached_property
    def places(self) -> Integers:
        """The place of each packet in the batch."""
        return np.arange(len(self.batch))

    def labels(self, column: Integers, ask: Callable[[int], Hashable]) -> Integers:
        """Ask something of each value of a column, and number the answers; 0 is said of none."""
        values, codes = np.unique(column, return_inverse=True)
        answers: dict[Hashable, int] = {frozenset(): 0}
        return np.array([answers.setdefault(ask(v), len(answers)) for v in values.tolist()])[codes]

    # ---- conditions of rules -------------------------------------------------------------------

    @cached_property
    def has_pages(self) -> Mask:
        """The packet has pages."""
        has_pages: Mask = self.batch.pages > 0
        return has_pages

    @cached_property
    def named(self) -> Mask:
        """The packet has pages and a name that ends."""
        named: Mask = self.has_pages & self.of_name(lambda field: 0 in field)
        return named

    @cached_property
    def placed(self) -> Mask:
        """The packet has pages, and their number is possible, so that offsets can be looked at."""
        batch = self.batch
        fits: Mask = (batch.pages <= batch.pages_alloc) & (batch.pages_alloc <= batch.page_count)
        return self.has_pages & fits

    @cached_property
    def pages(self) -> Pages:
        """The pages of the packets that are `placed`."""
        return Pages(self.batch, self.placed)

    @property
    def blocks(self) -> dict[bytes, RamBlock]:
        """The RAM blocks by name, as far as known."""
        return self.migration.blocks or {}

    @cached_property
    def in_known_block(self) -> Mask:
        """The packet has pages of a block whose length is known."""
        known: Mask = self.placed & self.of_block(lambda name: name in self.blocks)
        return known

    @cached_property
    def rest(self) -> Mask:
        """An item of `offset` that belongs to no page is not 0."""
        batch = self.batch
        rest = batch.pages < batch.page_count
        unused = np.arange(batch.page_count) >= batch.pages[rest, None]
        rest[rest] = ((batch.offsets[rest] != 0) & unused).any(1)
        return rest

    @cached_property
    def reserved(self) -> Mask:
        """A byte that has no meaning is not 0."""
        reserved = np.zeros(len(self.batch), np.bool_)
        for name in self.batch.heads.dtype.names or ():
            if name.startswith("unused"):
                fields = np.ascontiguousarray(self.batch.field(name))
                reserved |= fields.view(np.uint8).reshape(len(fields), -1).any(1)
        return reserved

    # ---- names ---------------------------------------------------------------------------------

    def of_name(self, ask: Callable[[bytes], Any], type_: str = "?") -> NDArray[Any]:
        """Ask something of each packet's name field, 256 bytes."""
        names, codes = self.batch.names
        answers: NDArray[Any] = np.array([ask(name) for name in names], type_)[codes]
        return answers

    def of_block(self, ask: Callable[[bytes], Any], type_: str = "?") -> NDArray[Any]:
        """Ask something of each packet's name: what is before the first NUL."""
        return self.of_name(lambda name: ask(name.partition(b"\0")[0]), type_)

    # ---- flags ---------------------------------------------------------------------------------

    @cached_property
    def method(self) -> Integers:
        """The method bits of the flags."""
        return self.batch.flags & METHOD_MASK

    @cached_property
    def methods(self) -> set[int]:
        """All values of the method bits."""
        return set(self.method.tolist())

    @cached_property
    def one_method(self) -> Mask:
        """The flags name a method."""
        one: Mask = _ONE_METHOD[self.method]
        return one

    @cached_property
    def tells_method(self) -> Mask:
        """The packet has pages, and names the method of their payload."""
        return self.has_pages & self.one_method

    # ---- rounds ----------------------------------------------------------------------------------

    @cached_property
    def spans(self) -> dict[int, tuple[int, int]]:
        """The lowest and the highest packet number of each round."""
        batch = self.batch
        places = np.flatnonzero((batch.round >= 0) & (self.has_pages | batch.sync))
        places = places[np.argsort(batch.round[places], kind="stable")]
        rounds, numbers = batch.round[places], batch.packet_num[places]
        first = np.flatnonzero(np.diff(rounds, prepend=-1))
        if not len(first):
            return {}
        lows, highs = (f.reduceat(numbers, first).tolist() for f in (np.minimum, np.maximum))
        return dict(zip(rounds[first].tolist(), zip(lows, highs, strict=True), strict=True))

    @cached_property
    def lots(self) -> list[Lot]:
        """The pages of each round and block."""
        names: dict[bytes, int] = {}
        codes = self.of_block(lambda name: names.setdefault(name, len(names)), "i8")
        return self.pages.lots(self.batch.round, codes, list(names))

    @cached_property
    def pages_again(self) -> Mask:
        """Packets with a page that was there before in the round, or is twice in the batch.

        Asking takes note of the pages of all the others.
        """
        again = np.zeros(len(self.batch), np.bool_)
        for lot in self.lots:
            seen = self.migration.open_pages(lot.round)
            assert seen is not None
            again[lot.add_to(seen)] = True
        return again
