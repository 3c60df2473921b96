"""What is asked of a peer in a case of either role, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from multifd_proto.wire.requirements import Requirement, Role

from .observation import Exchange, Observation
from .verdict import Judgement, Verdict

_SEVERITY = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class Ask:
    """A case, with all that a reader of its verdict wants to know."""

    case: str
    role: Role
    requirement: Requirement
    says: str
    """What is done, in words."""
    expected: str
    group: str = ""
    """Cases of one group are judged by one observation."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on, beside its text."""

    reason: tuple[str, ...] = ()
    aftermath: str = ""
    exchanges: tuple[Exchange, ...] = ()
    log: str = ""

    @classmethod
    def of(cls, seen: Observation) -> Evidence:
        """Return that of an observation."""
        return cls(seen.reason, seen.aftermath.value, seen.exchanges, seen.log)


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    judgement: Judgement
    evidence: Evidence = field(default_factory=Evidence)
    """Of the attempt that counts; empty if there was none."""
    attempts: int = 0
    begun: int = 0
    """When the attempt that counts began, in nanoseconds since the epoch."""


def worst(results: Iterable[Result]) -> Result:
    """Return the first result with the worst verdict."""
    return min(results, key=lambda result: _SEVERITY[result.judgement.verdict])


@dataclass(frozen=True)
class Patience:
    """How much a run bears."""

    repeat: int = 1
    """How often each case is played at least; the worst counts."""
    timeout_scale: float = 1.0
    max_dead: int = 3
    """After so many peers in a row that could not be used, no more is tried."""
