"""The records of the main stream: their bytes, and reading them from a buffer that is filling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.wire.cursor import Cursor, NeedMore, TooLong
from multifd_proto.wire.main_records import (
    MAX_CONFIGURATION,
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
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import MappedRamHeader

UUID = bytes(range(16))
HEADER = MappedRamHeader(1, 4096, 0x100, 0x100000)
BYTES: dict[str, tuple[MainRecord, str]] = {
    "header": (MainHeader(), "5145564d 00000003"),
    "configuration": (Configuration(b"pc"), "07 00000002 7063"),
    "page bits": (
        Configuration(b"pc", page_bits=16),
        (
            "07 00000002 7063"
            "05 1e 636f6e66696775726174696f6e2f7461726765742d706167652d62697473 00000001 00000010"
        ),
    ),
    "capabilities": (
        Configuration(b"pc", capabilities=("mapped-ram",)),
        (
            "07 00000002 7063"
            "05 1a 636f6e66696775726174696f6e2f6361706162696c6974696573 00000001"
            "00000001 0a 6d61707065642d72616d"
        ),
    ),
    "uuid": (
        Configuration(b"pc", uuid=UUID, rest=b"\x05"),
        (
            "07 00000002 7063"
            "05 12 636f6e66696775726174696f6e2f75756964 00000001"
            "000102030405060708090a0b0c0d0e0f 05"
        ),
    ),
    "command": (Command(2, b"\0\0\0\1"), "08 0002 0004 00000001"),
    "start": (SectionStart(1, b"ram", 0, 4), "01 00000001 03 72616d 00000000 00000004"),
    "full": (
        SectionStart(7, b"i8254", 1, 3, full=True),
        "04 00000007 05 6938323534 00000001 00000003",
    ),
    "part": (SectionPart(1), "02 00000001"),
    "end": (SectionEnd(1), "03 00000001"),
    "end of a device": (SectionEnd(9, ram=False), "03 00000009"),
    "footer": (Footer(1), "7e 00000001"),
    "end of the stream": (StreamEnd(), "00"),
    "description": (VmDescription(5), "06 00000005 7b2020207d"),
    "no description": (VmDescription(0), "06 00000000"),
    "opaque": (Opaque(3), "000000"),
    "gap": (MainGap(2), "0000"),
    "fault": (MainFault(FaultKind.MAGIC, b"abcd", "b'QEVM'"), ""),
    "block list": (
        RamSetup(0x3000, (RamBlockEntry(b"a", 0x1000), RamBlockEntry(b"b", 0x2000))),
        "0000000000003004 01 61 0000000000001000 01 62 0000000000002000",
    ),
    "huge block": (
        RamSetup(0x200000, (RamBlockEntry(b"a", 0x200000, page_size=0x200000),)),
        "0000000000200004 01 61 0000000000200000 0000000000200000",
    ),
    "shared block": (
        RamSetup(0x1000, (RamBlockEntry(b"a", 0x1000, guest_address=0x8000),)),
        "0000000000001004 01 61 0000000000001000 0000000000008000",
    ),
    "block in a file": (
        RamSetup(0x1000, (RamBlockEntry(b"a", 0x1000, mapped=HEADER),)),
        (
            "0000000000001004 01 61 0000000000001000"
            "00000001 0000000000001000 0000000000000100 0000000000100000"
        ),
    ),
    "zero page": (RamZero(b"a", (0x1000,)), "0000000000001002 01 61 00"),
    "zero pages": (
        RamZero(b"a", (0, 0x2000), 7),
        "0000000000000002 01 61 07 0000000000002022 07",
    ),
    "more zero pages": (RamZero(b"a", (0x1000,), continued=True), "0000000000001022 00"),
    "page": (RamPage(b"a", 0x1000, 2), "0000000000001008 01 61 0000"),
    "next page": (RamPage(None, 0x2000, 1, continued=True), "0000000000002028 00"),
    "flush": (RamFlush(), "0000000000000200"),
    "end of a part": (RamEos(), "0000000000000010"),
}
HEADS = (MainHeader, Configuration, Command, SectionStart)
Head = MainHeader | Configuration | Command | SectionStart
READABLE = {name: case for name, case in BYTES.items() if isinstance(case[0], HEADS)}
del READABLE["uuid"]  # its rest is left to the parser


def read(kind: Callable[[Cursor], Head], data: bytes, *, ended: bool = False) -> tuple[Head, int]:
    cursor = Cursor(bytearray(data), 0, ended=ended)
    return kind(cursor), cursor.used


@pytest.mark.parametrize("case", BYTES)
def test_a_record_has_the_bytes_of_the_wire(case: str) -> None:
    record, expected = BYTES[case]
    assert record.build() == bytes.fromhex(expected)


@pytest.mark.parametrize("case", READABLE)
def test_a_record_is_read_from_its_bytes_and_leaves_those_behind(case: str) -> None:
    record, _ = READABLE[case]
    assert isinstance(record, Head)
    data = record.build()
    assert read(type(record).read, data, ended=True) == (record, len(data))
    assert read(type(record).read, data + bytes(40)) == (record, len(data))


@pytest.mark.parametrize("case", READABLE)
def test_a_record_asks_for_the_bytes_it_lacks(case: str) -> None:
    record, _ = READABLE[case]
    assert isinstance(record, Head)
    data = record.build() + bytes(40)
    missing = []
    for there in range(len(record.build())):
        with pytest.raises(NeedMore) as error:
            read(type(record).read, data[:there])
        missing.append(error.value.total - there)
    assert min(missing) > 0
    assert len(data) >= max(total + at for at, total in enumerate(missing))


def test_a_subsection_that_is_not_known_is_left_to_the_parser() -> None:
    configuration = Configuration(b"pc", page_bits=12)
    data = configuration.build()
    for rest in (b"\x05", b"\x05\x12configuration/uuix", b"\x05\x12configuration/uui"):
        assert read(Configuration.read, data + rest, ended=True) == (configuration, len(data))


@pytest.mark.parametrize(
    "head",
    [
        b"\x07" + (MAX_CONFIGURATION + 1).to_bytes(4, "big"),
        b"\x07\xff\xff\xff\xff",
        Configuration(b"pc", capabilities=("x" * 255,) * 4).build(),
        Configuration(bytes(MAX_CONFIGURATION - 6), page_bits=12).build(),
    ],
)
def test_a_configuration_without_end_is_refused(head: bytes) -> None:
    for trailing in (b"", bytes(5000)):
        with pytest.raises(TooLong) as error:
            read(Configuration.read, head + trailing)
        assert error.value.limit == MAX_CONFIGURATION == 1024
        assert error.value.total > 1024


@pytest.mark.parametrize(
    ("entry", "sizes", "address", "mapped"),
    [
        (RamBlockEntry(b"pc.ram", 1 << 40), 0, False, False),
        (RamBlockEntry(b"pc.ram", 1 << 30, page_size=1 << 21), (1 << 21) + 4096, False, False),
        (RamBlockEntry(b"pc.ram", 1 << 30), (1 << 21) + 4096, False, False),
        (RamBlockEntry(b"pc.ram", 1 << 30, guest_address=0), 0, True, False),
        (RamBlockEntry(b"pc.ram", 1 << 30, guest_address=1 << 32, mapped=HEADER), 0, True, True),
    ],
)
def test_an_entry_of_the_block_list_is_read(
    entry: RamBlockEntry, sizes: int, address: bool, mapped: bool
) -> None:
    for behind in (RamFlush().build(), RamBlockEntry(b"next", 4096).build()):
        cursor = Cursor(bytearray(entry.build() + behind), 0, ended=False)
        assert RamBlockEntry.read(cursor, sizes, guest_address=address, mapped=mapped) == entry
        assert cursor.used == len(entry.build())


def test_a_block_is_in_the_file_if_its_pages_have_a_place() -> None:
    assert RamBlockEntry(b"a", 4096, mapped=HEADER).in_file
    assert not RamBlockEntry(b"a", 4096, mapped=MappedRamHeader(1, 4096, 0, 0)).in_file
    assert not RamBlockEntry(b"a", 4096).in_file


@given(
    st.builds(
        SectionStart,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=255),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )
    | st.builds(Command, st.integers(0, 65535), st.binary(max_size=300))
    | st.builds(MainHeader, st.binary(min_size=4, max_size=4), st.integers(0, 2**32 - 1)),
    st.binary(max_size=20),
)
def test_what_is_built_is_read_back(record: Head, behind: bytes) -> None:
    assert read(type(record).read, record.build() + behind) == (record, len(record.build()))


@given(st.sampled_from([Configuration, Command, SectionStart]), st.binary(max_size=400))
def test_what_is_read_from_any_bytes_builds_them(kind: type[Head], data: bytes) -> None:
    data = {Configuration: b"\x07", Command: b"\x08", SectionStart: b"\x04"}[kind] + data
    try:
        record, used = read(kind.read, data, ended=True)
    except (NeedMore, TooLong):
        return
    assert record.build() == data[:used]
