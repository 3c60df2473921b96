"""Runs side by side: requirement by requirement, a column a peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import groupby

from multifd_proto.wire.requirements import load

from ..verdict import Verdict
from .run import Peer, Row, Run

SYMBOLS = {
    Verdict.HARNESS_ERROR: "‼",
    Verdict.FAILED: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.DEVIATION: "Δ",
    Verdict.PASSED_WEAK: "≈",
    Verdict.PASSED: "✓",
    Verdict.REPORTED: "•",
    Verdict.NOT_EXERCISED: "○",
    Verdict.NOT_APPLICABLE: "-",
}
"""Verdict -> its symbol; of several cases of a requirement the first in this order is shown."""
MISSING = "…"
"""Symbol of what a run has selected, but not reported."""
WIRE_LINES = 64
"""Lines of a wire log that are shown, the last ones."""
_BAD = (Verdict.HARNESS_ERROR, Verdict.FAILED, Verdict.INCONCLUSIVE)
_JUDGED = (Verdict.INCONCLUSIVE, Verdict.DEVIATION, Verdict.PASSED_WEAK, Verdict.PASSED)
_ORDER = list(SYMBOLS)


@dataclass(frozen=True)
class Column:
    """One peer of one run, in one role."""

    number: int
    """From 1, in the whole report."""
    label: str
    role: str
    run: Run
    peer: Peer

    @cached_property
    def rows(self) -> list[Row]:
        """What became of the cases, in the order in which they ended."""
        return _of(self.run, self.role, self.peer)

    @cached_property
    def by_case(self) -> dict[str, list[Row]]:
        """The rows of each case; usually one."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.case, []).append(row)
        return found

    @property
    def counts(self) -> list[tuple[Verdict, int]]:
        """How many rows there are of each verdict that occurs, the worst first."""
        found = Counter(row.verdict for row in self.rows)
        return [(verdict, found[verdict]) for verdict in _ORDER if found[verdict]]

    @property
    def unexpected(self) -> list[Row]:
        """The rows that somebody has to look at, in the order of the specification."""
        bad = {*_BAD, Verdict.PASSED_WEAK} if self.run.strict else {*_BAD}
        found = [row for row in self.rows if row.verdict in bad]
        return sorted(found, key=lambda row: (_place(row), row.case))

    @property
    def cases(self) -> list[str]:
        """The cases that were selected."""
        return [case for case in self.run.cases if _role(case) in ("", self.role)]

    @cached_property
    def missing(self) -> list[str]:
        """Cases that were selected, but of which nothing is known."""
        return [case for case in self.cases if case not in self.by_case]

    @property
    def outcome(self) -> str:
        """The verdict on the peer, in a word or two."""
        scored = {row.verdict for row in self.rows if row.scored}
        if Verdict.FAILED in scored or (self.run.strict and Verdict.PASSED_WEAK in scored):
            return "fails"
        if Verdict.HARNESS_ERROR in scored or self.peer.error:
            return "harness error"
        if Verdict.INCONCLUSIVE in scored and not self.run.lenient:
            return "inconclusive"
        if self.missing or not self.run.complete:
            return "incomplete"
        return "passes" if scored.intersection(_JUDGED) else "nothing exercised"

    @property
    def sign(self) -> str:
        """Symbol of the outcome."""
        return {
            "passes": SYMBOLS[Verdict.PASSED],
            "fails": SYMBOLS[Verdict.FAILED],
            "harness error": SYMBOLS[Verdict.HARNESS_ERROR],
            "incomplete": MISSING,
        }.get(self.outcome, SYMBOLS[Verdict.INCONCLUSIVE])


@dataclass(frozen=True)
class CaseLine:
    """One case: what each peer of the section did about it."""

    id: str
    says: str
    expected: str
    cells: tuple[tuple[Row, ...], ...]
    """Rows by column; usually one each."""


@dataclass(frozen=True)
class Line:
    """One requirement: its cases, and the worst of each column."""

    id: str
    title: str
    level: str
    text: str
    anchor: str
    """Where it stands in `spec/`."""
    cases: tuple[CaseLine, ...]
    symbols: tuple[tuple[str, str], ...]
    """Symbol and word by column."""


@dataclass(frozen=True)
class Chapter:
    """The requirements of a chapter of the specification."""

    file: str
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Section:
    """All that was run for one role."""

    role: str
    columns: tuple[Column, ...]
    chapters: tuple[Chapter, ...]


def sections(runs: Sequence[Run]) -> list[Section]:
    """Put runs beside each other, by role, in the order given."""
    columns = _columns(runs)
    roles = dict.fromkeys(column.role for column in columns)
    return [_section(role, [c for c in columns if c.role == role]) for role in roles]


def _columns(runs: Iterable[Run]) -> list[Column]:
    found = [
        (role, run, peer)
        for run in runs
        for role in run.roles
        for peer in {peer.uri: peer for peer in run.peers if _asked(run, role, peer)}.values()
    ]
    names = Counter((role, _name(peer)) for role, _, peer in found)
    uris = Counter((role, peer.uri) for role, _, peer in found)
    columns = []
    for number, (role, run, peer) in enumerate(found, 1):
        label = _name(peer)
        if names[role, label] > 1:
            label = peer.uri if uris[role, peer.uri] == 1 else f"{label} ({run.name})"
        columns.append(Column(number, label, role, run, peer))
    return columns


def _asked(run: Run, role: str, peer: Peer) -> bool:
    """Tell whether a run has a peer in a role, as far as it is known."""
    if peer.role:
        return peer.role == role
    return bool(_of(run, role, peer)) or not any(row.peer == peer.uri for row in run.rows)


def _of(run: Run, role: str, peer: Peer) -> list[Row]:
    return [row for row in run.rows if row.peer == peer.uri and row.role == role]


def _role(case: str) -> str:
    """Return whom a case asks; empty if its requirement is unknown."""
    requirement = load().get(case.partition("/")[0])
    return requirement.role.value if requirement else ""


def _name(peer: Peer) -> str:
    """Return product and number of the version, without what a distribution adds to it."""
    return " ".join([peer.product, *peer.version.split()[:1]]).strip() or peer.uri


def _section(role: str, columns: list[Column]) -> Section:
    rows = sorted((row for column in columns for row in column.rows), key=_place)
    chapters = [
        Chapter(
            file,
            _title(file),
            tuple(_line(list(of), columns) for _, of in groupby(group, lambda r: r.requirement)),
        )
        for file, group in groupby(rows, lambda row: row.chapter.partition("#")[0])
    ]
    return Section(role, tuple(columns), tuple(chapters))


def _line(rows: list[Row], columns: list[Column]) -> Line:
    first = rows[0]
    selected = dict.fromkeys(case for column in columns for case in column.run.cases)
    found = {row.case for row in rows}
    cases = [case for case in selected if case in found] + sorted(found - selected.keys())
    return Line(
        first.requirement,
        first.title,
        first.level,
        first.text,
        first.chapter,
        tuple(_case(case, columns) for case in cases),
        tuple(_worst(first.requirement, column) for column in columns),
    )


def _case(case: str, columns: list[Column]) -> CaseLine:
    cells = tuple(tuple(column.by_case.get(case, ())) for column in columns)
    first = next(row for rows in cells for row in rows)
    return CaseLine(case, first.says, first.expected, cells)


def _worst(requirement: str, column: Column) -> tuple[str, str]:
    """Return symbol and word for the worst of a requirement's cases.

    What a run has not reported could be bad: it stands before all that is good.
    """
    found = {row.verdict for row in column.rows if row.requirement == requirement}
    missing = any(case.partition("/")[0] == requirement for case in column.missing)
    for verdict in _BAD if missing else _ORDER:
        if verdict in found:
            return SYMBOLS[verdict], verdict.value
    return (MISSING, "not reported") if missing else ("", "not selected")


def _place(row: Row) -> tuple[str, int, str]:
    """Key of a row that sorts as the specification does, and what it does not know last."""
    order = _order()
    return row.chapter.partition("#")[0], order.get(row.requirement, len(order)), row.requirement


@cache
def _order() -> dict[str, int]:
    return {requirement: n for n, requirement in enumerate(load())}


@cache
def _title(file: str) -> str:
    """Return the heading of a chapter; its file's name if it is not one of ours."""
    chapters = {f.name: f for f in files("multifd_proto.spec").iterdir()}
    if not file.endswith(".md") or file not in chapters:
        return file or "Elsewhere"
    return chapters[file].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
