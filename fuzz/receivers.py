"""Live receivers as a campaign's target: one by the oracle's word, or two against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2

from hypothesis.strategies import SearchStrategy
from multifd_proto.conformance.judging import words
from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.player import Budgets
from multifd_proto.conformance.script import (
    MAIN,
    Absent,
    Arrive,
    Ended,
    Pages,
    Script,
    load_script,
)
from multifd_proto.conformance.target import Description

from multifd_proto.peers.owner import Owner

from .executor import PATIENT, QUICK, Executor
from .oracle import SALT, SENTINEL, Prepared, judge, traced
from .reductions import smaller
from .sessions import scripts
from .strategies import bounds_of as bounds
from .target import Finding, Result

DIFFERS = "differs"
"""Kind of finding: two receivers take the same script in different ways."""


@dataclass(frozen=True)
class Played:
    """What came of a script."""

    prepared: Prepared
    """What had to come of it."""
    seen: Observation
    finding: Finding | None


class ReceiverTarget(Owner):
    """Receivers that scripts are played to, each time a fresh one."""

    name = "receiver"

    def __init__(self, uri: str, against: str | None = None) -> None:
        """Name the receiver.

        Args:
            uri: of the receiver.
            against: URI of a second one, to which each script is played too; then a finding is
                what the two do not agree on.

        Raises:
            PeerError: a URI is malformed.
        """
        self._open = ExitStack()
        self._executor = self._open.enter_context(Executor(uri))
        self._other = self._open.enter_context(Executor(against)) if against else None
        self.peer = f"{uri} against {against}" if against else uri

    def close(self) -> None:
        """Let go of the receivers."""
        self._open.close()

    @cached_property
    def description(self) -> Description:
        """What the receiver is. Raises PeerError if it cannot be used at all."""
        return self._executor.description

    def describe(self) -> Mapping[str, str]:
        """Return `product`, `version` and `dialect` of the peer; `against`, if there is another."""
        one = self.description
        facts = {"product": one.product, "version": one.version, "dialect": one.dialect.name}
        return facts | ({"against": self._other.uri} if self._other else {})

    def strategy(self) -> SearchStrategy[Script]:
        """Return sessions, valid ones and such with faults."""
        return scripts(self.description, methods=sorted(self.description.methods))

    def run(self, value: Script, *, patient: bool = False) -> Result:
        """Play a script to a fresh receiver.

        Raises:
            PeerError: the receiver could not be started.
            ScriptError: a message of the script cannot be made.
        """
        played = self.play(value, PATIENT if patient else QUICK)
        prepared, seen = played.prepared, played.seen
        near = list(_distances(value, self.description))
        reached = {f"{name} {far:+}" for name, far in near if abs(far) <= 1}
        scores = {f"near {name}": -log2(1 + abs(far)) for name, far in near}
        return Result(
            played.finding,
            frozenset(reached | set(_labels(prepared, seen))),
            scores | _scores(prepared, seen),
        )

    def play(self, value: Script, budgets: Budgets) -> Played:
        """Play a script, and wait as long as the budgets say; raises what `run` does."""
        prepared = self._executor.prepare(value)
        if self._other is None:
            seen, stray = self._executor.execute(prepared, budgets)
            return Played(prepared, seen, judge(prepared, seen, stray))
        prepared = _for_both(prepared)
        seen, _ = self._executor.execute(prepared, budgets)
        own = replace(self._other.prepare(value), script=prepared.script)
        other, _ = self._other.execute(own, budgets)
        return Played(prepared, seen, _difference(prepared, seen, other))

    def to_json(self, value: Script) -> dict[str, object]:
        """Return the script with its probe, as it is played to this receiver."""
        data: dict[str, object] = json.loads(self._executor.prepare(value).script.to_json())
        return data

    def from_json(self, data: Mapping[str, object]) -> Script:
        """Read a script, of whichever origin. Raises ScriptError if it is none."""
        return without_probe(load_script(json.dumps(data)))

    def smaller(self, value: Script) -> Iterator[Script]:
        """Yield scripts that are a little smaller or plainer, the boldest first."""
        return smaller(value, self.description)


def without_probe(script: Script) -> Script:
    """Return a script without the steps that the oracle appends, and without its expectation."""
    steps = script.steps
    last = steps[-1] if steps else None
    watches = isinstance(last, Arrive | Absent) and (last.page, last.salt) == (SENTINEL, SALT)
    if watches or isinstance(last, Ended):
        steps = steps[:-1]
    if steps and isinstance(steps[-1], Pages) and steps[-1] == _sentinel(steps[-1].wire):
        steps = steps[:-1]
    return replace(script, steps=steps, expect="")


def _sentinel(wire: str) -> Pages:
    return Pages(wire=wire, normal=(SENTINEL,), salt=SALT)


# ---- feedback ------------------------------------------------------------------------------------


def _labels(prepared: Prepared, seen: Observation) -> Iterator[str]:
    """Yield what was reached, in the machine and in the receiver."""
    yield from prepared.reached
    yield from traced(seen)
    yield f"{prepared.expected.value}, is {seen.reaction.value}"
    if prepared.requirement:
        yield prepared.requirement


def _scores(prepared: Prepared, seen: Observation) -> dict[str, float]:
    """Return how deep it went, and how long the receiver thought about it, in seconds."""
    packets = sum(x.kind == "sent" and x.wire[:1].isdigit() for x in seen.exchanges)
    depth = (word.split() for word in prepared.reached)
    scores = {name: float(number) for name, number in depth}
    return scores | {"messages": float(packets), "reaction": seen.seconds}


def _distances(script: Script, peer: Description) -> Iterator[tuple[str, int]]:
    """Yield the fields that a script sets to a number, and how far they are from a bound."""
    near = bounds(peer, script.channels)
    for step in script.steps:
        for name, value in getattr(step, "fields", {}).items():
            if isinstance(value, int) and near.get(name):
                yield f"{step.do} {name}", min((value - n for n in near[name]), key=abs)


# ---- two receivers -------------------------------------------------------------------------------


def _for_both(prepared: Prepared) -> Prepared:
    """Return a script that waits for acceptance or refusal, whatever is to be expected."""
    steps = (*prepared.script.steps[:-1], Arrive(page=SENTINEL, salt=SALT))
    return replace(prepared, script=replace(prepared.script, steps=steps))


def _difference(prepared: Prepared, one: Observation, other: Observation) -> Finding | None:
    """Return what two receivers do not agree on, where something is demanded."""
    outcomes = _outcome(one), _outcome(other)
    if not prepared.binds or outcomes[0] == outcomes[1]:
        return None
    return Finding(
        DIFFERS,
        prepared.requirement,
        f"one {words(one)}; the other {words(other)}; to be expected: {prepared.expected.value}",
        f"{outcomes[0]}, the other {outcomes[1]}",
    )


def _outcome(seen: Observation) -> str:
    """Return in a word or two what a receiver made of a script."""
    if Reaction.CRASHED is seen.reaction or seen.aftermath is Aftermath.CRASHED:
        return "crashes"
    if seen.reaction is Reaction.ACCEPTED or seen.early:
        return "accepts another image" if seen.image else "accepts"
    ended = any(wire == MAIN or wire.isdigit() for wire in seen.ended)
    return "refuses" if ended or seen.death or seen.reaction is Reaction.REJECTED else "waits"
