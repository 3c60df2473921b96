"""Equal stretches of a migration's time, to draw and to tabulate what was counted in buckets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from multifd_proto.views.summary import Timeline


@dataclass(frozen=True)
class Grid:
    """Columns of time; their edges are edges of the buckets, so that no count is cut."""

    start: int
    """Nanoseconds since the epoch."""
    step: int
    """Nanoseconds a column."""
    columns: int

    @classmethod
    def over(cls, timelines: Iterable[Timeline], first: int, last: int, columns: int) -> Grid:
        """Return a grid of at most so many columns over a span of time."""
        width = max((t.width for t in timelines), default=1_000_000)
        start = first // width * width
        buckets = (last - start) // width + 1
        step = -(-buckets // columns) * width
        return cls(start, step, (last - start) // step + 1)

    def counts(self, timeline: Timeline | None) -> list[int]:
        """Return what was counted in each column."""
        out = [0] * self.columns
        for bucket, count in timeline.buckets.items() if timeline else ():
            place = (bucket * timeline.width - self.start) // self.step if timeline else 0
            out[min(self.columns - 1, max(0, place))] += count
        return out

    def rates(self, timeline: Timeline | None) -> list[float]:
        """Return the same in Mbit/s, of bytes."""
        return [round(count * 8e3 / self.step, 3) for count in self.counts(timeline)]

    def middles(self, zero: int) -> list[float]:
        """Return the middle of each column, in seconds from `zero` on."""
        middle = self.start + self.step // 2 - zero
        return [round((middle + n * self.step) / 1e9, 4) for n in range(self.columns)]
