"""Fuzzed: mapped-ram files, with other bytes in them, and cut."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from multifd_proto.errors import PeerError
from multifd_proto.machine.mapped_ram import MappedRamJudge
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers.mapped_ram import BlockInfo, MappedRamFile
from multifd_proto.wire.main_records import Configuration, MainHeader
from multifd_proto.wire.mapped_ram import (
    CAPABILITY,
    PAGES_ALIGNMENT,
    lay_out,
    pack_bitmap,
    ram_head,
    ram_tail,
)
from multifd_proto.wire.mapped_ram_stream import MappedRamStream

from .damage import WORDS
from .decoder_feeding import same
from .decoder_subjects import Bytes, ByteSubject, InputError
from .guard import Wrong

_PAGE = 4096
_PRESENT = "1011"  # of a block's pages, over and over
_SUFFIX = b"\x04\0\0\0\1\3dev\0\0\0\0\0\0\0\1data\x7e\0\0\0\1\0"
_LARGEST = 1 << 20
_CHUNK = 64 << 10
_SMALL_PIECES = 2000
Extents = Mapping[int, bytes]
"""What is in a sparse file: bytes by their places."""


@contextmanager
def unnamed_file(extents: Extents, size: int | None = None) -> Iterator[Path]:
    """Provide a file in memory: nothing of it can be left behind."""
    fd = os.memfd_create("multifd-fuzz")
    try:
        for place, data in extents.items():
            os.pwrite(fd, data, place)
        if size is not None:
            os.ftruncate(fd, size)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@cache
def _whole(lengths: tuple[int, ...]) -> dict[int, bytes]:
    """Return a file that is as it should be, with blocks of these lengths."""
    head = MainHeader().build() + Configuration(b"none", capabilities=(CAPABILITY,)).build()
    head += ram_head(1, 4, sum(lengths))
    named = [(f"ram{number}".encode(), length) for number, length in enumerate(lengths)]
    blocks = lay_out(len(head), named, _PAGE)
    extents = {0: head}
    for block in blocks:
        flags = (_PRESENT * block.pages)[: block.pages]
        extents |= {block.place: block.entry.build(), block.bitmap.start: pack_bitmap(flags)}
        pages = range(block.slots.start, block.slots.stop, _PAGE)
        extents |= {
            place: b"PAGE" * 1024 for place, flag in zip(pages, flags, strict=True) if flag == "1"
        }
    return extents | {blocks[-1].slots.stop: ram_tail(1) + _SUFFIX}


@st.composite
def mapped_files(draw: DrawFn) -> Bytes:
    """Return files of one block or some, with a few bytes changed, or cut."""
    pages = draw(st.lists(st.sampled_from((1, 2, 8, 65)), min_size=1, max_size=3))
    lengths = tuple(count * _PAGE for count in pages)
    extents = _whole(lengths)
    heads = sorted(place for place, data in extents.items() if len(data) < _PAGE)
    edits = []
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(heads))
        place += draw(st.integers(0, len(extents[place]) - 1))
        edits.append((place, draw(_edits(max(extents))).hex()))
    end = max(extents) + len(extents[max(extents)])
    cut = draw(st.none() | st.integers(0, end) | st.sampled_from(heads))
    return Bytes("mapped-ram", b"", (), {"lengths": lengths, "edits": (*edits,), "cut": cut})


@cache
def _edits(end: int) -> SearchStrategy[bytes]:
    """Return bytes to put into a file with so many: numbers that mean something, or any."""
    places = (*WORDS, end, end + 1, PAGES_ALIGNMENT, 2 * PAGES_ALIGNMENT, _PAGE)
    words = st.tuples(st.sampled_from(places), st.sampled_from((1, 4, 8)))
    built = words.map(lambda word: (word[0] % (1 << 8 * word[1])).to_bytes(word[1], "big"))
    return built | st.binary(min_size=1, max_size=12)


class MappedRamSubject(ByteSubject):
    """`wire.mapped_ram_stream` and `peers.mapped_ram`: a file is made, changed, and read.

    Inputs have no bytes of their own: options give the lengths of the blocks in bytes, the changes
    as places with hex, and where the file is cut.
    """

    name = "mapped-ram"
    options: Mapping[str, Any] = {"lengths": (_PAGE,), "edits": (), "cut": None}

    def strategy(self) -> SearchStrategy[Bytes]:
        """Return files."""
        return mapped_files()

    def check(self, value: Bytes) -> Iterable[str]:
        """Demand an end, the same records in any cut, and that extracting what can be works."""
        lengths = self.option(value, "lengths")
        if not lengths or any(not 0 < n <= _LARGEST or n % _PAGE for n in lengths):
            raise InputError(f"lengths are {lengths!r}, must be pages of {_PAGE} bytes")
        edits = [(place, bytes.fromhex(edit)) for place, edit in self.option(value, "edits")]
        with unnamed_file(_whole(lengths)) as path:
            file = os.open(path, os.O_RDWR)
            try:
                for place, edit in edits:
                    os.pwrite(file, edit, place)
                cut = self.option(value, "cut")
                if cut is not None:
                    os.truncate(file, min(cut, os.fstat(file).st_size))
                yield from self._read(file)
            finally:
                os.close(file)

    def _read(self, file: int) -> Iterator[str]:
        whole = _followed(file, _CHUNK)
        for chunk in (1, 13, 512):
            same(self.name, f"by {chunk} bytes", whole, _followed(file, chunk))
        judge = MappedRamJudge()
        for place, record in whole:
            judge.take(place, record)
            yield type(record).__name__
        judge.results()
        with suppress(PeerError), MappedRamFile(Path(f"/proc/self/fd/{file}")) as opened:
            tried = (Verdict.PASSED, Verdict.FAILED)
            yield from (r.requirement.id for r in opened.results if r.verdict in tried)
            for info in opened.blocks:
                self._extract(opened, info)

    def _extract(self, file: MappedRamFile, info: BlockInfo) -> None:
        if info.readable and info.block.used_length <= _LARGEST:
            with unnamed_file({}) as target:
                file.extract(info.block, target)
                if file.compare(info.block, target) is not None:
                    raise Wrong("differs", "what was extracted is other memory", self.name)

    def smaller(self, value: Bytes) -> Iterator[Bytes]:
        """Yield files with fewer changes."""
        edits = self.option(value, "edits")
        for number in range(len(edits)):
            fewer = edits[:number] + edits[number + 1 :]
            yield replace(value, options={**value.options, "edits": fewer})
        for name in ("cut", "lengths"):
            if value.options.get(name) not in (None, self.options[name]):
                yield replace(value, options={**value.options, name: self.options[name]})


def _followed(file: int, chunk: int) -> list[Any]:
    """Return the records of a file that is read in pieces, in large ones at last."""
    size = os.fstat(file).st_size
    stream = MappedRamStream(size)
    records: list[Any] = []
    for number in count():
        if stream.done:
            break
        before = stream.position
        length = chunk if number < _SMALL_PIECES else _CHUNK
        data = os.pread(file, min(length, max(0, size - before)), before)
        if data:
            stream.receive_data(data)
        else:
            stream.receive_eof()
        records += stream.records()
        if stream.position < before and not stream.done:
            raise Wrong("differs", f"goes back from {before} to {stream.position}", "mapped-ram")
    return records
