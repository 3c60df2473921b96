"""The joint machine: what no channel can see alone.

Events come in the order of each connection; between connections there is no order on the wire,
so nothing here depends on which channel's event came first. Rounds are counted by each channel's
own SYNC packets and compared by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    InitReceived,
    PacketReceived,
)
from multifd_proto.machine.parameters import Bounds, MigrationParameters, RamBlock
from multifd_proto.machine.sets import PageSet, Runs
from multifd_proto.wire.main_records import (
    MainFault,
    MainGap,
    MainRecord,
    SectionEnd,
)
from multifd_proto.wire.payload import PayloadMethod, method_of
from multifd_proto.wire.ram_records import RamEos, RamFlush, RamPage, RamSetup


@dataclass(frozen=True, slots=True)
class MainReceived(Event):
    """A record of the main stream is there."""

    size: int
    """Bytes of the record."""
    record: MainRecord
    round: int
    """Marks before it on the main stream."""


@dataclass(frozen=True, slots=True)
class MigrationOver(Event):
    """Everything that is known of the migration has been seen."""


@dataclass
class ChannelInfo:
    """What is remembered of one channel."""

    stream: int
    opened: int | None
    """When its connection was opened, in nanoseconds since the epoch, if that was seen."""
    whole: bool
    """Nothing that could tell a packet has been missed so far."""
    page_size: int | None = None
    init: InitReceived | None = None
    packets: int = 0
    syncs: int = 0
    """SYNC packets, counted when their heads are there."""
    last: PacketReceived | None = None
    follows: bool = True
    """The next packet is the one right after `last`."""
    unsynced: bool = False
    """Pages were sent since the last SYNC."""
    ended: Ended | None = None
    reverse_bytes: int | None = None
    """Bytes that the receiver wrote; None where that direction was not captured."""

    @property
    def id(self) -> int | None:
        """The channel's id, if its init was seen."""
        return self.init.init.id if self.init else None

    @property
    def complete(self) -> bool:
        """Every packet was seen, and the orderly end."""
        end = self.ended
        return self.whole and end is not None and _orderly(end)


def _orderly(end: Ended) -> bool:
    return end.state is ChannelState.AWAIT_HEADER and not end.due and not end.reset


@dataclass
class MainInfo:
    """What is remembered of the main stream."""

    stream: int
    opened: int | None
    whole: bool
    flushes: int = 0
    sections: int = 0
    """EOS words, one a section of `ram`."""
    ram_ended: bool = False
    postcopy: bool = False

    @property
    def marks(self) -> int:
        """Marks of rounds: FLUSH words where there are any (modern), else EOS words (legacy)."""
        return self.flushes or self.sections

    @property
    def complete(self) -> bool:
        """All of the precopy was seen."""
        return self.whole and self.ram_ended


def main_events(
    main: MainInfo, records: Iterable[tuple[int, int, MainRecord]], time: int
) -> Iterator[MainReceived]:
    """Yield the events of records, each to be noted before the next asks for the marks so far.

    Args:
        main: the stream that they are of.
        records: place in the stream, size in bytes, record: as `MainStream` gives them.
        time: nanoseconds since the epoch.
    """
    for offset, size, record in records:
        yield MainReceived(offset, time, size, record, main.marks)


@dataclass
class Migration:
    """The joint state of all connections of a migration."""

    parameters: MigrationParameters = field(default_factory=MigrationParameters)
    bounds: Bounds = field(default_factory=Bounds)
    streams: dict[int, ChannelInfo] = field(default_factory=dict)
    main: MainInfo | None = None
    tls: set[int] = field(default_factory=set)
    """Connections that are encrypted."""
    decrypted: set[int] = field(default_factory=set)
    """Connections of `streams`, and the main stream, that were seen through their encryption."""
    method: PayloadMethod | None = None
    """Payload method of the first packet with pages."""
    blocks: dict[bytes, RamBlock] | None = None
    first_init: InitReceived | None = None
    gaps: int = 0
    missing: int = 0
    """Bytes of the channels and of the main stream that the gaps hide."""

    def __post_init__(self) -> None:
        """Take over what is known beforehand."""
        given = self.parameters
        self.numbers = Runs(self.bounds.runs)
        self.spans: dict[int, tuple[int, int]] = {}
        self.pages: dict[int, PageSet] = {}
        self.pages_full = False
        self.method = given.compression
        if given.ramblocks is not None:
            self.blocks = {block.name: block for block in given.ramblocks}

    # ---- what rules ask --------------------------------------------------------------------------

    @property
    def channels(self) -> int | None:
        """The configured number of channels, if known."""
        return self.parameters.channels

    @property
    def uuid(self) -> bytes | None:
        """The machine's UUID, if known."""
        return self.parameters.uuid

    @property
    def given_blocks(self) -> tuple[RamBlock, ...] | None:
        """RAM blocks that were given, not learnt from the main stream."""
        return self.parameters.ramblocks

    @property
    def complete(self) -> bool:
        """Every packet of every channel was seen, so that what is not there was not sent."""
        ids = {c.id for c in self.streams.values()}
        return (
            bool(self.streams)
            and not self.tls
            and ids == set(range(self.channels or len(self.streams)))
            and all(c.complete for c in self.streams.values())
        )

    @property
    def completed(self) -> bool:
        """The source has completed the migration, as far as can be seen."""
        return self.main is None or (self.main.complete and not self.main.postcopy)

    @property
    def page_size(self) -> int | None:
        """Target page size in bytes, given or inferred."""
        inferred = (c.page_size for c in self.streams.values() if c.page_size)
        return self.parameters.page_size or next(inferred, None)

    def open_pages(self, round_: int) -> PageSet | None:
        """Return the pages seen in a round; None where it is too far from the others."""
        pages = self.pages.get(round_)
        if pages is None and len(self.pages) < self.bounds.rounds:
            pages = self.pages[round_] = PageSet()
        self.pages_full |= pages is None
        return pages

    def room_for_pages(self) -> bool:
        """Tell whether one more chunk of pages may be remembered."""
        room = sum(map(len, self.pages.values())) < self.bounds.page_chunks
        self.pages_full |= not room
        return room

    # ---- taking note ---------------------------------------------------------------------------

    def note(self, peer: ChannelInfo | MainInfo, event: Event) -> None:
        """Remember an event, after it was judged."""
        if isinstance(peer, ChannelInfo):
            self._note_channel(peer, event)
        elif isinstance(event, MainReceived):
            self._note_main(peer, event.record)

    def _note_channel(self, peer: ChannelInfo, event: Event) -> None:
        match event:
            case InitReceived():
                peer.init = event
                self.first_init = self.first_init or event
            case PacketReceived():
                self._note_packet(peer, event)
            case DeviceStateReceived():
                peer.packets += 1
            case BytesMissing():
                self._note_gap(event.length)
                peer.whole &= event.hid is ChannelState.AWAIT_PAYLOAD
                peer.follows = False
            case Ended():
                peer.ended = event
                peer.whole &= event.state is not ChannelState.LOST

    def _note_packet(self, channel: ChannelInfo, event: PacketReceived) -> None:
        channel.packets += 1
        # not with its header: another channel's SYNC may come before the rest of the packet, and
        # would have rounds forgotten that the packet is compared with
        channel.syncs += event.sync
        channel.last, channel.follows = event, True
        channel.whole &= event.round is not None
        channel.unsynced = not event.sync and (event.pages > 0 or channel.unsynced)
        self.numbers.add(event.packet.packet_num)
        if event.pages and self.method is None:
            self.method = method_of(event.packet.flags)
        if event.round is not None and (event.pages or event.sync):
            number = event.packet.packet_num
            low, high = self.spans.get(event.round, (number, number))
            if event.round in self.spans or len(self.spans) < self.bounds.rounds:
                self.spans[event.round] = (min(low, number), max(high, number))
        if event.sync:
            self.forget()

    def forget(self) -> None:
        """Drop rounds that every channel has left behind."""
        current = min((c.syncs for c in self.streams.values()), default=0)
        for done in [k for k in self.pages if k < current]:
            del self.pages[done]
        for done in [k for k in self.spans if k < current - 1]:
            del self.spans[done]

    def _note_main(self, main: MainInfo, record: MainRecord) -> None:
        match record:
            case RamSetup():
                self._note_blocks(record)
            case RamFlush():
                main.flushes += 1
            case RamEos():
                main.sections += 1
            case RamPage():
                main.postcopy = True
            case SectionEnd(ram=True):
                main.ram_ended = True
            case MainGap():
                main.whole = False
                self._note_gap(record.length)
            case MainFault():
                main.whole = False

    def _note_gap(self, length: int) -> None:
        self.gaps += 1
        self.missing += length

    def _note_blocks(self, setup: RamSetup) -> None:
        if self.blocks is None:
            announced = setup.blocks[: self.bounds.blocks]
            self.blocks = {b.name: RamBlock(b.name, b.used_length) for b in announced}
