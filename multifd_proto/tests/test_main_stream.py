"""Main streams of real QEMU releases, of any records, of any bytes; whole, cut, and with gaps."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.capture.events import Data, Half
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import PacketReceived
from multifd_proto.tests.mainstreams import (
    REAL,
    Piece,
    build,
    cut,
    parse,
    records,
    single,
    streams,
)
from multifd_proto.wire.main_records import (
    STREAM_MAGIC,
    Command,
    Configuration,
    FaultKind,
    Footer,
    MainFault,
    MainGap,
    MainHeader,
    MainRecord,
    Opaque,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.main_states import MainState
from multifd_proto.wire.main_stream import MAX_SECTIONS, MainStream
from multifd_proto.wire.ram_reader import MAX_BLOCKS
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import MappedRamHeader

CAPTURES = sorted(Path(str(files("multifd_proto.spec"))).glob("captures/*.pcap.zst"))
UNMATCHED_SYNC = ("9.1", "9.2.0")
"""Releases whose channels end with a SYNC that has no mark."""
MIB = 1 << 20
HEAD: list[MainRecord] = [MainHeader(), Configuration(b"none")]
START = SectionStart(2, b"ram", 0, 4)
SETUP = RamSetup(MIB, (RamBlockEntry(b"ram0", MIB),))
LAST: list[MainRecord] = [RamEos(), Footer(2)]
TIMER = SectionStart(0, b"timer", 0, 2, full=True)
DEVICE: list[MainRecord] = [TIMER, Opaque(24), Footer(0)]
TAIL: list[MainRecord] = [*DEVICE, StreamEnd(), VmDescription(40)]
SMALL: list[MainRecord] = [
    *HEAD,
    START,
    SETUP,
    *LAST,
    SectionPart(2),
    *LAST,
    SectionEnd(2),
    *LAST,
    *TAIL,
]
ENDLESS = 1 << 62


def _devices(globalstate: int, description: int) -> list[MainRecord]:
    state = SectionStart(globalstate, b"globalstate", 0, 1, full=True)
    ends: list[MainRecord] = [Footer(globalstate), StreamEnd(), VmDescription(description)]
    return [*DEVICE, state, Opaque(104), *ends]


def _legacy(description: int) -> list[MainRecord]:
    zeros = RamZero(b"ram0", tuple(page << 12 for page in (3, 4, 200)))
    parts: list[MainRecord] = [SectionPart(2), zeros, *LAST, SectionEnd(2), *LAST]
    return [*HEAD, START, SETUP, *LAST, *parts, *_devices(4, description)]


def _modern() -> list[MainRecord]:
    start = SectionStart(1, b"ram", 0, 4)
    last: list[MainRecord] = [RamFlush(), RamEos(), Footer(1)]
    parts: list[MainRecord] = [SectionPart(1), *last, Command(11), SectionEnd(1), *last]
    return [*HEAD, start, SETUP, *last, *parts, *_devices(3, 823)]


WRITTEN = {"5.2": _legacy(535), "7.2": _legacy(486), "10.0": _modern(), "11.1": _modern()}


def assert_tiles(pieces: list[Piece], *, started: bool = True) -> None:
    total = sum(piece if isinstance(piece, int) else len(piece) for piece in pieces)
    end = 0
    for offset, size, record in parse(*pieces, started=started):
        assert offset == end
        assert size == len(record.build())
        assert size or isinstance(record, MainFault)
        end += size
    assert end == total


# ---- real streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("release", WRITTEN)
def test_every_record_of_a_real_stream_is_read(release: str) -> None:
    assert records(REAL[release]) == WRITTEN[release]


@pytest.mark.parametrize("name", REAL)
def test_a_real_stream_is_the_same_byte_by_byte(name: str) -> None:
    assert parse(*single(REAL[name])) == parse(REAL[name])
    assert_tiles([REAL[name]])


def test_nothing_more_is_waited_for_behind_a_short_configuration():
    stream = build([MainHeader(), Configuration(b""), StreamEnd()])
    whole = parse(stream, ended=False)
    assert [record for _, _, record in whole] == [MainHeader(), Configuration(b""), StreamEnd()]
    assert parse(*single(stream), ended=False) == whole


@pytest.mark.parametrize("name", REAL)
def test_what_is_kept_of_a_real_stream_builds_it_again(name: str) -> None:
    stream = REAL[name]
    for offset, size, record in parse(stream):
        if not isinstance(record, Opaque | VmDescription):
            assert record.build() == stream[offset : offset + size]


@pytest.mark.parametrize("name", REAL)
def test_bytes_behind_a_real_stream_are_opaque(name: str) -> None:
    whole = records(REAL[name])
    assert records(REAL[name], b"behind") == [*whole, Opaque(6)]
    assert records(*single(REAL[name] + b"behind")) == [*whole, Opaque(6)]


@pytest.mark.parametrize("release", WRITTEN)
def test_a_real_stream_may_end_only_between_commands_and_sections(release: str) -> None:
    between, inside = {0}, False
    for offset, size, record in parse(REAL[release]):
        inside |= isinstance(record, SectionStart | SectionPart | SectionEnd)
        inside &= not isinstance(record, Footer)
        between |= set() if inside else {offset + size}
    for end in range(len(REAL[release])):
        faults = [r for r in records(REAL[release][:end]) if isinstance(r, MainFault)]
        assert [fault.kind for fault in faults] == [FaultKind.ENDED] * (end not in between), end


def test_shared_memory_and_uuid_are_read_where_the_configuration_announces_them() -> None:
    content = records(REAL["11.1-ignore-shared"])
    uuid = bytes.fromhex("6ba7b8109dad11d180b400c04fd430c8")
    assert content[1] == Configuration(b"none", None, ("x-ignore-shared",), uuid)
    block = RamBlockEntry(b"ram0", MIB, guest_address=0)
    assert content[3] == RamSetup(MIB, (block,))
    assert isinstance(content[-1], VmDescription)


def test_the_commands_of_a_stream_that_may_go_postcopy_are_read() -> None:
    pages = (4096).to_bytes(8, "big")
    content = records(REAL["11.1-postcopy"])
    commands = [record for record in content if isinstance(record, Command)]
    ping = Command(2, bytes([0, 0, 0, 1]))
    assert commands == [Command(1), ping, Command(3, pages + pages), Command(11)]
    assert isinstance(content[-1], VmDescription)


# ---- captures of real migrations -----------------------------------------------------------------


def _captured(path: Path) -> tuple[MainStream, list[bytes]]:
    """Return the main stream of a capture, read, and the bytes of its channels."""
    streams: dict[Half, bytearray] = defaultdict(bytearray)
    main = MainStream()
    for event in CaptureReader([path]):
        if isinstance(event, Data) and event.half.forward:
            streams[event.half] += event.data
            if streams[event.half].startswith(STREAM_MAGIC):
                main.receive_data(event.data)
    main.receive_eof()
    return main, [bytes(s) for s in streams.values() if not s.startswith(STREAM_MAGIC)]


def _syncs(channel: bytes) -> int:
    machine = Channel()
    machine.receive_data(channel)
    return sum(isinstance(e, PacketReceived) and e.sync for e in machine.events())


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.zst"))
def test_a_captured_stream_has_a_mark_for_every_sync_of_its_channels(path: Path) -> None:
    main, channels = _captured(path)
    content = [record for _, _, record in main.records()]
    seen = Counter(map(type, content))
    marks = seen[RamFlush] or seen[RamEos]
    facts = json.loads(path.with_name(path.name.replace(".pcap.zst", ".json")).read_text())
    assert len(channels) == facts["channels"]
    assert marks == facts.get("sync_points", marks)
    unmatched = facts["source"] in UNMATCHED_SYNC
    assert {_syncs(channel) for channel in channels} == {marks + unmatched}


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".pcap.zst"))
def test_a_captured_stream_is_followed_to_its_description(path: Path) -> None:
    main, _ = _captured(path)
    content = [record for _, _, record in main.records()]
    assert [record.ram for record in content if isinstance(record, SectionEnd)] == [True]
    assert [type(record) for record in content[-2:]] == [StreamEnd, VmDescription]
    assert not any(isinstance(record, MainFault | MainGap) for record in content)
    described = [r.idstr for r in content if isinstance(r, SectionStart)]
    assert {b"ram", b"timer", b"fw_cfg", b"PCIBUS", b"globalstate"} <= set(described)


# ---- sections ----------------------------------------------------------------------------------


def test_a_built_stream_is_read_back() -> None:
    assert records(build(SMALL)) == SMALL


def test_the_end_of_another_section_is_not_that_of_ram() -> None:
    vfio = SectionStart(7, b"0000:00:01.0/vfio", 0, 1)
    end = SectionEnd(7, ram=False)
    content = [*HEAD, vfio, Opaque(4), Footer(7), START, SETUP, *LAST]
    content += [SectionPart(7, ram=False), Opaque(9), Footer(7), SectionPart(2), *LAST]
    content += [SectionEnd(2), *LAST, end, Opaque(5), Footer(7), *TAIL]
    stream = build(content)
    assert records(stream) == content
    assert records(*single(stream)) == content


def test_a_footer_in_the_data_of_a_device_is_none_unless_a_record_follows() -> None:
    fakes = [Footer(0).build() + tail for tail in (b"", b"\x7e", b"\x05abc", b"\x00\x01", b"\x02")]
    for fake in fakes:
        data = b"xy" + fake + b"zz"
        stream = build([*HEAD, TIMER]) + data + build([Footer(0), *DEVICE, StreamEnd()])
        expected = [*HEAD, TIMER, Opaque(len(data)), Footer(0), *DEVICE, StreamEnd()]
        assert records(stream) == expected
        assert records(*single(stream)) == expected


@pytest.mark.parametrize(
    "follower",
    [
        SectionStart(5, b"cpu", 0, 1, full=True),
        SectionStart(5, b"x" * 255, 0xFFFFFFFF, 9),
        Command(11),
        StreamEnd(),
    ],
)
def test_a_device_ends_at_a_footer_that_a_record_follows(follower: MainRecord) -> None:
    stream = build([*HEAD, *DEVICE, follower])
    wanted = [*HEAD, *DEVICE, follower]
    assert records(stream)[: len(wanted)] == wanted
    assert records(*single(stream))[: len(wanted)] == wanted


def test_a_device_with_no_data_has_no_opaque_record() -> None:
    content = [*HEAD, TIMER, Footer(0), StreamEnd()]
    assert records(build(content)) == content


def test_what_a_packaged_command_announces_is_opaque() -> None:
    inner = build(DEVICE)
    package = Command(7, len(inner).to_bytes(4, "big"))
    stream = build([*HEAD, package]) + inner + build([Command(11)])
    assert records(stream) == [*HEAD, package, Opaque(len(inner)), Command(11)]
    empty: list[MainRecord] = [*HEAD, Command(7, bytes(4)), Command(7, b"odd"), Command(11)]
    assert records(build(empty)) == empty


def test_the_page_size_comes_from_the_configuration() -> None:
    configuration = Configuration(b"virt", page_bits=16)
    page = RamPage(b"ram0", 0, 1 << 16)
    content = [MainHeader(), configuration, START, SETUP, page, *LAST]
    assert records(build(content)) == content


def test_the_page_size_is_given_where_nothing_tells() -> None:
    content = [*HEAD, START, SETUP, RamPage(b"ram0", 0, 8192), *LAST]
    stream = MainStream(page_size=8192)
    stream.receive_data(build(content))
    assert [record for _, _, record in stream.records()] == content


def test_huge_pages_of_a_block_are_read_once_postcopy_is_advised() -> None:
    advice = Command(3, (2 * MIB + 4096).to_bytes(8, "big") + (4096).to_bytes(8, "big"))
    blocks = (RamBlockEntry(b"huge", 4 * MIB, 2 * MIB), RamBlockEntry(b"ram0", MIB))
    content = [*HEAD, advice, START, RamSetup(5 * MIB, blocks), *LAST]
    assert records(build(content)) == content
    assert records(*single(build(content))) == content


def test_the_pages_of_a_mapped_ram_file_are_opaque_to_the_end() -> None:
    configuration = Configuration(b"none", capabilities=("mapped-ram",))
    header = MappedRamHeader(1, 4096, 200, MIB)
    setup = RamSetup(MIB, (RamBlockEntry(b"ram0", MIB, mapped=header),))
    content: list[MainRecord] = [MainHeader(), configuration, START, setup]
    stream = MainStream()
    stream.receive_data(build(content) + bytes(10))
    assert stream.unwanted() == ENDLESS
    stream.receive_eof()
    assert [record for _, _, record in stream.records()] == [*content, Opaque(10)]


def test_an_unknown_subsection_is_the_rest_of_the_configuration() -> None:
    rest = b"\x05\x13configuration/novel\x00\x00\x00\x01\x02\x03\x08\x7e"
    configuration = Configuration(b"pc", page_bits=12, rest=rest)
    stream = build([MainHeader(), configuration, START, SETUP, *LAST])
    assert records(stream) == [MainHeader(), configuration, START, SETUP, *LAST]
    assert records(*single(stream)) == [MainHeader(), configuration, START, SETUP, *LAST]


def test_trailing_bytes_that_are_no_description_are_opaque() -> None:
    assert records(build([*HEAD, StreamEnd()]), b"\x01\x02") == [*HEAD, StreamEnd(), Opaque(2)]


# ---- faults ------------------------------------------------------------------------------------

_FAULTS: dict[str, tuple[bytes, MainFault]] = {
    "magic": (b"QEVN\0\0\0\3", MainFault(FaultKind.MAGIC, b"QEVN", "b'QEVM'")),
    "version": (b"QEVM\0\0\0\2", MainFault(FaultKind.VERSION, 2, 3)),
    "type": (build(HEAD) + b"\x09", MainFault(FaultKind.RECORD_TYPE, 9, "the type of a record")),
    "stray footer": (
        build([*HEAD, Footer(1)]),
        MainFault(FaultKind.RECORD_TYPE, 0x7E, "the type of a record"),
    ),
    "section": (
        build([*HEAD, SectionPart(9)]),
        MainFault(FaultKind.SECTION, 9, "the number of a section"),
    ),
    "no footer": (
        build([*HEAD, START, SETUP, RamEos(), Command(1)]),
        MainFault(FaultKind.NO_FOOTER, 8, 0x7E),
    ),
    "footer": (
        build([*HEAD, START, SETUP, RamEos(), Footer(3)]),
        MainFault(FaultKind.FOOTER, 3, 2),
    ),
    "flags": (
        build([*HEAD, START, SETUP]) + (0x40).to_bytes(8, "big"),
        MainFault(FaultKind.RAM_FLAGS, 0x40, "ZERO, MEM_SIZE, PAGE, EOS or MULTIFD_FLUSH"),
    ),
    "address of a mark": (
        build([*HEAD, START, SETUP]) + (0x1010).to_bytes(8, "big"),
        MainFault(FaultKind.RAM_FLAGS, 0x1010, 0x10),
    ),
    "block name": (
        build([*HEAD, START, SETUP, RamZero(b"ram1", (0,))]),
        MainFault(FaultKind.BLOCK_NAME, b"ram1", "a name of the block list"),
    ),
    "continue": (
        build([*HEAD, START, SETUP, RamZero(None, (0,), continued=True)]),
        MainFault(FaultKind.CONTINUE, 0x22, "the name of a block"),
    ),
    "block list": (
        build([*HEAD, START, RamSetup(MIB, (RamBlockEntry(b"a", MIB + 4096),))]),
        MainFault(FaultKind.BLOCK_LIST, MIB + 4096, MIB),
    ),
    "long configuration": (
        build([MainHeader(), Configuration(bytes(1020))]),
        MainFault(FaultKind.BOUND, 1025, 1024),
    ),
    "blocks without end": (
        build([*HEAD, START, RamSetup(MIB, (RamBlockEntry(b"a", 0),) * (MAX_BLOCKS + 1))]),
        MainFault(FaultKind.BOUND, MAX_BLOCKS + 1, MAX_BLOCKS),
    ),
}


@pytest.mark.parametrize("case", _FAULTS)
def test_a_fault_is_reported_once_and_the_rest_is_opaque(case: str) -> None:
    stream, fault = _FAULTS[case]
    placed = parse(stream, build(SMALL))
    assert [record for _, _, record in placed if isinstance(record, MainFault)] == [fault]
    assert placed[-2][2] == fault
    assert isinstance(placed[-1][2], Opaque)
    assert placed == parse(*single(stream + build(SMALL)))
    assert_tiles([stream, build(SMALL)])


def test_sections_are_remembered_up_to_a_bound() -> None:
    more: list[MainRecord] = [
        SectionStart(100, b"ram", 0, 4),
        RamSetup(0, ()),
        RamEos(),
        Footer(100),
    ]
    many = list(HEAD)
    for number in range(MAX_SECTIONS):
        many += [SectionStart(number, b"ram", 0, 4), RamEos(), Footer(number)]
    assert records(build([*many, *more])) == [*many, *more]
    fault = MainFault(FaultKind.BOUND, MAX_SECTIONS + 1, MAX_SECTIONS)
    above = SectionStart(MAX_SECTIONS, b"ram", 0, 4)
    assert records(build([*many, above])) == [*many, fault, Opaque(17)]


_CUT: dict[str, tuple[list[MainRecord], bytes, MainFault, int]] = {
    "header": ([], b"QEVM", MainFault(FaultKind.ENDED, 4, 8), 4),
    "command": (HEAD, b"\x08\0\2\0\4\0", MainFault(FaultKind.ENDED, 6, 9), 6),
    "block list": (
        [*HEAD, START],
        SETUP.build()[:-1],
        MainFault(FaultKind.ENDED, 20, 21),
        20,
    ),
    "page": (
        [*HEAD, START, SETUP],
        RamPage(b"ram0", 0, 4096).build()[:-1],
        MainFault(FaultKind.ENDED, 4108, 4109),
        4108,
    ),
    "ram section": ([*HEAD, START, SETUP], b"", MainFault(FaultKind.ENDED, 0, 8), 0),
    "footer": ([*HEAD, START, SETUP, RamEos()], b"", MainFault(FaultKind.ENDED, 0, 1), 0),
    "device": ([*HEAD, TIMER], bytes(30), MainFault(FaultKind.ENDED, 30, "a footer"), 30),
    "description": (
        [*HEAD, StreamEnd()],
        b"\6\0\0\0\4{}",
        MainFault(FaultKind.ENDED, 7, 9),
        7,
    ),
}


@pytest.mark.parametrize("case", _CUT)
def test_the_end_inside_a_record_or_section_is_a_fault(case: str) -> None:
    before, part, fault, left = _CUT[case]
    expected = [*before, fault, *([Opaque(left)] if left else [])]
    assert records(build(before), part) == expected
    assert records(*single(build(before) + part)) == expected


def test_nothing_counts_after_the_end() -> None:
    stream = MainStream()
    stream.receive_data(build(HEAD))
    stream.receive_eof()
    stream.receive_data(build(DEVICE))
    stream.receive_gap(5)
    stream.receive_skipped(5)
    stream.receive_eof()
    assert [record for _, _, record in stream.records()] == HEAD
    assert list(stream.records()) == []


# ---- bytes that need not be handed over ----------------------------------------------------------


def test_content_of_pages_and_the_description_are_not_wanted() -> None:
    stream = MainStream()
    pages = [RamPage(b"ram0", 0, 4096), RamPage(b"ram0", 4096, 4096, continued=True)]
    stream.receive_data(build([*HEAD, START, SETUP]))
    assert stream.unwanted() == 0
    for page in pages:
        stream.receive_data(page.build()[:-4000])
        assert stream.unwanted() == 4000
        stream.receive_skipped(3999)
        assert stream.unwanted() == 1
        stream.receive_skipped(1)
    stream.receive_data(build([*LAST, *DEVICE, StreamEnd()]) + b"\6\0\0\0\x28{")
    assert stream.unwanted() == 39
    stream.receive_skipped(39)
    assert stream.unwanted() == ENDLESS
    assert stream.state is MainState.REST
    stream.receive_eof()
    content = [*HEAD, START, SETUP, *pages, *LAST, *TAIL]
    assert [record for _, _, record in stream.records()] == content


def test_nothing_is_wanted_after_a_fault() -> None:
    stream = MainStream()
    stream.receive_data(b"not a main stream")
    assert stream.unwanted() == ENDLESS
    stream.receive_skipped(1000)
    stream.receive_gap(10)
    stream.receive_data(build(SMALL))
    stream.receive_eof()
    length = len(build(SMALL))
    rest = [Opaque(1017), MainGap(10), Opaque(length)]
    fault = MainFault(FaultKind.MAGIC, b"not ", "b'QEVM'")
    assert [record for _, _, record in stream.records()] == [fault, *rest]


def test_bytes_skipped_that_were_wanted_are_a_gap() -> None:
    stream = MainStream()
    stream.receive_skipped(8)
    stream.receive_eof()
    assert [record for _, _, record in stream.records()] == [MainGap(8)]


# ---- gaps --------------------------------------------------------------------------------------


def test_after_a_gap_the_stream_is_followed_from_the_next_end_of_a_part_of_ram() -> None:
    stream = REAL["11.1"]
    at = stream.index(b"\x02\0\0\0\x01")  # ram's only PART
    content = records(stream[: at + 2], 6, stream[at + 8 :])
    start = len(WRITTEN["11.1"]) - len(WRITTEN["11.1"][WRITTEN["11.1"].index(Command(11)) :])
    assert content[: start - 4] == WRITTEN["11.1"][: start - 4]
    assert content[start - 4 : start] == [Opaque(2), MainGap(6), Opaque(5), RamEos()]
    assert content[start:] == WRITTEN["11.1"][start - 1 :]


@pytest.mark.parametrize(
    ("follower", "ram"),
    [(SectionPart(3), True), (SectionStart(4, b"cpu", 0, 12, full=True), False)],
    ids=["part", "device"],
)
def test_only_a_part_shows_an_end_of_ram_whose_number_is_unknown(
    follower: MainRecord, ram: bool
) -> None:
    # The data of real devices end like the word, with another device behind them.
    stream = build([Opaque(40), RamEos(), Footer(3), follower])
    assert (RamEos() in records(stream, started=False)) is ram


def test_after_a_gap_the_stream_is_followed_from_the_start_of_ram() -> None:
    stream = REAL["7.2"]
    at = stream.index(b"\x01\0\0\0\x02\x03ram")
    assert records(at, stream[at:]) == [MainGap(at), *WRITTEN["7.2"][2:]]
    assert records(stream[at:], started=False) == WRITTEN["7.2"][2:]
    assert records(at, *single(stream[at:])) == [MainGap(at), *WRITTEN["7.2"][2:]]


def test_after_a_gap_among_devices_the_end_of_the_stream_is_found() -> None:
    for release in ("5.2", "11.1"):
        stream, content = REAL[release], WRITTEN[release]
        at = stream.index(b"globalstate") - 50
        assert records(stream[:at], 55, stream[at + 55 :])[-3:] == content[-3:]


_WRONG: dict[str, tuple[list[MainRecord], bytes]] = {
    "flags": ([], (0x40).to_bytes(8, "big")),
    "block name": ([], RamZero(b"ram1", (0,)).build()),
    "footer": ([RamEos()], Footer(3).build()),
    "block list": ([], RamSetup(1 << 12, (RamBlockEntry(b"a", MIB),)).build()),
}


@pytest.mark.parametrize("case", _WRONG)
def test_what_is_wrong_after_a_gap_is_no_fault(case: str) -> None:
    before, wrong = _WRONG[case]
    seen = [*HEAD, START, SETUP]
    after = build([SectionPart(2), RamFlush()])
    followed = [*LAST, SectionPart(2), *before]
    found = records(build(seen), 100, build(followed), wrong, after, build([*LAST, *TAIL]))
    lost = Opaque(len(wrong) + len(after))
    assert found == [*seen, MainGap(100), *followed, lost, *LAST, *TAIL]


def test_a_section_whose_start_was_lost_is_a_device_if_ram_is_known() -> None:
    part = SectionPart(9, ram=False)
    seen = [*HEAD, START, SETUP, *LAST]
    after = [SectionPart(2), RamFlush(), *LAST, part, Opaque(30), Footer(9), SectionEnd(2), *LAST]
    found = records(build(seen), 40, build([*after, *TAIL]))
    assert found == [*seen, MainGap(40), Opaque(13), *LAST, *after[4:], *TAIL]


def test_bytes_missing_from_the_content_of_a_page_change_nothing() -> None:
    page = RamPage(b"ram0", 0, 4096)
    before = build([*HEAD, START, SETUP]) + page.build()[:-4000]
    content = [*HEAD, START, SETUP, page, *LAST, *TAIL]
    assert records(before, bytes(100), 3000, bytes(900), build([*LAST, *TAIL])) == content


def test_a_gap_beyond_the_content_of_a_page_loses_what_follows() -> None:
    page = RamPage(b"ram0", 0, 4096)
    before = build([*HEAD, START, SETUP]) + page.build()[:-4000]
    found = records(before, 4008, build([*LAST, *DEVICE, StreamEnd()]))
    assert found == [*HEAD, START, SETUP, page, MainGap(8), *LAST, *DEVICE, StreamEnd()]


# ---- any stream, any bytes, any cut ------------------------------------------------------------


@given(streams(), st.lists(st.integers(0, 1 << 20), max_size=6))
@settings(deadline=None)
def test_any_built_stream_is_read_back(content: list[MainRecord], places: list[int]) -> None:
    stream = build(content)
    assert records(*cut(stream, places)) == content


chunks = (
    st.sampled_from([*REAL.values(), build(SMALL), *(stream for stream, _ in _FAULTS.values())])
    .flatmap(lambda s: st.tuples(st.just(s), st.integers(0, len(s)), st.integers(0, len(s))))
    .map(lambda part: part[0][min(part[1:]) : max(part[1:])])
)
noise = st.binary(max_size=40)
pieces = st.lists(chunks | noise | st.integers(-1, 5000), max_size=8)


@given(pieces, st.booleans())
@settings(deadline=None)
def test_records_tile_any_stream_with_any_gaps(stream: list[Piece], started: bool) -> None:
    real = [max(piece, 0) if isinstance(piece, int) else piece for piece in stream]
    assert parse(*stream, started=started) == parse(*real, started=started)
    assert_tiles(real, started=started)


@given(pieces, st.lists(st.integers(0, 1 << 20), max_size=6), st.booleans())
@settings(deadline=None)
def test_no_cut_changes_the_records(stream: list[Piece], places: list[int], started: bool) -> None:
    again: list[Piece] = []
    for piece in stream:
        again += [piece] if isinstance(piece, int) else cut(piece, places)
    assert parse(*again, started=started) == parse(*stream, started=started)
    drop = [piece for piece in stream if not isinstance(piece, int)]
    bytewise = [byte for piece in drop for byte in single(piece)]
    assert parse(*bytewise, started=started) == parse(b"".join(drop), started=started)


@given(st.binary(max_size=200))
def test_no_bytes_behind_a_header_raise(rest: bytes) -> None:
    assert_tiles([MainHeader().build() + rest])


# ---- bounds ------------------------------------------------------------------------------------


def test_memory_is_bounded_whatever_the_stream_claims() -> None:
    command = b"\x08\0\x06\xff\xff"
    noise = random.Random(3).randbytes(20_000)
    claims = {
        "command": build(HEAD) + command + bytes(65_000),
        "device": build([*HEAD, TIMER]) + noise,
        "zeros": build([*HEAD, START, SETUP, RamZero(b"ram0", (0,) * 3000)]),
        "name": build(HEAD) + b"\x01\0\0\0\2\xff" + bytes(250),
        "machine": build([MainHeader()]) + b"\x07\0\0\0\xff" + bytes(250) + b"\x05\xff" + noise,
        "lost": noise,
    }
    most = Counter[str]()
    for name, claim in claims.items():
        stream = MainStream(started=name != "lost")
        for byte in single(claim):
            stream.receive_data(byte)
            most[name] = max(most[name], len(stream._buffer))
    assert most["command"] == 65_024 - 19
    assert most["device"] < 300
    assert most["lost"] < 300
    assert most["zeros"] < 2400
    assert most["machine"] < 1400
