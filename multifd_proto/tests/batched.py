"""Events as batches, for tests that hold both ways of judging equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event, HeaderReceived, PacketReceived, PayloadReceived
from multifd_proto.machine.heads import Heads
from multifd_proto.wire.schema import MULTIFD_MAGIC, MULTIFD_VERSION


def batch_of(packets: list[tuple[int, PacketReceived]]) -> PacketBatch:
    """Return packets, each with the number of its connection, as a batch."""
    events = [event for _, event in packets]
    (layout,) = {type(event.packet) for event in events}
    (count,) = {len(event.packet.offset) for event in events}
    heads = b"".join(event.packet.build() for event in events)
    columns = {
        "stream": [stream for stream, _ in packets],
        "offset": [event.offset for event in events],
        "time": [event.time for event in events],
        "payload": [event.payload for event in events],
        "ended": [event.time + 1 for event in events],
        "round": [-1 if event.round is None else event.round for event in events],
        "row": list(range(len(events))),
    }
    integers: dict[str, Any] = {
        name: np.array(values, np.int64) for name, values in columns.items()
    }
    return PacketBatch(layout, Heads([np.frombuffer(heads, layout.dtype(count))]), **integers)


def judge_in_batches(checker: Checker, stream: int, events: Iterable[Event]) -> int:
    """Judge the events of a channel, clean packets in batches; return how many were in batches."""
    found = 0
    for run in _runs(list(events)):
        if isinstance(run, Event):
            checker.judge(checker.migration.streams[stream], (run,))
        else:
            checker.judge_batch(batch_of([(stream, event) for event in run]))
            found += len(run)
    return found


def _runs(events: list[Event]) -> Iterator[Event | list[PacketReceived]]:
    run: list[PacketReceived] = []
    while events:
        match events[:3]:
            case [HeaderReceived(), PacketReceived() as head, PayloadReceived() as payload] if (
                _clean(head, payload)
            ):
                run.append(head)
                del events[:3]
                continue
        if run:
            yield run
            run = []
        yield events.pop(0)
    if run:
        yield run


def _clean(head: PacketReceived, payload: PayloadReceived) -> bool:
    packet = head.packet
    return (
        (packet.magic, packet.version) == (MULTIFD_MAGIC, MULTIFD_VERSION)
        and head.known >= packet.size(len(packet.offset))
        and not payload.missing
        and not payload.decoded
    )


def remembered(checker: Checker) -> dict[str, object]:
    """Return all that a checker has in mind, to be compared."""
    migration = checker.migration
    numbers = migration.numbers
    return {
        "applied": checker._applied,
        "tallies": checker._tallies,
        "channels": migration.streams,
        "numbers": (numbers._starts, numbers._ends, numbers.full),
        "spans": migration.spans,
        "pages": {
            round_: {
                chunk: bytes(pages._bits[start // 8 : start // 8 + 4096])
                for chunk, start in pages._chunks.items()
            }
            for round_, pages in migration.pages.items()
        },
        "full": migration.pages_full,
        "method": migration.method,
    }
