from __future__ import annotations

import re
from dataclasses import replace

import pytest

from multifd_proto.conformance.case import Case, Expect
from multifd_proto.conformance.judging import judge
from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.target import Sense
from multifd_proto.conformance.verdict import Failure, Verdict
from multifd_proto.wire.dialect import dialect_of

PEER = parse_receiver("builtin:").describe()
ID = "INIT-9/any"


def seen(reaction, **values):
    return Observation(Reaction(reaction), 0.002, **values)


def of(expect, observation, *reasons, **values):
    case = Case(ID, "something", Expect[expect], (), **values)
    judgement = judge(case, PEER, observation, [re.compile(text) for text in reasons])
    return judgement.verdict, judgement.failure


PASSED = (Verdict.PASSED, None)
WEAK = (Verdict.PASSED_WEAK, None)
UNKNOWN = (Verdict.INCONCLUSIVE, None)


def failed(failure):
    return Verdict.FAILED, Failure(failure)


TABLE = {
    "ACCEPTS": {"crashed": "crashes", "hung": "hangs", "rejected": "rejects-good", "accepted": ""},
    "REFUSES": {"crashed": "crashes", "hung": "hangs", "rejected": "", "accepted": "accepts-bad"},
    "REFUSES_ALL": {
        "crashed": "crashes", "hung": "hangs", "rejected": "", "accepted": "accepts-bad",
    },
    "SURVIVES": {"crashed": "crashes", "hung": "hangs", "rejected": "", "accepted": ""},
}  # fmt: skip


@pytest.mark.parametrize("expect", TABLE)
@pytest.mark.parametrize("reaction", ["crashed", "hung", "rejected", "accepted"])
def test_a_reaction_has_one_verdict_under_each_expectation(expect, reaction):
    failure = TABLE[expect][reaction]
    assert of(expect, seen(reaction)) == (failed(failure) if failure else PASSED)


@pytest.mark.parametrize("expect", TABLE)
def test_a_fault_that_was_not_reached_says_nothing(expect):
    assert of(expect, seen("unreached", stood="step 3: refused")) == UNKNOWN


def test_a_wrong_image_fails_what_was_accepted():
    assert of("ACCEPTS", seen("accepted", image=("page 3",))) == failed("wrong-image")


@pytest.mark.parametrize("expect", ["REFUSES", "REFUSES_ALL"])
def test_memory_that_a_refusal_wrote_is_an_acceptance(expect):
    case = Case(ID, "something", Expect[expect], ())
    judgement = judge(case, PEER, seen("rejected", ended={"1": "ended"}, image=("page 3",)))
    assert judgement.failure is Failure.ACCEPTS_BAD
    assert judgement.text == (
        "rejected: 1 ended after 2 ms; memory was written although it refused: page 3"
    )


@pytest.mark.parametrize("expect", TABLE)
def test_pages_before_their_time_are_an_acceptance(expect):
    assert of(expect, seen("rejected", early=("page 3",))) == failed("accepts-bad")


def test_a_refusal_of_all_ends_all_connections():
    half = seen("rejected", opened=("main", "0"), ended={"0": "ended"})
    assert of("REFUSES_ALL", half) == failed("hangs")
    assert of("REFUSES", half) == PASSED
    assert of("REFUSES_ALL", replace(half, ended={"0": "ended", "main": "reset"})) == PASSED
    assert of("REFUSES_ALL", replace(half, death="exit status 1")) == PASSED


def test_to_survive_is_to_live_afterwards_too():
    assert of("SURVIVES", seen("rejected", aftermath=Aftermath.CRASHED)) == failed("crashes")
    assert of("SURVIVES", seen("rejected", aftermath=Aftermath.WEDGED)) == failed("hangs")


@pytest.mark.parametrize("aftermath", [Aftermath.WEDGED, Aftermath.CRASHED])
@pytest.mark.parametrize(("expect", "reaction"), [("ACCEPTS", "accepted"), ("REFUSES", "rejected")])
def test_trouble_afterwards_makes_a_pass_weak(expect, reaction, aftermath):
    assert of(expect, seen(reaction, aftermath=aftermath)) == WEAK


def test_another_reason_makes_a_refusal_weak():
    given = seen("rejected", reason=("bad luck", "bad magic 7"))
    assert of("REFUSES", given, "magic \\d") == PASSED
    assert of("REFUSES", given, "version", "magic \\d") == PASSED
    assert of("REFUSES", given, "version") == WEAK
    assert of("REFUSES", given) == PASSED


def test_no_reason_is_no_wrong_reason():
    assert of("REFUSES", seen("rejected"), "magic") == PASSED


def test_what_a_case_sees_beside_the_reaction_fails_it():
    case = {"also": lambda observation: "wrote 4 bytes" if observation.answered else ""}
    assert of("ACCEPTS", seen("accepted", answered={"0": b"1234"}), **case) == failed("wrong-bytes")
    assert of("ACCEPTS", seen("accepted"), **case) == PASSED


def test_what_cannot_be_seen_is_not_taken_for_granted():
    blind = replace(PEER, senses=frozenset({Sense.PROCESS}))
    case = Case(ID, "x", Expect.REFUSES, (), needs=frozenset({Sense.MEMORY, Sense.PROCESS}))
    judgement = judge(case, blind, seen("rejected", death="exit status 1"))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.text == (
        "rejected: exit status 1 after 2 ms; the peer's memory cannot be seen"
    )
    assert judge(case, blind, seen("crashed")).failure is Failure.CRASHES


def test_what_is_not_demanded_is_reported():
    case = Case(ID, "x", Expect.REFUSES, (), reported="implementations differ")
    judgement = judge(case, PEER, seen("accepted"))
    assert (judgement.verdict, judgement.text) == (Verdict.REPORTED, "accepted after 2 ms")


def test_a_requirement_binds_in_its_dialects_alone():
    case = Case("DEV-5/any", "x", Expect.REFUSES, ())
    assert judge(case, PEER, seen("accepted")).verdict is Verdict.FAILED
    old = replace(PEER, dialect=dialect_of("7.2"))
    assert judge(case, old, seen("accepted")).verdict is Verdict.REPORTED


def test_the_text_tells_the_reaction_and_its_reason():
    case = Case(ID, "x", Expect.REFUSES, ())
    hung = judge(case, PEER, seen("hung", stood="page 3 in memory, for 2 s"))
    assert hung.text == "hung: waiting for page 3 in memory, for 2 s after 2 ms"
    refused = judge(case, PEER, seen("rejected", ended={"1": "reset"}, reason=("bad magic",)))
    assert refused.text == "rejected: 1 reset after 2 ms, saying 'bad magic'"
