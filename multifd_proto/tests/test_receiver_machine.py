"""The reference receiver as a machine, and that the cases of the suite demand what it does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.conformance.case import Case, Expect
from multifd_proto.conformance.catalogue import receiver_cases
from multifd_proto.conformance.model import predict
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.script import (
    MAIN,
    Arrive,
    Complete,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Raw,
    Script,
    Sync,
)
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiver import ReceiverMachine, configured
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.payload import METHODS

PEER = {
    name: parse_receiver(f"builtin:?dialect={name}").describe() for name in ("7.2", "10.0", "11.1")
}
CASES = {
    id_: case
    for id_, case in receiver_cases().items()
    # what is inside TLS, and what a process does beside it, are not the machine's
    if isinstance(case, Case) and not case.tls and not case.reported
}
OTHER = {
    "CHAN-2": "the fault is another's: what counts is what is answered",
    "CHAN-12": "the fault is another's: what counts is who is closed",
    "CHAN-13": "the fault is another's: what counts is who wakes up",
    "DEV-5": "whose state cannot be named is refused for that",
    "PKT-30": "the fault is another's: what counts is memory",
    "SYNC-14": "a source must not do it (SYNC-1)",
}
"""Requirements whose cases are refused by another one."""


DEMANDED = [
    (id_, dialect)
    for id_, case in CASES.items()
    for dialect, peer in PEER.items()
    if case.binds(peer.dialect) and not case.not_applicable(peer)
]


@pytest.mark.parametrize(("id_", "dialect"), DEMANDED)
def test_a_case_demands_what_the_machine_does(id_, dialect):
    case, peer = CASES[id_], PEER[dialect]
    machine = predict(case.script, peer, MACHINE)
    if case.expect is Expect.ACCEPTS:
        assert machine.refusal is None
        accept(case, machine, peer)
    elif case.expect is not Expect.SURVIVES:
        # a stranger is closed, and the migration may go on
        assert machine.refusal or machine.unspecified
        if machine.refusal and case.requirement.id not in OTHER:
            assert machine.refusal.requirement is case.requirement


def accept(case, machine, peer):
    """Prove that what the last step waits for is there."""
    last = next(step for step in reversed(case.steps) if isinstance(step, Arrive | Complete))
    if isinstance(last, Complete):
        assert machine.complete
        return
    stage = Stage(case.script, peer, MACHINE)
    block, offset = stage.place(last.page, last.block)
    expected = stage.expected(last.page, last.salt)
    assert bytes(machine.memory[block][offset : offset + peer.page_size]) == expected


def machine(dialect: str = "11.1", channels: int = 1) -> ReceiverMachine:
    given = MigrationParameters(
        dialect=dialect_of(dialect), page_size=4096, channels=channels, uuid=MACHINE,
        compression=METHODS[0],
    )  # fmt: skip
    return ReceiverMachine(configured(given, PEER["11.1"].blocks))


@given(
    st.sampled_from([dialect.name for dialect in DIALECTS]),
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.binary(max_size=80)
            | st.sampled_from([b"QEVM\0\0\0\3", bytes.fromhex("11223344 00000001") + MACHINE])
            | st.none(),
        ),
        max_size=12,
    ),
)
def test_no_bytes_make_it_raise(dialect, pieces):
    receiver = machine(dialect, 2)
    for _ in range(3):
        receiver.open()
    for number, piece in pieces:
        if piece is None:
            receiver.receive_eof(number)
        else:
            receiver.receive_data(number, piece)
    assert not receiver.complete
    assert receiver.waits


def test_the_cut_of_the_bytes_does_not_matter():
    case = receiver_cases()["PKT-25/alloc-one-more"]
    peer = PEER["11.1"]
    whole = predict(case.script, peer, MACHINE)
    assert whole.refusal
    stage = Stage(case.script, peer, MACHINE)
    receiver, wires = machine(channels=2), {}
    for step in case.steps:
        if step.do == "open":
            wires[step.wire] = receiver.open()
        elif step.do in ("init", "main", "sync", "pages"):
            for byte in stage.build(step).data:
                receiver.receive_data(wires[step.wire], bytes([byte]))
    assert str(receiver.refusal) == str(whole.refusal)


BEGUN = (
    Open(wire=MAIN), Main(part="start"), Open(wire="0"), Init(wire="0"), Sync(wire="0"),
    Main(part="mark"),
)  # fmt: skip


def after(*steps, dialect: str = "11.1") -> ReceiverMachine:
    receiver: ReceiverMachine = predict(
        Script((*BEGUN, *steps), channels=1), PEER[dialect], MACHINE
    )
    return receiver


def test_pages_that_may_be_written_are_told_from_those_that_must_not():
    good, bad = (
        Pages(wire="0", normal=(1,)),
        Pages(wire="0", normal=(2,), fields={"pages_alloc": 0}),
    )
    receiver = after(good, bad)
    assert receiver.begun == {(b"ram0", 0x1000)}
    assert receiver.denied == {(b"ram0", 0x2000)}


@pytest.mark.parametrize(
    ("step", "requirement"),
    [
        (Pages(wire="0", normal=(1,), fields={"unused64": "ff" * 24}), "PKT-29"),
        (Sync(wire="0", fields={"ramblock": "ff" * 256}), "PKT-29"),
        (Pages(wire="0", normal=(1,), fields={"packet_num": 0}), "PKT-32"),
        (Pages(wire="0", normal=(1,), fields={"next_packet_size": 1}), "PAY-17"),
        (Pages(wire="0", normal=(1,), fields={"flags": 1}), "SYNC-12"),
        (Fin(wire="0"), "CHAN-10"),
    ],
)
def test_what_has_to_be_put_up_with_is_told(step, requirement):
    receiver = after(step)
    assert receiver.refusal is None
    assert receiver.tolerated == {requirement}


def test_zero_pages_over_other_content_are_told():
    receiver = after(Pages(wire="0", normal=(1,)), Pages(wire="0", zero=(1,)))
    assert receiver.tolerated == {"PAY-16"}


@pytest.mark.parametrize(
    ("said", "requirement"),
    [("", "CHAN-9"), ("47455420", "CHAN-9")],
)
def test_a_connection_that_is_too_many_is_turned_away(said, requirement):
    assert after(Open(wire="1"), Raw(wire="1", hex=said)).turned_away == {2: requirement}


def test_a_stranger_is_turned_away_before_all_are_there():
    steps = (*BEGUN[:2], Open(wire="1"), Raw(wire="1", hex="47455420"))
    receiver = predict(Script(steps, channels=1), PEER["11.1"], MACHINE)
    assert receiver.turned_away == {1: "CHAN-6"}


def test_who_is_silent_is_unknown():
    steps = (*BEGUN[:2], Open(wire="1"), Init(wire="1", first=32))
    assert predict(Script(steps, channels=1), PEER["11.1"], MACHINE).unknown == (1,)


def test_what_is_awaited_is_told():
    receiver = machine()
    assert receiver.waits == "1 channels, of which 0 are set up"
