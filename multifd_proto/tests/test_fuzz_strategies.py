"""What is drawn: it can be played, reaches what it is meant to, and is easy to use."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.script import Init, Pages, Script, Sync, load_script
from multifd_proto.fuzz import sessions as module
from multifd_proto.fuzz.oracle import Expected, prepare
from multifd_proto.fuzz.sessions import FAULTS, mended, scripts, sessions
from multifd_proto.fuzz.strategies import changes, field_values, numbers
from multifd_proto.wire.requirements import Role, load
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

PEERS = [parse_receiver(f"builtin:?dialect={name}").describe() for name in ("7.2", "10.0", "11.1")]
PEER = PEERS[-1]
FEW = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    found: list[Any] = []

    @seed(1)
    @settings(FEW, max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    return found


@FEW
@given(st.sampled_from(PEERS).flatmap(lambda peer: st.tuples(st.just(peer), scripts(peer))))
def test_every_script_can_be_played_and_written_down(given_):
    peer, script = given_
    assert load_script(prepare(script, peer).script.to_json()).steps
    assert load_script(script.to_json()) == script


@FEW
@given(st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), sessions(PEER, n))))
def test_a_session_without_faults_is_taken(given_):
    channels, steps = given_
    prepared = prepare(Script(steps, channels=channels), PEER)
    assert (prepared.expected, prepared.binds) == (Expected.ACCEPTS, True)


def test_scripts_reach_most_requirements_on_receivers():
    reached = {prepare(script, PEER).requirement for script in drawn(scripts(PEER), 500)}
    binding = {id_ for id_, found in load().items() if found.role is Role.RECEIVER}
    assert len(reached & binding) >= 20  # in so few scripts; a campaign draws thousands
    assert reached >= {"PKT-25", "PAY-12", "PAY-16", "SYNC-1"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__qualname__)
def test_a_fault_makes_another_session_of_it(fault):
    @st.composite
    def pairs(draw):
        steps = draw(sessions(PEER, 2))
        return steps, mended(fault(draw, steps, PEER, 2))

    assert any(before != after for before, after in drawn(pairs(), 30))


@pytest.mark.parametrize(("bound", "size"), [(2, 1), (128, 4), (1 << 20, 8)])
def test_numbers_around_a_bound_are_drawn(bound, size):
    assert {bound - 1, bound, bound + 1} <= set(drawn(numbers(size, bound), 400))


@pytest.mark.parametrize(
    ("kind", "layout"), [(Init, MultiFDInit), (Pages, MultiFDPacket), (Sync, MultiFDPacket)]
)
def test_every_field_of_a_layout_is_changed_now_and_then(kind, layout):
    names = {row.name for row in layout.rows(page_count=1)}
    assert set(field_values(layout, PEER, 2)) == names
    assert {name for fields in drawn(changes(kind, PEER, 2), 400) for name in fields} == names


def test_own_faults_can_be_handed_over():
    def nothing(_draw, _steps, _peer, _channels):
        return ()

    strategy = scripts(PEER, faults=[nothing], most_faults=1)
    assert any(script.steps == () for script in drawn(strategy, 30))


def test_the_property_of_the_documentation_holds():
    text = re.search(r"\n\n((?:    .*\n|\n)+)", module.__doc__ or "")
    assert text
    code = "\n".join(line.removeprefix("    ") for line in text[1].strip("\n").splitlines())
    names: dict[str, Any] = {}
    exec(code.replace("deadline=None", "deadline=None, max_examples=10"), names)
    names["test_it_survives"]()
