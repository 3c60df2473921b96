"""Smaller and plainer scripts than a given one, the boldest first: what a reducer tries.

Nothing here knows what is to be kept: that is for the one who plays them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, TypeVar

from multifd_proto.conformance.script import Main, Pages, Script, Step
from multifd_proto.conformance.target import Description

from .sessions import mended
from .strategies import bounds_of as bounds

T = TypeVar("T")
_NUMBER = re.compile(r"(\d+)(.*)")


def smaller(script: Script, peer: Description) -> Iterator[Script]:
    """Yield scripts that are a little smaller or plainer; none equals the given one.

    Args:
        script: what to start from.
        peer: what it is played to: bounds of fields depend on it.
    """
    for candidate in _candidates(script, peer):
        playable = replace(candidate, steps=mended(candidate.steps))
        if playable != script:
            yield playable


def _candidates(script: Script, peer: Description) -> Iterator[Script]:
    steps = script.steps
    for kept in _without_chunks(steps, least=2):
        yield replace(script, steps=kept)
    if script.channels > 1:
        for number in reversed(range(script.channels)):
            yield _without_channel(script, number)
        yield replace(script, channels=script.channels - 1)
    for wire in dict.fromkeys(getattr(step, "wire", "") for step in steps):
        yield replace(script, steps=tuple(s for s in steps if getattr(s, "wire", "") != wire))
    for kept in _without_chunks(steps, least=1, most=1):
        yield replace(script, steps=kept)
    for at, step in enumerate(steps):
        for plainer in _plainer(step, bounds(peer, script.channels)):
            yield replace(script, steps=(*steps[:at], plainer, *steps[at + 1 :]))
    yield from _renamed(script)
    yield replace(script, method="none")
    yield replace(script, tls=False)


def _without_chunks(
    items: Sequence[T], *, least: int, most: int | None = None
) -> Iterator[tuple[T, ...]]:
    """Yield the items without a half of them, without a quarter, ..., without `least` of them."""
    size = most or len(items) // 2
    while size >= least:
        # what comes last is needed least
        for begin in reversed(range(0, len(items), size)):
            yield (*items[:begin], *items[begin + size :])
        size //= 2


# ---- channels and their wires ------------------------------------------------------------------


def _without_channel(script: Script, number: int) -> Script:
    """Return a script without a channel; those after it move up, with ids up to the bound."""
    kept = [s for s in script.steps if not _is_of(getattr(s, "wire", ""), number)]
    moved = tuple(_moved(step, number, script.channels) for step in kept)
    return replace(script, steps=moved, channels=script.channels - 1)


def _is_of(wire: str, number: int) -> bool:
    match = _NUMBER.fullmatch(wire)
    return bool(match) and int(match[1]) == number  # type: ignore[index]


def _moved(step: Step, number: int, channels: int) -> Step:
    changed: dict[str, Any] = {}
    match = _NUMBER.fullmatch(getattr(step, "wire", ""))
    if match and int(match[1]) > number:
        changed["wire"] = f"{int(match[1]) - 1}{match[2]}"
    given = getattr(step, "fields", {})
    if number < given.get("id", -1) <= channels:
        changed["fields"] = {**given, "id": given["id"] - 1}
    return replace(step, **changed) if changed else step


def _renamed(script: Script) -> Iterator[Script]:
    """Yield the script with a wire named plainly, as the channel that it is."""
    wires = {getattr(step, "wire", "") for step in script.steps}
    for wire in sorted(wires):
        match = _NUMBER.fullmatch(wire)
        if match and match[2] and match[1] not in wires:
            plain: dict[str, Any] = {"wire": match[1]}
            steps = (replace(s, **plain) if _names(s, wire) else s for s in script.steps)
            yield replace(script, steps=tuple(steps))


def _names(step: Step, wire: str) -> bool:
    return getattr(step, "wire", "") == wire


# ---- single steps --------------------------------------------------------------------------------


def _plainer(step: Step, near: Mapping[str, tuple[int, ...]]) -> Iterator[Step]:
    """Yield a step with less in it."""
    if isinstance(step, Pages):
        if step.payload is not None:
            yield replace(step, payload=None, lands=True)
        yield from _fewer_pages(step)
    yield from _at_defaults(step)
    given = getattr(step, "fields", {})
    for name, value in given.items():
        yield _with(step, fields={n: v for n, v in given.items() if n != name})
        for simple in _simpler(value, near.get(name, ())):
            yield _with(step, fields={**given, name: simple})
    for name in ("payload", "hex"):
        text = getattr(step, name, None)
        if text:
            for kept in _without_chunks(bytes.fromhex(text), least=1):
                yield _with(step, **{name: bytes(kept).hex()})
    if isinstance(step, Main) and step.blocks:
        for name in step.blocks:
            yield replace(step, blocks={n: v for n, v in step.blocks.items() if n != name})


def _with(step: Step, **values: Any) -> Step:
    return replace(step, **values)


def _fewer_pages(step: Pages) -> Iterator[Step]:
    used = {*step.normal, *step.zero}
    for name in ("normal", "zero"):
        pages: tuple[int, ...] = getattr(step, name)
        for kept in _without_chunks(pages, least=1):
            yield _with(step, **{name: kept})
        for at, page in enumerate(pages):
            lowest = next(number for number in range(len(used) + 1) if number not in used)
            if lowest < page:
                yield _with(step, **{name: (*pages[:at], lowest, *pages[at + 1 :])})


def _at_defaults(step: Step) -> Iterator[Step]:
    """Yield a step with one of what it says left unsaid."""
    for item in fields(step):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if item.name != "lands" and default not in (MISSING, getattr(step, item.name)):
            yield _with(step, **{item.name: default})


def _simpler(value: Any, near: tuple[int, ...]) -> Iterator[Any]:
    """Yield values that are simpler: 0, a bound, the next one after it; zeros; fewer offsets."""
    if isinstance(value, str):
        zero, alike = "0" * len(value), "41" * (len(value) // 2)
        yield from {zero: (), alike: (zero,)}.get(value, (zero, alike))
    elif isinstance(value, int):
        # up to 255 it fits into every field
        plain = [v for v in (0, *near, *(n + 1 for n in near)) if 0 <= v <= max(value, 255)]
        yield from plain[: plain.index(value)] if value in plain else plain
    else:
        yield from (list(kept) for kept in _without_chunks(value, least=1) if kept)
        for at, item in enumerate(value):
            for simple in _simpler(item, near):
                yield [*value[:at], simple, *value[at + 1 :]]
