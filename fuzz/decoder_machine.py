"""Fuzzed: the reference receiver without sockets, in any cut and any order of connections."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from multifd_proto.conformance.script import (
    Complete,
    Main,
    Pages,
    Script,
    ScriptError,
    load_script,
)
from multifd_proto.conformance.target import MACHINE, Description

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiver import ReceiverMachine, configured
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.payload import METHODS

from .acts import Act, acts, in_order
from .decoder_subjects import InputError, Subject, described
from .guard import Wrong
from .reductions import smaller
from .sessions import scripts


@dataclass(frozen=True)
class Arranged:
    """A script, and other ways to bring it than all at once and in its order."""

    subject: str
    script: Script
    dialect: str
    sizes: tuple[int, ...] = ()
    """Bytes of the pieces that messages come in, over and over; whole if there are none."""
    order: tuple[int, ...] = ()
    """Which of the connections that have something to say speaks, over and over."""


class ScriptSubject(Subject[Arranged]):
    """A subject whose inputs are scripts."""

    def strategy(self) -> SearchStrategy[Arranged]:
        """Return sessions, most with faults, in some arrangement."""
        return arranged(self.name)

    def to_json(self, value: Arranged) -> dict[str, object]:
        """Return the readable form: that of the script, and what belongs to it."""
        own: dict[str, object] = json.loads(value.script.to_json())
        more = {"sizes": list(value.sizes), "order": list(value.order)}
        return own | {"subject": value.subject, "dialect": value.dialect} | more

    def from_json(self, data: Mapping[str, object]) -> Arranged:
        """Read it back."""
        script = load_script(json.dumps(data))
        try:
            dialect = dialect_of(str(data.get("dialect", DIALECTS[-1].name))).name
        except ValueError as error:
            raise InputError(f"dialect: {error}") from None
        sizes, order = (_numbers(data, name) for name in ("sizes", "order"))
        if not all(size > 0 for size in sizes):
            raise InputError(f"sizes are {sizes!r}, must be above 0")
        return Arranged(self.name, script, dialect, sizes, order)

    def smaller(self, value: Arranged) -> Iterator[Arranged]:
        """Yield inputs in plainer arrangements, and with smaller scripts."""
        if value.order:
            yield replace(value, order=())
        if value.sizes:
            yield replace(value, sizes=())
        for script in smaller(value.script, described(dialect_of(value.dialect))):
            yield replace(value, script=script)
        for size in value.sizes[:1] if len(value.sizes) > 1 else ():
            yield replace(value, sizes=(size,))
        if len(value.order) > 1:
            yield replace(value, order=value.order[:-1])


def _numbers(data: Mapping[str, object], name: str) -> tuple[int, ...]:
    found = data.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, int) for each in found):
        raise InputError(f"{name} are {found!r}, must be a list of numbers")
    return (*found,)


@cache
def _scripts(dialect: str) -> SearchStrategy[Script]:
    peer = described(dialect_of(dialect))
    return scripts(peer, methods=sorted(peer.methods))


_DIALECTS = st.sampled_from([dialect.name for dialect in DIALECTS])
_SIZES = st.lists(st.sampled_from((1, 4, 11, 12, 64, 500, 5000)), max_size=4).map(tuple)
_ORDER = st.lists(st.integers(0, 3), max_size=12).map(tuple)


@st.composite
def arranged(draw: DrawFn, subject: str) -> Arranged:
    """Return scripts in some arrangement; some of them are completed."""
    dialect = draw(_DIALECTS)
    script = draw(_scripts(dialect))
    if not draw(st.integers(0, 3)):
        script = replace(script, steps=(*script.steps, Complete()))
    return Arranged(subject, script, dialect, draw(_SIZES), draw(_ORDER))


# ---- the machine ---------------------------------------------------------------------------------


class MachineSubject(ScriptSubject):
    """`machine.receiver.ReceiverMachine`."""

    name = "machine"

    def check(self, value: Arranged) -> Iterable[str]:
        """Demand the same of all cuts, and of all orders what does not depend on the order."""
        peer = described(dialect_of(value.dialect))
        try:
            todo = [*acts(value.script, peer)]
            cut = [*acts(value.script, peer, value.sizes or (1000,))]
        except ScriptError:
            return
        whole = play(value.script, peer, in_order(todo))
        _compare("cut", _told(whole), _told(play(value.script, peer, in_order(cut))))
        if value.order:
            other = play(value.script, peer, in_order(todo, value.order))
            if not whole.unspecified and not other.unspecified:
                exact = not contested(value.script)
                _compare("order", _outcome(whole, exact=exact), _outcome(other, exact=exact))
        refusal = whole.refusal
        yield refusal.requirement.id if refusal else "complete" if whole.complete else "waits"
        yield f"rounds {whole.state.passed}"


def play(script: Script, peer: Description, todo: Iterable[Act]) -> ReceiverMachine:
    """Return the machine after some acts."""
    parameters = MigrationParameters(
        dialect=peer.dialect,
        page_size=peer.page_size,
        channels=script.channels,
        uuid=MACHINE,
        compression=next(method for method in METHODS if method.name == script.method),
    )
    machine = ReceiverMachine(configured(parameters, peer.blocks))
    for act in todo:
        act(machine)
    return machine


def _told(machine: ReceiverMachine) -> dict[str, object]:
    """Return all that the machine tells."""
    return _outcome(machine, exact=True) | {
        "refusal": str(machine.refusal),
        "memory": machine.memory,
        "waits": machine.waits,
        "unspecified": "" if machine.refusal else machine.unspecified,
    }


def _outcome(machine: ReceiverMachine, *, exact: bool) -> dict[str, object]:
    """Return what is so in any order of connections."""
    told: dict[str, object] = {"refused": machine.refusal is not None}
    if machine.refusal is None:
        told |= {"complete": machine.complete, "rounds": machine.state.passed}
        told |= {"answers": machine.answers} | ({"memory": machine.memory} if exact else {})
    return told


def _compare(way: str, one: dict[str, object], other: dict[str, object]) -> None:
    for name, told in one.items():
        if told != other[name]:
            seen, wanted = ("other memory", "") if name == "memory" else (other[name], told)
            observed = f"{name} in another {way}: {seen!s:.200}, as it was: {wanted!s:.200}"
            raise Wrong("differs", observed, f"machine {way} {name}")


def contested(script: Script) -> bool:
    """Tell whether pages are named twice, or perhaps: then it depends on who is faster."""
    named: Counter[int] = Counter()
    for step in script.steps:
        if isinstance(step, Pages):
            if "offset" in step.fields:
                return True
            named.update((*step.normal, *step.zero))
        elif isinstance(step, Main):
            named.update(step.pages)
    return any(count > 1 for count in named.values())
