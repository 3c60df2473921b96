"""What a rule is: one small function for one requirement that shows on the wire.

A rule yields a `Fault` for each thing that is wrong with an event, and knows nothing of verdicts.
It says in its decorator when it applies, so that what it could not judge is never called passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from multifd_proto.machine.events import Event
from multifd_proto.wire.dialect import EVERY, Dialect
from multifd_proto.wire.quirks import Quirk


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `WHAT is SEEN, must be DEMANDED`."""

    what: str
    seen: str
    demanded: str
    quirks: tuple[Quirk, ...] = ()
    """Known deviations of real senders that look like this."""
    dialects: frozenset[Dialect] = EVERY
    """The dialects in which it is wrong."""
    stream: int | None = None
    """The connection, where it is not that of the event."""


Judge = Callable[[Any, Any, Any], Iterator[Fault]]
"""Called with the migration, the peer (channel or main stream, None at the end) and the event."""
Condition = Callable[[Any, Any, Any], object]


@dataclass(frozen=True)
class Rule:
    """How one requirement is judged."""

    requirement: str
    on: type[Event]
    judge: Judge
    when: Condition | None
    needs: str | None
    """Attribute of the migration without which it cannot judge."""


RULES: dict[str, Rule] = {}
"""All rules, by requirement."""


def rule(
    requirement: str,
    *,
    on: type[Event],
    when: Condition | None = None,
    needs: str | None = None,
) -> Callable[[Judge], Judge]:
    """Register a function as the rule of a requirement.

    Args:
        requirement: its id; a requirement has one rule.
        on: the events it judges.
        when: tells whether it applies to an event.
        needs: attribute of the migration that has to be known (not None) first.
    """

    def register(judge: Judge) -> Judge:
        assert requirement not in RULES, f"{requirement} has two rules"
        RULES[requirement] = Rule(requirement, on, judge, when, needs)
        return judge

    return register
