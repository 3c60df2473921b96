"""Channels that stall, drip, break off, or say what is to be refused: one clear error each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.senders import (
    BLOCK,
    METHOD,
    PAGE,
    SLACK,
    TIMEOUT,
    ChannelWire,
    MainWire,
    Run,
    nothing_left,
    page,
    serving,
)

HEAD = 1344
"""Bytes of a packet's head."""
FIRST = 64 + HEAD
"""Where the packet after the first SYNC starts."""
COMPRESSED = [name for name in METHOD if name != "none"]


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def begin(run: Run) -> tuple[MainWire, ChannelWire, ChannelWire]:
    """Play a source up to the first packets with pages."""
    main, (first, second) = run.script.setup()
    return main.part(), first, second


def stalled(part: str, place: int = FIRST) -> str:
    return f"channel 0, packet @{place:#x}: no byte of its {part} came for {TIMEOUT:g} s"


# ---- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 11, 12, 13, 320, HEAD - 1])
def test_half_a_head_is_told_of(length: int) -> None:
    with serving(timeout=TIMEOUT) as run:
        _, first, _ = begin(run)
        first.send(first.packet([1])[0][:length])
    assert run.error == stalled("head")
    assert run.seconds < 2 * TIMEOUT + SLACK


@pytest.mark.parametrize(
    ("method", "length"),
    [("none", 0), ("none", 1), ("none", PAGE), *((name, 9) for name in COMPRESSED)],
)
def test_half_a_payload_is_told_of(method: str, length: int) -> None:
    with serving(timeout=TIMEOUT, script={"method": method}) as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1, 2])
        first.send(head, payload[:length])
    assert run.error == stalled("payload")
    assert run.seconds < 2 * TIMEOUT + SLACK


def test_half_a_device_state_is_told_of(tmp_path: Path) -> None:
    with serving(timeout=TIMEOUT, save=tmp_path) as run:
        _, first, _ = begin(run)
        first.device_state(b"x", next_packet_size=64 << 20)
    assert run.error == stalled("payload")


def test_half_a_payload_inside_tls_is_told_of(tmp_path: Path) -> None:
    credentials = TlsCredentials(issue(tmp_path / "tls"))
    with serving(timeout=TIMEOUT, tls=credentials, script={"tls": credentials.client()}) as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1, 2])
        first.send(head, payload[:5000])
    assert run.error == stalled("payload")
    assert run.seconds < 3 * TIMEOUT + SLACK


@pytest.mark.parametrize("tls", [False, True])
def test_a_silent_channel_is_told_of_where_the_mark_is_here(tls: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if tls:
        credentials = TlsCredentials(issue(tmp_path / "tls"))
        options = {"tls": credentials, "script": {"tls": credentials.client()}}
    with serving(timeout=TIMEOUT, **options) as run:
        main, first, _ = begin(run)
        first.sync()
        main.mark()
    assert run.error == f"no byte came for {TIMEOUT:g} s: SYNC 2 of channel 1 is awaited"
    assert TIMEOUT <= run.seconds < 2 * TIMEOUT + SLACK


def test_channels_that_are_parked_for_ever_wait_for_the_main_stream() -> None:
    with serving(timeout=TIMEOUT) as run:
        _, first, second = begin(run)
        first.sync()
        second.sync()
    assert (
        run.error == f"no byte came for {TIMEOUT:g} s: the main stream stands still after 1 marks"
    )
    assert TIMEOUT <= run.seconds < 2 * TIMEOUT + SLACK


def test_all_are_silent_from_the_start_of_a_round() -> None:
    with serving(timeout=TIMEOUT) as run:
        begin(run)
    assert (
        run.error == f"no byte came for {TIMEOUT:g} s: the main stream stands still after 1 marks"
    )


def test_a_channel_may_be_silent_as_long_as_others_are_not() -> None:
    with serving(timeout=TIMEOUT) as run:
        _, first, _ = begin(run)
        for number in range(8):
            time.sleep(TIMEOUT / 4)
            first.pages([number])
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert run.seconds > 2 * TIMEOUT


def test_a_head_that_comes_in_drops_is_given_up() -> None:
    with serving(timeout=TIMEOUT) as run:
        _, first, _ = begin(run)
        head = first.packet([1])[0]
        for at in range(30):
            first.send(head[at : at + 1])
            time.sleep(0.03)
    assert run.error == f"channel 0, packet @{FIRST:#x}: its head took longer than {TIMEOUT:g} s"
    assert run.seconds < 4 * TIMEOUT + SLACK


def test_a_payload_that_comes_slowly_is_waited_for() -> None:
    with serving(timeout=TIMEOUT) as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1])
        first.send(head)
        for at in range(0, PAGE, PAGE // 8):
            time.sleep(TIMEOUT / 4)
            first.send(payload[at : at + PAGE // 8])
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert run.memory[BLOCK][PAGE : 2 * PAGE] == page(1)


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 12, HEAD - 1, HEAD, HEAD + PAGE - 1])
def test_a_channel_that_ends_inside_a_packet_is_refused(length: int) -> None:
    with serving() as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1])
        first.send((head + payload)[:length])
        first.close()
    end = next(end for end in (12, HEAD, HEAD + PAGE) if length < end)
    said = f"end of the stream is {end - length} bytes early, must be between two packets"
    assert run.error == f"channel 0 @{FIRST + length:#x} CHAN-11: {said}"
    assert run.seconds < SLACK


def test_a_channel_that_ends_before_its_sync_is_told_of_at_once() -> None:
    with serving() as run:
        main, first, second = begin(run)
        first.sync()
        second.pages([1]).close()
        place = len(main.sent)
        main.mark()
    said = "channel 1 is ended after 1 of them, should be open for SYNC 2"
    assert run.error == f"stream 0 @{place:#x} SYNC-13: {said}"
    assert run.seconds < SLACK


def test_a_channel_that_ends_while_its_sync_is_awaited_is_told_of_at_once() -> None:
    with serving() as run:
        main, first, second = begin(run)
        first.sync()
        main.mark()
        time.sleep(0.1)
        second.close()
    assert run.requirement == "SYNC-13"
    assert run.seconds < SLACK


def test_a_channel_may_end_after_its_last_sync() -> None:
    with serving() as run:
        main, channels = run.script.setup()
        main.end()
        run.script.mark()
        for channel in channels:
            channel.close()
        time.sleep(0.1)
        main.finish()
        run.script.close()
    assert run.error is None


@pytest.mark.parametrize("length", [0, 5, 100, HEAD, 5000])
def test_a_reset_is_named(length: int) -> None:
    with serving() as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1])
        first.send((head + payload)[:length])
        time.sleep(0.1)
        first.reset()
    if length:
        assert run.requirement == "CHAN-11"
    else:
        assert run.error == "channel 0: Connection reset by peer"
    assert run.seconds < SLACK


def test_a_reset_of_a_parked_channel_is_told_of_at_the_next_mark() -> None:
    with serving() as run:
        main, first, second = begin(run)
        first.sync()
        time.sleep(0.05)
        first.reset()
        second.sync()
        main.mark()
    assert run.error == "channel 0: Connection reset by peer"
    assert run.seconds < SLACK


def test_all_connections_of_a_failed_migration_are_closed() -> None:
    with serving() as run:
        main, first, second = begin(run)
        first.send(bytes(12))
        run.join()
        assert [wire.receive() for wire in (main, first, second)] == [b"", b"", b""]
    assert run.requirement == "PKT-24"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "values", "said"),
    [
        ({}, {"magic": 7}, "PKT-24: magic is 0x00000007, must be 0x11223344"),
        ({}, {"version": 7}, "PKT-24: version is 7, must be 1"),
        ({}, {"pages_alloc": 129}, "PKT-25: pages_alloc is 129, must be at most 128"),
        (
            {"dialect": "5.2"},
            {"pages_alloc": 12801},
            "PKT-25: pages_alloc is 12801, must be at most 12800",
        ),
        ({}, {"normal_pages": 1 << 31}, "PKT-25: normal_pages is 2147483648, must be at most 128"),
        ({}, {"zero_pages": 128}, "PKT-25: zero_pages is 128, must be at most 127"),
        (
            {},
            {"ramblock": b"x" * 256},
            f"PKT-26: ramblock is '{'x' * 255}', must be one of pc.ram",
        ),
        ({}, {"offset": (64 * PAGE,)}, "PKT-27: offset is 0x40000, must be at most 0x3f000"),
        (
            {},
            {"offset": (2**64 - 1,)},
            f"PKT-27: offset is {2**64 - 1:#x}, must be at most 0x3f000",
        ),
        ({"blocks": {BLOCK: 1024}}, {}, "PKT-28: block is 1024 bytes long, must be at least 4096"),
        ({}, {"offset": (1,)}, "PKT-31: offset is 0x1, should be a multiple of 4096"),
        ({}, {"flags": 4}, "PAY-12: payload method is 0x4, must be 0x0 (none)"),
        ({"method": "zstd"}, {"flags": 2}, "PAY-12: payload method is 0x2, must be 0x4 (zstd)"),
        ({"method": "zlib"}, {"flags": 0}, "PAY-12: payload method is 0x0, must be 0x2 (zlib)"),
        (
            {"method": "zlib"},
            {"next_packet_size": (1 << 20) + 1},
            "PAY-13: next_packet_size is 1048577, must be at most 1048576",
        ),
    ],
)
def test_a_wrong_packet_is_refused(
    script: dict[str, Any], values: dict[str, Any], said: str
) -> None:
    with serving(script=script) as run:
        _, first, _ = begin(run)
        first.pages([1], **values)
    assert run.error == f"channel 0 @{FIRST:#x} {said}"
    assert set(run.memory[BLOCK]) == {0}
    assert run.seconds < SLACK


@pytest.mark.parametrize("method", COMPRESSED)
def test_a_payload_without_pages_is_refused(method: str) -> None:
    with serving(script={"method": method}) as run:
        _, first, _ = begin(run)
        first.pages([], [1], next_packet_size=5).send(b"12345")
    said = "PAY-14: next_packet_size of zero pages is 5, must be 0"
    assert run.error == f"channel 0 @{FIRST:#x} {said}"


@pytest.mark.parametrize("method", COMPRESSED)
def test_a_payload_that_does_not_decode_is_refused(method: str) -> None:
    with serving(script={"method": method}) as run:
        _, first, _ = begin(run)
        head, payload = first.packet([1])
        first.send(head, bytes(len(payload)))
    assert run.requirement == "PAY-15"
    assert (run.error or "").startswith(f"channel 0 @{FIRST + HEAD:#x} PAY-15: payload is ")


@pytest.mark.parametrize("method", COMPRESSED)
def test_a_payload_of_fewer_pages_is_refused(method: str) -> None:
    with serving(script={"method": method}) as run:
        _, first, _ = begin(run)
        first.pages([1], normal_pages=2, offset=(PAGE, 2 * PAGE))
    assert run.requirement == "PAY-15"


@pytest.mark.parametrize("method", ["zlib", "zstd", "qatzip"])
def test_a_decompression_bomb_writes_no_more_than_its_pages(method: str) -> None:
    with serving(script={"method": method}) as run:
        _, first, _ = begin(run)
        bomb = METHOD[method].encoder().encode([b"\7" * (64 << 20)])
        first.send(first.packet([3], next_packet_size=len(bomb))[0], bomb)
    assert run.requirement == "PAY-15"
    memory = run.memory[BLOCK]
    assert set(memory[: 3 * PAGE] + memory[4 * PAGE :]) == {0}


def test_pages_before_the_first_sync_are_refused() -> None:
    with serving() as run:
        run.script.main().start()
        first, second = (run.script.channel(number) for number in (0, 1))
        second.sync()
        first.pages([1])
    said = "first packet is one with 1 pages, must be a SYNC packet"
    assert run.error == f"channel 0 @0x40 SYNC-1: {said}"


def test_a_page_twice_in_a_packet_is_refused() -> None:
    with serving() as run:
        begin(run)[1].pages([1, 2], [1])
    said = "PKT-31: an offset is listed twice, should be listed once"
    assert run.error == f"channel 0 @{FIRST:#x} {said}"


def test_pages_after_the_last_sync_fail_the_migration() -> None:
    with serving() as run:
        main, (first, _) = run.script.setup()
        main.end()
        run.script.mark()
        first.pages([1])
        main.finish()
        run.script.close()
    said = "last packet with pages is followed by no SYNC, must be followed by one"
    assert run.error == f"channel 0 SYNC-8: {said}"


def test_pages_after_a_sync_without_mark_are_not_written() -> None:
    with serving() as run:
        main, (first, _) = run.script.setup()
        main.end()
        run.script.mark()
        first.sync()
        place = len(first.sent)
        first.pages([1]).sync()
        main.finish()
        run.script.close()
    said = "mark of the last SYNC is missing, and pages follow, must be on the main stream"
    assert run.error == f"channel 0 @{place:#x} SYNC-6: {said}"
    assert set(run.memory[BLOCK]) == {0}


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("none", {"idstr": bytes(256)}, "DEV-1: idstr is '', must be a name that ends with NUL"),
        ("none", {"flags": 0x41}, "DEV-2: flags word is 0x41, must be without SYNC"),
        ("none", {"next_packet_size": 0}, "DEV-3: next_packet_size is 0, must be at least 1"),
        ("none", {"flags": 0x44}, "DEV-4: flags word is 0x44, must be without method bits"),
        ("zstd", {}, "DEV-4: device state is sent with zstd, must be without"),
        (
            "none",
            {"next_packet_size": 2**32 - 1},
            "DEV-6: next_packet_size is 4294967295, should be at most 67108864",
        ),
    ],
)
def test_wrong_device_state_is_refused(method: str, values: dict[str, Any], said: str) -> None:
    with serving(script={"method": method}) as run:
        begin(run)[1].device_state(b"x", **values)
    assert run.error == f"channel 0 @{FIRST:#x} {said}"


def test_a_uuid_of_another_machine_is_refused() -> None:
    with serving(given={"uuid": bytes(16)}) as run:
        run.script.main()
        run.script.channel(0, uuid=bytes(15) + b"\1")
    said = "uuid is 00000000-0000-0000-0000-000000000001, must be"
    assert run.error == f"stream 1 @0x0 INIT-11: {said} 00000000-0000-0000-0000-000000000000"


# ---- what comes late is not written before its time ----------------------------------------------


def test_pages_after_a_sync_are_written_only_after_its_mark() -> None:
    with serving() as run:
        main, first, second = begin(run)
        first.pages([1]).sync().pages([1], salt=5)
        time.sleep(0.2)
        block = run.receiver.memory.blocks[BLOCK]
        assert bytes(block.view[PAGE : 2 * PAGE]) == page(1)
        second.sync()
        main.mark().part()
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert run.memory[BLOCK][PAGE : 2 * PAGE] == page(6)
