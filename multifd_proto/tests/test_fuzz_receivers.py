from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.script import (
    Arrive,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Script,
    ScriptError,
    Sync,
)
from multifd_proto.errors import PeerError
from multifd_proto.fuzz.oracle import prepare
from multifd_proto.fuzz.receivers import ReceiverTarget, without_probe
from multifd_proto.fuzz.reductions import smaller
from multifd_proto.fuzz.sessions import mended, scripts

PEER = parse_receiver("builtin:").describe()
OTHER = {"uuid": "00" * 16}
"""A UUID of another machine."""
SETTINGS = settings(max_examples=300, deadline=None, database=None)


def session(*more, channels=1, init=None, **fields):
    """Return a script with one page, and what is to come after it."""
    wires = [str(number) for number in range(channels)]
    begun = [step for w in wires for step in (Open(wire=w), Init(wire=w, fields=init or {}))]
    synced = [Sync(wire=w) for w in wires]
    steps = (Open(wire="main"), Main(part="start"), *begun, *synced, Main(part="mark"))
    page = Pages(wire="0", normal=(3,), fields=fields)
    return Script((*steps, page, *more), channels=channels)


@pytest.fixture
def target():
    with ReceiverTarget("builtin:") as made:
        yield made


def test_a_session_that_is_right_is_no_finding_and_tells_how_far_it_went(target):
    result = target.run(session(channels=2))
    assert result.finding is None
    assert {"rounds 1", "channels 2", "accepts, is accepted"} <= result.reached
    assert (result.scores["rounds"], result.scores["channels"]) == (1, 2)
    # 2 init messages, 2 SYNC packets, the page and the probe
    assert result.scores["messages"] == 6
    assert 0 <= result.scores["reaction"] < 1


def test_a_refusal_is_reached_under_its_requirement(target):
    result = target.run(session(pages_alloc=129))
    assert result.finding is None
    assert {"PKT-25", "refuses, is rejected", "pages pages_alloc +1"} <= result.reached


def test_the_nearer_to_a_bound_the_higher_the_score(target):
    near = [target.run(session(pages_alloc=v)).scores["near pages pages_alloc"] for v in (200, 130)]
    assert near[0] < near[1] < 0
    assert target.run(session(pages_alloc=128)).scores["near pages pages_alloc"] == 0


def test_a_receiver_that_is_wrong_is_a_finding_with_the_requirement():
    with ReceiverTarget("builtin:?broken=INIT-11") as target:
        finding = target.run(session(init=OTHER), patient=True).finding
    assert finding
    assert finding.signature == "accepts-bad INIT-11"


def test_a_receiver_that_is_not_there_is_an_error_of_the_peer():
    with ReceiverTarget("tcp:127.0.0.1:1") as target, pytest.raises(PeerError):
        target.run(session())
    with pytest.raises(PeerError) as error:
        ReceiverTarget("nonsense")
    assert str(error.value).startswith("peer 'nonsense': scheme is 'nonsense', must be one of")


def test_a_script_that_cannot_be_made_is_told(target):
    with pytest.raises(ScriptError, match="field 'id' is unknown"):
        target.run(session(id=3))


def test_the_receiver_is_described():
    with ReceiverTarget("builtin:?dialect=7.0") as target:
        facts = target.describe()
    assert (facts["product"], facts["dialect"]) == ("multifd-proto", "7.0")
    assert set(facts) == {"product", "version", "dialect"}


# ---- two receivers -------------------------------------------------------------------------------


def test_two_receivers_that_agree_are_no_finding():
    with ReceiverTarget("builtin:", "builtin:?broken=none") as target:
        assert target.run(session()).finding is None
        assert target.run(session(pages_alloc=129)).finding is None


def test_two_receivers_that_differ_are_a_finding_with_the_requirement():
    with ReceiverTarget("builtin:", "builtin:?broken=INIT-11") as target:
        finding = target.run(session(init=OTHER)).finding
        assert target.peer == "builtin: against builtin:?broken=INIT-11"
        assert target.describe()["against"] == "builtin:?broken=INIT-11"
    assert finding
    assert finding.signature == "differs INIT-11 refuses, the other accepts"
    assert finding.observed.endswith("; to be expected: refuses")


@pytest.mark.qemu
def test_two_releases_differ_in_the_pages_of_a_packet(qemu):
    qemu("5.2"), qemu("7.2")
    with ReceiverTarget("qemu:7.2", "qemu:5.2") as target:
        finding = target.run(session(pages_alloc=129), patient=True).finding
        assert target.run(session(pages_alloc=128), patient=True).finding is None
    assert finding
    assert finding.signature == "differs PKT-25 refuses, the other accepts"


# ---- the readable form ---------------------------------------------------------------------------


def test_the_readable_form_holds_the_probe_and_reading_takes_it_off(target):
    script = session()
    data = target.to_json(script)
    assert data["expect"] == "ACCEPTS"
    assert data["steps"][-1] == {"do": "arrive", "page": 255, "salt": 77}
    assert target.from_json(data) == script


@SETTINGS
@given(scripts(PEER))
def test_every_script_survives_the_readable_form(script):
    assert without_probe(prepare(script, PEER).script) == script


def test_what_the_script_itself_waits_for_stays():
    script = session(Arrive(page=3))
    assert without_probe(script) == script


def test_a_file_that_is_no_script_is_told(target):
    with pytest.raises(ScriptError) as error:
        target.from_json({"steps": []})
    assert str(error.value) == "no script: 'multifd-script' must be 1"


# ---- smaller scripts -----------------------------------------------------------------------------


@SETTINGS
@given(scripts(PEER), st.integers(0, 400))
def test_all_that_is_smaller_differs_and_can_be_played(script, number):
    for candidate in islice(smaller(script, PEER), number, number + 3):
        assert candidate != script
        assert mended(candidate.steps) == candidate.steps
        prepare(candidate, PEER)


@settings(max_examples=15, deadline=None, database=None)
@given(scripts(PEER), st.data())
def test_making_smaller_comes_to_an_end(script, data):
    for _ in range(500):
        options = list(islice(smaller(script, PEER), 300))
        if not options:
            return
        # plainer rather than shorter, as that is what could go in circles
        script = options[-1 - data.draw(st.integers(0, min(3, len(options) - 1)))]
    raise AssertionError(script)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (session(Pause(seconds=0.01)), session()),
        (session(channels=2), session(channels=1)),
        (session(Raw(wire="0", hex="4142")), session(Raw(wire="0", hex="41"))),
        (session(pages_alloc=777), session(pages_alloc=129)),
        (session(pages_alloc=129), session(pages_alloc=128)),
        (session(pages_alloc=129), session(pages_alloc=0)),
        (session(pages_alloc=129), session()),
        (session(ramblock="42" * 256), session(ramblock="00" * 256)),
        (session(offset=[5, 6]), session(offset=[5])),
        (session(Pages(wire="0", normal=(5, 9), salt=2)), session(Pages(wire="0", normal=(5, 9)))),
        (session(Pages(wire="0", normal=(5, 9))), session(Pages(wire="0", normal=(5,)))),
        (session(Pages(wire="0", normal=(9,))), session(Pages(wire="0", normal=(0,)))),
        (
            session(Pages(wire="0", normal=(0,), payload="00" * 4, lands=False)),
            session(Pages(wire="0", normal=(0,), payload="00" * 2, lands=False)),
        ),
        (session(Sync(wire="0", first=3)), session(Sync(wire="0"))),
        (session(Open(wire="1x"), Init(wire="1x")), session(Open(wire="1"), Init(wire="1"))),
        (session(Fin(wire="0")), session()),
        (
            Script((Open(wire="1"), Init(wire="1", fields={"id": 2}))),
            Script((Open(wire="0"), Init(wire="0", fields={"id": 1})), channels=1),
        ),
    ],
)  # fmt: skip
def test_a_script_is_made_smaller(script, wanted):
    assert wanted in list(smaller(script, PEER))


def of(method):
    return lambda script: script.method == method


def test_the_strategy_makes_sessions_of_all_methods(target):
    for method in ("none", "zlib", "zstd"):
        script = find(target.strategy(), of(method), settings=SETTINGS)
        assert script.method == method
