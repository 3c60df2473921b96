"""Columns are judged as their events are: same counts, same faults, same memory afterwards."""

from __future__ import annotations

from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.conformance.miniatures import BASES, Session
from multifd_proto.conformance.quirks import QUIRK_SHOWN
from multifd_proto.conformance.violations import VIOLATIONS
from multifd_proto.machine import check
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import RULES, Checker
from multifd_proto.machine.events import Ended, PacketReceived
from multifd_proto.machine.parameters import Bounds, MigrationParameters, RamBlock
from multifd_proto.machine.rule import IN_BATCHES, Found, rule
from multifd_proto.machine.verdict import Verdict
from multifd_proto.tests.batched import batch_of, judge_in_batches, remembered
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import METHODS, method_of
from multifd_proto.wire.schema import MultiFDPacket, MultiFDPacketBefore9, page_count

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
PAGE = 65536
COUNT = page_count(PAGE)
CHANNELS = 3
BLOCKS = (
    RamBlock(b"ram", 40 * PAGE),
    RamBlock(b"big", 70000 * PAGE),
    RamBlock(b"rom", 4 * PAGE, migratable=False),
)
NAMES = [b"ram", b"big", b"rom", b"unknown", b"ram\0old", b"", b"n" * 256]


@pytest.fixture(autouse=True)
def columns_for_any_number(monkeypatch):
    monkeypatch.setattr(check, "FEW", 1)


# ---- generated migrations ------------------------------------------------------------------------

_PAGES = st.integers(0, 44) | st.integers(32760, 32776) | st.just((1 << 48) - 4)
ODD: dict[str, list[Any]] = {
    "magic": [0],
    "version": [2],
    "flags": [0, 2, 4, 6, 1, 3, 0x40, 0x41, 0x80, 0x81, 1 << 31],
    "pages_alloc": [0, COUNT - 1, COUNT, COUNT + 1, 1 << 31],
    "next_packet_size": [0, 1, 5, PAGE, 2 << 20],
    "packet_num": [*range(60), (1 << 64) - 1],
    "zero_pages": [0, 1, COUNT, COUNT + 1, 600, 1 << 31],
    "unused64": [b"\1".rjust(24, b"\0")],
    "ramblock": [name.ljust(256, b"\0") for name in NAMES],
    "round": [None, 0, 1, 2, 5],
}
_offsets = st.lists(
    st.sampled_from([0, 1, PAGE, 3 * PAGE, (1 << 64) - PAGE, (1 << 64) - 1]),
    min_size=COUNT, max_size=COUNT,
).map(tuple)  # fmt: skip
_odd = st.fixed_dictionaries({"offset": _offsets}) | st.sampled_from(
    [{name: value} for name, values in ODD.items() for value in values]
)
_plain: st.SearchStrategy[dict[str, Any]] = st.just({})
_places = (
    st.builds(lambda first, count: list(range(first, first + count)), _PAGES, st.integers(0, COUNT))
    | st.lists(_PAGES, max_size=COUNT)
)  # fmt: skip


def _packet(changes: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "channel": st.integers(0, CHANNELS - 1),
            "sync": st.sampled_from([False] * 5 + [True]),
            "places": _places,
            "normal": st.integers(0, COUNT),
            "block": st.sampled_from([b"ram"] * 6 + [b"big", b"rom"]),
            "stale": st.sampled_from([False] * 4 + [True]),
            "changes": changes,
        }
    )


_script = st.lists(_packet(_plain), max_size=40) | st.lists(_packet(_plain | _odd), max_size=40)
_bounds = (
    st.just(Bounds())
    | st.builds(Bounds, examples=st.integers(0, 2))
    | st.builds(
        Bounds, rounds=st.integers(0, 4), runs=st.integers(0, 6), page_chunks=st.integers(0, 3)
    )
)
_parameters = st.builds(
    MigrationParameters,
    ramblocks=st.sampled_from([None, BLOCKS]),
    compression=st.sampled_from([None, METHODS[0], METHODS[1]]),
)


def packets_of(script: list[dict[str, Any]], layout: Any) -> list[tuple[int, PacketReceived]]:
    """Return the packets that a script describes, in the order of the capture."""
    rounds: list[int | None] = [0] * CHANNELS
    places = [64] * CHANNELS
    last = layout(offset=(0,) * COUNT)
    found = []
    for number, line in enumerate(script):
        channel, changes = line["channel"], dict(line["changes"])
        pages = [] if line["sync"] else line["places"]
        normal = min(line["normal"], len(pages)) if layout is MultiFDPacket else len(pages)
        values = {
            "flags": FLAG_SYNC if line["sync"] else 0,
            "pages_alloc": 0 if line["sync"] and layout is MultiFDPacket else COUNT,
            "normal_pages": normal,
            "zero_pages": len(pages) - normal,
            "next_packet_size": last.next_packet_size if line["stale"] else normal * PAGE,
            "packet_num": number,
            "ramblock": (b"" if line["sync"] else line["block"]).ljust(256, b"\0"),
            "offset": tuple(page * PAGE % (1 << 64) for page in pages)
            + (last.offset[len(pages) :] if line["stale"] else (0,) * (COUNT - len(pages))),
        }
        known = rounds[channel]
        round_ = changes.pop("round", known)
        if round_ is None:
            rounds[channel] = None
        values |= changes
        values = {k: v for k, v in values.items() if k in layout.__dataclass_fields__}
        last = layout(**values)
        method = method_of(last.flags)
        payload = method.payload_size(normal, last.next_packet_size, PAGE) if method else 0
        event = PacketReceived(
            places[channel], 1000 + number, last, layout.size(COUNT), payload, round_
        )
        places[channel] += event.known + payload
        if rounds[channel] is not None:
            rounds[channel] = known + event.sync if known is not None else None
        found.append((channel, event))
    return found


def checker_of(parameters: MigrationParameters, bounds: Bounds, whole: bool = True) -> Checker:
    checker = Checker(parameters, bounds)
    for stream in range(CHANNELS):
        checker.add_channel(stream, whole=whole or stream > 0)
    return checker


def judge_events(checker: Checker, batch: PacketBatch) -> None:
    for place, stream in enumerate(batch.stream.tolist()):
        checker.judge(checker.migration.streams[stream], batch.events(place))


@settings(max_examples=300)
@given(
    _script,
    st.sampled_from([MultiFDPacket, MultiFDPacketBefore9]),
    _parameters,
    _bounds,
    st.lists(st.integers(0, 40), max_size=3),
    st.integers(0, 5),
    st.booleans(),
)
def test_batches_come_to_what_their_events_come_to(
    script, layout, parameters, bounds, cuts, before, whole
):
    packets = packets_of(script, layout)
    if not packets:
        return
    batch = batch_of(packets)
    events, columns = (checker_of(parameters, bounds, whole) for _ in range(2))
    judge_events(events, batch)
    judge_events(columns, batch[:before])
    cuts = sorted({before, *(max(cut, before) for cut in cuts), len(batch)})
    for start, end in pairwise(cuts):
        columns.judge_batch(batch[start:end])
    assert remembered(columns) == remembered(events)
    assert columns.conclude() == events.conclude()


def judge_apart(checker: Checker, batch: PacketBatch, early: int) -> None:
    """Judge the events, a header up to `early` packets of other channels before its packet."""
    streams = batch.stream.tolist()
    headers: list[list[int]] = [[] for _ in streams]
    free: dict[int, int] = {}
    for place, stream in enumerate(streams):
        headers[max(place - early, free.get(stream, 0))].append(place)
        free[stream] = place + 1
    for place, begun in enumerate(headers):
        for other in begun:
            header = next(batch.events(other))
            checker.judge(checker.migration.streams[streams[other]], [header])
        _, *rest = batch.events(place)
        checker.judge(checker.migration.streams[streams[place]], rest)


_short = st.fixed_dictionaries(
    {
        "channel": st.integers(0, CHANNELS - 1),
        "sync": st.booleans(),
        "places": st.just([0]),
        "normal": st.integers(0, 1),
        "block": st.just(b"ram"),
        "stale": st.just(False),
        "changes": _plain | st.builds(dict, packet_num=st.sampled_from(ODD["packet_num"])),
    }
)


@settings(max_examples=300)
@given(st.lists(_short, min_size=1, max_size=40), st.integers(0, 6))
def test_batches_come_to_what_events_of_packets_in_pieces_come_to(script, early):
    batch = batch_of(packets_of(script, MultiFDPacket))
    events, columns = (checker_of(MigrationParameters(), Bounds()) for _ in range(2))
    judge_apart(events, batch, early)
    columns.judge_batch(batch)
    assert remembered(columns) == remembered(events)
    assert columns.conclude() == events.conclude()


@pytest.mark.parametrize("early", [0, 1, 2])
def test_a_header_lets_no_round_be_forgotten_that_its_packet_is_compared_with(early):
    script = [dict(line, sync=True, changes={}) for line in stretch_script(2 * CHANNELS)]
    script[-1]["changes"] = {"packet_num": 1}
    batch = batch_of(packets_of(script, MultiFDPacket))
    checker = checker_of(MigrationParameters(), Bounds())
    judge_apart(checker, batch, early)
    (tally,) = (t for t in checker._tallies.values() if t.requirement.id == "PKT-23")
    assert [v.fault.demanded for v in tally.examples] == ["above 2, of round 0"]


@pytest.mark.parametrize("given", [None, METHODS[0]], ids=["nothing known", "method known"])
def test_columns_find_every_odd_value(given):
    found = set()
    for name, values in ODD.items():
        for value in values:
            for place in (4, 9):
                script = stretch_script(20)
                script[place]["changes"] = {name: value}
                batch = batch_of(packets_of(script, MultiFDPacket))
                events, columns = (
                    checker_of(MigrationParameters(ramblocks=BLOCKS, compression=given), Bounds())
                    for _ in range(2)
                )
                judge_events(events, batch)
                columns.judge_batch(batch)
                assert remembered(columns) == remembered(events), (name, value)
                found |= {tally.requirement.id for tally in columns._tallies.values()}
    assert {f"PKT-{n}" for n in (*range(1, 14), *range(16, 24)) if n != 22} <= found


def stretch(layout: Any, count: int) -> PacketBatch:
    return batch_of(packets_of(stretch_script(count), layout))


def stretch_script(count: int) -> list[dict[str, Any]]:
    """Return a long stretch as of an old release: what packets do not use is what was there."""
    return [
        {
            "channel": number % CHANNELS,
            "sync": number % 60 < CHANNELS,
            "places": list(range(first := (number - (number % 37 == 0)) * 8, first + number % 9)),
            "normal": number % 7,
            "block": b"big",
            "stale": number % 11 > 2,
            "changes": {"flags": [2, 0x80][number % 7 % 2]} if number % 60 == 13 else {},
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("layout", [MultiFDPacket, MultiFDPacketBefore9])
@pytest.mark.parametrize("examples", [0, 1, 20])
def test_faults_that_are_not_kept_are_counted_by_their_kind(layout, examples, monkeypatch):
    monkeypatch.setattr(check, "FEW", 32)
    batch = stretch(layout, 800)
    bounds = Bounds(examples=examples)
    events, columns = (checker_of(MigrationParameters(), bounds) for _ in range(2))
    judge_events(events, batch)
    for start in range(0, len(batch), 300):
        columns.judge_batch(batch[start : start + 300])
    assert remembered(columns) == remembered(events)
    assert columns.conclude() == events.conclude()
    kinds = [tally.requirement.id for tally in columns._tallies.values()]
    assert kinds.count("PKT-3") == 2
    assert {"PKT-17", "PKT-18", "SYNC-4", "SYNC-7", "PAY-2"} <= set(kinds)


def test_of_faults_that_are_alike_only_those_that_are_kept_are_looked_at(monkeypatch):
    looked_at = []
    given = PacketBatch.events

    def events(batch, place):
        looked_at.append(place)
        return given(batch, place)

    monkeypatch.setattr(PacketBatch, "events", events)
    batch = stretch(MultiFDPacket, 300)
    zeros = np.flatnonzero(batch.zero_pages)
    checker = checker_of(MigrationParameters(), Bounds(examples=2))
    checker.judge_batch(batch)
    (tally,) = (t for t in checker._tallies.values() if t.requirement.id == "PKT-8")
    assert (tally.count, len(tally.examples)) == (len(zeros), 2)
    assert len(zeros) > 100
    assert len(looked_at) < 60


def test_a_batch_without_pages_is_judged_as_a_whole():
    script = [dict(line, sync=True) for line in stretch_script(3000)]
    batch = batch_of(packets_of(script, MultiFDPacket))
    events, columns = (checker_of(MigrationParameters(), Bounds()) for _ in range(2))
    judge_events(events, batch)
    columns.judge_batch(batch)
    assert remembered(columns) == remembered(events)


def test_a_batch_of_none_is_nothing():
    checker = checker_of(MigrationParameters(), Bounds())
    checker.judge_batch(stretch(MultiFDPacket, 5)[:0])
    assert remembered(checker) == remembered(checker_of(MigrationParameters(), Bounds()))


def test_a_rule_on_packets_has_to_be_said_of_columns_too():
    with pytest.raises(AssertionError, match=r"^X-1 is judged in one way alone"):
        rule("X-1", on=PacketReceived)(lambda _m, _c, _e: iter(()))
    with pytest.raises(AssertionError, match=r"^X-1 is judged in one way alone"):
        rule("X-1", on=Ended, bulk=lambda _b, _s: Found(False))(lambda _m, _c, _e: iter(()))
    assert all((r.bulk is not None) == (r.on in IN_BATCHES) for r in RULES.values())


# ---- miniatures --------------------------------------------------------------------------------


def judged(session: Session, batches: bool) -> tuple[Checker, int]:
    given = session.parameters
    checker, found = Checker(given), 0
    peers = [checker.add_channel(stream) for stream in range(len(session.channels))]
    for stream, (peer, sender) in enumerate(zip(peers, session.channels, strict=True)):
        channel = Channel(page_size=given.page_size, dialect=given.dialect)
        channel.receive_data(sender.build())
        channel.receive_eof()
        events = list(channel.events())
        if batches:
            found += judge_in_batches(checker, stream, events)
        else:
            checker.judge(peer, events)
    return checker, found


SESSIONS = {
    **BASES,
    **{name: QUIRK_SHOWN[name] for name in QUIRK_SHOWN},
    **{id_: VIOLATIONS[id_] for id_ in VIOLATIONS if not id_.startswith(("MAIN", "MAPR"))},
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_miniature_is_judged_in_batches_as_by_events(name):
    columns, found = judged(SESSIONS[name](), batches=True)
    events, _ = judged(SESSIONS[name](), batches=False)
    assert remembered(columns) == remembered(events)
    assert found >= 4
    assert columns.conclude() == events.conclude()


NEVER_CLEAN = {"PKT-1", "PKT-2", "PKT-6", *(f"PAY-{n}" for n in range(3, 11))}
"""What violates these is in no batch: wrong starts, more pages than offsets, what was decoded."""
IN_COLUMNS = [r.requirement for r in RULES.values() if r.on in IN_BATCHES]


@pytest.mark.parametrize("requirement", sorted({*IN_COLUMNS} - NEVER_CLEAN))
def test_columns_find_what_violates_a_requirement(requirement):
    checker, _ = judged(VIOLATIONS[requirement](), batches=True)
    failed = {r.requirement.id for r in checker.conclude().of(Verdict.FAILED)}
    assert requirement in failed


# ---- real senders ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.pcap.zst")))
def test_real_captures_are_judged_in_batches_as_by_events(name):
    follower = Follower()
    reader = CaptureReader([FOLDER / name])
    packets = [
        (connection.channel, event)
        for connection, event in follower.follow(reader)
        if isinstance(event, PacketReceived) and connection.channel is not None
    ]
    (session,) = follower.sessions
    checkers = [Checker() for _ in range(2)]
    for checker in checkers:
        checker.migration.blocks = session.checker.migration.blocks
        for stream in sorted({stream for stream, _ in packets}):
            checker.add_channel(stream)
    events, columns = checkers
    batch = batch_of(packets)
    judge_events(events, batch)
    for start in range(0, len(batch), 500):
        columns.judge_batch(batch[start : start + 500])
    assert remembered(columns) == remembered(events)
    assert columns.conclude() == events.conclude()
