"""What `Collector` collects of many packets at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from multifd_proto.machine.batch import Integers, PacketBatch
from multifd_proto.machine.migration import Migration
from multifd_proto.views.page.collect import PART, PARTS, STALL, Collector, Stall
from multifd_proto.views.sent import Sent, SentPages
from multifd_proto.views.summary import Timeline


def collect(collector: Collector, migration: Migration, sent: Sent) -> None:
    """Add packets, for whose pages there is room."""
    batch = sent.batch
    collector.summary.add_sent(sent)
    for times in (batch.time, batch.ended):
        seen = times[times > 0]
        if len(seen):
            collector.at(int(seen.min()))
            collector.at(int(seen.max()))
    for stream in dict.fromkeys(batch.stream.tolist()):
        part = batch[batch.stream == stream]
        _add_lane(collector, stream, part)
        _note_silences(collector, stream, part)
    _add_pages(collector, migration, sent)
    _note_passes(collector, sent)


def _add_lane(collector: Collector, stream: int, part: PacketBatch) -> None:
    lane = collector.lane(stream)
    lane.add_all(part.time, np.full(len(part), part.heads.dtype.itemsize))
    if part.sync.any():
        times = part.time[part.sync]
        collector.syncs.setdefault(stream, Timeline()).add_all(times, np.ones(len(times), np.int64))
    over = part.ended >= 0
    spread_all(lane, part.time[over], part.ended[over], part.payload[over])


def spread_all(timeline: Timeline, first: Integers, last: Integers, size: Integers) -> None:
    """Count the bytes of payloads, as `spread` does those of one."""
    parts = np.where(first > 0, np.minimum(PARTS, (last - first) // PART + 1), 1)
    starts = np.cumsum(parts) - parts
    part = np.arange(parts.sum()) - np.repeat(starts, parts) + 1
    first, last, size, count = (np.repeat(each, parts) for each in (first, last, size, parts))
    times = np.where(part < count, first + (last - first) * part // count, last)
    timeline.add_all(
        times, np.where(part < count, size // count, size - size // count * (part - 1))
    )


def _note_silences(collector: Collector, stream: int, part: PacketBatch) -> None:
    times, syncs = np.zeros((len(part), 2), np.int64), np.zeros((len(part), 2), np.int64)
    times[:, 0], times[:, 1] = part.time, part.ended
    after = np.cumsum(part.sync)
    syncs[:, 0], syncs[:, 1] = after - part.sync, after
    before = collector.summary.channels[stream].syncs - int(after[-1])
    places = np.flatnonzero(times.ravel() > 0)
    if not len(places):
        return
    heard = times.ravel()[places]
    since = np.append(collector.heard.get(stream, heard[0]), heard[:-1])
    collector.heard[stream] = int(heard[-1])
    for index in np.flatnonzero(heard - since >= STALL).tolist():
        place, start = int(places[index]), int(since[index])
        round_ = before + int(syncs.ravel()[place])
        length = int(heard[index]) - start
        collector.add_stall(Stall(length, start, stream, bool(place % 2), round_))


def _add_pages(collector: Collector, migration: Migration, sent: Sent) -> None:
    size = sent.batch.page_size

    def add(pages: SentPages, numbers: Integers, kind: str) -> None:
        known = (migration.blocks or {}).get(pages.block)
        end = known.used_length if known else None
        collector.memory.add_pages(pages.block, numbers, kind, size, end)

    for pages in sent.blocks():
        add(pages, pages.number[pages.normal], "normal")
        add(pages, pages.number[~pages.normal], "zero")
    for pages in sent.again:
        add(pages, pages.number, "again")


# ---- passes over the memory ----------------------------------------------------------------------


def _note_passes(collector: Collector, sent: Sent) -> None:
    """See where passes begin: between packets of two rounds, and at most one a round."""
    packets = np.flatnonzero(sent.resent)
    highest = np.maximum.accumulate(sent.batch.round[packets])
    firsts = packets[np.flatnonzero(np.diff(highest, prepend=-2))].tolist()
    for first, last in pairwise([*firsts, len(sent.batch)]):
        _note_stretch(collector, sent, first, last)


def _note_stretch(collector: Collector, sent: Sent, first: int, last: int) -> None:
    while first < last:
        parts = [part for pages in sent.again if len((part := pages.between(first, last)).number)]
        begins = _first_of_pass(collector, sent.batch.round, parts)
        if begins is None:
            for part in parts:
                part.add_to(collector.sent_in_pass)
            return
        collector.begin_pass(int(sent.batch.round[begins]))
        for part in parts:
            part.between(begins, begins + 1).add_to(collector.sent_in_pass)
        first = begins + 1


def _first_of_pass(collector: Collector, rounds: Integers, parts: list[SentPages]) -> int | None:
    """Return the first packet that begins another pass."""
    found = []
    for part in parts:
        may = rounds[part.packet] > (collector.passes[-1] if collector.passes else -1)
        if may.any() and collector.passes:
            may &= part.known_to(collector.sent_in_pass)[0]
        if may.any():
            found.append(int(part.packet[may.argmax()]))
    return min(found, default=None)
