"""The oracle: what a receiver did with a script, held against what a conforming one does.

What it does otherwise than `expectation` says is a `Finding`, and so is every crash, wedge, and
write to memory that nobody asked for. Where the specification leaves something open, or it depends
on who is faster, nothing else is.
"""

from __future__ import annotations

import re
from enum import Enum

from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.script import MAIN, Fin, Reset

from multifd_proto.machine.receiver import ReceiverMachine

from .expectation import SALT, SENTINEL, Expected, Place, Prepared, oddity, prepare
from .target import Finding

__all__ = [
    "SALT",
    "SENTINEL",
    "Expected",
    "Kind",
    "Place",
    "Prepared",
    "judge",
    "prepare",
    "said",
    "traced",
]

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
_ASSERTION = re.compile(r"(\w+: Assertion `[^']*')")
_TRACE = re.compile(r"\b(multifd_\w+)")
_PLACE = re.compile(r"^(main stream|(channel|connection|stream) \d+)( @\w+)? ")


class Kind(Enum):
    """In which way a receiver does otherwise, the worst first."""

    CRASHES = "crashes"
    WRITES_ELSEWHERE = "writes-elsewhere"
    WEDGES = "wedges"
    ACCEPTS_BAD = "accepts-bad"
    HANGS = "hangs"
    KEEPS_OPEN = "keeps-open"
    """It has failed, and left some of the channels open."""
    REJECTS_GOOD = "rejects-good"
    WRONG_IMAGE = "wrong-image"
    ANSWERS = "answers"
    """It writes on a channel."""


def judge(prepared: Prepared, seen: Observation, stray: str) -> Finding | None:
    """Hold an observation against what has to come of a script.

    Args:
        prepared: the script.
        seen: what was seen.
        stray: where memory is not as it has to be, in words; empty where it is.
    """
    found = _kind(prepared, seen, stray)
    if found is None:
        return None
    observed = f"{seen.reaction.value}, {seen.stood}{f'; {stray}' if stray else ''}"
    if seen.aftermath is Aftermath.WEDGED:
        observed += "; afterwards it neither ends nor answers"
    requirement, detail = _broken(found, prepared, stray), _detail(found, seen)
    # an assertion tells where it is, whatever has led there
    return Finding(found.value, requirement, observed, detail, alone="Assertion" in detail)


def _kind(prepared: Prepared, seen: Observation, stray: str) -> Kind | None:
    if seen.reaction is Reaction.CRASHED or seen.aftermath is Aftermath.CRASHED:
        return Kind.CRASHES
    if stray and prepared.expected is not Expected.ACCEPTS:
        # who takes what is to be refused may fail of something else later
        taken = prepared.expected is Expected.REFUSES and not _is_denied(prepared, stray)
        named = any(stray.startswith(said(place)) for place in prepared.named)
        return Kind.ACCEPTS_BAD if taken and named else Kind.WRITES_ELSEWHERE
    if seen.aftermath is Aftermath.WEDGED:
        return Kind.WEDGES
    found = _unlike(prepared, seen, stray) if prepared.binds else None
    return found if found and prepared.settled else _answers(seen)


def _answers(seen: Observation) -> Kind | None:
    return Kind.ANSWERS if any(wire.isdigit() for wire in seen.answered) else None


def _unlike(prepared: Prepared, seen: Observation, stray: str) -> Kind | None:
    """Return what a receiver does unlike a conforming one, if something is demanded of it."""
    hung, accepted = seen.reaction is Reaction.HUNG, seen.reaction is Reaction.ACCEPTED
    match prepared.expected:
        case Expected.WAITS:
            if seen.early:
                return Kind.ACCEPTS_BAD
            # who has gone need not be waited for
            ended = any(wire == MAIN or wire.isdigit() for wire in seen.ended)
            return Kind.REJECTS_GOOD if ended and not _left(prepared) else None
        case Expected.REFUSES:
            if accepted:
                return Kind.ACCEPTS_BAD
            if hung and prepared.performance.machine.short and prepared.requirement not in _AT_ONCE:
                return None
            some = prepared.refused_on in seen.ended and prepared.refused_on not in _left(prepared)
            return (Kind.KEEPS_OPEN if some else Kind.HANGS) if hung else None
    if hung:
        return Kind.HANGS
    if seen.reaction is Reaction.REJECTED:
        return Kind.REJECTS_GOOD
    return Kind.WRONG_IMAGE if stray and accepted else None


_AT_ONCE = ("PAY-13", "DEV-6")
"""What has to be refused before the payload is read."""


def _left(prepared: Prepared) -> set[str]:
    """Return the wires that the script ends itself."""
    return {step.wire for step in prepared.script.steps if isinstance(step, Fin | Reset)}


def said(place: Place) -> str:
    """Return a page in words."""
    return f"{place[0].decode('latin-1')} at {place[1]:#x} "


def _is_denied(prepared: Prepared, stray: str) -> bool:
    """Tell whether a page is one of the packet that is to be refused."""
    return any(stray.startswith(said(place)) for place in prepared.performance.machine.denied)


def _broken(kind: Kind, prepared: Prepared, stray: str) -> str:
    """Return the requirement that is broken, as far as it can be told."""
    match kind:
        case Kind.ANSWERS:
            return "CHAN-2"
        case Kind.KEEPS_OPEN:
            return "CHAN-12"
        case Kind.HANGS if _waits_for_a_silent_one(prepared.performance.machine):
            return "CHAN-7"
        case Kind.WEDGES:
            return prepared.fatal or prepared.requirement
        case Kind.CRASHES if prepared.requirement == "SYNC-1":
            return "SYNC-14"
        case Kind.CRASHES if prepared.expected is Expected.WAITS:
            return oddity(prepared.performance.machine) or prepared.requirement
        case Kind.WRITES_ELSEWHERE if _is_denied(prepared, stray):
            return "PKT-30"
    return prepared.requirement


def _waits_for_a_silent_one(machine: ReceiverMachine) -> bool:
    """Tell whether a connection that proves nothing came before what is not reacted to."""
    stream = machine.refusal.stream if machine.refusal else None
    return any(stream is None or number < stream for number in machine.unknown)


def _detail(kind: Kind, seen: Observation) -> str:
    if kind is Kind.CRASHES:
        # which trace event comes last is chance
        place = _ASSERTION.findall(seen.log) or [""]
        return f"{seen.death or ''} {place[-1]}".strip()
    if kind is Kind.REJECTS_GOOD and seen.reason:
        return _NUMBER.sub("#", _PLACE.sub("", seen.reason[0]))[:80]
    return ""


def traced(seen: Observation) -> frozenset[str]:
    """Return the names of the trace events that the receiver has printed."""
    return frozenset(_TRACE.findall(seen.log))
