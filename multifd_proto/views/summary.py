"""Summary of a migration: who sent what, how fast, in which rounds.

The collector takes events, or many packets at once, as they come and holds a few numbers a channel,
a round and a stretch of time, and a bit a page: its memory does not grow with the length of a
capture beyond `MAX_ROUNDS`, `MAX_BUCKETS` and the page set's bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multifd_proto.machine.events import (
    BytesMissing,
    DeviceStateReceived,
    Event,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.sets import PageSet

if TYPE_CHECKING:
    from multifd_proto.machine.batch import Integers, PacketBatch
    from multifd_proto.views.batch_sums import Sums
    from multifd_proto.views.sent import Sent

MAX_ROUNDS = 65536
MAX_BUCKETS = 512
MAX_PAGE_CHUNKS = 16384


@dataclass
class Traffic:
    """What was sent in some part of a migration."""

    packets: int = 0
    syncs: int = 0
    normal: int = 0
    zero: int = 0
    resent: int = 0
    """Pages that an earlier round had sent already."""
    payload: int = 0
    device_state: int = 0
    """Bytes of device state."""
    missing: int = 0
    gaps: int = 0
    first: int = 0
    last: int = 0

    def at(self, time: int) -> None:
        """Widen the time it took."""
        if time:
            self.first = min(self.first or time, time)
            self.last = max(self.last, time)

    def add(self, sums: Sums) -> None:
        """Count packets."""
        self.packets += sums.packets
        self.syncs += sums.syncs
        self.normal += sums.normal
        self.zero += sums.zero
        self.resent += sums.resent
        self.payload += sums.payload
        self.at(sums.first)
        self.at(sums.last)

    @property
    def seconds(self) -> float:
        """Seconds from its first to its last byte."""
        return (self.last - self.first) / 1e9


@dataclass
class Timeline:
    """Bytes over time, in buckets that double in length when there are too many."""

    width: int = 1_000_000
    """Nanoseconds a bucket."""
    buckets: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, time: int, size: int) -> None:
        """Count bytes."""
        self.buckets[time // self.width] += size
        if len(self.buckets) > MAX_BUCKETS:
            self._widen()

    def add_all(self, times: Integers, sizes: Integers) -> None:
        """Count bytes at many times."""
        from multifd_proto.views.batch_sums import totals

        for bucket, size in totals(times // self.width, sizes):
            self.buckets[bucket] += size
        self._widen()

    def _widen(self) -> None:
        while len(self.buckets) > MAX_BUCKETS:
            self.width *= 2
            old, self.buckets = self.buckets, defaultdict(int)
            for bucket, count in old.items():
                self.buckets[bucket // 2] += count

    def between(self, first: int, last: int, columns: int) -> list[int]:
        """Return bytes in equal stretches of a span of time."""
        span = max(1, last - first)
        out = [0] * columns
        for bucket, count in self.buckets.items():
            place = (bucket * self.width + self.width // 2 - first) * columns // span
            out[min(columns - 1, max(0, place))] += count
        return out


class Summary:
    """Collects what one migration's summary says."""

    def __init__(self) -> None:
        self.total = Traffic()
        self.channels: dict[int, Traffic] = {}
        """By connection."""
        self.timelines: dict[int, Timeline] = {}
        self.rounds: dict[int, Traffic] = {}
        self._pages = PageSet()
        self.pages_full = False
        """More pages than are remembered: `resent` is a lower bound."""

    def add(self, stream: int, event: Event) -> Sequence[int]:
        """Take an event of a channel; return the offsets of its pages that were sent before."""
        channel = self.channels.setdefault(stream, Traffic())
        parts = [self.total, channel]
        round_ = self._round(getattr(event, "round", None))
        if round_ is not None:
            parts.append(round_)
        again = self._sent_again(event) if isinstance(event, PacketReceived) else ()
        for part in parts:
            part.at(event.time)
            _count(part, event, len(again))
        if isinstance(event, PayloadReceived):
            timeline = self.timelines.setdefault(stream, Timeline())
            timeline.add(event.time, event.size - event.missing)
        return again

    def add_batch(self, batch: PacketBatch) -> None:
        """Take packets: it comes to the same as to add all their events."""
        from multifd_proto.views.sent import parts

        for sent in parts(batch):
            if self.has_room_for(sent):
                self.add_sent(sent)
                continue
            for stream, event in sent.events():
                self.add(stream, event)

    def has_room_for(self, sent: Sent) -> bool:
        """Tell whether all pages of packets can be remembered."""
        return len(self._pages) + sent.chunks <= MAX_PAGE_CHUNKS

    def add_sent(self, sent: Sent) -> None:
        """Take packets for whose pages there is room, and find those that were sent before."""
        from multifd_proto.views.batch_sums import PacketSums

        batch = sent.batch
        sent.add_to(self._pages)
        sums = PacketSums(batch, sent.resent)
        for stream, part in sums.by(batch.stream):
            self.total.add(part)
            self.channels.setdefault(stream, Traffic()).add(part)
            over = (batch.stream == stream) & (batch.ended >= 0)
            if over.any():
                timeline = self.timelines.setdefault(stream, Timeline())
                timeline.add_all(batch.ended[over], batch.payload[over])
        for number, part in sums.by(batch.round, payloads=False):
            round_ = self._round(number)
            if round_:
                round_.add(part)

    def _round(self, number: int | None) -> Traffic | None:
        """Return a round; None where there are too many, or lost bytes hide which it is."""
        if number is None or (number not in self.rounds and len(self.rounds) >= MAX_ROUNDS):
            return None
        return self.rounds.setdefault(number, Traffic())

    def _sent_again(self, event: PacketReceived) -> Sequence[int]:
        if not event.knows("offset"):
            return ()
        return self._pages.add(event.ramblock, event.page_offsets, event.page_size, self._has_room)

    def _has_room(self) -> bool:
        room = len(self._pages) < MAX_PAGE_CHUNKS
        self.pages_full |= not room
        return room


def _count(part: Traffic, event: Event, resent: int) -> None:
    match event:
        case PacketReceived():
            part.packets += 1
            part.syncs += event.sync
            part.normal += event.packet.normal_pages
            part.zero += event.packet.zero_pages
            part.payload += event.payload
            part.resent += resent
        case DeviceStateReceived():
            part.packets += 1
            part.device_state += event.payload
        case BytesMissing():
            part.gaps += 1
            part.missing += event.length


def traffic(part: Traffic) -> dict[str, Any]:
    """Return a part's numbers as plain data."""
    return {
        "packets": part.packets,
        "syncs": part.syncs,
        "normal_pages": part.normal,
        "zero_pages": part.zero,
        "resent_pages": part.resent,
        "payload": part.payload,
        "device_state": part.device_state,
        "gaps": part.gaps,
        "missing": part.missing,
        "seconds": part.seconds,
    }


_BARS = " ▁▂▃▄▅▆▇█"


def sparkline(values: list[int], top: int) -> str:
    """Draw values as bars, `top` being the highest there can be."""
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // max(1, top))] for value in values)


def size(count: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rate(part: Traffic) -> str:
    """Say the mean rate of a part's payload."""
    return f"{part.payload * 8 / part.seconds / 1e6:.1f} Mbit/s" if part.seconds else "-"
