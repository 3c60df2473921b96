"""The account of a run: rows come in from all processes; out go journal, counts and exit code."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from multifd_proto import __version__
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.requirements import Role

from .deviations import WEAK, Deviation, Deviations
from .deviations_file import Surprise
from .journal import Journal
from .releases import version_of
from .rows import Row, unexpected
from .verdict import Verdict

AS_EXPECTED, UNEXPECTED, USAGE, HARNESS, NOTHING = range(5)
"""Exit codes."""
_NOT_RUN = {Verdict.NOT_APPLICABLE.value, Verdict.NOT_EXERCISED.value}
_NOT_JUDGED = _NOT_RUN | {Verdict.REPORTED.value}
_GOOD = {Verdict.PASSED.value, Verdict.PASSED_WEAK.value}
_HEAVY = ("exchanges", "log")


class Ledger:
    """One run's account, kept by the process that controls it."""

    def __init__(
        self, deviations: Deviations, journals: Iterable[Path], *, strict: bool, inconclusive: str
    ) -> None:
        self._deviations = deviations
        self._journals = [Journal(path) for path in journals]
        self._how: dict[str, Any] = {"strict": strict, "inconclusive": inconclusive}
        self._begun = time.monotonic()
        self.rows: list[Row] = []

    def open(self, set_name: str, role: str, peers: list[dict[str, Any]], cases: list[str]) -> None:
        """Write the journal's header."""
        self._write(
            {
                "type": "run",
                "suite": __version__,
                "set": set_name,
                "role": role,
                **self._how,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "host": f"{platform.node()} {platform.system()} {platform.release()}",
                "peers": peers,
                "cases": cases,
            }
        )

    def add(self, row: Row) -> None:
        """Take a row, and write it down."""
        self._write(row)
        self.rows.append({key: value for key, value in row.items() if key not in _HEAVY})

    def end(self, suite: Iterable[str]) -> None:
        """Write the journal's footer.

        Args:
            suite: the ids of all cases that there are.
        """
        self._write(
            {
                "type": "end",
                "seconds": round(time.monotonic() - self._begun, 3),
                "counts": {uri: dict(counts) for uri, counts in self.counts().items()},
                "stale": self.stale(suite),
                "exit": self.exit_code(suite),
            }
        )

    def close(self) -> None:
        """Close the journals."""
        for journal in self._journals:
            journal.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        for journal in self._journals:
            journal.write(line)

    # ---- what it comes to ------------------------------------------------------------------------

    def counts(self) -> dict[str, Counter[str]]:
        """Return for each peer how many cases have which verdict."""
        counts: dict[str, Counter[str]] = {}
        for row in self.rows:
            counts.setdefault(row["peer"], Counter())[row["verdict"]] += 1
        return counts

    def surprises(self) -> list[Row]:
        """Return the rows that fail the run."""
        return [row for row in self.rows if unexpected(row, **self._how)]

    def swallowed(self) -> list[tuple[Deviation, int]]:
        """Return the entries that excuse something, with how many cases each."""
        counts = [
            (entry, sum(_uses(entry, row) for row in self.rows))
            for entry in self._deviations.entries
        ]
        return [(entry, count) for entry, count in counts if count]

    def stale(self, suite: Iterable[str]) -> list[str]:
        """Return the entries that nothing shows any more, although all of their cases ran."""
        ids = list(suite)
        return [
            f"{entry.place}: no case of it fails any more on {uri}"
            for entry in self._deviations.entries
            if not entry.flaky
            for uri, rows in self._by_peer(entry).items()
            if _stale(entry, rows, ids)
        ]

    def _by_peer(self, entry: Deviation) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            if row["dialect"] and _covers(entry, row):
                rows.setdefault(row["peer"], []).append(row)
        return rows

    def exit_code(self, suite: Iterable[str]) -> int:
        """Return what the run comes to."""
        if self.surprises() or self.stale(suite):
            return UNEXPECTED
        verdicts = {row["verdict"] for row in self.rows}
        if Verdict.HARNESS_ERROR.value in verdicts:
            return HARNESS
        return AS_EXPECTED if verdicts - _NOT_RUN else NOTHING

    def new(self) -> list[Surprise]:
        """Return what a file of deviations would have to excuse."""
        return [
            Surprise(
                row["product"],
                ".".join(map(str, _version(row)[:2])),
                row["role"],
                row["case"],
                row["failure"] or WEAK,
            )
            for row in self.surprises()
            if row["failure"] or row["verdict"] == Verdict.PASSED_WEAK.value
        ]


def _version(row: Row) -> tuple[int, ...]:
    return version_of(row["version"], dialect_of(row["dialect"]))


def _covers(entry: Deviation, row: Row) -> bool:
    return entry.covers(row["product"], _version(row), Role(row["role"]), row["case"])


def _uses(entry: Deviation, row: Row) -> bool:
    how = row["failure"] or WEAK
    excused = row["verdict"] == Verdict.DEVIATION.value
    return excused and how in entry.expect and _covers(entry, row)


def _stale(entry: Deviation, rows: list[Row], suite: list[str]) -> bool:
    """Tell whether all cases of an entry were run to a peer, and those that it judged passed."""
    ran = {row["case"] for row in rows}
    if not all(case in ran for case in suite if fnmatchcase(case, entry.case)):
        return False
    judged = [row["verdict"] for row in rows if row["verdict"] not in _NOT_JUDGED]
    return bool(judged) and all(verdict in _GOOD for verdict in judged)
