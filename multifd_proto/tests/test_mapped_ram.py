"""Layout and stream of mapped-ram files, without any file: bytes in, records and verdicts out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.machine.mapped_ram import MappedRamJudge, violated
from multifd_proto.machine.verdict import Verdict
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainFault,
    MainHeader,
    MainRecord,
    Opaque,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.mapped_ram import (
    PAGES_ALIGNMENT,
    SMALL_GAP,
    MappedBlock,
    absent_runs,
    bitmap_size,
    lay_out,
    pack_bitmap,
    ram_head,
    ram_tail,
    runs_to_write,
    unpack_bitmap,
)
from multifd_proto.wire.mapped_ram_stream import MappedRamStream, MappedRecord
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

MIB = 1 << 20
SWITCHOVER = Command(11).build()
DEVICE = SectionStart(7, b"timer", 0, 2, full=True).build() + bytes(24) + Footer(7).build()
SUFFIX = DEVICE + StreamEnd().build() + VmDescription(40).build()
Pieces = dict[int, bytes]
"""Parts of a file by their places; everything else is zero."""


def begin(*capabilities: str) -> bytes:
    return MainHeader().build() + Configuration(b"none", capabilities=capabilities).build()


def layout(
    *lengths: tuple[bytes, int], offset: int = 0, suffix: bytes = SUFFIX
) -> tuple[Pieces, list[MappedBlock]]:
    """Return the parts of a whole file but for bitmaps and pages, and its blocks."""
    head = begin("mapped-ram") + ram_head(1, 4, sum(length for _, length in lengths))
    blocks = lay_out(offset + len(head), lengths, 4096)
    pieces = {offset: head} | {block.place: block.entry.build() for block in blocks}
    tail = ram_tail(1, SWITCHOVER) + suffix
    return pieces | {blocks[-1].slots.stop: tail}, blocks


def size_of(pieces: Pieces) -> int:
    return max(place + len(piece) for place, piece in pieces.items())


def at(pieces: Pieces, place: int, length: int) -> bytes:
    """Read from a file that is given in pieces, and that may be far larger than any memory."""
    out = bytearray(max(0, min(length, size_of(pieces) - place)))
    for begins, piece in pieces.items():
        first, last = max(place, begins), min(place + len(out), begins + len(piece))
        if first < last:
            out[first - place : last - place] = piece[first - begins : last - begins]
    return bytes(out)


def read(pieces: Pieces, *, size: int | None = None, offset: int = 0, chunk: int = 512):
    """Return the reader of a file, and its records with their places."""
    size = size_of(pieces) if size is None else size
    stream = MappedRamStream(size, offset)
    records: list[tuple[int, MappedRecord]] = []
    positions = [offset]
    while not stream.done:
        data = at(pieces, stream.position, min(chunk, max(0, size - stream.position)))
        if data:
            stream.receive_data(data)
        else:
            stream.receive_eof()
        records += stream.records()
        positions.append(stream.position)
    assert all(a <= b for a, b in pairwise(positions)), "a reader never goes back"
    return stream, records


def messages(pieces: Pieces, **options: int) -> list[str]:
    """Return all violations that a file shows."""
    judge = MappedRamJudge()
    for place, record in read(pieces, **options)[1]:
        judge.take(place, record)
    results = judge.results()
    found = [
        f"@{v.offset:#x} {v.requirement.id}: {v.message}" for r in results for v in r.violations
    ]
    assert violated(results) == bool(found)
    return found


def with_header(**values: int) -> Pieces:
    """Return a file of one block of 1 MiB, whose header has some other values."""
    pieces, (block,) = layout((b"ram0", MIB))
    entry = replace(block.entry, mapped=replace(block.header, **values))
    return pieces | {block.place: entry.build()}


# ---- bitmaps and runs --------------------------------------------------------------------------


@given(st.text("01", max_size=500))
def test_a_bitmap_is_packed_and_unpacked(flags):
    bitmap = pack_bitmap(flags)
    assert len(bitmap) == bitmap_size(len(flags)) == -(-len(flags) // 64) * 8
    assert unpack_bitmap(bitmap) == flags.ljust(len(bitmap) * 8, "0")
    for page, flag in enumerate(flags):
        assert bitmap[page // 8] >> page % 8 & 1 == int(flag)


@given(st.text("01", max_size=500))
def test_runs_hold_every_present_page_and_only_small_gaps(flags):
    absent = [page for run in absent_runs(flags) for page in run]
    assert absent == [page for page, flag in enumerate(flags) if flag == "0"]
    runs = list(runs_to_write(flags))
    written = {page for run in runs for page in run}
    assert {page for page, flag in enumerate(flags) if flag == "1"} <= written
    for run in runs:
        assert flags[run.start] == flags[run.stop - 1] == "1"
        assert "0" * (SMALL_GAP + 1) not in flags[run.start : run.stop]
    for one, other in pairwise(runs):
        assert other.start - one.stop > SMALL_GAP


@given(
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.binary(min_size=1, max_size=255), st.integers(1, 1 << 20)), max_size=5),
)
def test_a_layout_has_no_faults_and_no_overlaps(place, blocks):
    laid = lay_out(place, [(name, pages * 4096) for name, pages in blocks], 4096)
    for block in laid:
        assert block.place == place
        assert block.end == block.bitmap.start <= block.bitmap.stop <= block.slots.start
        assert block.slots.start % PAGES_ALIGNMENT == 0
        place = block.slots.stop
        assert list(block.faults(place)) == []


# ---- the stream --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 64, 1 << 16])
@pytest.mark.parametrize("offset", [0, 12345])
def test_a_file_is_read_in_any_cut_at_any_offset(chunk, offset):
    pieces, blocks = layout((b"pc.ram", 3 * MIB), (b"vga", 5 * 4096), offset=offset)
    stream, records = read(pieces, offset=offset, chunk=chunk)
    assert stream.mapped
    assert stream.configuration.machine == b"none"
    assert [record for _, record in records if isinstance(record, MappedBlock)] == blocks
    place = blocks[-1].slots.stop
    tail: list[MainRecord] = [
        RamEos(), Footer(1), SectionPart(1), RamEos(), Footer(1), Command(11),
        SectionEnd(1), RamEos(), Footer(1), SectionStart(7, b"timer", 0, 2, full=True),
        Opaque(24), Footer(7), StreamEnd(), VmDescription(40),
    ]  # fmt: skip
    for found, expected in zip(records[-len(tail) :], tail, strict=True):
        assert found == (place, expected)
        place += len(expected.build())
    assert place == size_of(pieces)


def test_other_sections_before_ram_may_go_on_behind_it():
    early = SectionStart(5, b"dirty-bitmap", 0, 1).build() + b"early" + Footer(5).build()
    head = begin("mapped-ram") + early + ram_head(1, 4, 4096)
    (block,) = lay_out(len(head), [(b"ram0", 4096)], 4096)
    late = SectionEnd(5, ram=False).build() + b"late" + Footer(5).build()
    tail = ram_tail(1, late) + SUFFIX
    assert messages({0: head, block.place: block.entry.build(), block.slots.stop: tail}) == []


def test_ignored_shared_blocks_have_no_pages_in_the_file():
    shared = RamBlockEntry(b"shared", MIB, guest_address=0, mapped=MappedRamHeader())
    head = begin("x-ignore-shared", "mapped-ram") + ram_head(1, 4, 2 * MIB) + shared.build()
    bitmap = len(head) + len(RamBlockEntry(b"own", 0, None, 0, MappedRamHeader()).build())
    own = RamBlockEntry(b"own", MIB, None, MIB, MappedRamHeader(1, 4096, bitmap, MIB))
    pieces = {0: head + own.build(), 2 * MIB: ram_tail(1) + SUFFIX}
    _, records = read(pieces)
    blocks = [record for _, record in records if isinstance(record, MappedBlock)]
    assert [(block.name, block.in_file) for block in blocks] == [(b"shared", False), (b"own", True)]
    assert messages(pieces) == []
    only = begin("x-ignore-shared", "mapped-ram") + ram_head(1, 4, MIB) + shared.build()
    assert messages({0: only + ram_tail(1) + SUFFIX}) == []


def test_an_ordinary_stream_is_read_up_to_its_block_list():
    setup = RamSetup(MIB, (RamBlockEntry(b"ram0", MIB),))
    head = begin() + SectionStart(1, b"ram", 0, 4).build()
    stream, records = read({0: head + setup.build() + RamFlush().build()})
    assert not stream.mapped
    assert [type(record).__name__ for _, record in records] == [
        "MainHeader", "Configuration", "SectionStart",
    ]  # fmt: skip


# ---- what is wrong -----------------------------------------------------------------------------


def test_a_whole_file_passes_whatever_it_shows():
    pieces, blocks = layout((b"ram0", MIB))
    judge = MappedRamJudge()
    for place, record in read(pieces)[1]:
        judge.take(place, record)
    judge.take_bitmap(blocks[0], 0)
    verdicts = {r.requirement.id: r.verdict for r in judge.results()}
    assert verdicts.pop("MAPR-5") is Verdict.NOT_EXERCISED
    assert set(verdicts.values()) == {Verdict.PASSED}
    assert {"MAPR-1", "MAPR-2", "MAPR-3", "MAPR-4", "MAIN-11"} <= set(verdicts)


def test_bits_behind_the_last_page_are_reported():
    _, (block,) = layout((b"ram0", MIB))
    judge = MappedRamJudge()
    judge.take_bitmap(block, 3)
    (found,) = [v for r in judge.results() for v in r.violations]
    assert found.offset == block.bitmap.start
    assert found.message == (
        "bitmap of block 'ram0' behind its last page is 3 bits set, must be clear"
    )


HUGE = (1 << 64) - 4096


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"version": 2}, "MAPR-1: version of block 'ram0' is 2, must be 1"),
        ({"version": 0}, "MAPR-1: version of block 'ram0' is 0, must be 1"),
        (
            {"page_size": 0},
            "MAPR-1: page_size of block 'ram0' is 0, must be a power of two from 1024 to 65536",
        ),
        (
            {"page_size": 4097},
            "MAPR-1: page_size of block 'ram0' is 4097, must be a power of two from 1024 to 65536",
        ),
        (
            {"page_size": 1 << 63},
            (
                f"MAPR-1: page_size of block 'ram0' is {1 << 63}, must be a power of two from 1024 "
                "to 65536"
            ),
        ),
        (
            {"bitmap_offset": 0x40},
            (
                "MAPR-1: bitmap_offset of block 'ram0' is 0x40, must be 0x82 or more, behind the "
                "header"
            ),
        ),
        (
            {"pages_offset": MIB + 512},
            (
                "MAPR-2: alignment of pages_offset of block 'ram0' is 0x100200, must be a "
                "multiple of 0x100000"
            ),
        ),
        (
            {"bitmap_offset": MIB},
            (
                "MAPR-2: pages_offset of block 'ram0' is 0x100000, must be 0x100020 or more, "
                "behind the bitmap"
            ),
        ),
        (
            {"pages_offset": HUGE},
            (
                f"MAPR-1: end of the pages of block 'ram0' is {HUGE + MIB:#x}, must be within the "
                "file, 0x200094 bytes"
            ),
        ),
        (
            {"bitmap_offset": HUGE, "pages_offset": HUGE},
            (
                f"MAPR-1: end of the bitmap of block 'ram0' is {HUGE + 32:#x}, must be within the "
                "file, 0x200094 bytes"
            ),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_headers_that_do_not_fit_are_reported(values, expected):
    found = messages(with_header(**values))
    assert f"@0x59 {expected}" in found


def test_a_misaligned_block_is_still_followed_and_any_other_fault_ends_the_reading():
    pieces, blocks = layout((b"a", MIB), (b"b", MIB))
    first = blocks[0]
    entry = replace(first.entry, mapped=replace(first.header, pages_offset=MIB + 4096))
    moved = {place - (place > MIB) * -4096: piece for place, piece in pieces.items()}
    moved[first.place] = entry.build()
    _, records = read(moved)
    assert [r.name for _, r in records if isinstance(r, MappedBlock)] == [b"a", b"b"]
    entry = replace(first.entry, mapped=replace(first.header, version=3))
    _, records = read(pieces | {first.place: entry.build()})
    assert [r.name for _, r in records if isinstance(r, MappedBlock)] == [b"a"]


def test_a_used_length_that_is_huge_or_broken_is_reported():
    head = begin("mapped-ram") + ram_head(1, 4, HUGE)
    size = len(head) + len(RamBlockEntry(b"a", 0, mapped=MappedRamHeader()).build())
    entry = RamBlockEntry(b"a", HUGE, mapped=MappedRamHeader(1, 4096, size, MIB))
    ends = "MAPR-1: end of the {} of block 'a' is {:#x}, must be within the file, {:#x} bytes"
    bitmap_end = size + bitmap_size(HUGE // 4096)
    assert messages({0: head + entry.build()}) == [
        f"@{len(head):#x} {ends.format('bitmap', bitmap_end, size)}",
        f"@{len(head):#x} {ends.format('pages', HUGE + MIB, size)}",
        (
            f"@{len(head):#x} MAPR-2: pages_offset of block 'a' is {MIB:#x}, must be "
            f"{bitmap_end:#x} or more, behind the bitmap"
        ),
    ]
    pieces, (block,) = layout((b"ram0", MIB))
    broken = replace(block.entry, used_length=MIB - 512)
    assert messages(pieces | {block.place: broken.build()}) == [
        (
            "@0x59 MAPR-1: used_length of block 'ram0' is 0xffe00, must be a multiple of the page "
            "size 4096"
        )
    ]


def test_lengths_that_exceed_their_sum_are_reported():
    pieces, blocks = layout((b"a", MIB), (b"b", MIB))
    second = blocks[1]
    longer = replace(second.entry, used_length=MIB + 4096)
    grown = pieces | {second.place: longer.build(), second.slots.stop + 4096: ram_tail(1)}
    assert messages(grown) == [
        (
            f"@{second.slots.stop + 4096:#x} MAIN-6: sum of the blocks' lengths is 0x201000, "
            "must be 0x200000"
        )
    ]
    pieces, (block,) = layout((b"a", MIB))
    longer = replace(block.entry, used_length=2 * MIB)
    assert messages(pieces | {block.place: longer.build()}) == [
        "@0x51 MAIN-6: sum of the blocks' lengths is 0x200000, must be 0x100000"
    ]


def test_a_block_list_of_absurd_length_is_given_up():
    head = begin("x-ignore-shared", "mapped-ram") + ram_head(1, 4, 1 << 62)
    own = RamBlockEntry(b"own", 0, None, 0, MappedRamHeader(1, 4096, len(head) + 48, MIB))
    shared = RamBlockEntry(b"s", 0, None, 0, MappedRamHeader()).build()
    pieces = {0: head + own.build(), MIB: shared * (MAX_BLOCKS + 10)}
    _, records = read(pieces, chunk=4096)
    assert len([r for _, r in records if isinstance(r, MappedBlock)]) == MAX_BLOCKS + 1
    (found,) = messages(pieces, chunk=4096)
    assert found.endswith("MAIN-2: length of a record or list is 0x1001, must be 0x1000")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (RamFlush().build(), "a word of the ram section is FLUSH, must be EOS"),
        (RamZero(b"ram0", (0,)).build(), "a word of the ram section is ZERO, must be EOS"),
        (RamPage(b"ram0", 0, 4096).build(), "a word of the ram section is PAGE, must be EOS"),
        (
            (0x40).to_bytes(8, "big"),
            ("flags of a word of section ram is 0x40, must be ZERO, MEM_SIZE, PAGE, EOS or "
            "MULTIFD_FLUSH"),
        ),
        (RamZero(b"x", (0,)).build(), ("block of a page in section ram is b'x', must be a name of "
         "the block list")),
    ],
    ids=["flush", "zero", "page", "xbzrle", "unknown block"],
)  # fmt: skip
def test_words_for_pages_are_reported(word, expected):
    pieces, (block,) = layout((b"ram0", MIB))
    place = block.slots.stop
    assert messages(pieces | {place: word + pieces[place]}) == [f"@{place:#x} MAPR-4: {expected}"]


def test_a_second_block_list_is_reported():
    pieces, (block,) = layout((b"ram0", MIB))
    place = block.slots.stop
    word = RamSetup(0, ()).build()
    assert messages(pieces | {place: word + pieces[place]}) == [
        f"@{place:#x} MAIN-6: a block list is the second one, must be the only one"
    ]


def test_a_hole_in_place_of_the_rest_is_reported():
    pieces, (block,) = layout((b"ram0", MIB))
    place = block.slots.stop
    assert messages(pieces | {place: bytes(len(pieces[place]))}) == [
        (
            f"@{place:#x} MAIN-5: flags of a word of section ram is 0x0, must be ZERO, MEM_SIZE, "
            "PAGE, EOS or MULTIFD_FLUSH"
        )
    ]


def test_a_file_cut_anywhere_is_never_taken_for_whole():
    pieces, blocks = layout((b"a", MIB), (b"b", MIB))
    whole = size_of(pieces)
    undescribed = whole - len(VmDescription(40).build())
    places = [*range(4, len(pieces[0]) + 40), *range(blocks[0].slots.stop - 2, blocks[1].end + 2)]
    places += [*range(blocks[1].slots.stop - 2, whole), MIB - 1, MIB + 5, 2 * MIB - 1]
    for size in places:
        cut = {place: piece[: size - place] for place, piece in pieces.items() if place < size}
        found = messages(cut, size=size)
        assert bool(found) == (size != undescribed), hex(size)
        assert all(i.split()[1] in ("MAIN-11:", "MAPR-1:", "MAPR-2:") for i in found), found


def test_a_cut_is_said_in_bytes():
    pieces, (block,) = layout((b"ram0", MIB), suffix=b"")
    end = block.slots.stop
    assert messages(pieces)[-1].endswith(
        "MAIN-11: what is left of the file is 0 bytes, must be the end of the stream"
    )
    cut = pieces | {end: pieces[end][:5]}
    assert messages(cut) == [
        f"@{end:#x} MAIN-11: what is left of the file is 5 bytes, must be 8 or more"
    ]


@given(st.binary(max_size=400), st.integers(1, 64))
def test_any_bytes_are_read_to_an_end(data, chunk):
    read({0: b"QEVM" + data}, chunk=chunk)
    read({0: begin("mapped-ram") + ram_head(1, 4, MIB) + data}, chunk=chunk)


def test_pages_that_lie_before_their_header_lead_nowhere():
    pieces, _ = layout((b"a", 4096), (b"b", 8192))
    place = MIB + 4096  # behind the page of the first block
    # the pages_offset of the second block, at the end of its header, is made 0x10000
    head = pieces[place]
    piece = head[:30] + (0x10000).to_bytes(8, "big") + head[38:]
    stream, _ = read(pieces | {place: piece})
    assert stream.done
    assert stream.position >= place


@given(st.data())
def test_a_damaged_file_is_read_to_an_end(data):
    pieces, _ = layout((b"a", 4096), (b"b", 8192))
    place = data.draw(st.sampled_from(sorted(pieces)))
    at_ = data.draw(st.integers(0, len(pieces[place]) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=16))
    piece = pieces[place][:at_] + damage + pieces[place][at_ + len(damage) :]
    for _, record in read(pieces | {place: piece})[1]:
        if isinstance(record, MainFault):
            assert record.kind is not None
