"""What is collected of a migration for its page, event by event.

Everything is aggregated as it comes: buckets of time and cells of memory that double when there
are too many, the longest silences, the first gaps. Beyond the bounds named here and those of
`Summary`, nothing grows with the length of a capture.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multifd_proto.capture.session import Connection, Session
from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    Ended,
    Event,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.migration import ChannelInfo, MainReceived, Migration
from multifd_proto.machine.sets import PageSet
from multifd_proto.views.page.memory import MemoryMap
from multifd_proto.views.summary import MAX_PAGE_CHUNKS, MAX_ROUNDS, Summary, Timeline
from multifd_proto.wire.main_records import MainGap, StreamEnd
from multifd_proto.wire.ram_records import RamZero
from multifd_proto.wire.schema import MultiFDPacketDeviceState

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch

STALL = 500_000_000
"""Nanoseconds of a channel's silence that are worth a word."""
MAX_STALLS = 512
MAX_GAPS = 50
PARTS = 16
"""Parts that a payload's bytes are spread over, between its first and its last byte."""
PART = 1_000_000
"""Nanoseconds of such a part at least."""


@dataclass(order=True, frozen=True, slots=True)
class Stall:
    """A time in which a channel sent nothing, or did not get on with a payload."""

    length: int
    """Nanoseconds."""
    start: int
    stream: int
    inside: bool
    """It was in the middle of a packet: what had been begun was not taken off it."""
    round: int
    """SYNC packets that the channel had sent when it went on."""

    @property
    def end(self) -> int:
        """When it went on."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Loss:
    """Bytes that are not in the capture."""

    stream: int
    event: BytesMissing


@dataclass
class Collector:
    """Collects what the page of one migration shows."""

    summary: Summary = field(default_factory=Summary)
    memory: MemoryMap = field(default_factory=MemoryMap)
    lanes: dict[int, Timeline] = field(default_factory=dict)
    """Bytes of heads and payloads over time, by connection; of the main stream, of records."""
    syncs: dict[int, Timeline] = field(default_factory=dict)
    """SYNC packets over time, by channel."""
    stalls: list[Stall] = field(default_factory=list)
    """The longest, as a heap."""
    gaps: list[Loss] = field(default_factory=list)
    """The first of them; `summary` counts all."""
    lost: Counter[str] = field(default_factory=Counter)
    """Bytes of the gaps, by reason."""
    main_zero: Counter[int] = field(default_factory=Counter)
    """Pages of zeros in the main stream, by round."""
    passes: list[int] = field(default_factory=list)
    """Rounds in which pages were sent again that this pass over the memory had sent already:
    another pass had begun. Older streams have many rounds in a pass."""
    first: int = 0
    last: int = 0
    ended: bool = False
    """The main stream was seen to its end."""
    main_gap: bool = False
    """Bytes of the main stream are missing."""
    heard: dict[int, int] = field(default_factory=dict)
    """When each channel was last heard of."""
    sent_in_pass: PageSet = field(default_factory=PageSet)
    """Of the pages that had been sent before, those of this pass."""

    def add(self, connection: Connection, event: Event) -> None:
        """Take an event of a connection."""
        stream = connection.half.stream
        session, peer = connection.session, connection.peer
        if session is None:
            return
        if isinstance(peer, ChannelInfo):
            self._add_channel(stream, session.checker.migration, event)
        elif isinstance(event, MainReceived):
            self.at(event.time)
            self._add_main(stream, session.checker.migration, event)

    def add_batch(self, session: Session, batch: PacketBatch) -> None:
        """Take packets of a migration: it comes to the same as to add all their events."""
        from multifd_proto.views.page.collect_batch import collect
        from multifd_proto.views.sent import parts

        migration = session.checker.migration
        for sent in parts(batch):
            room = MAX_PAGE_CHUNKS - len(self.sent_in_pass)
            if self.summary.has_room_for(sent) and sent.chunks <= room:
                collect(self, migration, sent)
                continue
            for stream, event in sent.events():
                self._add_channel(stream, migration, event)

    def at(self, time: int) -> None:
        """Widen the time it took."""
        if time:
            self.first = min(self.first or time, time)
            self.last = max(self.last, time)

    # ---- channels --------------------------------------------------------------------------------

    def _add_channel(self, stream: int, migration: Migration, event: Event) -> None:
        again = self.summary.add(stream, event)
        self.at(event.time)
        self._note_silence(stream, event)
        match event:
            case PacketReceived():
                self.lane(stream).add(event.time, event.packet.size(len(event.packet.offset)))
                if event.sync:
                    self.syncs.setdefault(stream, Timeline()).add(event.time, 1)
                self._add_pages(migration, event, again)
            case PayloadReceived():
                if not isinstance(event.head, PacketReceived):
                    self.lane(stream).add(event.head.time, MultiFDPacketDeviceState.size())
                spread(self.lane(stream), event.head.time, event.time, event.size - event.missing)
            case BytesMissing():
                self.lost[event.reason] += event.length
                if len(self.gaps) < MAX_GAPS:
                    self.gaps.append(Loss(stream, event))

    def _add_pages(self, migration: Migration, event: PacketReceived, again: Sequence[int]) -> None:
        if not event.pages or not event.knows("offset"):
            return
        normal, block, size = event.packet.normal_pages, event.ramblock, event.page_size
        known = (migration.blocks or {}).get(block)
        end = known.used_length if known else None
        pages = event.run or event.page_offsets
        self.memory.add(block, pages[:normal], "normal", size, end)
        self.memory.add(block, pages[normal:], "zero", size, end)
        if again:
            self.memory.add(block, again, "again", size, end)
            self._note_pass(event, block, tuple(again))

    def _note_pass(self, event: PacketReceived, block: bytes, again: tuple[int, ...]) -> None:
        """See whether a pass over the memory has begun: in one, no page is sent twice."""
        known = self._remember(event, block, again)
        if self.may_begin(event.round) and (known or not self.passes):
            self.begin_pass(event.round or 0)
            self._remember(event, block, again)

    def may_begin(self, round_: int | None) -> bool:
        """Tell whether a packet of a round can be the first one of another pass."""
        return round_ is not None and (not self.passes or round_ > self.passes[-1])

    def begin_pass(self, round_: int) -> None:
        """Begin another pass over the memory."""
        if len(self.passes) < MAX_ROUNDS:
            self.passes.append(round_)
        self.sent_in_pass = PageSet()

    def _remember(self, event: PacketReceived, block: bytes, again: tuple[int, ...]) -> list[int]:
        seen = self.sent_in_pass
        return seen.add(block, again, event.page_size, lambda: len(seen) < MAX_PAGE_CHUNKS)

    def _note_silence(self, stream: int, event: Event) -> None:
        if not event.time:
            return
        since = self.heard.get(stream)
        self.heard[stream] = event.time
        # a channel that has nothing more to send is closed when the source is done
        quiet = isinstance(event, Ended) and event.state is ChannelState.AWAIT_HEADER
        if since is None or event.time - since < STALL or (quiet and not _reset(event)):
            return
        inside = isinstance(event, PayloadReceived) or bool(getattr(event, "due", 0))
        round_ = self.summary.channels[stream].syncs
        self.add_stall(Stall(event.time - since, since, stream, inside, round_))

    def add_stall(self, stall: Stall) -> None:
        """Remember a silence, if it is one of the longest."""
        if len(self.stalls) < MAX_STALLS:
            heapq.heappush(self.stalls, stall)
        else:
            heapq.heappushpop(self.stalls, stall)

    # ---- the main stream -------------------------------------------------------------------------

    def _add_main(self, stream: int, migration: Migration, event: MainReceived) -> None:
        self.lane(stream).add(event.time, event.size)
        record = event.record
        if isinstance(record, RamZero) and record.block is not None:
            known = (migration.blocks or {}).get(record.block)
            size, end = migration.page_size or 4096, known.used_length if known else None
            self.memory.add(record.block, record.offsets, "zero", size, end)
            if event.round in self.main_zero or len(self.main_zero) < MAX_ROUNDS:
                self.main_zero[event.round] += len(record.offsets)
        self.ended |= isinstance(record, StreamEnd)
        self.main_gap |= isinstance(record, MainGap)

    def lane(self, stream: int) -> Timeline:
        """Return the lane of a connection."""
        lane = self.lanes.get(stream)
        if lane is None:
            lane = self.lanes[stream] = Timeline()
        return lane


def _reset(event: Event) -> bool:
    return isinstance(event, Ended) and event.reset


def spread(timeline: Timeline, first: int, last: int, size: int) -> None:
    """Count bytes of which only the first's and the last's time is known."""
    parts = min(PARTS, (last - first) // PART + 1) if first else 1
    for part in range(1, parts):
        timeline.add(first + (last - first) * part // parts, size // parts)
    timeline.add(last, size - size // parts * (parts - 1))
