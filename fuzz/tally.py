"""What came of a campaign so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.requirements import Role, load

Data = Mapping[str, Any]
CRASHES = "crashes"
"""Kind of the findings that are beyond doubt, if hard to see again."""
_TRIES = 20
_NOTES = 200


@dataclass
class Tally:
    """What came of a campaign so far; `findings` are those that its store holds."""

    seconds: float
    """That the campaign may take."""
    begun: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    """Seconds that the campaign took; 0 while it goes on."""
    executions: int = 0
    skipped: int = 0
    """Inputs that were drawn again, and not run again."""
    reached: Counter[str] = field(default_factory=Counter)
    """Executions that reached a label."""
    seen: Counter[str] = field(default_factory=Counter)
    """Executions that showed a finding, by its signature."""
    findings: dict[str, Data] = field(default_factory=dict)
    """By signature."""
    before: frozenset[str] = frozenset()
    """Signatures that the store held when the campaign began."""
    deaths: int = 0
    """Workers that died."""
    unusable: str = ""
    """Why the peer could not be used any more."""
    notes: list[str] = field(default_factory=list)
    """What else is worth to be known, as it came."""

    @property
    def elapsed(self) -> float:
        """Seconds since the campaign began, until it ended."""
        return self.ended or time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds until the campaign ends."""
        return max(0.0, self.seconds - self.elapsed)

    @property
    def rate(self) -> float:
        """Executions a second."""
        return self.executions / max(self.elapsed, 0.001)

    def note(self, text: str) -> None:
        """Take a note, once."""
        if text not in self.notes and len(self.notes) < _NOTES:
            self.notes.append(text)

    def counted(self) -> dict[str, Data]:
        """Return the findings that count: those that were not refuted when they were tried."""
        return {name: data for name, data in self.findings.items() if not flaky(data)}

    def fresh(self) -> dict[str, Data]:
        """Return those that came, or showed again, since the campaign began."""
        return {
            name: data
            for name, data in self.counted().items()
            if name not in self.before or self.seen[name]
        }

    def requirements(self) -> dict[str, int]:
        """Return how many executions reached each requirement, in the catalogue's order."""
        return {id_: self.reached[id_] for id_ in load() if self.reached[id_]}

    def coverage(self) -> list[dict[str, Any]]:
        """Return what became of each requirement that was reached: kept, or not."""
        catalogue = load()
        broken: Counter[str] = Counter()
        for signature, data in self.counted().items():
            broken[data["finding"].get("requirement", "")] += self.seen[signature]
        return [
            {
                "requirement": id_,
                "slug": catalogue[id_].slug,
                "reached": count,
                "kept": max(0, count - broken[id_]),
                "broken": broken[id_],
            }
            for id_, count in self.requirements().items()
        ]


def flaky(data: Data) -> bool:
    """Tell whether a finding was tried again and did not show: it does not count.

    A crash counts all the same: nobody takes something else for one.
    """
    return _refuted(data) and data["finding"].get("kind") != CRASHES


def _refuted(data: Data) -> bool:
    good, tried = data["finding"].get("confirmed", (0, 0))
    return bool(tried) and not good


def worth_another_try(data: Data, tries: int) -> bool:
    """Tell whether a finding that does not always show may be tried once more when it is met.

    Args:
        data: the finding.
        tries: how often any of its inputs was tried in this campaign.
    """
    confirmed, tried = data["finding"]["confirmed"]
    return bool(tried > confirmed and max(tries, tried) < _TRIES)


def in_reach(role: str, dialect: str) -> list[str]:
    """Return the ids of the requirements that a campaign can reach.

    Whoever fuzzes a receiver breaks those of senders on purpose, and looks at its own.

    Args:
        role: of the peer; `sender`, or another one.
        dialect: of the peer; any if empty.
    """
    spoken = dialect_of(dialect) if dialect else None
    return [
        each.id
        for each in load().values()
        if each.observable in {"wire", "live"}
        and (role != "sender" or each.role is Role.SENDER)
        and (spoken is None or spoken in each.dialects)
    ]
