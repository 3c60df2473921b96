"""What a conforming receiver does with a script, and the probe that shows it.

The reference machine (`conformance.model`) says beforehand whether a script is refused, and by
which requirement; or taken in, and what memory is then; or neither, as something is waited for.
A sentinel page at the end makes the difference visible.

A receiver may read its connections in any order. Before something is called a finding, the machine
is asked again with other connections first and last: what it then does otherwise, a receiver may
do otherwise too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from multifd_proto.conformance.model import Performance
from multifd_proto.conformance.script import (
    MAIN,
    Absent,
    Arrive,
    Ended,
    Fin,
    Main,
    Open,
    Pages,
    Reset,
    Script,
    Step,
)
from multifd_proto.conformance.stage import content
from multifd_proto.conformance.target import MACHINE, Description

from multifd_proto.machine.receiver import ReceiverMachine
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.requirements import Role, load

Place = tuple[bytes, int]
"""RAM block and offset of a page."""
SENTINEL, SALT = 255, 77
"""Page that comes last, and its content: no other packet has them."""
QUIET = 0.15
"""Seconds in which a page that must not come yet would come to one who does not wait for long."""


class Expected(Enum):
    """What a conforming receiver does with a script."""

    ACCEPTS = "accepts"
    REFUSES = "refuses"
    WAITS = "waits"


@dataclass(frozen=True)
class _Outcome:
    """What counts of the machine's state, when two orders of the same steps are compared."""

    expected: Expected
    binds: bool
    closes: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A script with its probe, and what has to come of it."""

    script: Script
    expected: Expected
    requirement: str
    """By which it is refused, or has to be taken or waited for; or empty."""
    why: str
    """In words: the refusal, or what is waited for."""
    memory: Mapping[bytes, bytes | bytearray]
    """Guest memory afterwards, if it is accepted."""
    binds: bool
    """Something is demanded: by a requirement of this peer's dialect, and not left open."""
    reached: tuple[str, ...]
    """Words for how far it went, for feedback."""
    fatal: str
    """By which requirement a receiver that does not come to its end fails: `CHAN-13`, ..."""
    refused_on: str
    """Wire whose fault is refused, or that has to be closed; empty if none."""
    performance: Performance
    peer: Description

    @cached_property
    def settled(self) -> bool:
        """Tell whether it is the same in whatever order a receiver reads its connections."""
        one = _outcome(self.performance.machine, self.peer)
        return all(_outcome(other, self.peer) == one for other in self._others)

    @cached_property
    def touched(self) -> frozenset[Place]:
        """Pages that a receiver may write to while it takes in the script, in some order."""
        return frozenset().union(*(machine.begun for machine in self._machines))

    @cached_property
    def named(self) -> frozenset[Place]:
        """Pages that the script names, also such as lie there only in part."""
        return frozenset(_named(self.script, self.peer))

    @cached_property
    def contested(self) -> frozenset[Place]:
        """Pages whose content depends on the order."""
        size = self.peer.page_size
        unfinished = frozenset().union(*(m.unfinished for m in self._machines))
        return unfinished | frozenset(
            (block, offset)
            for block, offset in self.touched
            if len({bytes(m.memory[block][offset : offset + size]) for m in self._others}) > 1
        )

    @property
    def _machines(self) -> tuple[ReceiverMachine, ...]:
        return (self.performance.machine, *self._others)

    @cached_property
    def _others(self) -> tuple[ReceiverMachine, ...]:
        return tuple(self.performance.lagging())


def prepare(script: Script, peer: Description, uuid: bytes = MACHINE) -> Prepared:
    """Say what a conforming receiver does, and append the probe that shows it.

    Raises:
        ScriptError: a message of the script cannot be made.
    """
    performance = Performance(script, peer, uuid)
    performance.do(*script.steps)
    machine, names = performance.machine, list(performance.wires)
    where = _place(machine, names)
    wire = _probe_wire(script, where)
    steps: tuple[Step, ...] = ()
    if wire and (machine.refusal or not where):
        steps = (Pages(wire=wire, normal=(SENTINEL,), salt=SALT),)
        performance.do(*steps)
    outcome = _outcome(machine, peer)
    # a channel that the sentinel itself brought to be refused
    where = where or _place(machine, names)
    probe = _probe(performance, outcome, where, wire)
    return Prepared(
        script=replace(
            script, steps=(*script.steps, *steps, probe), expect=_EXPECT[outcome.expected]
        ),
        expected=outcome.expected,
        requirement=_label(performance, outcome.expected, wire),
        why=str(machine.refusal or machine.waits),
        memory=machine.memory,
        binds=outcome.binds and not _is_garbled(script),
        reached=(f"rounds {machine.state.passed}", f"channels {len(machine.state.arrived)}"),
        fatal=_fatal(machine, where),
        refused_on=where,
        performance=performance,
        peer=peer,
    )


_EXPECT = {Expected.ACCEPTS: "ACCEPTS", Expected.REFUSES: "REFUSES", Expected.WAITS: "SURVIVES"}


def _place(machine: ReceiverMachine, names: list[str]) -> str:
    """Return the wire that has to be closed first; empty if there is none."""
    if machine.refusal:
        stream = machine.refusal.stream
        return MAIN if stream is None else names[stream]
    return names[next(iter(machine.turned_away))] if machine.turned_away else ""


def _outcome(machine: ReceiverMachine, peer: Description) -> _Outcome:
    closes = () if machine.refusal else tuple(sorted(machine.turned_away))
    if machine.refusal or closes:
        expected = Expected.REFUSES
    else:
        expected = Expected.ACCEPTS if _holds_sentinel(machine, peer) else Expected.WAITS
    if closes:
        ids = {machine.turned_away[number] for number in closes}
        return _Outcome(expected, all(_bound(id_, peer.dialect) for id_ in ids), closes)
    refused = machine.refusal.requirement.id if machine.refusal else ""
    # when the main stream is over, nobody has to look at a channel any more
    binds = not machine.unspecified and not machine.state.over
    return _Outcome(expected, binds and (not refused or _bound(refused, peer.dialect)), closes)


def _bound(requirement: str, dialect: Dialect) -> bool:
    """Tell whether a requirement demands something of a receiver."""
    found = load()[requirement]
    return found.role is Role.RECEIVER and dialect in found.dialects


def _holds_sentinel(machine: ReceiverMachine, peer: Description) -> bool:
    block, size = next(iter(peer.blocks)), peer.page_size
    page = machine.memory[block][SENTINEL * size : (SENTINEL + 1) * size]
    return bool(page == content(SENTINEL, SALT, size))


def _probe(performance: Performance, outcome: _Outcome, where: str, wire: str) -> Step:
    """Return the step that shows what a receiver makes of a script."""
    machine = performance.machine
    if outcome.expected is Expected.ACCEPTS:
        return Arrive(page=SENTINEL, salt=SALT)
    if outcome.expected is Expected.WAITS:
        return Absent(page=SENTINEL, salt=SALT, seconds=QUIET if wire else QUIET / 3)
    if not outcome.binds and where == wire:
        # whichever of the two it is, it shows at once
        return Arrive(page=SENTINEL, salt=SALT)
    if outcome.closes or where == MAIN:
        return Ended(wires=(where,))
    channels = [name for name, number in performance.wires.items() if number in machine.channels]
    return Ended(wires=tuple(dict.fromkeys((where, *channels))))


def _label(performance: Performance, expected: Expected, wire: str) -> str:
    """Return the requirement that a script puts to the test, as far as one can be told."""
    machine = performance.machine
    if machine.refusal:
        return str(machine.refusal.requirement.id)
    if expected is Expected.REFUSES:
        return str(next(iter(machine.turned_away.values())))
    if expected is Expected.WAITS:
        if not machine.state.complete:
            return "CHAN-8"
        if machine.meeting:
            return "SYNC-10"
        return "SYNC-11" if wire and machine.parks(performance.wires[wire]) else ""
    if machine.unknown:
        return "CHAN-7"
    return oddity(machine)


def oddity(machine: ReceiverMachine) -> str:
    """Return the requirement by which the oddest thing was taken; empty if nothing was odd."""
    return min(machine.tolerated, key=_TOLERANCES.index, default="")


_TOLERANCES = (
    "CHAN-9", "INIT-14", "PKT-32", "PAY-17", "SYNC-12", "PAY-16", "PKT-29", "CHAN-10", "CHAN-5",
)  # fmt: skip
"""What says that something odd has to be taken, the oddest first."""


def _fatal(machine: ReceiverMachine, where: str) -> str:
    """Return by which requirement a receiver must not stand still when all connections end."""
    if machine.refusal and where != MAIN:
        return "CHAN-13"
    if machine.unknown or machine.turned_away:
        return "CHAN-7"
    return "SYNC-13" if machine.meeting or machine.state.complete else ""


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


def _is_garbled(script: Script) -> bool:
    """Tell whether the main stream goes on in the middle of a record: it may mean anything."""
    begun = False
    for step in script.steps:
        if isinstance(step, Main):
            if begun and not step.skip:
                return True
            begun = step.first is not None
    return False


def _named(script: Script, peer: Description) -> Iterator[Place]:
    """Yield the pages of a script, on whatever wire and in whatever block."""
    size = peer.page_size
    for step in script.steps:
        parts = (getattr(step, name, ()) for name in ("normal", "zero", "pages"))
        offsets = [page * size for part in parts for page in part]
        fields = getattr(step, "fields", {})
        offsets += list(fields.get("offset", ()))
        # who believes in more pages than there are finds zeros in place of their offsets
        offsets += [0] if {"normal_pages", "zero_pages"} & set(fields) else []
        for block in peer.blocks:
            for offset in offsets:
                yield from ((block, o - o % size) for o in (offset, offset + size - 1))
