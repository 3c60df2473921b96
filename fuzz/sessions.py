"""Hypothesis strategies for whole sessions: valid scripts, and faults as functions on scripts.

A session is drawn as it should be, and then a few faults are done to it, one after the other. A
fault is a strategy that takes the steps and gives them back changed, so that another project can
add its own to `FAULTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from multifd_proto.conformance.script import (
    MAIN,
    DeviceState,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Reset,
    Script,
    Step,
    Sync,
)
from multifd_proto.conformance.target import Description

from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import CHANNEL_MAGIC

from .strategies import changes, messages, packets

Steps = tuple[Step, ...]
_BUILT = (Init, Sync, Pages, DeviceState)
_SENT = (*_BUILT, Main, Raw)
_MOST_STEPS = 40
_QEVM = (STREAM_MAGIC + (3).to_bytes(4, "big")).hex()


@st.composite
def sessions(draw: DrawFn, peer: Description, channels: int) -> Steps:
    """Return valid sessions, from the first connection to somewhere before the end."""
    wires = [str(number) for number in range(channels)]
    syncs: list[Step] = [Sync(wire=wire) for wire in wires]
    steps: list[Step] = [Open(wire=MAIN)]
    late = peer.dialect.peeks and draw(st.booleans())
    steps += [Main(part="header" if late else "start")]
    for wire in wires:
        steps += [Open(wire=wire), Init(wire=wire)]
    steps += [*([Main(part="start")] if late else []), *syncs, Main(part="mark")]
    for _ in range(draw(st.integers(0, 2))):
        steps += draw(
            st.lists(st.sampled_from(wires).flatmap(lambda w: packets(w, peer)), max_size=2)
        )
        steps += [*syncs, Main(part="part"), Main(part="mark")]
    return tuple(steps)


@st.composite
def scripts(
    draw: DrawFn, peer: Description, *, most_faults: int = 3, methods: Sequence[str] = ("none",)
) -> Script:
    """Return scripts: valid sessions, most of them with faults.

    Args:
        draw: of Hypothesis.
        peer: what they are to be played to: its dialect, memory and methods count.
        most_faults: that are done to one session.
        methods: payload methods to draw from.
    """
    channels = draw(st.sampled_from((2, 1, 3)))
    method = draw(st.sampled_from(sorted(set(methods) & peer.methods) or ["none"]))
    steps = draw(sessions(peer, channels))
    for _ in range(draw(st.integers(0, most_faults))):
        fault = draw(st.sampled_from(FAULTS))
        steps = fault(draw, steps, peer, channels)
    return Script(mended(steps)[:_MOST_STEPS], channels=channels, method=method)


# ---- faults --------------------------------------------------------------------------------------

Fault = Callable[[DrawFn, Steps, Description, int], Steps]


def change_a_field(draw: DrawFn, steps: Steps, peer: Description, channels: int) -> Steps:
    """Give a message other values."""
    at = _pick(draw, steps, _BUILT)
    if at is None:
        return steps
    changed = draw(changes(type(steps[at]), peer, channels))
    return _with(steps, at, replace(steps[at], fields=changed))


def leave_out(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Leave a step out."""
    at = draw(st.integers(0, len(steps) - 1)) if steps else 0
    return steps[:at] + steps[at + 1 :]


def repeat(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Send a message twice."""
    at = _pick(draw, steps, _SENT)
    return steps if at is None else (*steps[:at], steps[at], *steps[at:])


def move(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Do a step at another time."""
    at = _pick(draw, steps, _SENT)
    if at is None:
        return steps
    rest = steps[:at] + steps[at + 1 :]
    return _insert(draw, rest, steps[at])


def cut_off(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Send a part of a message, and end the connection, or leave it at that."""
    at = _pick(draw, steps, _SENT)
    if at is None:
        return steps
    wire = steps[at].wire
    size = draw(st.sampled_from((0, 1, 3, 4, 8, 11, 12, 13, 25, 32, 63, 64, 319, 320, 1343, 1344)))
    part = replace(steps[at], first=size)
    ends: list[Steps] = [(), (Fin(wire=wire),), (Reset(wire=wire),)]
    return (*steps[:at], part, *draw(st.sampled_from(ends)), *steps[at + 1 :])


def split(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Send a message in two parts, with something else in between."""
    at = _pick(draw, steps, _SENT)
    if at is None:
        return steps
    size = draw(st.sampled_from((1, 4, 11, 12, 32, 64, 320)))
    head = replace(steps[at], first=size)
    tail = replace(steps[at], skip=size)
    later = steps[at + 1 :]
    place = draw(st.integers(0, len(later)))
    # nothing else can be said on that wire before the message is whole
    own = [n for n, s in enumerate(later) if getattr(s, "wire", None) == steps[at].wire]
    place = min([place, *own])
    return (*steps[:at], head, *later[:place], tail, *later[place:])


def end(draw: DrawFn, steps: Steps, _peer: Description, channels: int) -> Steps:
    """End a connection early, or break it."""
    wire = _wire(draw, channels)
    ends: list[Step] = [Fin(wire=wire), Reset(wire=wire)]
    return _insert(draw, steps, draw(st.sampled_from(ends)))


def add(draw: DrawFn, steps: Steps, peer: Description, channels: int) -> Steps:
    """Send one message more."""
    wire = str(draw(st.integers(0, channels - 1)))
    return _insert(draw, steps, draw(messages(wire, peer, channels)))


def connect(draw: DrawFn, steps: Steps, _peer: Description, channels: int) -> Steps:
    """Open one connection more: of a channel, a second main stream, of anything, or silent."""
    wire = f"{draw(st.integers(0, channels))}x"
    says: list[Steps] = [
        (),
        (Init(wire=wire),),
        (Raw(wire=wire, hex=_QEVM),),
        (Raw(wire=wire, hex=CHANNEL_MAGIC.hex()),),
        (Raw(wire=wire, hex="474554202f20"),),
    ]
    at = draw(st.integers(1, len(steps))) if steps else 0
    return (*steps[:at], Open(wire=wire, refusable=True), *draw(st.sampled_from(says)), *steps[at:])


def spoil_the_payload(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Send another payload than the pages' own."""
    at = _pick(draw, steps, (Pages,))
    if at is None:
        return steps
    payload = draw(st.binary(max_size=64)).hex()
    return _with(steps, at, replace(steps[at], payload=payload, lands=False))


def another_list(draw: DrawFn, steps: Steps, peer: Description, _channels: int) -> Steps:
    """Announce other RAM blocks."""
    at = next((n for n, s in enumerate(steps) if isinstance(s, Main) and s.part == "start"), None)
    if at is None:
        return steps
    names = st.sampled_from([name.decode("latin-1") for name in peer.blocks] + ["other", ""])
    lengths = st.sampled_from([0, peer.page_size, *peer.blocks.values()])
    blocks = draw(st.dictionaries(names, lengths, max_size=3))
    return _with(steps, at, replace(steps[at], blocks=blocks))


def wait(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Wait for a moment."""
    return _insert(draw, steps, Pause(seconds=draw(st.sampled_from((0.01, 0.05)))))


FAULTS: list[Fault] = [
    change_a_field, leave_out, repeat, move, cut_off, split, end, add, connect,
    spoil_the_payload, another_list, wait,
]  # fmt: skip
"""What can be done to a session."""


def mended(steps: Steps) -> Steps:
    """Return steps without what cannot be played: on wires that are not open, or are ended."""
    opened: set[str] = set()
    ended: set[str] = set()
    kept: list[Step] = []
    for step in steps:
        wire = getattr(step, "wire", None)
        if isinstance(step, Open):
            if step.wire in opened:
                continue
            opened.add(step.wire)
        elif wire is not None and (wire not in opened or wire in ended):
            continue
        if isinstance(step, Fin | Reset):
            ended.add(step.wire)
        kept.append(step)
    return tuple(kept)


def _pick(draw: DrawFn, steps: Steps, kinds: tuple[type, ...]) -> int | None:
    places = [number for number, step in enumerate(steps) if isinstance(step, kinds)]
    return draw(st.sampled_from(places)) if places else None


def _with(steps: Steps, at: int, step: Step) -> Steps:
    return (*steps[:at], step, *steps[at + 1 :])


def _insert(draw: DrawFn, steps: Steps, step: Step) -> Steps:
    at = draw(st.integers(0, len(steps)))
    return (*steps[:at], step, *steps[at:])


def _wire(draw: DrawFn, channels: int) -> str:
    wires = [MAIN, *(str(number) for number in range(channels))]
    return str(draw(st.sampled_from(wires)))
