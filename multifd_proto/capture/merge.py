"""Several captures as one, in the order of time: rotated ones, and those of several hosts.

Only those that overlap in time are open at the same time. A capture alone is read as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from multifd_proto.capture.files import CaptureFile, Inputs
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Frame
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

if TYPE_CHECKING:
    from multifd_proto.capture.columns.records import Records

_RAW_DUMP = -1
_NEVER = 1 << 64
"""Later than any time of a capture."""
Start = tuple[int, str | Path]
"""Time of a capture's first frame, and its path."""


def in_order(inputs: Inputs, info: CaptureInfo, limits: Limits) -> Iterator[Window | CaptureFile]:
    """Yield raw dumps as their windows, in the order given, then all captures as one.

    Where there is something that can be read only once, such as a pipe, all are read in the order
    given, a capture after the other.

    Raises:
        CaptureError: As for iterating `inputs`.
    """
    if len(inputs.paths) == 1 or not inputs.regular:
        for form, content in inputs:
            yield form.open(content, info, limits) if form.open else content
        return
    starts = [(_start(path, limits), path) for path in inputs.paths]
    for start, path in starts:
        if start == _RAW_DUMP:
            with inputs.open(path) as (_, content):
                yield content
    captures = [(start, path) for start, path in starts if start != _RAW_DUMP]
    merged = _Merged(inputs, sorted(captures, key=lambda c: c[0]), info, limits)
    with merged.opened:
        yield merged


def _start(path: str | Path, limits: Limits) -> int:
    """Return the time of the first frame; `_NEVER` where there is none, or a fault comes first."""
    info = CaptureInfo()
    try:
        with Inputs([path], info, None).open(path, only_begin=True) as (form, content):
            if not form.open:
                return _RAW_DUMP
            for frame in form.open(content, info, limits).frames():
                return frame[0]
    except CaptureError:
        pass  # to be told when it is the turn of this file
    return _NEVER


class _Source:
    """A capture that is open."""

    def __init__(self, file: CaptureFile, closed: ExitStack) -> None:
        self.file = file
        self.close = closed.close
        self.head: Frame | None = None
        """The next frame, once it was asked for."""

    def peek(self) -> bool:
        """Have the next frame in `head`; tell whether there is one."""
        while self.head is None and self.file.more():
            for frame in self.file.one():
                self.head = frame
        return self.head is not None

    @property
    def time(self) -> int:
        assert self.head, "it was asked for"
        return self.head[0]


class _Merged:
    """Captures as if they were one file; see `CaptureFile`."""

    def __init__(
        self, inputs: Inputs, starts: list[Start], info: CaptureInfo, limits: Limits
    ) -> None:
        """Take captures in order of their starts."""
        self.opened = ExitStack()
        self._inputs, self._info, self._limits = inputs, info, limits
        self._waiting = deque(starts)
        self._open: list[_Source] = []
        self._first: _Source | None = None
        self._singly = 0
        """Frames that are to be taken one by one before columns are tried again."""

    def frames(self) -> Iterator[Frame]:
        """Yield all frames that are left."""
        while self.more():
            yield from self.one()

    def more(self) -> bool:
        """Have the earliest of the next frames; tell whether there is one."""
        while True:
            for source in [source for source in self._open if not source.peek()]:
                source.close()
                self._open.remove(source)
            self._first = min(self._open, key=lambda source: source.time, default=None)
            if not self._waiting or (self._first and self._first.time <= self._waiting[0][0]):
                return self._first is not None
            self._open_next()

    def one(self) -> Iterator[Frame]:
        """Yield the frame that `more` has found."""
        assert self._first, "there is more"
        frame, self._first.head = self._first.head, None
        self._singly = max(self._singly - 1, 0)
        if frame:
            yield frame

    def records(self, most: int, first: int) -> Records | None:
        """Return records of a capture that is alone; None where frames have to be merged."""
        if len(self._open) != 1 or self._open[0].head or self._singly:
            return None
        records = self._open[0].file.records(most, first)
        if records and self._waiting and int(records.time.max()) > self._waiting[0][0]:
            self._open[0].file.take_back()
            self._singly = len(records)
            return None
        return records

    def take_back(self) -> None:
        """Have the records that were returned last read again."""
        self._open[0].file.take_back()

    def _open_next(self) -> None:
        _, path = self._waiting.popleft()
        closed = self.opened.enter_context(ExitStack())
        form, content = closed.enter_context(self._inputs.open(path))
        assert form.open, "raw dumps are none of these"
        self._open.append(_Source(form.open(content, self._info, self._limits), closed))
