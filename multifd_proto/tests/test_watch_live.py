"""What the live view is made of: the judge that can be asked, rates, and the tables."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.tests.watching import rows
from multifd_proto.views.live import LiveApp
from multifd_proto.views.live_checker import LiveChecker, concluded, findings
from multifd_proto.views.live_header import clock, speed
from multifd_proto.views.live_history import History
from multifd_proto.views.live_tables import connection_columns
from multifd_proto.views.live_values import (
    Finding,
    Judged,
    LiveConnection,
    LiveRound,
    Snapshot,
    State,
)
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

PAGE = 4096
MIB = 1 << 20


def page(number, offset):
    return MultiFDPacket(
        pages_alloc=128, normal_pages=1, next_packet_size=4096, packet_num=number,
        ramblock=b"ram0".ljust(256, b"\0"), offset=(offset,) + (0,) * 127,
    ).build()  # fmt: skip


@pytest.fixture
def judge():
    with JudgingProcess(MigrationParameters(channels=1), LiveChecker) as judge:
        yield judge


def sync(number):
    return MultiFDPacket(flags=1, packet_num=number, offset=(0,) * 128).build()


def feed(judge, *parts):
    """Hand bytes over, and tell of payloads, which are a number of bytes."""
    for part in parts:
        if isinstance(part, int):
            judge.skip(0, part)
        else:
            judge.feed(0, part)


# ---- the judge -----------------------------------------------------------------------------------


def test_what_was_fed_before_it_is_asked_is_in_the_answer(judge):
    judge.open(0)
    feed(judge, MultiFDInit().build() + sync(0), page(1, 0), PAGE, page(2, 8192), PAGE)
    first = judge.ask()
    assert isinstance(first, Judged)
    assert (first.packets, first.resent, first.findings) == (3, 0, ())
    time.sleep(0.06)
    feed(judge, sync(3), page(4, 8192), PAGE, page(5, 4097), PAGE)
    second = judge.ask()
    assert isinstance(second, Judged)
    assert (second.packets, second.resent) == (6, 1)
    assert [(r.number, r.packets, r.normal, r.resent) for r in second.rounds] == [
        (0, 1, 0, 0), (1, 3, 2, 0), (2, 2, 2, 1),
    ]  # fmt: skip
    place = 64 + 2 * len(sync(0)) + 3 * (len(page(0, 0)) + PAGE)
    assert second.findings == (
        Finding(
            "PKT-14", "MUST", "", 1,
            (f"channel 0 @{place:#x}: offset is 0x1001, must be a multiple of 0x1000",),
        ),
    )  # fmt: skip
    assert second.seconds >= 0.06


def test_asking_changes_no_verdict(judge):
    judge.open(0)
    feed(judge, MultiFDInit(id=1).build() + sync(0), page(1, 0), PAGE)
    for _ in range(3):
        judge.ask()
    judged = judge.ask()
    judge.end(0)
    report, migration = judge.conclude()
    with JudgingProcess(MigrationParameters(channels=1)) as plain:
        plain.open(0)
        feed(plain, MultiFDInit(id=1).build() + sync(0), page(1, 0), PAGE)
        plain.end(0)
        expected, _ = plain.conclude()
    assert [(r.requirement.id, r.verdict, r.count) for r in report.results] == [
        (r.requirement.id, r.verdict, r.count) for r in expected.results
    ]
    assert migration.streams[0].packets == 2
    assert isinstance(judged, Judged)
    final = concluded(judged, report)
    assert final.findings == findings(report)
    assert len(final.findings) == len(report.of(Verdict.FAILED) + report.of(Verdict.DEVIATION)) > 0


def test_a_judge_that_has_died_is_no_endless_wait(judge):
    judge._child.kill()
    with pytest.raises(PeerError, match="the judge has died"):
        judge.ask()


# ---- rates ---------------------------------------------------------------------------------------


def channel(number, sent, **values):
    return LiveConnection(number, "multifd", number, sent, **values)


def history(*snapshots):
    made = History()
    for time_, *connections in snapshots:
        state = State.RUNNING if connections else State.WAITING
        made.add(Snapshot(float(time_), state, tuple(connections)))
    return made


def test_a_rate_is_that_of_the_last_second():
    seen = history(
        (10,), (11, channel(0, MIB)), (12, channel(0, 3 * MIB)), (13, channel(0, 8 * MIB))
    )
    assert seen.rate() == seen.rate(0) == 5 * MIB * 8
    assert seen.elapsed == 3
    assert seen.bars(0, 4) == " ▂▄█"


def test_a_rate_of_what_is_over_is_the_mean():
    seen = history((10,), (11, channel(0, MIB)), (12, channel(0, 3 * MIB)))
    seen.add(Snapshot(14.0, State.THROUGH, (channel(0, 4 * MIB, done=True),)))
    assert seen.rate() == MIB * 8
    judged = Judged(1, 1, (), "", (), 2.0, 0, False, 0)
    seen.add(Snapshot(15.0, State.THROUGH, (channel(0, 4 * MIB, done=True),), judged))
    assert seen.elapsed == 4
    assert seen.rate(0) == 2 * MIB * 8


def test_silence_counts_from_the_last_byte_and_only_of_what_is_open():
    seen = history((0,), (1, channel(0, 5), channel(1, 5)), (2, channel(0, 6), channel(1, 5)))
    seen.add(Snapshot(3.5, State.RUNNING, (channel(0, 6), channel(1, 5))))
    assert [seen.quiet(channel(n, 6)) for n in (0, 1)] == [1.5, 2.5]
    assert [seen.stalled(channel(n, 6)) for n in (0, 1)] == [False, True]
    assert not seen.stalled(channel(1, 5, done=True))


def test_what_happens_to_connections_is_told_once():
    made, unknown = History(), LiveConnection(0, "unknown", None, 0)
    steps = [
        ((unknown,), ["connection 0 is opened"]),
        ((replace(unknown, kind="multifd"),), ["connection 0 is a channel"]),
        ((channel(0, MIB),), ["connection 0 is channel 0"]),
        ((channel(0, MIB),), []),
        ((channel(0, MIB, done=True),), ["channel 0 has ended after 1.0 MiB"]),
        ((channel(0, MIB, done=True),), []),
    ]
    for time_, (connections, told) in enumerate(steps):
        assert made.add(Snapshot(float(time_), State.RUNNING, connections)) == told
    broken = LiveConnection(1, "main", None, 3, done=True, broken="target")
    assert made.add(Snapshot(9.0, State.RUNNING, (channel(0, MIB, done=True), broken))) == [
        "connection 1 is the main stream",
        "the main stream is broken by the target after 3 B",
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (clock(0.4), "0:00"), (clock(75), "1:15"), (clock(3661), "1:01:01"),
        (speed(0), "0.0 Mbit/s"), (speed(12.34e6), "12.3 Mbit/s"), (speed(9.87e9), "9.87 Gbit/s"),
    ],
)  # fmt: skip
def test_numbers_are_short(said, expected):
    assert said == expected


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_columns_fill_the_width(width):
    columns = connection_columns(width)
    assert sum(column.width for column in columns) <= max(width - 3, 71)
    assert ("round" in [column.name for column in columns]) == (width >= 100)


# ---- tables --------------------------------------------------------------------------------------


def test_rounds_that_went_out_of_sight_make_room_and_channels_stand_by_id():
    def snapshots():
        for first in (0, 0, 30):
            part = [LiveRound(n, 0.1, 1, n, 0, 0, 0) for n in range(first, first + 60)]
            judged = Judged(first, 1, (), "10.0", tuple(part), 1.0, 0, False, 0)
            yield Snapshot(float(first), State.RUNNING, (
                LiveConnection(2, "main", None, 1), LiveConnection(0, "multifd", 37 - first, 1),
                LiveConnection(1, "multifd", 9, 1),
            ), judged)  # fmt: skip

    async def show():
        given = snapshots()
        app = LiveApp("a → b", lambda: next(given, app.history.now))
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause(1.0)
            assert [row["round"] for row in rows(app, "rounds")] == [str(n) for n in range(30, 90)]
            assert rows(app, "rounds")[-1]["normal"] == "89"
            assert [row["id"] for row in rows(app, "connections")] == ["main", "7", "9"]

    asyncio.run(show())
