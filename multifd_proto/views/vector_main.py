"""The test vectors of the main stream."""

from __future__ import annotations

from multifd_proto.views.vector_cases import Case, document, make_test
from multifd_proto.views.vector_form import Document
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlag,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)

_HEAD: tuple[MainRecord, ...] = (
    MainHeader(),
    Configuration(b"pc-i440fx-10.0"),
    Command(1),
    SectionStart(2, b"ram", 0, 4),
)
_BLOCKS = (RamBlockEntry(b"pc.ram", 1 << 20), RamBlockEntry(b"pc.rom", 1 << 17))
_LIST = RamSetup(sum(block.used_length for block in _BLOCKS), _BLOCKS)
_PART: tuple[MainRecord, ...] = (SectionPart(2), RamFlush(), RamEos(), Footer(2))
_LAST: tuple[MainRecord, ...] = (SectionEnd(2), RamEos(), Footer(2), StreamEnd())
_SETUP: tuple[MainRecord, ...] = (_LIST, RamEos(), Footer(2))
_ZERO = RamZero(b"pc.ram", (0, 4096, 0x9000))

Piece = MainRecord | bytes


def main_suite() -> Document:
    """Return the file of the main stream: whole streams, and such that break one rule each."""
    groups = [
        {"dialect": release, "page_size": 4096, "tests": [make_test(case) for case in cases]}
        for release, cases in (("8.2", _cases()), ("8.0", _cases_before_8_1()))
    ]
    return document("main-stream", groups)


def _stream(*pieces: Piece) -> bytes:
    return b"".join(p if isinstance(p, bytes) else p.build() for p in pieces)


def _word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _setup(*pieces: Piece) -> bytes:
    """Return a stream whose setup part of the ram section is `pieces`."""
    return _stream(*_HEAD, *pieces, *_LAST)


def _part(*pieces: Piece) -> bytes:
    """Return a stream with a part of the ram section that holds `pieces`."""
    return _stream(*_HEAD, *_SETUP, SectionPart(2), *pieces, RamEos(), Footer(2), *_LAST)


def _cases() -> list[Case]:
    whole = _stream(*_HEAD, *_SETUP, *_PART, *_LAST)
    twice = (RamBlockEntry(b"pc.ram", 1 << 20), RamBlockEntry(b"pc.ram", 1 << 20))
    device = (SectionStart(3, b"timer", 0, 2, full=True), bytes(24), Footer(3))
    described = _stream(*_HEAD, *_SETUP, *_PART, *_LAST[:-1], *device, StreamEnd())
    shorter = RamSetup(_LIST.total - 4096, _BLOCKS)
    return [
        ("a round", whole, None, ""),
        ("a round, a device, the description", described + VmDescription(40).build(), None, ""),
        ("zero pages", _part(_ZERO), None, ""),
        ("zero pages that go on", _part(_ZERO, RamZero(None, (0xA000,), continued=True)), None, ""),
        ("no round", _setup(*_SETUP), None, "Boundary"),
        ("wrong magic", b"QEVN" + whole[4:], "MAIN-1", "Framing"),
        ("multifd channel instead", b"\x11\x22\x33\x44" + whole[4:], "MAIN-1", "Framing"),
        ("version 2", whole[:7] + b"\2" + whole[8:], "MAIN-1", "Framing"),
        ("unknown record type", _stream(*_HEAD, *_SETUP, b"\x42"), "MAIN-2", "Framing"),
        ("part of no section", _stream(*_HEAD, *_SETUP, SectionPart(9)), "MAIN-2", "Framing"),
        ("footer of another section", _setup(_LIST, RamEos(), Footer(3)), "MAIN-3", "Framing"),
        ("no footer", _setup(_LIST, RamEos()), "MAIN-3", "Framing"),
        ("ram of version 3", _stream(*_HEAD[:-1], SectionStart(2, b"ram", 0, 3), *_SETUP, *_LAST),
         "MAIN-4", ""),
        ("word with two flags", _part(_word(RamFlag.ZERO | RamFlag.PAGE)), "MAIN-5", "Framing"),
        ("word of an unknown flag", _part(_word(0x100)), "MAIN-5", "Framing"),
        ("CONTINUE of no page", _part(RamZero(None, (0,), continued=True)), "MAIN-5", "Framing"),
        ("total below its blocks", _setup(shorter, RamEos(), Footer(2)), "MAIN-6",
         "Framing Boundary"),
        ("block twice", _setup(RamSetup(2 << 20, twice), RamEos(), Footer(2)), "MAIN-6", ""),
        ("zero page of an unknown block", _part(RamZero(b"pc.ran", (0,))), "MAIN-7", "Framing"),
        ("page with content", _part(RamPage(b"pc.ram", 0, 4096)), "MAIN-8", ""),
        ("zero page that is full of ff", _part(RamZero(b"pc.ram", (0,), fill=0xFF)), "MAIN-9", ""),
        ("end inside the block list", _stream(*_HEAD, _LIST)[:-1], "MAIN-11", "Framing"),
        ("end inside the header", whole[:7], "MAIN-11", "Framing Boundary"),
    ]  # fmt: skip


def _cases_before_8_1() -> list[Case]:
    marks = _stream(*_HEAD, *_SETUP, SectionPart(2), RamEos(), Footer(2), *_LAST)
    return [
        ("a round marked by EOS", marks, None, ""),
        ("a round marked by FLUSH", _part(RamFlush()), "MAIN-10", ""),
    ]
