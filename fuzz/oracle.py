"""The oracle: what a conforming receiver does with a script, held against what a receiver did.

The reference machine (`conformance.model`) says beforehand whether a script is refused, and by
which requirement; or taken in, and what memory is then; or neither, as something is waited for.
A sentinel page at the end makes the difference visible. What a receiver does otherwise is a
`Finding`, and so is every crash, wedge, and write to memory that nobody asked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from multifd_proto.conformance.model import predict
from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.script import (
    MAIN,
    Absent,
    Arrive,
    Ended,
    Fin,
    Open,
    Pages,
    Reset,
    Script,
    Step,
)
from multifd_proto.conformance.stage import content
from multifd_proto.conformance.target import MACHINE, Description

from .target import Finding

SENTINEL, SALT = 255, 77
"""Page that comes last, and its content: no other packet has them."""
_QUIET = 0.05
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
_TRACE = re.compile(r"\b(multifd_\w+)")


class Expected(Enum):
    """What a conforming receiver does with a script."""

    ACCEPTS = "accepts"
    REFUSES = "refuses"
    WAITS = "waits"


class Kind(Enum):
    """In which way a receiver does otherwise, the worst first."""

    CRASHES = "crashes"
    WRITES_ELSEWHERE = "writes-elsewhere"
    WEDGES = "wedges"
    ACCEPTS_BAD = "accepts-bad"
    HANGS = "hangs"
    REJECTS_GOOD = "rejects-good"
    WRONG_IMAGE = "wrong-image"


@dataclass(frozen=True)
class Prepared:
    """A script with its probe, and what has to come of it."""

    script: Script
    expected: Expected
    requirement: str
    """By which it is refused; or empty."""
    why: str
    """In words: the refusal, or what is waited for."""
    memory: Mapping[bytes, bytes]
    """Guest memory afterwards, if it is accepted."""
    touched: frozenset[tuple[bytes, int]]
    """Block and offset of all pages that the script names."""
    contested: frozenset[tuple[bytes, int]]
    """Those of them that several packets name: what they hold depends on who is faster."""
    binds: bool
    """Something is demanded: by a requirement of this peer's dialect, and not left open."""
    reached: tuple[str, ...]
    """Words for how far it went, for feedback."""


def prepare(script: Script, peer: Description, uuid: bytes = MACHINE) -> Prepared:
    """Say what a conforming receiver does, and append the probe that shows it.

    Raises:
        ScriptError: a message of the script cannot be made.
    """
    refused = predict(script, peer, uuid).refusal
    names = [step.wire for step in script.steps if isinstance(step, Open)]
    where = names[refused.stream] if refused and refused.stream is not None else MAIN
    wire = _probe_wire(script, where if refused else "")
    steps = script.steps
    if wire:
        steps += (Pages(wire=wire, normal=(SENTINEL,), salt=SALT),)
    machine = predict(replace(script, steps=steps), peer, uuid)
    block, begin = next(iter(peer.blocks)), SENTINEL * peer.page_size
    page = bytes(machine.memory[block][begin : begin + peer.page_size])
    arrived = bool(wire) and page == content(SENTINEL, SALT, peer.page_size)
    refusal, told = machine.refusal, str(machine.refusal or machine.waits)
    if refusal:
        # what comes on another connection may be there before the refusal
        expected = Expected.REFUSES
        ended = Ended(wires=(where,))
        probe: Step = Arrive(page=SENTINEL, salt=SALT) if wire == where else ended
    elif arrived:
        expected, probe = Expected.ACCEPTS, Arrive(page=SENTINEL, salt=SALT)
    else:
        expected, probe = Expected.WAITS, Absent(page=SENTINEL, salt=SALT, seconds=_QUIET)
    touched = Counter(_touched(script, peer))
    requirement = refusal.requirement if refusal else None
    label = requirement.id if requirement else "SYNC-13" if machine.meeting else ""
    return Prepared(
        script=replace(script, steps=(*steps, probe), expect=_EXPECT[expected]),
        expected=expected,
        requirement=label,
        why=told,
        memory={name: bytes(memory) for name, memory in machine.memory.items()},
        touched=frozenset(touched) | {(block, begin)},
        contested=frozenset(place for place, count in touched.items() if count > 1),
        binds=not machine.unspecified
        and not machine.complete
        and (requirement is None or peer.dialect in requirement.dialects),
        reached=(f"rounds {machine.state.passed}", f"channels {len(machine.state.arrived)}"),
    )


_EXPECT = {Expected.ACCEPTS: "ACCEPTS", Expected.REFUSES: "REFUSES", Expected.WAITS: "SURVIVES"}


def _probe_wire(script: Script, wanted: str) -> str:
    """Return a channel that can be written to, the wanted one if it can; empty if there is none."""
    ended = {step.wire for step in script.steps if isinstance(step, Fin | Reset)}
    opened = [step.wire for step in script.steps if isinstance(step, Open)]
    usable = [name for name in opened if name.isdigit() and name not in ended]
    if wanted:
        return wanted if wanted in usable else ""
    # a message that was left unfinished would swallow it
    last = {getattr(step, "wire", ""): step for step in script.steps}
    whole = [name for name in usable if getattr(last[name], "first", None) is None]
    return str((whole or usable or [""])[0])


def _touched(script: Script, peer: Description) -> Iterator[tuple[bytes, int]]:
    """Yield all pages that a script names, also partly."""
    size = peer.page_size
    for step in script.steps:
        pages = [
            *getattr(step, "normal", ()),
            *getattr(step, "zero", ()),
            *getattr(step, "pages", ()),
        ]
        offsets = [page * size for page in pages]
        offsets += list(getattr(step, "fields", {}).get("offset", ()))
        for block in peer.blocks:
            yield from {
                (block, o // size * size + more)
                for o in offsets
                for more in (0, size * bool(o % size))
            }


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
    return Finding(found.value, prepared.requirement, observed, _detail(found, seen))


def _kind(prepared: Prepared, seen: Observation, stray: str) -> Kind | None:
    if seen.reaction is Reaction.CRASHED or seen.aftermath is Aftermath.CRASHED:
        return Kind.CRASHES
    accepted = prepared.expected is Expected.ACCEPTS
    if stray and not accepted:
        return Kind.WRITES_ELSEWHERE
    if seen.aftermath is Aftermath.WEDGED:
        return Kind.WEDGES
    if not prepared.binds:
        return None
    if prepared.expected is Expected.WAITS:
        if seen.early:
            return Kind.ACCEPTS_BAD
        ended = [wire for wire in seen.ended if wire == MAIN or wire.isdigit()]
        return Kind.REJECTS_GOOD if ended or seen.death else None
    if seen.reaction is Reaction.HUNG:
        return Kind.HANGS
    if accepted:
        if seen.reaction is Reaction.REJECTED:
            return Kind.REJECTS_GOOD
        return Kind.WRONG_IMAGE if stray and seen.reaction is Reaction.ACCEPTED else None
    return Kind.ACCEPTS_BAD if seen.reaction is Reaction.ACCEPTED else None


def _detail(kind: Kind, seen: Observation) -> str:
    if kind is Kind.CRASHES:
        traced = _TRACE.findall(seen.log)
        return " ".join(filter(None, (seen.death or "", traced[-1] if traced else "")))
    if kind is Kind.REJECTS_GOOD:
        return _NUMBER.sub("#", seen.reason[0])[:80] if seen.reason else ""
    return ""


def traced(seen: Observation) -> frozenset[str]:
    """Return the names of the trace events that the receiver has printed."""
    return frozenset(_TRACE.findall(seen.log))
