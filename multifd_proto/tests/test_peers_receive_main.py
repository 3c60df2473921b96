"""Main streams that break off, lie or never end: one clear error each."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd_proto.machine.parameters import RamBlock
from multifd_proto.tests.senders import (
    BLOCK,
    OPEN_RETURN_PATH,
    PAGE,
    PING,
    SLACK,
    TIMEOUT,
    MainWire,
    Run,
    nothing_left,
    serving,
)
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)

HEAD = (MainHeader(), Configuration(b"none"))
RAM = SectionStart(1, b"ram", 0, 4)
PLACE = sum(len(record.build()) for record in (*HEAD, RAM))
"""Where the list of blocks starts."""
AT = f"main stream @{PLACE:#x}"


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def only_main(run: Run) -> MainWire:
    """Open a main stream and channels that have no part in what follows."""
    main = run.script.main()
    for number in (0, 1):
        run.script.channel(number).sync()
    return main


def entries(*sizes: int) -> tuple[RamBlockEntry, ...]:
    return tuple(RamBlockEntry(b"block %d" % n, size) for n, size in enumerate(sizes))


# ---- ends and silence ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(8, PLACE + 20, 7))
def test_a_main_stream_that_is_cut_is_refused(length: int) -> None:
    with serving() as run:
        main = only_main(run)
        whole = b"".join(record.build() for record in (*HEAD, RAM))
        whole += RamSetup(PAGE, (RamBlockEntry(BLOCK, PAGE),)).build()
        main.send(whole[:length]).close()
    assert run.requirement == "MAIN-11"
    assert (run.error or "").split(": ", 1)[1].startswith("end of the stream is ")
    assert run.seconds < SLACK


def test_a_main_stream_that_ends_between_sections_is_refused() -> None:
    with serving() as run:
        main, _ = run.script.setup()
        length = len(main.sent)
        main.close()
    said = f"end of the stream is after {length} bytes, must be after the last section"
    assert run.error == f"main stream @{length:#x} MAIN-11: {said}"
    assert run.seconds < SLACK


@pytest.mark.parametrize("dialect", ["7.2", "10.0"])
def test_a_main_stream_that_says_nothing_more_is_told_of(dialect: str) -> None:
    with serving(timeout=TIMEOUT, script={"dialect": dialect}) as run:
        only_main(run).send(b"QEVM")
    assert (
        run.error == f"no byte came for {TIMEOUT:g} s: the main stream stands still after 0 marks"
    )
    assert TIMEOUT <= run.seconds < 2 * TIMEOUT + SLACK


def test_a_reset_in_set_up_is_named() -> None:
    with serving() as run:
        main = run.script.main()
        main.send(b"QEVM\0\0\0\3")
        run.script.channel(0)
        time.sleep(0.1)
        main.reset()
        run.script.channel(1)
    assert run.error == "main stream: Connection reset by peer"


def test_a_reset_in_a_part_is_named() -> None:
    with serving() as run:
        main, _ = run.script.setup()
        main.part()
        time.sleep(0.1)
        main.reset()
    assert run.error == "main stream: Connection reset by peer"
    assert run.seconds < SLACK


def test_a_reset_of_everything_ends_the_migration_at_once() -> None:
    with serving() as run:
        run.script.setup()
        time.sleep(0.1)
        for wire in run.script.wires:
            wire.reset()
    assert (run.error or "").endswith(": Connection reset by peer")
    assert run.seconds < SLACK


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b"QEVM\0\0\0\2",
            "@0x0 MAIN-1: the version of the stream is not 3, which is 0x2, must be 0x3",
        ),
        (
            b"QEVM\0\0\0\3\x55",
            (
                "@0x8 MAIN-2: no record begins with this byte, which is 0x55,"
                " must be the type of a record"
            ),
        ),
        (
            b"QEVM\0\0\0\3\2\0\0\0\7",
            (
                "@0x8 MAIN-2: a part of a section that was never started, which is 0x7,"
                " must be the number of a section"
            ),
        ),
        (
            b"QEVM\0\0\0\3" + Configuration(bytes(5000)).build(),
            "@0x8 MAIN-2: more than the parser holds, which is 0x138d, must be 0x400",
        ),
    ],
)
def test_garbage_is_refused(data: bytes, said: str) -> None:
    with serving() as run:
        only_main(run).send(data)
    assert run.error == f"main stream {said}"
    assert run.seconds < SLACK


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (
            RamSetup(1 << 62, entries(1 << 62)),
            f"the source has {1 << 62} bytes of RAM, at most 1099511627776 go",
        ),
        (
            RamSetup(600 * PAGE, entries(*[PAGE] * 600)),
            "the source has 600 RAM blocks, at most 512 go",
        ),
        (
            RamSetup(5000 * PAGE, entries(*[PAGE] * 5000)),
            f"{AT} MAIN-2: more than the parser holds, which is 0x1001, must be 0x1000",
        ),
        (
            RamSetup(PAGE, entries(2 * PAGE)),
            (
                f"{AT} MAIN-6: the lengths of the block list exceed their total,"
                " which is 0x2000, must be 0x1000"
            ),
        ),
        (
            RamSetup(2 * PAGE, (RamBlockEntry(BLOCK, PAGE), RamBlockEntry(BLOCK, PAGE))),
            f"{AT} MAIN-6: block b'pc.ram' is listed twice, must be listed once",
        ),
        (
            RamSetup(PAGE, (RamBlockEntry(b"", PAGE),)),
            f"{AT} MAIN-6: name of a block is empty, must be at least 1 byte long",
        ),
    ],
    ids=["huge", "600 blocks", "5000 blocks", "sum", "twice", "no name"],
)
def test_an_absurd_block_list_is_refused(setup: RamSetup, said: str) -> None:
    with serving() as run:
        only_main(run).records(*HEAD, RAM, setup, RamFlush())
    assert run.error == said
    assert run.seconds < SLACK


@pytest.mark.parametrize(
    ("have", "said"),
    [
        (
            (RamBlock(BLOCK, PAGE),),
            "block b'pc.ram' is 262144 bytes long, must be 4096 bytes long",
        ),
        (
            (RamBlock(b"other", PAGE),),
            "block b'pc.ram' is 262144 bytes long, must be none of the list",
        ),
    ],
)
def test_a_block_that_the_receiver_does_not_have_is_refused(
    have: tuple[RamBlock, ...], said: str
) -> None:
    with serving(given={"ramblocks": have}) as run:
        run.script.setup()
    assert run.error == f"{AT} MAIN-12: {said}"


def test_blocks_that_the_receiver_has_are_taken() -> None:
    with serving(given={"ramblocks": (RamBlock(BLOCK, 64 * PAGE),)}) as run:
        run.script.setup()
        run.script.finish()
    assert run.error is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (RamSetup(PAGE, entries(PAGE)), "MAIN-6: block list is sent twice, must be sent once"),
        (RamPage(BLOCK, 0, PAGE), "MAIN-8: page is on the main stream, must be on a channel"),
        (RamZero(BLOCK, (0,), 7), "MAIN-9: fill byte is 0x07, must be 0"),
        (RamZero(BLOCK, (1 << 30,)), "PKT-27: offset is 0x40000000, must be at most 0x3f000"),
        (RamZero(BLOCK, (1024,)), "PKT-31: offset is 0x400, should be a multiple of 4096"),
        (
            RamZero(b"none", (0,)),
            (
                "MAIN-7: a page of a block that the block list does not have, which is b'none',"
                " must be a name of the block list"
            ),
        ),
    ],
)
def test_a_wrong_word_is_refused(record: RamPage, said: str) -> None:
    with serving() as run:
        main, _ = run.script.setup()
        main.part()
        place = len(main.sent)
        main.records(record, RamEos(), Footer(1))
    where = "main stream" if said.startswith("MAIN") else "stream 0"
    assert run.error == f"{where} @{place:#x} {said}"


def test_a_mark_of_newer_releases_is_refused_before_8_1() -> None:
    with serving(script={"dialect": "7.2"}) as run:
        main, _ = run.script.setup()
        main.part()
        place = len(main.sent)
        main.records(RamFlush())
    said = "word of the ram section is MULTIFD_FLUSH, must be none before 8.1"
    assert run.error == f"main stream @{place:#x} MAIN-10: {said}"


def test_another_version_of_the_section_is_refused() -> None:
    with serving() as run:
        only_main(run).records(*HEAD, SectionStart(1, b"ram", 0, 3))
    place = PLACE - len(RAM.build())
    said = "section ram is of instance 0, version 3, must be of instance 0, version 4"
    assert run.error == f"main stream @{place:#x} MAIN-4: {said}"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (4, "POSTCOPY_LISTEN"),
        (5, "POSTCOPY_RUN"),
        (6, "POSTCOPY_RAM_DISCARD"),
        (7, "PACKAGED"),
        (8, "ENABLE_COLO"),
        (9, "POSTCOPY_RESUME"),
        (10, "RECV_BITMAP"),
        (99, "99"),
    ],
)
def test_commands_of_other_migrations_are_refused(number: int, name: str) -> None:
    with serving() as run:
        main, _ = run.script.setup()
        place = len(main.sent)
        main.records(Command(number, struct.pack(">I", 0xFFFFFFFF)))
    said = f"MAIN-2: command is {name}, must be one of a precopy migration"
    assert run.error == f"main stream @{place:#x} {said}"


# ---- what never ends -----------------------------------------------------------------------------


def test_a_description_that_never_ends_is_given_up() -> None:
    with serving(timeout=TIMEOUT) as run:
        main, _ = run.script.setup()
        main.end()
        run.script.mark()
        main.records(StreamEnd()).send(b"\6\xff\xff\xff\xff")
        for _ in range(25):
            main.send(bytes(1000))
            time.sleep(0.02)
    assert run.requirement == "MAIN-11"
    assert run.seconds < 2 * TIMEOUT + SLACK


def test_bytes_after_the_end_are_not_taken_for_ever() -> None:
    with serving(timeout=TIMEOUT) as run:
        main, _ = run.script.setup()
        main.end()
        run.script.mark()
        main.finish()
        for _ in range(25):
            main.send(bytes(1000))
            time.sleep(0.02)
    assert run.error is None
    assert run.received.warnings == ("the source did not close its connections",)
    assert run.seconds < 2 * TIMEOUT + SLACK


def test_packets_after_the_end_are_not_taken_for_ever() -> None:
    with serving(timeout=TIMEOUT) as run:
        main, (first, _) = run.script.setup()
        main.end()
        run.script.mark()
        main.finish()
        for _ in range(25):
            first.send(first.head())
            time.sleep(0.02)
    assert run.error is None
    assert run.received.warnings == ("the source did not close its connections",)


def test_a_source_without_a_description_is_not_waited_for() -> None:
    with serving(timeout=TIMEOUT) as run:
        main, _ = run.script.setup(2, OPEN_RETURN_PATH)
        main.end()
        run.script.mark()
        main.records(StreamEnd())
        answer = main.socket.recv(4) + main.socket.recv(100)
        run.script.close()
    assert run.error is None
    assert answer == bytes.fromhex("0007 0000 0001 0004 00000000")


def test_a_source_that_reads_no_answers_is_given_up(tmp_path: Path) -> None:
    patience = 10 * TIMEOUT  # a loaded machine is not to be taken for such a source
    with serving(f"unix:{tmp_path}/sock", timeout=patience) as run:
        main, _ = run.script.setup(2, OPEN_RETURN_PATH)
        main.records(*[PING] * 10_000)
    assert run.error in {
        f"main stream: the peer took no byte for {patience:g} s",
        f"no byte came for {patience:g} s: the main stream stands still after 1 marks",
    }
