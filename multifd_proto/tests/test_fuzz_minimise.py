from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from multifd_proto.conformance.script import Init, Main, Open, Pages, Pause, Script, Sync
from multifd_proto.fuzz.minimise import confirm, minimise
from multifd_proto.fuzz.receivers import ReceiverTarget
from multifd_proto.fuzz.target import Finding, Result

FAULT = Finding("crashes", "X-1", "crashed")
BEGUN = (Open(wire="main"), Main(part="start"), Open(wire="0"), Init(wire="0"), Open(wire="1"))
ROUND = (
    Sync(wire="0"), Sync(wire="1"), Main(part="mark"), Pages(wire="0", normal=(3, 17), zero=(99,)),
    Pause(seconds=0.01), Sync(wire="0"), Sync(wire="1"), Main(part="part"), Main(part="mark"),
)  # fmt: skip
BOUND = Script((*BEGUN, Init(wire="1", fields={"id": 2, "unused2": "41" * 32}), *ROUND))


@dataclass
class Words:
    """A target whose inputs are words: one that holds both `x` and `y` shows the fault."""

    every: int = 1
    """It shows in one of so many runs."""
    runs: list[tuple[str, bool]] = field(default_factory=list)
    delay: float = 0.0

    name = peer = "words"

    def strategy(self):
        raise NotImplementedError

    def run(self, value, *, patient=False):
        time.sleep(self.delay)
        self.runs.append((value, patient))
        shows = {"x", "y"} <= set(value) and len(self.runs) % self.every == 0
        return Result(FAULT if shows else None)

    def to_json(self, value):
        return {"word": value}

    def from_json(self, data):
        return data["word"]

    def smaller(self, value):
        for at in range(len(value)):
            yield value[:at] + value[at + 1 :]

    def describe(self):
        return {}

    def close(self):
        pass


def test_an_input_is_confirmed_k_of_n_times_by_a_patient_observer():
    assert confirm(Words(), "xy", FAULT.signature) == 3
    assert confirm(Words(), "x", FAULT.signature, 5) == 0
    words = Words(every=2)
    assert confirm(words, "xy", FAULT.signature, 4) == 2
    assert all(patient for _, patient in words.runs)


def test_another_signature_is_no_confirmation():
    assert confirm(Words(), "xy", "crashes X-2") == 0


def test_what_is_not_needed_goes_until_nothing_smaller_shows_the_fault():
    words = Words()
    made = minimise(words, "abxcdyef", FAULT.signature)
    assert (made.value, made.complete) == ("xy", True)
    assert made.runs == len(words.runs)


def test_no_candidate_is_run_twice_but_those_that_are_taken():
    words = Words()
    minimise(words, "xayb", FAULT.signature)
    tried = [each for each in words.runs if each[0] != "xayb"]
    assert len(tried) == len(set(tried))
    assert [value for value, patient in tried if patient] == ["xyb", "xy"]


def test_a_fault_that_shows_now_and_then_is_made_small_too():
    assert minimise(Words(every=3), "abxcdy", FAULT.signature).value == "xy"


def test_runs_and_time_are_bounded():
    made = minimise(Words(), "abcdexy" * 20, FAULT.signature, runs=12)
    assert (made.runs, made.complete) == (12, False)
    begun = time.monotonic()
    made = minimise(Words(delay=0.01), "abcdexy" * 50, FAULT.signature, seconds=0.2)
    assert not made.complete
    assert time.monotonic() - begun < 2


def test_an_input_without_the_fault_stays_as_it_is():
    made = minimise(Words(), "abc", FAULT.signature)
    assert made.value == "abc"


def found(target, script):
    finding = target.run(script, patient=True).finding
    assert finding
    return finding.signature


def small(target, script):
    """Minimise until nothing changes: on a loaded machine a quick look may miss the fault."""
    signature = found(target, script)
    begun, made = None, minimise(target, script, signature, seconds=30)
    while made.value != begun:
        assert made.complete
        begun, made = made.value, minimise(target, made.value, signature, seconds=30)
    return made


def test_a_miniature_that_takes_any_id_is_shown_by_a_few_steps():
    with ReceiverTarget("builtin:?broken=INIT-11") as target:
        init = Init(wire="0", fields={"uuid": "41" * 16, "unused1": "ff" * 7})
        script = Script((*BEGUN[:3], init, Sync(wire="0"), Main(part="mark")), channels=1)
        made = small(target, script)
    inits = [step for step in made.value.steps if isinstance(step, Init)]
    assert [dict(step.fields) for step in inits] == [{"uuid": "00" * 16}]
    assert len(made.value.steps) <= 6


@pytest.mark.qemu
def test_the_crash_of_qemu_at_the_bound_of_ids_takes_two_steps(qemu):
    qemu("10.0")
    with ReceiverTarget("qemu:10.0") as target:
        signature = found(target, BOUND)
        assert signature.startswith("crashes INIT-12 signal SIGSEGV")
        made = minimise(target, BOUND, signature, seconds=60)
    (opened, init) = made.value.steps
    assert isinstance(opened, Open)
    assert isinstance(init, Init)
    assert init.wire == opened.wire
    assert init.fields.get("id", int(opened.wire[0])) == made.value.channels
