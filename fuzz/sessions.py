"""Hypothesis strategies for whole sessions: valid scripts, and faults as functions on scripts.

A session is drawn as it should be, and then a few faults are done to it, one after the other. A
fault is a function that takes the steps and gives them back changed; more of them can be handed to
`scripts`. A property of a receiver, here that it survives whatever is sent to it:

    from hypothesis import given, settings
    from multifd_proto.fuzz.executor import Executor
    from multifd_proto.fuzz.sessions import scripts

    executor = Executor("builtin:")

    @settings(deadline=None)
    @given(scripts(executor.description))
    def test_it_survives(script):
        finding = executor.find(executor.prepare(script))
        assert finding is None or finding.kind not in ("crashes", "wedges"), finding
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from multifd_proto.conformance.model import SETTLES
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

from multifd_proto.machine.refusal import MAX_DEVICE_STATE
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import CHANNEL_MAGIC

from .strategies import changes, messages, packets, page_numbers

Steps = tuple[Step, ...]
_BUILT = (Init, Sync, Pages, DeviceState)
_SENT = (*_BUILT, Main, Raw)
_MOST_STEPS = 40
_QEVM = (STREAM_MAGIC + (3).to_bytes(4, "big")).hex()


@st.composite
def sessions(draw: DrawFn, peer: Description, channels: int) -> Steps:
    """Return valid sessions, from the first connection to somewhere before the end."""
    wires = [str(number) for number in range(channels)]
    wire = st.sampled_from(wires)
    steps = [*draw(_openings(peer, draw(st.permutations(wires))))]
    for _ in range(draw(st.integers(0, 2))):
        steps += [draw(packets(draw(wire), peer)) for _ in range(draw(st.integers(0, 2)))]
        steps += [*map(_sync, wires), Main(part="part"), Main(part="mark")]
    # here nobody waits for anybody: what one channel does to the others is seen best
    return (*steps, *(draw(packets(draw(wire), peer)) for _ in range(draw(st.integers(1, 2)))))


@st.composite
def _openings(draw: DrawFn, peer: Description, wires: Sequence[str]) -> Steps:
    """Return a session up to its first mark; the main stream first, last, or begun and left."""
    start = Main(part="start", return_path=peer.return_path and draw(st.booleans()))
    opened = [step for wire in wires for step in (Open(wire=wire), Init(wire=wire))]
    first = [*map(_sync, sorted(wires))]
    order = draw(st.sampled_from(("first", "late", "last") if peer.dialect.peeks else ("first",)))
    begun: list[Step] = {
        "first": [Open(wire=MAIN), start, *opened, *first],
        "late": [Open(wire=MAIN), Main(part="header"), *opened, start, *first],
        "last": [*opened, *first, Open(wire=MAIN), start],
    }[order]
    return (*begun, Main(part="mark"))


def _sync(wire: str) -> Step:
    return Sync(wire=wire)


@st.composite
def scripts(
    draw: DrawFn,
    peer: Description,
    *,
    most_faults: int = 3,
    methods: Sequence[str] | None = None,
    faults: Sequence[Fault] | None = None,
) -> Script:
    """Return scripts: valid sessions, most of them with faults.

    Args:
        draw: of Hypothesis.
        peer: what they are to be played to: its dialect, memory and methods count.
        most_faults: that are done to one session.
        methods: payload methods to draw from; all of the peer's if None.
        faults: those to draw from; `FAULTS` if None.
    """
    channels = draw(st.sampled_from((2, 1, 3)))
    known = peer.methods if methods is None else set(methods) & peer.methods
    # half of all without compression: much can only be seen there
    plain = ["none"] * (len(known) or 1) if "none" in known or not known else []
    method = draw(st.sampled_from([*plain, *sorted(known - {"none"})]))
    steps = draw(sessions(peer, channels))
    # few at a time: where there are many, only the first one shows
    for _ in range(draw(st.sampled_from(range(most_faults + 1)))):
        fault = draw(st.sampled_from(FAULTS if faults is None else faults))
        steps = fault(draw, steps, peer, channels)
    return Script(mended(steps)[:_MOST_STEPS], channels=channels, method=method)


# ---- faults --------------------------------------------------------------------------------------

Fault = Callable[[DrawFn, Steps, Description, int], Steps]
"""Takes Hypothesis's `draw`, the steps, the peer and the number of channels; returns the steps."""


def change_a_field(kind: type, *names: str) -> Fault:
    """Return the fault that gives messages of a kind other values.

    Args:
        kind: the step's class.
        names: of the fields to choose from; all if none is named. A bound of one field is met more
            often if it need not be chosen first.
    """

    def fault(draw: DrawFn, steps: Steps, peer: Description, channels: int) -> Steps:
        at = _pick(draw, steps, (kind,))
        if at is None:
            return steps
        changed = {**steps[at].fields, **draw(changes(kind, peer, channels, names=names))}
        return _with(steps, at, replace(steps[at], fields=changed))

    return fault


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
    ended = draw(st.booleans())
    return (*steps[:at], part, *([draw(_ends(wire))] if ended else []), *steps[at + 1 :])


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
    """End a connection between two messages, or break it."""
    wire = _wire(draw, channels)
    # the last ones first: behind them nobody waits for what does not come any more
    places = [n + 1 for n, step in enumerate(steps) if getattr(step, "wire", None) == wire]
    if not places:
        return steps
    at = draw(st.sampled_from(places[::-1]))
    return (*steps[:at], draw(_ends(wire)), *steps[at:])


def _ends(wire: str) -> st.SearchStrategy[Step]:
    """Return what ends a connection: mostly in order, as after a reset much is left open."""
    ends: list[Step] = [Fin(wire=wire), Fin(wire=wire), Fin(wire=wire), Reset(wire=wire)]
    return st.sampled_from(ends)


def add(draw: DrawFn, steps: Steps, peer: Description, channels: int) -> Steps:
    """Send one message more."""
    wire = str(draw(st.integers(0, channels - 1)))
    return _insert(draw, steps, draw(messages(wire, peer, channels)))


def connect(draw: DrawFn, steps: Steps, _peer: Description, channels: int) -> Steps:
    """Open one connection more: of a channel, a second main stream, of anything, or silent."""
    wire = f"{draw(st.integers(0, channels))}x"
    at = draw(st.integers(1, len(steps))) if steps else 0
    says = draw(st.sampled_from(_greetings(wire)))
    return (*steps[:at], Open(wire=wire, refusable=True), *says, *steps[at:])


def _greetings(wire: str) -> list[Steps]:
    """Return what may come first on a connection."""
    return [
        (),
        (Init(wire=wire),),
        (Init(wire=wire, first=32),),
        (Raw(wire=wire, hex=_QEVM),),
        (Raw(wire=wire, hex=CHANNEL_MAGIC.hex()),),
        (Raw(wire=wire, hex="474554202f20"),),
    ]


def spoil_the_payload(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Send another payload than the pages' own."""
    at = _pick(draw, steps, (Pages,))
    if at is None:
        return steps
    payload = draw(st.binary(max_size=64)).hex()
    return _with(steps, at, replace(steps[at], payload=payload, lands=False))


def another_method(draw: DrawFn, steps: Steps, peer: Description, _channels: int) -> Steps:
    """Encode a packet's pages by another method."""
    at = _pick(draw, steps, (Pages,))
    if at is None:
        return steps
    method = draw(st.sampled_from(sorted(peer.methods)))
    return _with(steps, at, replace(steps[at], method=method, lands=False))


def another_block(draw: DrawFn, steps: Steps, peer: Description, _channels: int) -> Steps:
    """Send pages of another RAM block: smaller, too small, or unknown."""
    at = _pick(draw, steps, (Pages,))
    if at is None:
        return steps
    names = [name.decode("latin-1") for name in list(peer.blocks)[1:]]
    block = draw(st.sampled_from([*names, "other"]))
    return _with(steps, at, replace(steps[at], block=block, normal=(0,), zero=(), lands=False))


def zero_again(draw: DrawFn, steps: Steps, peer: Description, _channels: int) -> Steps:
    """Send the pages of a packet once more, as zero pages, after the end of the session."""
    at = _pick(draw, steps, (Pages,))
    if at is None or not {row.name for row in peer.dialect.packet.rows()} & {"zero_pages"}:
        return steps
    own = steps[at]
    return (*steps, Pages(wire=own.wire, zero=own.normal, block=own.block))


def sync_with_pages(draw: DrawFn, steps: Steps, _peer: Description, _channels: int) -> Steps:
    """Put pages into a SYNC packet, as senders up to 8.2 do."""
    at = _pick(draw, steps, (Sync,))
    if at is None:
        return steps
    step = Pages(wire=steps[at].wire, normal=draw(page_numbers()), fields={"flags": FLAG_SYNC})
    return _with(steps, at, step)


def device_state(draw: DrawFn, steps: Steps, peer: Description, channels: int) -> Steps:
    """Send the state of a device, small or vast, at the end."""
    wire = str(draw(st.integers(0, channels - 1)))
    size = draw(st.sampled_from((12, MAX_DEVICE_STATE, MAX_DEVICE_STATE + 1, (1 << 32) - 1)))
    step = DeviceState(wire=wire, fields={"next_packet_size": size} if size > 12 else {})
    return (*steps, step) if peer.dialect.device_state else steps


def surplus(draw: DrawFn, steps: Steps, _peer: Description, channels: int) -> Steps:
    """Open one connection more, when all are there."""
    inits = [number for number, step in enumerate(steps) if isinstance(step, Init | Main)]
    at = draw(st.integers(inits[-1] + 1, len(steps))) if inits else len(steps)
    wire = f"{channels}x"
    more: list[Step] = [Pause(seconds=SETTLES), Open(wire=wire, refusable=True)]
    more += draw(st.sampled_from(_greetings(wire)))
    return (*steps[:at], *more, *steps[at:])


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
    return _insert(draw, steps, Pause(seconds=draw(st.sampled_from((0.01, SETTLES)))))


_PACKETS = [change_a_field(Pages)] * 3  # it has the most fields, and most can be wrong in it
FAULTS: tuple[Fault, ...] = (
    *_PACKETS, change_a_field(Pages, "next_packet_size"), change_a_field(Pages, "offset"),
    change_a_field(Init), change_a_field(Init, "version", "id"), change_a_field(Sync), leave_out,
    repeat, move, cut_off, split, end, add, connect, surplus, spoil_the_payload, another_method,
    another_block, another_list, zero_again, sync_with_pages, device_state, wait,
)  # fmt: skip
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
