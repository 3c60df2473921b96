"""What a series of snapshots tells: rates, silence, what has happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from multifd_proto.views.live_values import LiveConnection, Snapshot, State
from multifd_proto.views.summary import size, sparkline

_SAMPLES = 240
_WINDOW = 1.0
STALLED = 2.0
"""Seconds without a byte after which an open connection is said to be stalled."""

_Line = deque[tuple[float, int]]


class History:
    """Remembers the last snapshots, `_SAMPLES` numbers a connection."""

    def __init__(self) -> None:
        self.now = Snapshot(0.0, State.WAITING)
        """The last snapshot."""
        self._lines: dict[int | None, _Line] = {}
        self._moved: dict[int, float] = {}
        self._top = 0
        self._begun: float | None = None
        self._ended: float | None = None

    def add(self, snapshot: Snapshot) -> list[str]:
        """Take the next snapshot, and return what has happened since the last one."""
        before, self.now = self.now, snapshot
        if snapshot.connections and self._begun is None:
            self._begun = before.time or snapshot.time
        if snapshot.state.over and self._ended is None:
            self._ended = snapshot.time
        self._sample(None, sum(c.sent for c in snapshot.connections), before.time)
        for connection in snapshot.connections:
            if self._sample(connection.number, connection.sent, before.time):
                self._moved[connection.number] = snapshot.time
        lines = (line for key, line in self._lines.items() if key is not None)
        self._top = max((max(_steps(line), default=0) for line in lines), default=0)
        return [*snapshot.log, *_happened(before.connections, snapshot.connections)]

    def _sample(self, key: int | None, sent: int, before: float) -> bool:
        """Remember how much was sent; tell whether it was more than before, or is the first."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = deque([(before, 0)], _SAMPLES)
            moved = True
        else:
            moved = sent > line[-1][1]
        if self._ended is None or moved:
            line.append((self.now.time, sent))
        return moved

    @property
    def elapsed(self) -> float:
        """Seconds from the first connection to the end, or until now."""
        end = self.now.time if self._ended is None else self._ended
        return 0.0 if self._begun is None else end - self._begun

    @property
    def sent(self) -> int:
        """Bytes of all connections."""
        return sum(connection.sent for connection in self.now.connections)

    def rate(self, number: int | None = None) -> float:
        """Return bits a second, now or, of what is over, on the whole.

        Args:
            number: of a connection; None for all together.
        """
        line = self._lines.get(number)
        if not line:
            return 0.0
        if self.now.state.over:
            judged = self.now.judged
            seconds = judged.seconds if judged and judged.seconds else self.elapsed
            return line[-1][1] * 8 / seconds if seconds else 0.0
        time, sent = line[-1]
        then, before = next(s for s in line if time - s[0] <= _WINDOW)
        return (sent - before) * 8 / (time - then) if time > then else 0.0

    def bars(self, number: int | None, columns: int) -> str:
        """Draw the rate of the last samples, the newest to the right.

        Connections are drawn to one scale, so that their bars can be compared.
        """
        values = _steps(self._lines.get(number, deque()))[-columns:]
        top = max(values, default=0) if number is None else self._top
        return sparkline(values, top).rjust(columns)

    def quiet(self, connection: LiveConnection) -> float:
        """Return seconds since the last byte of a connection."""
        return self.now.time - self._moved.get(connection.number, self.now.time)

    def stalled(self, connection: LiveConnection) -> bool:
        """Tell whether an open connection has been silent for suspiciously long."""
        return not connection.done and self.quiet(connection) >= STALLED


def _steps(line: _Line) -> list[int]:
    return [after[1] - before[1] for before, after in pairwise(line)]


def _happened(
    before: tuple[LiveConnection, ...], after: tuple[LiveConnection, ...]
) -> Iterator[str]:
    known = {connection.number: connection for connection in before}
    for now in after:
        was = known.get(now.number, LiveConnection(now.number, "unknown", None, 0))
        what = said(now)
        if said(was) != what:
            yield f"connection {now.number} is {what}"
        elif now.number not in known:
            yield f"connection {now.number} is opened"
        if now.done and not was.done:
            how = f"is broken by the {now.broken}" if now.broken else "has ended"
            yield f"{what} {how} after {size(now.sent)}"


def said(connection: LiveConnection) -> str:
    """Return what a connection is, in words."""
    if connection.kind == "multifd" and connection.id is not None:
        return f"channel {connection.id}"
    kinds = {"multifd": "a channel", "main": "the main stream", "tls": "encrypted (TLS)"}
    return kinds.get(connection.kind, f"connection {connection.number}")
