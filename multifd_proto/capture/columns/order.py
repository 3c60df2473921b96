"""What several connections say in one table of segments, in the order of the capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from multifd_proto.capture.columns.hop import MainPiece, Piece, Single
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import HeaderReceived, PayloadReceived
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.ram_records import RamSetup
from multifd_proto.wire.schema import MULTIFD_MAGIC, MULTIFD_VERSION, MultiFDPacketHdr

_PLAIN = [MultiFDPacketHdr(MULTIFD_MAGIC, MULTIFD_VERSION, flags) for flags in (0, FLAG_SYNC)]
"""Headers that are right in every dialect."""


class InOrder:
    """Events by themselves and packets, in the order of the capture.

    Packets that are not alike (in layout or page size) come one kind after the other.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        kinds: dict[object, list[PacketBatch]] = {}
        singles = []
        for piece in pieces:
            if isinstance(piece, PacketBatch):
                kinds.setdefault((piece.layout, piece.page_count), []).append(piece)
            else:
                singles.append(piece)
        self.packets = [PacketBatch.joined(kind) for kind in kinds.values()]
        self.singles = sorted(singles, key=lambda single: single[0])

    def cut(self, cuts: Callable[[Single], bool]) -> Iterator[Piece]:
        """Yield all, as many packets at once as can be.

        Args:
            cuts: tells of an event whether packets have to come before it that were before it.
        """
        done = [0] * len(self.packets)
        for single in self.singles:
            if cuts(single):
                yield from _until(single[0], self.packets, done)
            yield single
        yield from _until(None, self.packets, done)


def shows(single: Single) -> bool:
    """Tell whether an event is one of those that have a row of their own."""
    return not isinstance(single[2], PayloadReceived)


def matters(single: Single) -> bool:
    """Tell whether a packet may be judged in another way before an event than after it."""
    match single[2]:
        case MainPiece(record=record):
            return isinstance(record, RamSetup)
        case HeaderReceived(header=header):
            # judged by itself: it matters where its faults are told, if it has any
            return header not in _PLAIN
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
