"""The oracle: it sees every miniature, by its own requirement, and blames no receiver wrongly."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytest

from multifd_proto.conformance.broken_receiver import BROKEN
from multifd_proto.conformance.case import Case
from multifd_proto.conformance.catalogue import receiver_cases
from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.script import (
    MAIN,
    Absent,
    Arrive,
    Complete,
    Ended,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Script,
    Step,
    Sync,
)
from multifd_proto.fuzz.executor import Executor
from multifd_proto.fuzz.oracle import Expected, Prepared, judge, prepare

WATCHES = (Arrive, Ended, Complete)
MOST = 2
"""Cases of a requirement that are played here."""
START: tuple[Step, ...] = (
    Open(wire=MAIN), Main(part="start"), Open(wire="0"), Init(wire="0"), Open(wire="1"),
    Init(wire="1"), Sync(wire="0"), Sync(wire="1"), Main(part="mark"),
)  # fmt: skip
ROUND: tuple[Step, ...] = (
    Sync(wire="0"), Sync(wire="1"), Main(part="part"), Main(part="mark"),
)  # fmt: skip


def sessions_of_cases() -> dict[str, list[Script]]:
    """Return what the cases of each requirement say, without what they wait for."""
    found: dict[str, list[Script]] = defaultdict(list)
    peer = Executor("builtin:").description
    for id_, case in receiver_cases().items():
        plain = isinstance(case, Case) and not case.tls and case.script.channels <= 3
        if plain and case.binds(peer.dialect) and not case.not_applicable(peer):
            steps = takewhile(lambda step: not isinstance(step, Absent), case.script.steps)
            kept = tuple(step for step in steps if not isinstance(step, WATCHES))
            found[id_.partition("/")[0]].append(replace(case.script, name=id_, steps=kept))
    return found


SESSIONS = sessions_of_cases()


@pytest.fixture(scope="module")
def conforming() -> Executor:
    return Executor("builtin:?broken=none")


@pytest.mark.parametrize("requirement", sorted(BROKEN.keys() - {"TLS-5"}))  # scripts are plain
def test_a_receiver_that_is_wrong_is_found_by_its_requirement(requirement, conforming):
    wrong = Executor(f"builtin:?broken={requirement}")
    found = []
    for script in SESSIONS[requirement]:
        finding = wrong.find(wrong.prepare(script))
        if finding and finding.requirement == requirement:
            found.append(finding)
            assert conforming.find(conforming.prepare(script)) is None
            break
    assert found


@pytest.mark.parametrize("uri", ["builtin:", "builtin:?broken=none"])
def test_conforming_receivers_are_blamed_for_nothing(uri):
    executor = Executor(uri)
    for scripts in SESSIONS.values():
        for script in scripts[:: max(1, len(scripts) // MOST)]:
            assert executor.find(executor.prepare(script)) is None, script.name


# ---- what is demanded ----------------------------------------------------------------------------


def prepared(*steps: Step, dialect: str = "11.1", channels: int = 2) -> Prepared:
    peer = Executor(f"builtin:?dialect={dialect}").description
    return prepare(Script(steps, channels=channels), peer)


def test_a_session_that_is_right_is_to_be_taken():
    found = prepared(*START, Pages(wire="0", normal=(3,)))
    assert (found.expected, found.binds, found.settled) == (Expected.ACCEPTS, True, True)
    assert isinstance(found.script.steps[-1], Arrive)
    assert found.memory[b"ram0"][3 * 4096 : 4 * 4096] != bytes(4096)


def test_a_fault_of_a_channel_is_to_end_all_channels():
    found = prepared(*START, Pages(wire="0", normal=(3,), fields={"version": 2}))
    assert (found.expected, found.requirement) == (Expected.REFUSES, "PKT-24")
    assert found.script.steps[-1] == Ended(wires=("0", "1"))


def test_what_comes_after_a_sync_waits_for_its_mark():
    found = prepared(*START[:-1], Pages(wire="0", normal=(3,)))
    assert (found.expected, found.requirement) == (Expected.WAITS, "SYNC-11")


def test_a_mark_waits_for_all_channels():
    found = prepared(*(step for step in START if step != Sync(wire="1")))
    assert (found.expected, found.requirement) == (Expected.WAITS, "SYNC-10")


def test_a_missing_channel_is_waited_for():
    found = prepared(*(step for step in START if getattr(step, "wire", "") != "1"))
    assert (found.expected, found.requirement) == (Expected.WAITS, "CHAN-8")


def test_a_senders_requirement_demands_nothing_of_a_receiver():
    found = prepared(*START, Raw(wire=MAIN, hex="ff" * 8))
    assert found.expected is Expected.REFUSES
    assert not found.binds


def test_requirements_of_later_dialects_demand_nothing():
    steps = (*START, Pages(wire="0", normal=(3,), fields={"pages_alloc": 200}))
    assert prepared(*steps).requirement == "PKT-25"
    assert prepared(*steps, dialect="6.0").expected is Expected.ACCEPTS


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (Pages(wire="0", normal=(3,), fields={"flags": 0x80}), "a flag without a meaning"),
        (Sync(wire="0", fields={"flags": 3}), "flags of pages in a packet without pages"),
    ],
)
def test_what_the_specification_leaves_open_demands_nothing(more, what):
    found = prepared(*START, more)
    assert found.performance.machine.unspecified == what
    assert not found.binds


def test_who_is_first_of_two_that_are_one_too_many_is_not_settled():
    more = (Open(wire="1b"), Init(wire="1b"))
    assert not prepared(*START[:6], *more, *START[6:]).settled


def test_a_pause_settles_who_was_first():
    more = (Pause(seconds=0.1), Open(wire="2"))
    found = prepared(*START, *more)
    assert (found.expected, found.requirement) == (Expected.REFUSES, "CHAN-9")
    assert found.binds
    assert found.settled


def test_pages_of_one_round_on_two_channels_may_come_in_any_order():
    first, second = Pages(wire="0", normal=(3,)), Pages(wire="1", normal=(3,), salt=1)
    assert prepared(*START, first, second).contested == {(b"ram0", 3 * 4096)}
    assert prepared(*START, first, *ROUND, second).contested == set()


def test_a_stranger_is_to_be_closed():
    found = prepared(Open(wire=MAIN), Open(wire="0"), Raw(wire="0", hex="deadbeef"))
    assert (found.expected, found.requirement) == (Expected.REFUSES, "CHAN-6")
    assert found.script.steps[-1] == Ended(wires=("0",))


# ---- what is made of what was seen ---------------------------------------------------------------


def seen(reaction: Reaction, **more: Any) -> Observation:
    return Observation(reaction, 0.0, **more)


def test_a_crash_is_named_by_the_assertion_that_failed():
    found = prepared(*START)
    log = "multifd_recv_thread_end channel 0\nqemu: a.c:1: f: Assertion `x > 0' failed.\n"
    finding = judge(found, seen(Reaction.CRASHED, death="signal SIGABRT", log=log), "")
    assert finding
    assert finding.signature == "crashes signal SIGABRT f: Assertion `x > 0'"


def test_a_page_before_the_list_of_blocks_is_to_be_survived():
    early = (*START[:6], Pages(wire="0", normal=(3,)))
    finding = judge(prepared(*early), seen(Reaction.CRASHED), "")
    assert finding
    assert finding.signature == "crashes SYNC-14"


def test_a_wedge_is_named_by_who_was_not_woken():
    wedged = seen(Reaction.REJECTED, aftermath=Aftermath.WEDGED)
    bad = Pages(wire="0", normal=(3,), fields={"magic": 0})
    refused, ended = judge(prepared(*START, bad), wedged, ""), judge(
        prepared(*START, Fin(wire="1"), *ROUND[:1], *ROUND[2:]), wedged, ""
    )  # fmt: skip
    assert refused
    assert refused.signature == "wedges CHAN-13"
    assert ended
    assert ended.signature == "wedges SYNC-13"


def test_bytes_on_a_channel_are_a_finding():
    finding = judge(prepared(*START), seen(Reaction.ACCEPTED, answered={"0": b"+"}), "")
    assert finding
    assert finding.signature == "answers CHAN-2"


def test_the_place_and_the_numbers_of_a_reason_tell_no_findings_apart():
    reason = ("channel 1 @0x540 PKT-25: pages_alloc is 129, must be at most 128",)
    finding = judge(prepared(*START), seen(Reaction.REJECTED, reason=reason), "")
    assert finding
    assert finding.detail == "PKT-#: pages_alloc is #, must be at most #"
