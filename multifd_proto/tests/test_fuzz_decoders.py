"""Our own parsers under the fuzzer: what is drawn has no finding, and what is wrong is found."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from multifd_proto.errors import MultiFDError, PeerError
from multifd_proto.fuzz import atheris_targets, guard
from multifd_proto.fuzz.damage import pieces
from multifd_proto.fuzz.decoder_captures import outcome
from multifd_proto.fuzz.decoder_subjects import Bytes, described
from multifd_proto.fuzz.decoders import ALL, NAMES, DecoderTarget
from multifd_proto.fuzz.frames import HEADER, session
from multifd_proto.fuzz.guard import Limits, Wrong, guarded
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.receiver import ReceiverMachine
from multifd_proto.peers.proxy.pcapng_writer import Conversation
from multifd_proto.tests.test_channel import STREAM
from multifd_proto.wire.decoders_zlib import ZlibDecoder
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.payload import METHODS

QUICK = {"channel": 40, "main": 60, "payload": 60, "capture": 40, "mapped-ram": 15, "machine": 25}
SEED = Bytes("channel", STREAM, (70, 3000), {"page_size": 4096})
TARGET = DecoderTarget("channel")
SESSION: dict[str, Any] = {
    "multifd-script": 1,
    "setup": {"channels": 1},
    "steps": [
        {"do": "open", "wire": "main"},
        {"do": "main", "part": "start"},
        {"do": "open", "wire": "0"},
        {"do": "init", "wire": "0"},
        {"do": "sync", "wire": "0"},
        {"do": "main", "part": "mark"},
        {"do": "pages", "wire": "0", "normal": [3, 4]},
        {"do": "complete"},
    ],
    "dialect": "10.0",
}
RELAXED = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def found(target: DecoderTarget, value: object) -> tuple[str, str]:
    finding = target.run(value).finding
    return (finding.kind, finding.detail) if finding else ("", "")


_GENERATE = [phase for phase in Phase if phase.name == "generate"]


# ---- what is drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), QUICK.items())
def test_what_is_drawn_has_no_finding_and_can_be_written_down(name, count):
    target = DecoderTarget(name)
    reached: set[str] = set()

    @settings(RELAXED, max_examples=count, derandomize=True, phases=_GENERATE)
    @given(target.strategy())
    def run(value):
        result = target.run(value)
        assert result.finding is None, (result.finding, target.to_json(value))
        reached.update(result.reached)
        text = json.dumps(target.to_json(value))
        assert target.from_json(json.loads(text)) == value
        assert len(text) < 1 << 16

    run()
    assert len(reached) > 3


def test_all_draws_from_every_part():
    target = DecoderTarget(ALL)
    subjects = set()

    @settings(RELAXED, max_examples=400, derandomize=True, phases=_GENERATE)
    @given(target.strategy())
    def run(value):
        subjects.add(value.subject)
        assert target.from_json(target.to_json(value)) == value

    run()
    assert subjects == set(NAMES)


def test_a_migration_through_the_proxy_is_forwarded_recorded_and_judged():
    target = DecoderTarget("proxy")
    result = target.run(target.from_json(SESSION))
    assert result.finding is None
    assert "goes through on 2 connections" in result.reached
    broken = SESSION | {"steps": [*SESSION["steps"][:-1], {"do": "reset", "wire": "0"}]}
    result = target.run(target.from_json(broken))
    assert result.finding is None
    assert "fails on 2 connections" in result.reached


def test_a_session_as_a_capture_is_one_that_passes():
    target = DecoderTarget("machine")
    steps = target.from_json(SESSION).script.steps[:-1]
    peer = described(dialect_of("10.0"))
    for sizes in ([], [1], [700, 3]):
        records = session(steps, peer, 1, sizes, whole=True)
        assert outcome(HEADER + b"".join(records)) == "passed"


def test_inputs_that_are_none_are_refused():
    with pytest.raises(PeerError, match=r"^decoder is 'x', must be one of channel, main, "):
        DecoderTarget("x")
    for data, said in (
        ({"subject": "main"}, "subject is 'main', must be one of channel"),
        ({}, "no bytes: 'multifd-bytes' must be 1"),
        ({"hex": "0"}, "hex: "),
        ({"options": {"dialect": "0.1"}}, "dialect: "),
        ({"options": {"x": 1}}, "options are {'x': 1}, must be an object of dialect, "),
        ({"cuts": ["x"]}, "cuts are ['x'], must be a list of places"),
    ):
        with pytest.raises(MultiFDError) as raised:
            TARGET.from_json({"multifd-bytes": 1} | data if data else data)
        assert str(raised.value).startswith(said)
    with pytest.raises(MultiFDError, match=r"^sizes are \(0,\), must be above 0$"):
        DecoderTarget("machine").from_json(SESSION | {"sizes": [0]})


# ---- what is wrong is found --------------------------------------------------------------------


def test_a_channel_that_depends_on_the_cut_is_found(monkeypatch):
    real = Channel.receive_data
    monkeypatch.setattr(
        Channel, "receive_data", lambda self, data, time=0: real(self, data[:1000], time)
    )
    assert found(TARGET, SEED) == ("differs", "channel cut")


def test_a_channel_that_says_that_it_wants_nothing_is_found(monkeypatch):
    monkeypatch.setattr(Channel, "wanted", lambda self: 0)
    assert found(TARGET, SEED) == ("differs", "channel wanted")


def test_a_channel_that_raises_is_found_with_its_place(monkeypatch):
    def fails(self, time=0, **how):
        raise KeyError("x")

    monkeypatch.setattr(Channel, "receive_eof", fails)
    assert found(TARGET, SEED) == ("raises", "KeyError in test_fuzz_decoders.py:fails")


def test_a_main_stream_whose_records_do_not_tile_is_found(monkeypatch):
    real = MainStream.records
    monkeypatch.setattr(MainStream, "records", lambda self: list(real(self))[1:])
    header = Bytes("main", b"QEVM\0\0\0\3\0")
    assert found(DecoderTarget("main"), header) == ("differs", "main tiling")


def test_a_decoder_that_yields_more_than_was_announced_is_found(monkeypatch):
    real = ZlibDecoder.feed
    monkeypatch.setattr(ZlibDecoder, "feed", lambda self, data: [*real(self, data), b"more"])
    page = METHODS[1].encoder().encode([bytes(4096)])
    value = Bytes("payload", page, (), {"packets": ((1, len(page)),)})
    assert found(DecoderTarget("payload"), value) == ("grows", "ZlibDecoder")


def test_a_machine_that_depends_on_the_cut_is_found(monkeypatch):
    real = ReceiverMachine.receive_data
    monkeypatch.setattr(
        ReceiverMachine, "receive_data", lambda self, n, data: real(self, n, data[:1000])
    )
    target = DecoderTarget("machine")
    value = target.from_json(SESSION | {"sizes": [500]})
    kind, detail = found(target, value)
    assert (kind, detail.partition("cut")[1]) == ("differs", "cut")


def test_a_proxy_that_records_something_else_is_found(monkeypatch):
    real = Conversation.data
    monkeypatch.setattr(
        Conversation, "data", lambda self, data, **way: real(self, bytes(len(data)), **way)
    )
    target = DecoderTarget("proxy")
    assert found(target, target.from_json(SESSION)) == ("differs", "proxy record")


# ---- the guard ---------------------------------------------------------------------------------


def endless():
    while True:
        pass


def test_what_never_ends_is_stopped():
    finding = guarded(endless, Limits(seconds=0.05), "it").finding
    assert finding is not None
    assert finding.signature == "slow it"
    seen = "longer than 0.05 s of the processor, in test_fuzz_decoders.py:endless"
    assert finding.observed == seen


@pytest.mark.skipif(not guard._peak(reset=True), reason="the kernel does not tell peak memory")
def test_memory_that_was_given_back_counts():
    def greedy():
        bytearray(b"x") * (100 << 20)
        return ()

    finding = guarded(greedy, Limits(memory=64 << 20), "it").finding
    assert finding is not None
    assert finding.signature == "grows it"
    assert guarded(tuple, Limits(memory=64 << 20), "it").finding is None


def test_what_a_check_says_is_the_finding():
    def wrong():
        raise Wrong("differs", "one, must be the other", "place")

    finding = guarded(wrong, Limits(), "it").finding
    assert finding is not None
    assert (finding.signature, finding.observed) == ("differs place", "one, must be the other")


# ---- smaller inputs ----------------------------------------------------------------------------


def test_smaller_inputs_are_smaller_and_differ():
    for value in TARGET.smaller(replace(SEED, data=STREAM[:400])):
        assert value != SEED
        assert len(value.data) <= 400
    target = DecoderTarget("machine")
    value = target.from_json(SESSION | {"sizes": [1, 2], "order": [1]})
    candidates = list(target.smaller(value))
    assert value not in candidates
    assert min(len(each.script.steps) for each in candidates) < len(value.script.steps)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_pieces_are_the_whole_with_what_is_missing_in_its_place(data, cuts):
    missing = ((min(3, len(data)), 7), (len(data), 9))
    found_pieces = list(pieces(data, [min(cut, len(data)) for cut in cuts], missing))
    assert b"".join(p for p in found_pieces if isinstance(p, bytes)) == data
    assert [p for p in found_pieces if isinstance(p, int)] == [7, 9]
    at = found_pieces.index(7)
    assert sum(map(len, found_pieces[:at])) == min(3, len(data))


# ---- Atheris -----------------------------------------------------------------------------------


def test_without_atheris_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match=r"^atheris is missing: pip install "):
        atheris_targets.main(["x", "channel"])
    with pytest.raises(SystemExit, match=r"^usage: python -m multifd_proto\.fuzz\.atheris_"):
        atheris_targets.main(["x", "what"])


@pytest.mark.parametrize("name", atheris_targets.NAMES)
def test_every_choice_of_options_runs(name):
    run = atheris_targets.harness(name)
    for choice in range(len(DIALECTS) + 1):
        run(STREAM[:900] + bytes((choice, 37 * choice % 256)))
    run(b"")


def test_what_atheris_runs_raises_a_finding(monkeypatch):
    monkeypatch.setattr(Channel, "wanted", lambda self: 0)
    run = atheris_targets.harness("channel")
    with pytest.raises(atheris_targets.Found, match=r"^differs channel wanted: waits for 0 bytes"):
        run(STREAM)
