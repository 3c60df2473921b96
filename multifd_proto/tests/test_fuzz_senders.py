"""Fuzzing senders: misdeeds as values, what they do to senders, and what the oracle makes of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.conformance.peers import parse_sender
from multifd_proto.conformance.sender.streams import Hearing, Stream
from multifd_proto.conformance.target import SourceSetup, State
from multifd_proto.conformance.verdict import Failure, Judgement, Verdict
from multifd_proto.errors import PeerError
from multifd_proto.fuzz.misbehaving import PATIENT, QUICK, Ending
from multifd_proto.fuzz.mischief import misdeeds
from multifd_proto.fuzz.misdeeds import SIZE, Act, Misdeeds, MisdeedsError, load_misdeeds, smaller
from multifd_proto.fuzz.sender_oracle import GROWTH, judge
from multifd_proto.fuzz.senders import SenderTarget, try_misdeeds
from multifd_proto.fuzz.target import Finding
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.sending import MainWriter
from multifd_proto.peers.templates import template_for
from multifd_proto.tests.senders import nothing_left
from multifd_proto.wire.main_records import StreamEnd
from multifd_proto.wire.ram_records import RamBlockEntry
from multifd_proto.wire.schema import MultiFDInit

HEAD = 1344
"""Bytes of the head of a packet with pages of 4 KiB."""
SOURCE = "channels, method, memory, size, dirty, return_path"
DOINGS = "pause, slow, stall, say, answer, half-close, close, reset, cancel"
SHUT_OK, SHUT_BAD = "0001000400000000", "0001000400000001"
DESCRIPTION = parse_sender("builtin:").describe()


def plain(*acts: Act, channels: int = 2, **given) -> Misdeeds:
    limits = {name: given.pop(name) for name in ("window", "accepts") if name in given}
    source = SourceSetup(**{"channels": channels, "size": SIZE, **given})
    return Misdeeds(source, acts, **limits)


@pytest.fixture(scope="module")
def builtin():
    with SenderTarget("builtin:") as target:
        yield target


# ---- the value -----------------------------------------------------------------------------------


@given(misdeeds(DESCRIPTION))
def test_whatever_is_drawn_survives_its_json_form(value):
    data = json.loads(json.dumps(value.to_json() | {"finding": {"kind": "hangs"}}))
    assert load_misdeeds(data) == value
    assert hash(load_misdeeds(data)) == hash(value)


@given(misdeeds(DESCRIPTION), st.randoms(use_true_random=False))
def test_whatever_is_smaller_is_another_and_at_last_nothing_is_left(value, random):
    for _ in range(200):
        candidates = list(smaller(value))
        assert value not in candidates
        assert all(load_misdeeds(one.to_json()) == one for one in candidates)
        if not candidates:
            break
        value = random.choice(candidates)
    else:
        pytest.fail("it is made smaller without an end")
    assert value == Misdeeds()


def test_the_json_form_is_short_where_nothing_is_said():
    value = Misdeeds(acts=(Act(1, 64, "pause", seconds=0.5), Act(0, 0, "reset")), window=4096)
    assert value.to_json() == {
        "multifd-misdeeds": 1,
        "source": {},
        "window": 4096,
        "acts": [
            {"on": 1, "at": 64, "do": "pause", "seconds": 0.5},
            {"on": 0, "at": 0, "do": "reset"},
        ],
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no misdeeds: 'multifd-misdeeds' must be 1"),
        ({"source": []}, "no misdeeds: 'source' must be an object, and 'acts' a list"),
        ({"window": 0}, "misdeeds: window is 0, must be 1 to 67108864"),
        ({"source": {"channels": 0}}, "source: channels is 0, must be 1 to 255"),
        ({"source": {"channels": True}}, "source: channels is True, must be 1 to 255"),
        ({"source": {"size": 5000}}, "source: size is 5000, must be a multiple of 8192"),
        ({"source": {"dirty": 1}}, "source: dirty is 1, must be true or false"),
        (
            {"source": {"memory": "full"}},
            "source: memory is 'full', must be one of zero, mixed, random",
        ),
        (
            {"source": {"tls": True}},
            "source: 'tls' is unknown, must be one of channels, method, memory, size, dirty, return_path",  # noqa: E501
        ),
        (
            {"acts": [{"do": "sing"}]},
            f"act 0: 'do' is 'sing', must be one of {DOINGS}",
        ),
        ({"acts": [{"on": 0, "at": 0, "do": "say"}]}, "act 0: 'hex' is missing"),
        (
            {"acts": [{"on": 0, "at": 0, "do": "say", "hex": "0"}]},
            "act 0: hex is '0', must be bytes in hex",
        ),
        (
            {"acts": [{"on": 0, "at": 0, "do": "stall", "hex": "00"}]},
            "act 0: 'hex' is unknown, must be one of on, at, do",
        ),
        (
            {"acts": [{"on": 0, "at": 0, "do": "pause", "seconds": 61}]},
            "act 0: seconds is 61, must be 0 to 60",
        ),
    ],
)
def test_what_is_no_misdeeds_is_refused(data, message):
    with pytest.raises(MisdeedsError) as caught:
        load_misdeeds({"multifd-misdeeds": 1, **data} if data else data)
    assert str(caught.value) == message


def test_a_recording_is_no_target():
    with pytest.raises(PeerError) as caught:
        SenderTarget("pcap:some.pcap")
    assert str(caught.value) == (
        "peer 'pcap:some.pcap': has sent already, must be a sender that can be started"
    )


def test_a_sender_is_started_for_nothing_that_it_lacks():
    with (
        SenderTarget("builtin:?dialect=5.2") as target,
        pytest.raises(PeerError, match=r"^peer 'builtin:\?dialect=5.2': the peer has no qatzip$"),
    ):
        target.run(plain(method="qatzip"))


# ---- what a sender does --------------------------------------------------------------------------


def test_nothing_at_all_lets_a_migration_complete(builtin):
    result = builtin.run(plain(return_path=True))
    assert result.finding is None
    assert {"INIT-1", "PKT-14", "SYNC-1", "state completed"} <= result.reached
    assert result.scores["bytes"] > 100_000
    assert builtin.describe()["product"] == "multifd-proto"


@pytest.mark.parametrize(
    "value",
    [
        plain(Act(1, 64, "pause", seconds=0.05), Act(0, 8, "pause", seconds=0.05)),
        plain(Act(1, 2000, "slow", piece=4096, seconds=0.001)),
        plain(window=1, return_path=True),
    ],
)
def test_a_slow_destination_gets_everything(builtin, value):
    seen = builtin.see(value, QUICK)
    assert (seen.state, seen.broken, seen.image) == (State.COMPLETED, False, ())
    assert judge(seen) is None


@pytest.mark.parametrize("do", ["close", "reset"])
@pytest.mark.parametrize(
    "at", [0, 1, 4, 63, 64, 65, 75, 76, 64 + HEAD - 1, 64 + HEAD, 64 + HEAD + 1, 64 + 2 * HEAD + 9]
)
def test_a_channel_that_is_ended_anywhere_ends_a_large_migration(builtin, do, at):
    assert MultiFDInit.size() == 64
    value = plain(Act(1, at, do), memory="random", size=16 << 20, window=1)
    seen = builtin.see(value, QUICK)
    assert judge(seen) is None
    assert seen.state is State.FAILED
    assert not seen.left_open


@pytest.mark.parametrize("at", [0, 3, 4, 8, 100])
def test_a_main_stream_that_is_ended_anywhere_is_no_migration(builtin, at):
    seen = builtin.see(plain(Act(0, at, "close"), return_path=True), QUICK)
    assert judge(seen) is None
    assert seen.state is State.FAILED


@pytest.mark.parametrize("accepts", [0, 1, 2])
def test_connections_that_are_refused_are_no_fault_of_the_sender(builtin, accepts):
    result = builtin.run(plain(accepts=accepts, return_path=True))
    assert result.finding is None


def test_a_stalled_sender_ends_when_its_connections_are_closed(builtin):
    value = plain(Act(1, 0, "stall"), channels=1, memory="random", size=16 << 20, window=1)
    seen = builtin.see(value, QUICK)
    assert (seen.ending, seen.state) == (Ending.STILL, State.FAILED)
    assert judge(seen) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (SHUT_BAD, "the destination has failed: SHUT is 0x1, must be 0"),
        ("", "closed before SHUT"),
        (SHUT_OK[:-2], "closed before SHUT"),
        ("ffff0000", "message type is 65535, must be 1, 2 or 7"),
        ("0001ffff", "length of SHUT is 65535, must be 4"),
    ],
)
def test_a_sender_completes_by_no_other_answer_than_a_good_one(builtin, answer, reason):
    act = Act(0, 0, "answer", to="SHUT", hex=answer)
    seen = builtin.see(plain(act, return_path=True), QUICK)
    assert judge(seen) is None
    assert seen.state is State.FAILED
    assert seen.reason[0].endswith(reason)


def test_what_is_said_early_is_not_taken_for_the_end(builtin):
    value = plain(Act(0, 8, "say", hex=SHUT_OK), return_path=True)
    seen = builtin.see(value, QUICK)
    assert (seen.state, judge(seen)) == (State.FAILED, None)


def test_the_last_answer_comes_after_the_description_of_the_machine(builtin):
    # QEMU 7.2 fails now and then if it comes before
    value = plain(Act(0, 0, "slow", piece=1, seconds=0.0), return_path=True)
    seen = builtin.see(value, PATIENT)
    what = [exchange.what for exchange in seen.exchanges if exchange.wire == "main"]
    end = what.index("StreamEnd")
    assert what[end : end + 3] == ["StreamEnd", "VmDescription", "answer on the return path"]
    assert seen.said.hex().endswith(SHUT_OK)


def test_the_last_answer_comes_without_a_description_too():
    writer = MainWriter(template_for(DESCRIPTION.dialect), [RamBlockEntry(b"ram0", 4096)], True)
    main = writer.start() + writer.mark() + writer.end() + writer.mark()
    stream = Stream(Hearing(MigrationParameters(dialect=DESCRIPTION.dialect, channels=1)), 0)
    stream.feed(main)
    assert stream.farewell() == b""
    assert stream.feed(StreamEnd().build()) == b""
    assert stream.farewell().hex() == SHUT_OK
    assert stream.farewell() == b""


def test_cancelling_a_stalled_sender_ends_it(builtin):
    acts = Act(1, 64, "stall"), Act(0, 8, "cancel")
    seen = builtin.see(plain(*acts, memory="random", size=16 << 20, window=1), QUICK)
    assert (seen.state, judge(seen)) == (State.FAILED, None)
    assert seen.ending is Ending.SETTLED


def test_the_reference_withstands_whatever_is_drawn(builtin):
    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(builtin.strategy().filter(lambda value: not value.source.dirty))
    def withstands(value):
        assert builtin.run(value).finding is None, json.dumps(value.to_json())

    with nothing_left():
        withstands()


# ---- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["INIT-1", "PKT-14", "SYNC-1", "MAIN-4"])
def test_a_sender_that_is_wrong_is_found_by_its_requirement(broken):
    with SenderTarget(f"builtin:?broken={broken}") as target:
        found = target.run(plain()).finding
    assert found is not None
    assert found.signature == f"wrong-bytes {broken}"


def test_what_is_drawn_for_a_sender_is_what_it_can_be_told():
    with SenderTarget("builtin:?broken=none") as target:

        @settings(max_examples=50, deadline=None)
        @given(target.strategy())
        def is_possible(value):
            source = value.source
            assert (source.channels, source.method, source.return_path) == (2, "none", False)
            assert all(one.source.channels == 2 for one in target.smaller(value))

        is_possible()


@pytest.fixture(scope="module")
def refused(builtin):
    act = Act(0, 0, "answer", to="SHUT", hex=SHUT_BAD)
    return builtin.see(plain(act, return_path=True), QUICK)


@pytest.fixture(scope="module")
def completed(builtin):
    return builtin.see(plain(return_path=True), QUICK)


def test_completing_against_the_word_of_the_destination_is_found(refused):
    found = judge(replace(refused, state=State.COMPLETED))
    assert found == Finding(
        "false-completion", "CHAN-1",
        "completed, the destination said: 00 02 00 04 00 00 00 01 00 01 00 04 00 00 00 01",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "observed"),
    [
        ({"crashed": True, "death": "signal SIGSEGV"}, "crashes", "signal SIGSEGV"),
        ({"answers": False}, "wedges", "its monitor is silent, completed"),
        ({"state": State.SILENT}, "wedges", "its monitor is silent, silent"),
        (
            {"state": State.RUNNING, "status": "device"},
            "hangs",
            "still device with all connections closed",
        ),
        ({"left_open": ("main", "0")}, "hangs", "completed, and leaves open: main, 0"),
        ({"ending": Ending.STILL}, "hangs", "sends nothing, completed"),
        ({"said": b""}, "false-completion", "completed, the destination said: nothing"),
        ({"state": State.FAILED, "reason": ("no",)}, "gives-up", "failed: no"),
        ({"image": ("ram0 at 0x0",)}, "wrong-bytes", "ram0 at 0x0"),
        ({"growth": GROWTH + 1}, "grows", "takes 67108865 bytes, must be up to 67108864"),
    ],
)
def test_whatever_else_must_not_be_is_found(completed, change, kind, observed):
    assert judge(completed) is None
    found = judge(replace(completed, **change))
    assert found is not None
    assert (found.kind, found.observed) == (kind, observed)


def test_a_finding_is_tried_again():
    again = try_misdeeds(plain().to_json(), "builtin:?broken=PKT-14")
    assert again.judgement.verdict is Verdict.FAILED
    assert again.judgement.failure is Failure.WRONG_BYTES
    assert again.judgement.text.startswith("wrong-bytes PKT-14: channel 1 @")
    assert again.exchanges
    fixed = try_misdeeds(plain().to_json(), "builtin:")
    assert fixed.judgement == Judgement(Verdict.PASSED, "completed")


# ---- real QEMU -----------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
def test_a_real_source_takes_what_it_can_take(release, qemu):
    qemu(release)
    shut = Act(0, 0, "answer", to="SHUT", hex=SHUT_BAD)
    slow = Act(1, 2000, "slow", piece=8192, seconds=0.001)
    with SenderTarget(f"qemu-src:{release}") as target:
        assert target.describe()["dialect"].startswith(release.split(".")[0])
        for value, state in (
            (plain(return_path=True), "completed"),
            (plain(slow, window=4096), "completed"),
            (plain(shut, return_path=True), "failed"),
        ):
            result = target.run(value)
            assert result.finding is None, value
            assert f"state {state}" in result.reached
            assert any(label.startswith("multifd_") for label in result.reached)


@pytest.mark.qemu
def test_a_real_source_that_does_not_end_is_found(qemu):
    qemu("7.2")
    value = plain(accepts=1, channels=3, return_path=True)
    with SenderTarget("qemu-src:7.2") as target:
        # which of the threads is faster decides what goes wrong, if anything does
        findings = (target.run(value, patient=True).finding for _ in range(10))
        found = next((one for one in findings if one), None)
    assert found is not None
    assert found.kind in ("hangs", "wedges", "crashes")
    assert found.requirement == "CHAN-1"
