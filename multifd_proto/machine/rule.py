"""What a rule is: one small function for one requirement that shows on the wire.

A rule yields a `Fault` for each thing that is wrong with an event, and knows nothing of verdicts.
It says in its decorator when it applies, so that what it could not judge is never called passed.
A rule on packets says the same a second time, of columns: which packets of a batch it applies to,
and which of them are wrong. What is wrong with them is said by the function alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multifd_proto.machine.events import Event, HeaderReceived, PacketReceived, PayloadReceived
from multifd_proto.wire.dialect import EVERY, Dialect
from multifd_proto.wire.quirks import Quirk

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene


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


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule finds in a batch: columns with an item a packet, or one value for all."""

    faulty: Any
    """Packets that are wrong, of those that it applies to."""
    applies: Any = True
    """Packets that it applies to."""
    kind: Any = 0
    """Integers that differ where the quirks or the dialects of two packets' faults do."""
    each: bool = False
    """A packet may have any number of faults: the function is asked about each `faulty` one."""


Judge = Callable[[Any, Any, Any], Iterator[Fault]]
"""Called with the migration, the peer (channel or main stream, None at the end) and the event."""
Condition = Callable[[Any, Any, Any], object]
Bulk = Callable[["PacketBatch", "Scene"], Found]
"""Called with a batch and with what the migration knows around it."""

IN_BATCHES = (HeaderReceived, PacketReceived, PayloadReceived)
"""Events that a batch says in columns."""


@dataclass(frozen=True)
class Rule:
    """How one requirement is judged."""

    requirement: str
    on: type[Event]
    judge: Judge
    when: Condition | None
    needs: str | None
    """Attribute of the migration without which it cannot judge."""
    bulk: Bulk | None


RULES: dict[str, Rule] = {}
"""All rules, by requirement."""


def rule(
    requirement: str,
    *,
    on: type[Event],
    when: Condition | None = None,
    needs: str | None = None,
    bulk: Bulk | None = None,
) -> Callable[[Judge], Judge]:
    """Register a function as the rule of a requirement.

    Args:
        requirement: its id; a requirement has one rule.
        on: the events it judges.
        when: tells whether it applies to an event.
        needs: attribute of the migration that has to be known (not None) first.
        bulk: says the same of columns, for a rule on events that come in batches.
    """

    def register(judge: Judge) -> Judge:
        assert requirement not in RULES, f"{requirement} has two rules"
        in_batches = on in IN_BATCHES
        assert in_batches == (bulk is not None), f"{requirement} is judged in one way alone"
        RULES[requirement] = Rule(requirement, on, judge, when, needs, bulk)
        return judge

    return register
