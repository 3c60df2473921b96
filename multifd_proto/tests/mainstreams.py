"""Main streams for tests: real ones, any ones as records, and feeding them in any pieces."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    Opaque,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import (
    MAX_RUN,
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)

DATA = Path(__file__).parent / "data"
REAL = {
    path.stem.removeprefix("main-"): bytes.fromhex(path.read_text())
    for path in sorted(DATA.glob("main-*.hex"))
}
"""What QEMU's `-machine none` wrote with multifd on; the numbers are those of the releases."""

Piece = bytes | int
"""Bytes of a stream, or the number of bytes that are missing there."""
Placed = tuple[int, int, MainRecord]


def parse(*pieces: Piece, started: bool = True, ended: bool = True) -> list[Placed]:
    """Return the records of a stream that arrives in pieces."""
    stream = MainStream(started=started)
    for piece in pieces:
        if isinstance(piece, int):
            stream.receive_gap(piece)
        else:
            stream.receive_data(piece)
    if ended:
        stream.receive_eof()
    return list(stream.records())


def records(*pieces: Piece, started: bool = True, ended: bool = True) -> list[MainRecord]:
    return [record for _, _, record in parse(*pieces, started=started, ended=ended)]


def build(content: Iterable[MainRecord]) -> bytes:
    return b"".join(record.build() for record in content)


def single(stream: bytes) -> list[bytes]:
    """Cut a stream into its bytes."""
    return [stream[at : at + 1] for at in range(len(stream))]


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[begin:end] for begin, end in pairwise(bounds)]


U32 = st.integers(0, 2**32 - 1)
names = st.binary(min_size=1, max_size=255)
offsets = st.integers(0, 2**40).map(lambda page: page << 12)
devices = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255).map(
    str.encode
)
configurations = st.builds(
    Configuration,
    st.binary(max_size=64),
    st.sampled_from([None, 12]),
    st.none() | st.just(()) | st.just(("mapped-ram",)),
    st.none() | st.binary(min_size=16, max_size=16),
)
commands = st.builds(
    Command,
    st.sampled_from([1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 0xFFFF]),  # neither ADVISE nor PACKAGED
    st.binary(max_size=40),
)
headers = st.builds(MainHeader)


@st.composite
def _words(draw: st.DrawFn, blocks: tuple[bytes, ...]) -> list[MainRecord]:
    """Words of a ram section, none of which continues a run of zero pages."""
    block = st.sampled_from(blocks)
    runs = st.lists(offsets, min_size=1, max_size=5).map(tuple) | st.integers(1, MAX_RUN).map(
        lambda pages: tuple(range(0, pages << 12, 1 << 12))
    )
    pages = st.builds(RamZero, block, runs, st.integers(0, 255)) | st.builds(
        RamPage, block, offsets, st.just(4096)
    )
    word = st.just(RamFlush()) | pages if blocks else st.just(RamFlush())
    return draw(st.lists(word, max_size=3))


@st.composite
def _device(draw: st.DrawFn) -> list[MainRecord]:
    """A device: its heads, data without a byte of a footer, footers."""
    number = draw(st.integers(1000, 0xFFFF))
    start = SectionStart(
        number, draw(devices), draw(U32), draw(st.integers(0, 9)), full=draw(st.booleans())
    )
    heads: list[MainRecord] = [start]
    if not start.full:
        parts = draw(st.integers(0, 2))
        heads += [SectionPart(number, ram=False)] * parts + [SectionEnd(number, ram=False)]
    out: list[MainRecord] = []
    for head in heads:
        length = draw(st.integers(0, 300))
        out += [head, *([Opaque(length)] if length else []), Footer(number)]
    return out


@st.composite
def streams(draw: st.DrawFn) -> list[MainRecord]:
    """The records of a whole stream."""
    out: list[MainRecord] = [MainHeader()]
    out += draw(st.lists(configurations, max_size=1))
    mapped = bool(out[1:]) and getattr(out[-1], "capabilities", None) == ("mapped-ram",)
    out += draw(st.lists(commands, max_size=2))
    for device in draw(st.lists(_device(), max_size=2)):
        out += device
    if not mapped:
        out += draw(_ram())
    if draw(st.booleans()):
        out += [Command(7, (100).to_bytes(4, "big")), Opaque(100)]
    for device in draw(st.lists(_device(), max_size=2)):
        out += device
    return [
        *out,
        StreamEnd(),
        *draw(st.lists(st.builds(VmDescription, st.integers(1, 99)), max_size=1)),
    ]


@st.composite
def _ram(draw: st.DrawFn) -> list[MainRecord]:
    number = draw(st.integers(0, 999))
    known = tuple(draw(st.lists(names, max_size=3, unique=True)))
    lengths = [draw(st.integers(1, 1 << 30)) << 12 for _ in known]
    blocks = tuple(map(RamBlockEntry, known, lengths))
    out: list[MainRecord] = [SectionStart(number, b"ram", 0, 4), RamSetup(sum(lengths), blocks)]
    heads = [SectionPart(number)] * draw(st.integers(0, 2)) + [SectionEnd(number)]
    for head in [None, *heads]:
        out += [head] if head else []
        out += [*draw(_words(known)), RamEos(), Footer(number)]
        out += draw(st.lists(commands, max_size=1))
    return out
