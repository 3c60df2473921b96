"""What a live view shows, as plain values: nothing in them is tied to a socket or a clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where a migration stands."""

    WAITING = "waiting for a source"
    RUNNING = "running"
    THROUGH = "went through"
    BROKEN = "did not go through"

    @property
    def over(self) -> bool:
        """Nothing more will happen."""
        return self in (State.THROUGH, State.BROKEN)


@dataclass(frozen=True)
class LiveConnection:
    """One connection, as the proxy knows it."""

    number: int
    """In the order of acceptance, from 0."""
    kind: str
    """`multifd`, `main`, `tls`, `other` or `unknown`."""
    id: int | None
    """Id of a channel, if its init has come."""
    sent: int
    """Bytes that have gone from source to target."""
    packets: int = 0
    syncs: int = 0
    normal: int = 0
    zero: int = 0
    done: bool = False
    """It has ended."""
    broken: str = ""
    """Who broke it: `source`, `target` or `proxy`; empty if nobody did."""

    @property
    def name(self) -> str:
        """What it is, in a word: the id of a channel, or the kind."""
        if self.kind == "multifd":
            return "?" if self.id is None else str(self.id)
        return "?" if self.kind == "unknown" else self.kind


@dataclass(frozen=True)
class LiveRound:
    """What was sent between two SYNCs, over all channels."""

    number: int
    seconds: float
    packets: int
    normal: int
    zero: int
    resent: int
    """Pages that an earlier round had sent already."""
    payload: int
    """Bytes."""


@dataclass(frozen=True)
class Finding:
    """A requirement that does not hold."""

    id: str
    level: str
    """`MUST` or `SHOULD`."""
    known: str
    """Why it is a known deviation of the releases that fit; empty if it is a violation."""
    count: int
    examples: tuple[str, ...]
    """The first of them: place and message."""


@dataclass(frozen=True)
class Judged:
    """What the judge knows so far."""

    packets: int
    passed: int
    """Requirements that were exercised and hold."""
    findings: tuple[Finding, ...]
    """Violations first."""
    fits: str
    """QEMU releases that fit."""
    rounds: tuple[LiveRound, ...]
    """The last of them."""
    seconds: float
    """From the first byte of a channel to the last."""
    resent: int
    at_least: bool
    """More pages came than are remembered: `resent` is a lower bound."""
    marks: int
    """Marks of rounds on the main stream."""


@dataclass(frozen=True)
class Snapshot:
    """All that is known at one time."""

    time: float
    """Seconds of a clock that never goes back."""
    state: State
    connections: tuple[LiveConnection, ...] = ()
    judged: Judged | None = None
    behind: float = 0.0
    """Seconds that `judged` is old."""
    problems: tuple[str, ...] = ()
    """Why it did not go through, once it is over."""
    log: tuple[str, ...] = ()
    """What was said since the snapshot before."""
