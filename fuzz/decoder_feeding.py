"""Handing a stream over to a machine, in several ways that have to come to the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from multifd_proto.machine.channel import Channel
from multifd_proto.wire.main_stream import MainStream

from .damage import Piece, every
from .guard import Wrong

Machine: TypeAlias = Channel | MainStream


def feed(machine: Machine, stream: Iterable[Piece]) -> None:
    """Hand a stream over: its bytes, and what is missing in it."""
    for piece in stream:
        if isinstance(piece, int):
            machine.receive_gap(piece)
        else:
            machine.receive_data(piece)


def skip(machine: Machine, stream: Iterable[Piece]) -> None:
    """Hand a stream over, all but those bytes that the machine does not want."""
    for piece in stream:
        if isinstance(piece, int):
            machine.receive_gap(piece)
            continue
        while piece:
            spared = min(machine.unwanted(), len(piece))
            if spared:
                machine.receive_skipped(spared)
            else:
                spared = step_of(piece)
                machine.receive_data(piece[:spared])
            piece = piece[spared:]


def step_of(data: bytes) -> int:
    """Return how many bytes are handed over at a time: one, where that does not take long."""
    return every(len(data)).step


def same(name: str, way: str, one: list[Any], other: list[Any]) -> None:
    """Demand that two ways of handing over come to the same."""
    if one != other:
        differing = (
            number
            for number, pair in enumerate(zip(one, other, strict=False))
            if pair[0] != pair[1]
        )
        at = next(differing, min(len(one), len(other)))
        seen, wanted = (str(found[at : at + 1])[:300] for found in (other, one))
        raise Wrong("differs", f"{way}: {seen}, whole: {wanted}", f"{name} {way}")
