"""Verdicts: what the judged events come to, for one dialect or for the one they point at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.rule import RULES, Fault
from multifd_proto.wire.dialect import DIALECTS, Dialect
from multifd_proto.wire.quirks import Quirk
from multifd_proto.wire.requirements import Level, Requirement, load


class Verdict(Enum):
    """What became of a requirement."""

    PASSED = "passed"
    FAILED = "failed"
    DEVIATION = "known deviation"
    NOT_EXERCISED = "not exercised"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault, and where it was."""

    requirement: Requirement
    stream: int | None
    channel: int | None
    """Id of the channel, if known; None for the main stream as well."""
    offset: int | None
    """Byte offset in the connection's stream; None where it is about the whole migration."""
    time: int
    """Nanoseconds since the epoch, 0 where unknown."""
    fault: Fault

    @property
    def place(self) -> str:
        """Where it was, in words."""
        if self.stream is None:
            return "migration"
        where = (
            "main stream" if self.requirement.id.startswith("MAIN-") else f"stream {self.stream}"
        )
        if self.channel is not None:
            where = f"channel {self.channel}"
        return where if self.offset is None else f"{where} @{self.offset:#x}"

    @property
    def message(self) -> str:
        """What was seen and what was demanded."""
        must = self.requirement.level.value.lower()
        return f"{self.fault.what} is {self.fault.seen}, {must} be {self.fault.demanded}"

    def __str__(self) -> str:
        return f"{self.place} {self.requirement.id}: {self.message}"


@dataclass
class Tally:
    """All faults of one kind: same requirement, same dialects, same quirks."""

    requirement: Requirement
    quirks: tuple[Quirk, ...]
    dialects: frozenset[Dialect]
    count: int
    examples: list[Violation]

    def explained(self, dialect: Dialect) -> Quirk | None:
        """Return the quirk of a dialect that explains it."""
        return next((q for q in self.quirks if dialect in q.dialects), None)

    def concerns(self, dialect: Dialect) -> bool:
        """Tell whether it is a fault in a dialect at all."""
        return dialect in self.dialects and dialect in self.requirement.dialects


@dataclass(frozen=True)
class Result:
    """One requirement's verdict and what it rests on."""

    requirement: Requirement
    verdict: Verdict
    applied: int
    """Events that it was judged on."""
    count: int
    """Violations, those known as deviations included."""
    violations: tuple[Violation, ...]
    """The first of them."""
    quirk: Quirk | None
    """What explains them, excused or not."""
    reason: str
    """Why it was not exercised, if it was not."""


@dataclass(frozen=True)
class Report:
    """The verdict on every requirement that shows on the wire."""

    dialect: Dialect
    """Whose behaviour was demanded."""
    candidates: tuple[Dialect, ...]
    """All dialects that fit as well, where none was given."""
    given: MigrationParameters
    results: tuple[Result, ...]

    def of(self, verdict: Verdict) -> list[Result]:
        """Return the results with a verdict."""
        return [result for result in self.results if result.verdict is verdict]

    @property
    def violated(self) -> bool:
        """A MUST is violated."""
        return any(r.requirement.level is Level.MUST for r in self.of(Verdict.FAILED))

    @property
    def exercised(self) -> bool:
        """At least one requirement was judged."""
        return any(r.applied for r in self.results)


_UNKNOWN = {
    "channels": "the number of channels is not known (--channels)",
    "uuid": "the machine's UUID is not known (--uuid)",
    "blocks": "the list of RAM blocks was not seen",
    "given_blocks": "which blocks migrate is not known",
    "first_init": "one init message has nothing to be compared with",
    "method": "no packet with pages was seen",
}


def conclude(
    given: MigrationParameters, tallies: list[Tally], applied: dict[str, int], hidden: bool
) -> Report:
    """Weigh what was found: infer the dialect if none is given, then give each verdict."""
    candidates = (given.dialect,) if given.dialect else _consistent(tallies)
    dialect = candidates[-1]
    results = tuple(
        _result(requirement, dialect, tallies, applied.get(requirement.id, 0), hidden)
        for requirement in load().values()
        if requirement.id in RULES
    )
    return Report(dialect, candidates, given, results)


def _consistent(tallies: list[Tally]) -> tuple[Dialect, ...]:
    """Return the dialects that what was found contradicts least, oldest first."""
    weights = {d: _contradictions(d, tallies) for d in DIALECTS}
    return tuple(d for d in DIALECTS if weights[d] == min(weights.values()))


def _contradictions(dialect: Dialect, tallies: list[Tally]) -> tuple[int, int, int]:
    """Count the requirements violated: MUSTs, SHOULDs, and those that a known defect explains."""
    found: dict[object, set[str]] = {Level.MUST: set(), Level.SHOULD: set(), "defect": set()}
    for tally in tallies:
        quirk = tally.explained(dialect)
        if tally.concerns(dialect) and not (quirk and not quirk.defect):
            found["defect" if quirk else tally.requirement.level].add(tally.requirement.id)
    return len(found[Level.MUST]), len(found[Level.SHOULD]), len(found["defect"])


def _result(
    requirement: Requirement, dialect: Dialect, tallies: list[Tally], applied: int, hidden: bool
) -> Result:
    own = [t for t in tallies if t.requirement is requirement and t.concerns(dialect)]
    # what is not excused comes first
    own.sort(key=lambda t: _excused(t, dialect))
    verdict, reason = Verdict.PASSED, ""
    if dialect not in requirement.dialects:
        verdict, reason = Verdict.NOT_APPLICABLE, f"binds {requirement.dialect_text}"
    elif own:
        verdict = Verdict.DEVIATION if _excused(own[0], dialect) else Verdict.FAILED
    elif not applied:
        verdict, reason = Verdict.NOT_EXERCISED, _why_not(requirement, hidden)
    return Result(
        requirement,
        verdict,
        applied,
        sum(t.count for t in own),
        tuple(v for t in own for v in t.examples),
        own[0].explained(dialect) if own else None,
        reason,
    )


def _excused(tally: Tally, dialect: Dialect) -> bool:
    quirk = tally.explained(dialect)
    return quirk is not None and not quirk.defect


def _why_not(requirement: Requirement, hidden: bool) -> str:
    needs = RULES[requirement.id].needs
    if needs in _UNKNOWN:
        return _UNKNOWN[needs]
    return "nothing showed it" + (", and bytes are missing" if hidden else "")
