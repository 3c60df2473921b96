"""Misdeeds: what a destination does to a sender, at which byte of which connection.

A value, and readable JSON:

    {"multifd-misdeeds": 1, "source": {"channels": 2, "return_path": true}, "window": 4096,
     "acts": [{"on": 1, "at": 64, "do": "pause", "seconds": 0.05},
              {"on": 0, "at": 0, "do": "answer", "to": "SHUT", "hex": "0001000400000001"}]}

Connections are numbered in the order in which they come, so that 0 is the main stream's. Until
something else is said, a destination takes whatever comes at once, and answers as it has to. That
it accepts a connection late or never needs no word: with TCP that is a pause or a stall at byte 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from multifd_proto.conformance.target import SourceSetup

from multifd_proto.errors import MultiFDError
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.return_path import NAMES

VERSION = 1
"""Of the JSON form."""
_KEY = "multifd-misdeeds"
SIZE = 256 << 10
"""Bytes of guest memory, if nothing else is said."""
PLAIN = SourceSetup(channels=1, memory="zero", size=SIZE)
"""What a sender is started for, if nothing else is said."""
MEMORIES = ("zero", "mixed", "random")
"""Contents of guest memory, the plainest first."""
ANSWERS = tuple(NAMES.values())
"""The messages of the return path that a destination owes."""

_MOST_SECONDS = 60.0
_MOST_BYTES = 64 << 20
_STEP = 8192
"""QEMU refuses memory of other sizes than a multiple of it."""
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


class MisdeedsError(MultiFDError):
    """A file holds no misdeeds: says place, value seen and value demanded."""


DOINGS: dict[str, tuple[str, ...]] = {
    "pause": ("seconds",),
    "slow": ("piece", "seconds"),
    "stall": (),
    "say": ("hex",),
    "answer": ("to", "hex"),
    "half-close": (),
    "close": (),
    "reset": (),
    "cancel": (),
}
"""What can be done, with what has to be said of it; the mildest first."""
_HARMLESS = frozenset({"pause", "slow"})


@dataclass(frozen=True, order=True)
class Act:
    """What is done when so many bytes of a connection were read."""

    on: int
    """Connection, in the order in which they come."""
    at: int
    """Bytes that were read of it."""
    do: str
    """`pause`: read nothing for `seconds`; `stall`: nothing any more. `slow`: from here on read
    `piece` bytes at a time, with `seconds` in between. `say`: send the bytes `hex`. `answer`: from
    here on send them in place of the answer `to`. `half-close`: end our direction. `close`,
    `reset`: end the connection. `cancel`: have the sender's operator cancel the migration."""
    seconds: float = 0.0
    piece: int = 0
    hex: str = ""
    to: str = ""

    @property
    def harmless(self) -> bool:
        """A migration has to complete all the same."""
        return self.do in _HARMLESS


@dataclass(frozen=True)
class Misdeeds:
    """What a sender is started for, and what is done to it."""

    source: SourceSetup = PLAIN
    acts: tuple[Act, ...] = ()
    """In order, for each connection."""
    window: int | None = None
    """Bytes of the receive buffers; the system's choice if None."""
    accepts: int | None = None
    """Connections until we listen no more: later ones are refused, and reset if they wait."""

    @property
    def harmless(self) -> bool:
        """A migration has to complete all the same."""
        return self.accepts is None and all(act.harmless for act in self.acts)

    def of(self, connection: int) -> list[Act]:
        """Return what is done to a connection, in order of the bytes."""
        return sorted((a for a in self.acts if a.on == connection), key=lambda act: act.at)

    def to_json(self) -> dict[str, object]:
        """Return the readable form, without what is at its default."""
        rows = [{"on": a.on, "at": a.at, "do": a.do} | _said(a) for a in self.acts]
        data: dict[str, object] = {_KEY: VERSION, "source": _source_row(self.source)}
        data |= {key: getattr(self, key) for key in _LIMITS if getattr(self, key) is not None}
        return data | {"acts": rows}


_LIMITS = ("window", "accepts")
_SOURCE = ("channels", "method", "memory", "size", "dirty", "return_path")


def _said(act: Act) -> dict[str, object]:
    return {name: getattr(act, name) for name in DOINGS[act.do]}


def _source_row(source: SourceSetup) -> dict[str, object]:
    values = {name: getattr(source, name) for name in _SOURCE}
    return {name: value for name, value in values.items() if value != getattr(PLAIN, name)}


# ---- reading ------------------------------------------------------------------------------------

_Rule = tuple[Callable[[Any], bool], str]


def _number(least: float, most: float, *kinds: type) -> _Rule:
    must = f"{least:g} to {most:,g}" if kinds else f"{least} to {most}"
    return lambda value: type(value) in (kinds or (int,)) and least <= value <= most, must


def _one_of(*values: str) -> _Rule:
    return lambda value: isinstance(value, str) and value in values, f"one of {', '.join(values)}"


_FLAG: _Rule = (lambda value: isinstance(value, bool), "true or false")
_RULES: dict[str, _Rule] = {
    "on": _number(0, 255),
    "at": _number(0, _MOST_BYTES),
    "do": _one_of(*DOINGS),
    "seconds": _number(0, _MOST_SECONDS, int, float),
    "piece": _number(1, _MOST_BYTES),
    "hex": (lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)), "bytes in hex"),
    "to": _one_of(*ANSWERS),
    "window": _number(1, _MOST_BYTES),
    "accepts": _number(0, 256),
    "channels": _number(1, 255),
    "method": _one_of(*(method.name for method in METHODS)),
    "memory": _one_of(*MEMORIES),
    "size": (lambda value: value in range(_STEP, _MOST_BYTES + 1, _STEP), f"a multiple of {_STEP}"),
    "dirty": _FLAG,
    "return_path": _FLAG,
}
"""What may be said, by the names: a test, and in words what is demanded."""


def load_misdeeds(data: Mapping[str, object]) -> Misdeeds:
    """Read the readable form; what else is in it is left alone, as findings add to it.

    Raises:
        MisdeedsError: it is of another version, or something is unknown or malformed.
    """
    if data.get(_KEY) != VERSION:
        raise MisdeedsError(f"no misdeeds: {_KEY!r} must be {VERSION}")
    source, rows = data.get("source", {}), data.get("acts", [])
    if not isinstance(source, dict) or not isinstance(rows, list):
        raise MisdeedsError("no misdeeds: 'source' must be an object, and 'acts' a list")
    limits: Any = {key: data[key] for key in _LIMITS if data.get(key) is not None}
    _check("misdeeds", limits, _LIMITS)
    _check("source", source, _SOURCE)
    acts = tuple(_act(f"act {number}", row) for number, row in enumerate(rows))
    return Misdeeds(replace(PLAIN, **source), acts, **limits)


def _act(place: str, row: Any) -> Act:
    if not isinstance(row, dict) or row.get("do") not in DOINGS:
        seen = row.get("do") if isinstance(row, dict) else row
        raise MisdeedsError(f"{place}: 'do' is {seen!r}, must be one of {', '.join(DOINGS)}")
    known = ("on", "at", "do", *DOINGS[row["do"]])
    _check(place, row, known)
    for name in known:
        if name not in row:
            raise MisdeedsError(f"{place}: {name!r} is missing")
    return Act(**row)


def _check(place: str, row: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name, value in row.items():
        if name not in known:
            raise MisdeedsError(f"{place}: {name!r} is unknown, must be one of {', '.join(known)}")
        fits, must = _RULES[name]
        if not fits(value):
            raise MisdeedsError(f"{place}: {name} is {value!r}, must be {must}")


# ---- smaller ------------------------------------------------------------------------------------


def smaller(value: Misdeeds) -> Iterator[Misdeeds]:
    """Yield misdeeds that are a little smaller or plainer, the boldest first."""
    acts = value.acts
    for half in (acts[len(acts) // 2 :], acts[: len(acts) // 2]):
        if len(acts) > 2:
            yield replace(value, acts=half)
    for number in range(len(acts)):
        yield replace(value, acts=acts[:number] + acts[number + 1 :])
    for key in _LIMITS:
        if getattr(value, key) is not None:
            yield replace(value, **{key: None})  # type: ignore[arg-type]
    yield from (replace(value, source=source) for source in _plainer(value.source))
    for number, act in enumerate(acts):
        for other in _milder(act):
            yield replace(value, acts=(*acts[:number], other, *acts[number + 1 :]))
    if value.accepts:
        yield replace(value, accepts=value.accepts - 1)


def _plainer(source: SourceSetup) -> Iterator[SourceSetup]:
    for item in fields(SourceSetup):
        default = getattr(PLAIN, item.name)
        if item.name in _SOURCE and getattr(source, item.name) != default:
            yield replace(source, **{item.name: default})
    if source.channels > 2:
        yield replace(source, channels=source.channels - 1)


def _milder(act: Act) -> Iterator[Act]:
    for at in sorted({0, act.at // 2, act.at - act.at % 64, act.at - 1}):
        if 0 <= at < act.at:
            yield replace(act, at=at)
    if act.on:
        yield replace(act, on=act.on - 1)
    if act.do == "reset":
        yield replace(act, do="close")
    if act.seconds > 0.01:
        yield replace(act, seconds=round(act.seconds / 2, 3))
    if len(act.hex) > 2:
        yield replace(act, hex=act.hex[: len(act.hex) // 4 * 2])
    if act.hex.strip("0"):
        yield replace(act, hex="0" * len(act.hex))
