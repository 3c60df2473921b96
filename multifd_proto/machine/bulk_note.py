"""Which batches columns can be judged by, and what is remembered of them.

Columns tell all but what depends on the order of packets within the batch: where a bound is
reached, and which of two packets it is that contradicts the other's round. Such a batch is cut,
and what is left of it in the end is judged by events.
"""

from __future__ import annotations

import numpy as np

from multifd_proto.machine.batch import Integers
from multifd_proto.machine.bulk import Scene
from multifd_proto.wire.payload import method_of


def where_to_cut(scene: Scene) -> int | None:
    """Return the place before which to cut a batch; None if it can be judged as it is."""
    if scene.migration.method is None:
        learnt = np.flatnonzero(scene.tells_method) + 1
        if len(learnt) and learnt[0] < len(scene.batch):
            return int(learnt[0])
    told = _numbers_follow(scene) and _rounds_follow(scene) and _pages_fit(scene)
    return None if told else len(scene.batch) // 2


def _rounds_follow(scene: Scene) -> bool:
    # a round is forgotten when all channels have left it: no packet may be of one again
    for places in scene.by_channel:
        counted = scene.batch.sync[places]
        syncs = scene.channel(places[0]).syncs + np.cumsum(counted) - counted
        rounds = scene.batch.round[places]
        if ((rounds >= 0) & (rounds < syncs)).any():
            return False
    return True


def _numbers_follow(scene: Scene) -> bool:
    old, new = scene.migration.spans, scene.spans
    if len(old.keys() | new.keys()) > scene.migration.bounds.rounds:
        return False
    for round_, (low, high) in new.items():
        before = max(spans.get(round_ - 1, (0, -1))[1] for spans in (old, new))
        after = min(spans.get(round_ + 1, (1 << 64, 0))[0] for spans in (old, new))
        if low <= before or high >= after:
            return False
    return True


def _pages_fit(scene: Scene) -> bool:
    bounds, old = scene.migration.bounds, scene.migration.pages
    if scene.migration.pages_full:
        return True
    rounds = {lot.round for lot in scene.lots} | old.keys()
    chunks = sum(lot.marks.chunks for lot in scene.lots) + sum(map(len, old.values()))
    return len(rounds) <= bounds.rounds and chunks <= bounds.page_chunks


def note(scene: Scene) -> None:
    """Remember a batch, after it was judged; its numbers and pages were noted by their rules."""
    migration, batch = scene.migration, scene.batch
    for places in scene.by_channel:
        _note_channel(scene, places)
    learnt = np.flatnonzero(scene.tells_method)
    if migration.method is None and len(learnt):
        migration.method = method_of(int(batch.flags[learnt[0]]))
    for round_, (low, high) in scene.spans.items():
        before, after = migration.spans.get(round_, (low, high))
        migration.spans[round_] = (min(low, before), max(high, after))
    if batch.sync.any():
        migration.forget()


def _note_channel(scene: Scene, places: Integers) -> None:
    batch, channel = scene.batch, scene.channel(places[0])
    channel.packets += len(places)
    channel.syncs += int(np.count_nonzero(batch.sync[places]))
    channel.last, channel.follows = batch.packet(int(places[-1])), True
    channel.whole &= bool((batch.round[places] >= 0).all())
    telling = places[(batch.sync | scene.has_pages)[places]]
    if len(telling):
        channel.unsynced = not batch.sync[telling[-1]]
