"""Fuzzed: the parser of the main stream, in any cut, with any loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from multifd_proto.conformance.script import (
    Main,
    Script,
)
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE

from multifd_proto.wire.dialect import DIALECTS
from multifd_proto.wire.main_records import (
    Command,
    Footer,
    MainFault,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
    VmDescription,
)
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import PAGE_SIZES

from .damage import Gap, Piece, damaged, every, gaps, pieces, places
from .decoder_feeding import feed, same, skip
from .decoder_subjects import Bytes, ByteSubject, described, limit
from .guard import Wrong


@cache
def main_tokens() -> list[bytes]:
    """Return records that fit anywhere in a main stream, whole or begun."""
    zeros = RamZero(b"ram0", (0, 4096))
    blocks = (RamBlockEntry(b"ram0", 1 << 20),)
    records: list[MainRecord] = [
        RamEos(), RamFlush(), zeros, RamPage(b"ram0", 0, 4096), RamSetup(1 << 20, blocks),
        SectionStart(2, b"ram", 0, 4), SectionStart(9, b"dev", 0, 1, full=True), SectionPart(2),
        SectionEnd(2), Footer(2), Footer(9), Command(11), Command(2, bytes(24)),
        Command(7, (100).to_bytes(4, "big")), VmDescription(9),
    ]  # fmt: skip
    built = [record.build() for record in records]
    return built + [data[:7] for data in built if len(data) > 7]


_PARTS = st.sampled_from(("mark", "part", "zeros", "end", "finish"))


@st.composite
def main_bytes(draw: DrawFn) -> Bytes:
    """Return main streams of real machines, with rounds of any kind, and then damage."""
    peer = described(draw(st.sampled_from(DIALECTS)))
    stage = Stage(Script(()), peer, MACHINE)
    steps = [Main(part="start", return_path=draw(st.booleans()))]
    for part in draw(st.lists(_PARTS, max_size=6)):
        pages = tuple(draw(st.lists(st.integers(0, 249), max_size=4))) if part == "zeros" else ()
        steps.append(Main(part=part, pages=pages))
    built = b"".join(stage.build(step).data for step in steps)
    data = limit(damaged(draw, built, main_tokens(), most=4))
    options = {
        "started": bool(draw(st.integers(0, 7))),
        "page_size": draw(st.sampled_from((4096, *PAGE_SIZES))),
        "gaps": gaps(draw, len(data)),
    }
    return Bytes("main", data, places(draw, len(data)), options)


class MainSubject(ByteSubject):
    """`wire.main_stream.MainStream`."""

    name = "main"
    options: Mapping[str, Any] = {"started": True, "page_size": 4096, "gaps": ()}

    def strategy(self) -> SearchStrategy[Bytes]:
        """Return main streams, or anything that begins as one."""
        begun = st.binary(max_size=2000).map(lambda data: self.seed(b"QEVM\0\0\0\3" + data))
        return main_bytes() | begun

    def check(self, value: Bytes) -> Iterable[str]:
        """Demand the same records of all cuts, before the end too, and that they tile it."""
        missing: tuple[Gap, ...] = self.option(value, "gaps")
        data = value.data
        whole = self._records(value, feed, pieces(data, (), missing))
        self._tile(whole[1:], len(data) + sum(length for _, length in missing))
        for way, feeder, cuts in (
            ("cut", feed, value.cuts),
            ("byte by byte", feed, every(len(data))),
            ("without what is not wanted", skip, ()),
        ):
            same(self.name, way, whole, self._records(value, feeder, pieces(data, cuts, missing)))
        for _, _, record in whole[1:]:
            yield type(record).__name__
            if isinstance(record, MainFault):
                yield f"fault {record.kind.value}"

    def _records(
        self,
        value: Bytes,
        feeder: Callable[[MainStream, Iterable[Piece]], None],
        of: Iterable[Piece],
    ) -> list[Any]:
        stream = MainStream(
            started=self.option(value, "started"), page_size=self.option(value, "page_size")
        )
        feeder(stream, of)
        # a live peer has to have been told by now: no end may ever come
        records: list[Any] = [*stream.records()]
        stream.receive_eof()
        return [len(records), *records, *stream.records()]

    def _tile(self, records: list[Any], total: int) -> None:
        end = 0
        for place, size, record in records:
            name = type(record).__name__
            if place != end or not (size or isinstance(record, MainFault)):
                seen = f"{name} of {size} bytes at {place}, must be at {end}"
                raise Wrong("differs", seen, "main tiling")
            if size != len(record.build()):
                seen = f"{name} of {size} bytes builds {len(record.build())}"
                raise Wrong("differs", seen, f"main build {name}")
            end += size
        if end != total:
            raise Wrong("differs", f"records of {end} bytes, must be {total}", "main tiling")
