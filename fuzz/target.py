"""What a campaign points at: inputs that can be drawn, run, written down and made smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Something that must not be."""

    kind: str
    """`crashes`, `hangs`, `wedges`, `accepts-bad`, ...; each target says which it knows."""
    requirement: str
    """Id of the requirement that the reference machine names; empty if none."""
    observed: str
    """What was seen, in words."""
    detail: str = ""
    """What tells it from others of its kind and requirement: a signal, a place, a reason."""
    alone: bool = False
    """The detail alone tells it from others, whatever requirement is named."""

    @property
    def signature(self) -> str:
        """What makes two findings the same."""
        requirement = "" if self.alone else self.requirement
        return " ".join(filter(None, (self.kind, requirement, self.detail)))


@dataclass(frozen=True)
class Result:
    """What came of one input."""

    finding: Finding | None = None
    reached: frozenset[str] = frozenset()
    """Labels of what was reached: requirements (`PKT-25`), the peer's trace events, states."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Numbers to be made large, by name: depth, distance to a bound, reaction time."""


class Target(Protocol, Generic[T]):
    """One of a worker's own; inputs are values that compare equal if they do the same."""

    name: str
    """`receiver`, `sender` or `decoder`: as the command calls it."""
    peer: str
    """URI of the peer, or what of our own is under test."""

    def strategy(self) -> SearchStrategy[T]:
        """Return what inputs are drawn from."""

    def run(self, value: T, *, patient: bool = False) -> Result:
        """Run an input against a fresh peer.

        Args:
            value: the input.
            patient: wait longer, as before something is called a finding.

        Raises:
            PeerError: the peer could not be started at all.
        """

    def to_json(self, value: T) -> dict[str, object]:
        """Return the readable form of an input."""

    def from_json(self, data: Mapping[str, object]) -> T:
        """Read it back. Raises MultiFDError if it is none."""

    def smaller(self, value: T) -> Iterator[T]:
        """Yield inputs that are a little smaller or plainer, the boldest first."""

    def describe(self) -> Mapping[str, str]:
        """Return `product`, `version` and `dialect` of the peer."""

    def close(self) -> None:
        """Let go of everything."""
