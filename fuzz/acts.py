"""A script as what is done on its connections, in pieces, and in any order of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Protocol, TypeAlias

from multifd_proto.conformance.script import (
    Complete,
    Fin,
    Message,
    Open,
    Reset,
    Script,
    completion,
)
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE, Description


class Destination(Protocol):
    """What a script is brought to: the machine, or sockets."""

    def open(self) -> object:
        """Take a connection; they are numbered from 0."""

    def receive_data(self, number: int, data: bytes) -> None:
        """Take bytes of a connection."""

    def receive_eof(self, number: int, *, reset: bool = False) -> None:
        """Take the end of a connection."""


Act: TypeAlias = Callable[[Destination], object]
"""What is done on one connection."""


def acts(script: Script, peer: Description, sizes: Sequence[int] = ()) -> Iterator[tuple[int, Act]]:
    """Yield what is done on which connection, by its number, in the order of the script.

    Raises:
        ScriptError: a message of the script cannot be made.
    """
    stage = Stage(script, peer, MACHINE)
    wires: dict[str, int] = {}
    ended: set[str] = set()
    steps = [*script.steps]
    while steps:
        step = steps.pop(0)
        if isinstance(step, Complete):
            steps = completion(step, [wire for wire in wires if wire not in ended]) + steps
        elif isinstance(step, Open):
            wires[step.wire] = len(wires)
            yield wires[step.wire], lambda other: other.open()
        elif getattr(step, "wire", None) not in wires:
            continue
        elif isinstance(step, Fin | Reset):
            ended.add(step.wire)
            yield wires[step.wire], _ending(wires[step.wire], reset=isinstance(step, Reset))
        elif isinstance(step, Message) and step.wire not in ended:
            number = wires[step.wire]
            for piece in _cut(stage.build(step).data, sizes):
                yield number, _sending(number, piece)


def _ending(number: int, *, reset: bool) -> Act:
    return lambda other: other.receive_eof(number, reset=reset)


def _sending(number: int, data: bytes) -> Act:
    return lambda other: other.receive_data(number, data)


def _cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    lengths, at = cycle(sizes or (len(data) or 1,)), 0
    least = 1 + len(data) // 300
    while at < len(data):
        length = max(next(lengths), least)
        yield data[at : at + length]
        at += length


def in_order(todo: Sequence[tuple[int, Act]], order: Sequence[int] = ()) -> Iterator[Act]:
    """Yield acts in another order: that of each connection is kept, and that of the openings.

    Args:
        todo: what `acts` gives.
        order: which of the connections that can do something does it, over and over; as it stands
            if empty.
    """
    if not order:
        yield from (act for _, act in todo)
        return
    left: dict[int, list[Act]] = {}
    for number, act in todo:
        left.setdefault(number, []).append(act)
    opened = 0
    for choice in cycle(order):
        ready = [number for number, rest in left.items() if rest and number <= opened]
        if not ready:
            return
        number = ready[choice % len(ready)]
        opened = max(opened, number + 1)
        yield left[number].pop(0)
