"""What a conforming receiver makes of a script: the reference machine, fed with its bytes.

No connection is opened and nothing is waited for. A receiver may read its connections in any
order; the machine takes the steps one after the other as they stand, or, to see whether that
matters, with one connection lagging behind the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiver import ReceiverMachine, configured
from multifd_proto.wire.payload import METHODS

from .script import (
    Absent,
    Arrive,
    Complete,
    Ended,
    Fin,
    Open,
    Pause,
    Reset,
    Script,
    ScriptError,
    Step,
    completion,
)
from .stage import Stage
from .target import Description

SETTLES = 0.1
"""Seconds of a pause in which a receiver has dealt with all that was sent before."""
_METHOD = {method.name: method for method in METHODS}


def predict(script: Script, peer: Description, uuid: bytes) -> ReceiverMachine:
    """Return the machine after the whole script.

    Args:
        script: what is played.
        peer: what the receiver is: its dialect, page size and RAM blocks count.
        uuid: that of its machine.

    Raises:
        ScriptError: a message of the script cannot be made, or a wire is not open.
    """
    performance = Performance(script, peer, uuid)
    performance.do(*script.steps)
    return performance.machine


@dataclass(frozen=True)
class _Opened:
    wire: int


@dataclass(frozen=True)
class _Sent:
    wire: int
    data: bytes


@dataclass(frozen=True)
class _Closed:
    wire: int
    reset: bool


@dataclass(frozen=True)
class _Settled:
    wire: int = -1


_Action: TypeAlias = _Opened | _Sent | _Closed | _Settled


class Performance:
    """A script that is played to the machine, step by step; and again in other orders."""

    def __init__(self, script: Script, peer: Description, uuid: bytes) -> None:
        parameters = MigrationParameters(
            dialect=peer.dialect,
            page_size=peer.page_size,
            channels=script.channels,
            uuid=uuid,
            compression=_METHOD[script.method],
        )
        self._parameters = configured(parameters, peer.blocks)
        self._stage = Stage(script, peer, uuid)
        self._actions: list[_Action] = []
        self._finished: set[str] = set()
        self.machine = ReceiverMachine(self._parameters)
        """The machine after the steps so far."""
        self.wires: dict[str, int] = {}
        """Numbers of the connections, by their names."""

    def do(self, *steps: Step) -> None:
        """Play steps. Raises ScriptError, as `predict` does."""
        for step in steps:
            for action in self._compile(step):
                self._actions.append(action)
                _act(self.machine, action)

    def lagging(self) -> Iterator[ReceiverMachine]:
        """Yield machines that took the same steps, each with another first and last connection.

        What was sent before a pause of `SETTLES` seconds is dealt with before what comes after it.
        """
        for first, last in permutations(self.wires.values(), 2):
            machine = ReceiverMachine(self._parameters)
            for action in _reordered(self._actions, first, last):
                _act(machine, action)
            yield machine

    def _compile(self, step: Step) -> Iterator[_Action]:
        match step:
            case Open():
                self.wires[step.wire] = len(self.wires)
                yield _Opened(self.wires[step.wire])
            case Fin() | Reset():
                self._finished.add(step.wire)
                yield _Closed(self._number(step.wire), isinstance(step, Reset))
            case Pause():
                yield from [_Settled()] if step.seconds >= SETTLES else []
            case Arrive() | Absent() | Ended():
                pass
            case Complete():
                for each in completion(step, [w for w in self.wires if w not in self._finished]):
                    yield from self._compile(each)
            case _:
                data = self._stage.build(step).data
                if step.wire not in self._finished:
                    yield _Sent(self._number(step.wire), data)

    def _number(self, wire: str) -> int:
        if wire not in self.wires:
            raise ScriptError(f"wire {wire!r} is not open")
        return self.wires[wire]


def _act(machine: ReceiverMachine, action: _Action) -> None:
    match action:
        case _Opened():
            machine.open()
        case _Sent():
            machine.receive_data(action.wire, action.data)
        case _Closed():
            machine.receive_eof(action.wire, reset=action.reset)


def _reordered(actions: list[_Action], first: int, last: int) -> Iterator[_Action]:
    """Yield actions, what is said on one wire before what is said on the others, or after it."""
    part: list[_Action] = []
    for action in (*actions, _Settled()):
        if not isinstance(action, _Settled):
            part.append(action)
            continue
        yield from (each for each in part if isinstance(each, _Opened))
        said = [each for each in part if not isinstance(each, _Opened)]
        yield from sorted(said, key=lambda each: (each.wire == last) - (each.wire == first))
        part.clear()
