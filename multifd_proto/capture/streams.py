"""Reading captures: TCP streams with their gaps, as events, out of any capture file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from multifd_proto.capture.connections import Connections, Taker
from multifd_proto.capture.events import Half, Opened, StreamEvent
from multifd_proto.capture.files import CaptureFile, Inputs, Progress
from multifd_proto.capture.fragments import Datagrams
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import Segment, segments
from multifd_proto.capture.link import Frame
from multifd_proto.capture.merge import in_order
from multifd_proto.capture.pieces import Held
from multifd_proto.capture.tcp import Direction
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

__all__ = ["CaptureInfo", "CaptureReader", "Limits"]

if TYPE_CHECKING:
    from multifd_proto.capture.columns.runs import Run
    from multifd_proto.capture.columns.segments import Segments

Taken: TypeAlias = "list[Run]"
"""What a table of segments adds to the directions that are looked at."""

_DEFAULT = Limits()
_LEAST, _MOST = 64, 32768
"""Records in a table."""
_PACKETS = 4096
"""Packets that a table is to tell of at most: each takes about 10 KiB while it is judged."""
_FIRST = 64
"""Records before the first table."""
_FEW = 32
"""Segments that are taken one by one at once."""
_PATIENCE = 32
"""Tables at most, until columns are tried again."""


class CaptureReader:
    """Reads captures and yields their streams, in constant memory, without ever seeking.

    Inputs are recognised by their first bytes: pcap, pcapng, either of them or a raw dump in gzip
    or zstd, and raw dumps of one stream: a multifd channel, a main stream (`QEVM`) or TLS. Several
    paths are one input: a connection goes on in the next file, and each raw dump is a stream of its
    own. Captures are read in the order of time: those of several hosts are merged. With a pipe
    among them, all are read in the order given.

    At the end of the input, what is held out of order is delivered with `Gap` events before it,
    also when the end is an error. An input that is cut, or whose compression is corrupt, is not an
    error: see `CaptureInfo.truncated`.

    Args:
        paths: Files, or '-' for standard input.
        limits: Bounds on the memory taken.
        progress: Called after each read with the bytes read so far as they are stored, and their
            total; None if that is not known, as for standard input.

    Attributes:
        info: What was seen so far.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        limits: Limits = _DEFAULT,
        progress: Progress | None = None,
    ) -> None:
        self.info = CaptureInfo()
        self._paths = paths
        self._limits = limits
        self._progress = progress
        self._connections = Connections(self.info, limits)
        self._datagrams = Datagrams(self.info, limits)

    @property
    def held(self) -> int:
        """Bytes that out-of-order data takes at this moment; at most `Limits.total`."""
        return self._connections.held.bytes

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield the events, once.

        Raises:
            CaptureError: An input cannot be read, is empty or no capture, or contradicts itself.
        """
        # what reads frame by frame gives no columns
        yield from cast(
            "Iterator[StreamEvent]", self._read(lambda file: self._events(file.frames()))
        )

    def _parts(self) -> Iterator[Window | CaptureFile]:
        inputs = Inputs(self._paths, self.info, self._progress)
        return in_order(inputs, self.info, self._limits)

    def _events(self, frames: Iterable[Frame]) -> Iterator[StreamEvent]:
        return self._connections.events(segments(frames, self.info, self._datagrams))

    def columns(self, taker: Taker) -> Iterator[StreamEvent | Taken]:
        """Yield the events, once; where `taker` takes columns, runs of bytes instead.

        Raises:
            CaptureError: As for iterating.
        """
        yield from self._read(lambda file: self._walk(file, taker))

    def _read(
        self, read: Callable[[CaptureFile], Iterator[StreamEvent | Taken]]
    ) -> Iterator[StreamEvent | Taken]:
        """Yield what the inputs say, and at their end, also after a failure, what is held."""
        failure = None
        try:
            for part in self._parts():
                yield from self._raw_dump(part) if isinstance(part, Window) else read(part)
        except CaptureError as error:
            failure = error
        yield from self._connections.flush()
        if failure:
            raise failure

    def _walk(self, file: CaptureFile, taker: Taker) -> Iterator[StreamEvent | Taken]:
        """Read tables of records, as large as they can be taken as columns.

        Where that fails again and again, as it does while segments are missing, it is tried
        ever more seldom. The first records come one by one: what there is to say of them is said
        before numpy is there.
        """
        for _ in range(_FIRST):
            if not file.more():
                return
            yield from self._events(file.one())
        from multifd_proto.capture.columns.segments import keep_memory, segments_of

        keep_memory()
        most, patience, waiting = _LEAST, 1, 0
        while True:
            records = file.records(most, self.info.records)
            if records is None:
                if not file.more():
                    return
                yield from self._events(file.one())
                continue
            table = segments_of(records, self.info, self._datagrams)
            if waiting:
                waiting -= 1
                yield from self._connections.events(self._singly(table))
            elif (yield from self._take(table, taker)):
                room = max(most * _PACKETS // max(taker.packets, 1), _LEAST // 4)
                most, patience = min(most * 4, room, _MOST), 1
            else:
                most, waiting, patience = _LEAST, patience // 2, min(patience * 2, _PATIENCE)

    def _singly(self, table: Segments) -> Iterator[Segment]:
        """Yield segments one by one; a connection that begins asks for the record's number."""
        read = self.info.records
        for row, segment in zip(table.row.tolist(), table.singly(), strict=True):
            self.info.records = row + 1
            yield segment
        self.info.records = read

    def _take(self, table: Segments, taker: Taker) -> Generator[StreamEvent | Taken, None, bool]:
        """Take segments as columns, or halves of them, or one by one; tell whether all at once."""
        if len(table) < _FEW:
            yield from self._connections.events(self._singly(table))
            return False
        taken = self._connections.columns(table, taker)
        if taken is not None:
            yield taken
            return True
        half = len(table) // 2
        yield from self._take(table.part(slice(half)), taker)
        yield from self._take(table.part(slice(half, None)), taker)
        return False

    def _raw_dump(self, content: Window) -> Iterator[StreamEvent]:
        number = self._connections.next_number()
        half, reverse = (
            Half(number, forward, None, None, 0, anchored=True, name=content.name)
            for forward in (True, False)
        )
        direction = Direction(half, Held(self._limits))
        yield Opened(0, half, reverse)
        faults = len(content.truncated)
        while content.fill(1):
            half.bytes += content.left
            start, content.start = content.start, content.end
            yield from direction.deliver(
                0, direction.position + content.end - start, content.view[start:]
            )
        yield from direction.report_passed()
        if len(content.truncated) == faults:
            yield from direction.end(0, reset=False, by_peer=False)
