"""Taking turns: contestants on generated captures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multifd_proto.tests.bigcaptures import Recipe, Truth, generate

from .contestants import Contestant
from .report import GIB
from .running import Answer, BenchmarkError, Run, answered, drop, timed, warm

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Generates captures and runs contestants on them."""

    folder: Path
    """Where captures are written."""
    runs: int
    """Timed runs of each contestant, at most."""
    seconds: float
    """What the runs of one contestant on one capture may take."""
    say: Callable[[str], None]
    """Told what is being done."""

    def scenario(
        self, recipe: Recipe, small: int, contestants: Sequence[Contestant], *, cold: bool = False
    ) -> dict[str, Row]:
        """Return figures by contestant, of one kind of capture.

        Args:
            recipe: of the capture.
            small: bytes of the capture of this kind that tells who is too slow for all of it, and
                gives their figures.
            contestants: who takes part, the baseline first.
            cold: captures are not in the page cache.
        """
        if small >= recipe.size:
            return self._measured(recipe, dict.fromkeys(contestants, self.runs), cold)
        once = dict.fromkeys(contestants, 1)
        first = self._measured(replace(recipe, size=small // 16), once, cold)
        tried = self._measured(replace(recipe, size=small), once, cold)
        times = recipe.size / small
        turns = {c: self._turns(first[c.name], tried[c.name], times) for c in contestants}
        turns[contestants[0]] = self.runs  # what others are compared with
        figures = self._measured(recipe, {c: n for c, n in turns.items() if n}, cold)
        return tried | {name: row for name, row in figures.items() if "note" not in row}

    def _turns(self, first: Row, tried: Row, times: float) -> int:
        """Return how many runs are affordable on a capture so many times as large as was tried."""
        if "note" in first or "note" in tried:
            return 0
        seconds = tried["seconds"][0]
        # to start takes as long for any capture
        reading = max(0.0, seconds - first["seconds"][0]) * tried["bytes"]
        reading /= max(1, tried["bytes"] - first["bytes"])
        return min(self.runs, int(self.seconds / (seconds + reading * (times - 1))))

    def _measured(self, recipe: Recipe, turns: dict[Contestant, int], cold: bool) -> dict[str, Row]:
        figures: dict[str, Row] = {}
        runs: dict[Contestant, list[Run]] = {c: [] for c in turns}
        with self._capture(recipe) as (path, truth):
            answers = dict(self._answers(path, turns, figures))
            for contestant in _in_turn({c: turns[c] for c in answers}):
                if contestant in answers:
                    (drop if cold else warm)(path)
                    try:
                        runs[contestant].append(timed(contestant.on(path), self._patience))
                    except BenchmarkError as error:
                        figures[contestant.name] = {"note": str(error)}
                        del answers[contestant]
        for contestant, answer in answers.items():
            figures[contestant.name] = _row(truth, answer, runs[contestant])
        return {c.name: figures[c.name] for c in turns}

    @contextmanager
    def _capture(self, recipe: Recipe) -> Iterator[tuple[Path, Truth]]:
        self.say(f"generating {recipe.size / GIB:.3g} GiB")
        path = self.folder / "capture"
        yield path, generate(path, recipe)
        path.unlink()

    def _answers(
        self, path: Path, contestants: dict[Contestant, int], failed: dict[str, Row]
    ) -> Iterator[tuple[Contestant, Answer]]:
        """Find out what each of them finds; those that do not run are told in `failed`."""
        for contestant in contestants:
            self.say(f"  {contestant.name}")
            try:
                if why := contestant.lacks():
                    raise BenchmarkError(why)
                warm(path)
                yield contestant, answered(contestant, path, self._patience)
            except BenchmarkError as error:
                failed[contestant.name] = {"note": str(error)}

    @property
    def _patience(self) -> float:
        # an estimate may be wrong, and a hang is none
        return 2 * self.seconds + 10


def _in_turn(turns: dict[Contestant, int]) -> list[Contestant]:
    """Return who runs when: everybody as often as it may, in alternating order."""
    return [
        contestant
        for turn in range(max(turns.values(), default=0))
        for contestant in list(turns)[:: -1 if turn % 2 else 1]
        if turn < turns[contestant]
    ]


def _row(truth: Truth, answer: Answer, runs: Sequence[Run]) -> Row:
    seconds = statistics.median(run.seconds for run in runs)
    packets = truth.total("packets")
    return {
        "bytes": truth.bytes,
        "seconds": [run.seconds for run in runs],
        "gib_per_s": truth.bytes / GIB / seconds,
        "gib_per_s_best": truth.bytes / GIB / min(run.seconds for run in runs),
        "packets_per_s": packets / seconds,
        "packets": packets,
        "found": answer.packets,
        "first_row_s": answer.first,
        "peak_mib": max(run.peak for run in (*runs, answer.run)) / (1 << 20),
    }
