"""What several connections say in one table of segments, in the order of the capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from multifd_proto.capture.columns.hop import MainPiece, Piece, Single
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import PayloadReceived
from multifd_proto.wire.ram_records import RamSetup


def in_order(pieces: Iterable[Piece], cuts: Callable[[Single], bool]) -> Iterator[Piece]:
    """Yield events and packets in the order of the capture, as many packets at once as can be.

    Packets that are not alike (in layout or page size) come one kind after the other.

    Args:
        pieces: events by themselves and packets.
        cuts: tells of an event whether packets have to come before it that were before it.
    """
    singles: list[Single] = []
    kinds: dict[object, list[PacketBatch]] = {}
    for piece in pieces:
        if isinstance(piece, PacketBatch):
            kinds.setdefault((piece.layout, piece.page_count), []).append(piece)
        else:
            singles.append(piece)
    joined = [PacketBatch.joined(kind) for kind in kinds.values()]
    done = [0] * len(joined)
    for single in sorted(singles, key=lambda single: single[0]):
        if cuts(single):
            yield from _until(single[0], joined, done)
        yield single
    yield from _until(None, joined, done)


def shows(single: Single) -> bool:
    """Tell whether an event is one of those that have a row of their own."""
    return not isinstance(single[2], PayloadReceived)


def matters(single: Single) -> bool:
    """Tell whether a packet may be judged in another way before an event than after it."""
    if isinstance(single[2], MainPiece):
        return isinstance(single[2].record, RamSetup)
    return shows(single)


def _until(
    key: int | None, joined: Iterable[PacketBatch], done: list[int]
) -> Iterator[PacketBatch]:
    """Yield the packets before a place in the capture that were not yielded yet."""
    for number, batch in enumerate(joined):
        end = len(batch) if key is None else int(np.searchsorted(batch.row, key))
        if end > done[number]:
            yield batch[done[number] : end]
            done[number] = end
