"""The joint state of a receiver, and where each requirement on receivers is proven."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from multifd_proto.machine.receiving import Receiving, refuse_record, violation
from multifd_proto.machine.rule import Fault
from multifd_proto.tests.senders import PAGE, parameters
from multifd_proto.wire.main_records import (
    COMMANDS,
    Command,
    Configuration,
    FaultKind,
    MainFault,
    MainRecord,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.requirements import Role, load

PROVEN = {
    "CHAN-2": "receiver:test_without_a_return_path_nothing_is_answered",
    "CHAN-5": "receiver:test_channels_come_first_and_the_main_stream_last",
    "CHAN-6": "arrivals:test_other_first_bytes_are_refused",
    "CHAN-7": "arrivals:test_a_silent_stranger_keeps_nobody_out",
    "CHAN-8": "arrivals:test_too_few_channels_are_counted",
    "CHAN-9": "arrivals:test_surplus_connections_are_closed_and_counted",
    "CHAN-10": "receive_channel:test_a_channel_may_end_after_its_last_sync",
    "CHAN-11": "receive_channel:test_a_channel_that_ends_inside_a_packet_is_refused",
    "CHAN-12": "receive_channel:test_all_connections_of_a_failed_migration_are_closed",
    "CHAN-13": "receive_channel:test_a_channel_that_ends_while_its_sync_is_awaited"
    "_is_told_of_at_once",
    "INIT-9": "arrivals:test_a_wrong_init_is_refused_where_the_order_decides",
    "INIT-10": "arrivals:test_a_wrong_init_is_refused_where_the_order_decides",
    "INIT-11": "receive_channel:test_a_uuid_of_another_machine_is_refused",
    "INIT-12": "arrivals:test_a_channel_whose_id_is_not_free_ends_the_migration",
    "INIT-13": "arrivals:test_a_channel_whose_id_is_not_free_ends_the_migration",
    "INIT-14": "receiver:test_what_a_receiver_must_not_look_at_is_not_looked_at",
    "PKT-24": "receive_channel:test_a_wrong_packet_is_refused",
    "PKT-25": "receive_channel:test_a_wrong_packet_is_refused",
    "PKT-26": "receiver:test_a_name_without_nul_ends_at_its_255th_byte",
    "PKT-27": "receive_channel:test_a_wrong_packet_is_refused",
    "PKT-28": "receive_channel:test_a_wrong_packet_is_refused",
    "PKT-29": "receiver:test_what_a_receiver_must_not_look_at_is_not_looked_at",
    "PKT-30": "receive_channel:test_a_wrong_packet_is_refused",
    "PKT-31": "receive_channel:test_a_page_twice_in_a_packet_is_refused",
    "PKT-32": "receiver:test_what_a_receiver_must_not_look_at_is_not_looked_at",
    "PAY-12": "receive_channel:test_a_wrong_packet_is_refused",
    "PAY-13": "receive_channel:test_a_wrong_packet_is_refused",
    "PAY-14": "receive_channel:test_a_payload_without_pages_is_refused",
    "PAY-15": "receive_channel:test_a_payload_that_does_not_decode_is_refused",
    "PAY-16": "receiver:test_a_page_that_was_written_becomes_zero_by_a_packet",
    "PAY-17": "receiver:test_what_a_receiver_must_not_look_at_is_not_looked_at",
    "SYNC-10": "receive_channel:test_a_silent_channel_is_told_of_where_the_mark_is_here",
    "SYNC-11": "receive_channel:test_pages_after_a_sync_are_written_only_after_its_mark",
    "SYNC-12": "receiver:test_pages_of_a_sync_packet_are_loaded_before_it_counts",
    "SYNC-13": "receive_channel:test_a_channel_that_ends_before_its_sync_is_told_of_at_once",
    "SYNC-14": "receive_channel:test_pages_before_the_first_sync_are_refused",
    "MAIN-12": "receive_main:test_a_block_that_the_receiver_does_not_have_is_refused",
    "DEV-5": "receiver:test_device_state_is_refused_where_no_device_takes_it",
    "DEV-6": "receive_channel:test_wrong_device_state_is_refused",
    "TLS-5": "receiver:test_tls_without_close_notify_is_refused_where_the_dialect_demands_it",
}
"""Requirement on receivers -> module of `peers` and the test of it that proves it."""
NOT_HERE = {
    "MAPR-5": "mapped-ram files have no live peer",
}


def test_every_requirement_on_receivers_is_proven() -> None:
    ids = {r.id for r in load().values() if r.role is Role.RECEIVER}
    assert set(PROVEN) | set(NOT_HERE) == ids
    assert not set(PROVEN) & set(NOT_HERE)


@pytest.mark.parametrize("place", sorted(set(PROVEN.values())))
def test_what_proves_a_requirement_is_a_test(place: str) -> None:
    module, name = place.split(":")
    tree = ast.parse(Path(__file__).with_name(f"test_peers_{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# ---- rounds --------------------------------------------------------------------------------------


def receiving(dialect: str = "10.0") -> Receiving:
    state = Receiving(parameters(dialect=dialect))
    state.admit(0)
    state.admit(1)
    return state


def test_all_channels_are_set_up() -> None:
    state = Receiving(parameters())
    assert not state.complete
    state.admit(1)
    assert not state.complete
    state.admit(0)
    assert state.complete


def test_a_channel_is_parked_from_its_sync_to_the_mark() -> None:
    state = receiving()
    state.arrive(0)
    assert state.parked(0)
    assert not state.parked(1)
    assert state.missing() == [1]
    state.arrive(1)
    assert state.missing() == []
    state.pass_mark()
    assert not state.parked(0)
    assert state.missing() == [0, 1]


def test_a_channel_that_has_ended_never_arrives() -> None:
    state = receiving()
    state.arrive(0)
    state.ended |= {0, 1}
    assert state.never() == [1]


def test_nobody_is_parked_after_the_end() -> None:
    state = receiving()
    state.arrive(0)
    state.take(StreamEnd())
    assert not state.parked(0)


def test_modern_marks_are_flush_words() -> None:
    state = receiving()
    assert [state.is_mark(record) for record in (RamFlush(), RamEos(), RamEos())] == [
        True,
        False,
        False,
    ]


def test_legacy_marks_are_eos_words() -> None:
    state = receiving("7.2")
    assert [state.is_mark(record) for record in (RamEos(), RamEos())] == [True, True]


def test_what_is_awaited_is_named() -> None:
    state = receiving()
    assert state.awaited == "the main stream stands still after 0 marks"
    state.arrive(0)
    state.meeting = True
    assert state.awaited == "SYNC 1 of channel 1 is awaited"
    state.arrive(1)
    state.pass_mark()
    assert state.awaited == "the main stream stands still after 1 marks"


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "answer"), [("8.0", ""), ("8.1", "0007 0000"), ("11.0", "0007 0000"), ("11.1", "")]
)
def test_opening_the_return_path_is_acknowledged_by_some(dialect: str, answer: str) -> None:
    state = receiving(dialect)
    assert state.farewell() == b""
    assert state.take(Command(1)) == bytes.fromhex(answer)
    assert state.farewell() == bytes.fromhex("0001 0004 00000000")


def test_a_ping_is_answered_once_the_return_path_is_open() -> None:
    state, ping = receiving(), Command(2, b"\x12\x34\x56\x78")
    assert state.take(ping) == b""
    state.take(Command(1))
    assert state.take(ping) == bytes.fromhex("0002 0004 12345678")


def test_machine_and_blocks_are_remembered() -> None:
    state = receiving()
    state.take(Configuration(b"pc-i440fx-10.0"))
    state.take(RamSetup(PAGE, (RamBlockEntry(b"pc.ram", PAGE),)))
    assert state.machine == b"pc-i440fx-10.0"
    assert state.blocks
    assert state.blocks[b"pc.ram"].used_length == PAGE


# ---- refusals of the main stream -----------------------------------------------------------------


def refused(record: MainRecord, dialect: str = "10.0") -> str | None:
    found = violation(refuse_record(record, receiving(dialect), PAGE), 0, None, 8)
    return str(found) if found else None


@pytest.mark.parametrize("kind", FaultKind)
def test_every_fault_of_framing_is_refused(kind: FaultKind) -> None:
    text = refused(MainFault(kind, 5, 6))
    assert text
    assert text.startswith("main stream @0x8 MAIN-")
    if kind is not FaultKind.ENDED:
        assert text.endswith(f": {kind.value}, which is 0x5, must be 0x6")


@pytest.mark.parametrize(
    "record",
    [
        Configuration(b"pc"),
        SectionStart(3, b"ram", 0, 4),
        SectionStart(4, b"vga", 7, 9),
        RamSetup(PAGE, (RamBlockEntry(b"pc.ram", PAGE),)),
        *(Command(number) for number in (1, 2, 3, 11)),
        StreamEnd(),
    ],
)
def test_records_of_precopy_are_taken(record: MainRecord) -> None:
    assert refused(record) is None


def test_flush_words_are_taken_since_8_1() -> None:
    assert refused(RamFlush(), "8.1") is None
    assert refused(RamFlush(), "8.0") is not None


@pytest.mark.parametrize("number", sorted({*COMMANDS, 0, 12, 65535} - {1, 2, 3, 11}))
def test_other_commands_are_refused(number: int) -> None:
    name = COMMANDS.get(number, str(number))
    message = f"MAIN-2: command is {name}, must be one of a precopy migration"
    assert refused(Command(number)) == f"main stream @0x8 {message}"


def test_zero_pages_before_the_block_list_are_refused() -> None:
    message = "MAIN-12: ramblock is b'pc.ram', must be one of the list"
    assert refused(RamZero(b"pc.ram", (0,))) == f"main stream @0x8 {message}"


def test_no_refusal_is_no_violation() -> None:
    assert violation(iter(()), 0, None, 0) is None
    found = violation([("PKT-24", Fault("magic", "1", "2"))], 3, 1, 64)
    assert str(found) == "channel 1 @0x40 PKT-24: magic is 1, must be 2"
