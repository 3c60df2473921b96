"""Fuzzed: capture files, through the whole pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from multifd_proto.errors import CaptureError
from multifd_proto.wire.dialect import DIALECTS, dialect_of

from .damage import damaged
from .decoder_files import unnamed_file
from .decoder_subjects import Bytes, ByteSubject, described, limit
from .frames import HEADER, session
from .guard import Wrong
from .mutate import LOSSES, MUTATIONS, Records, bases, reports, run
from .sessions import sessions


@cache
def _real() -> list[tuple[bytes, Records]]:
    """Return the begins of captures of real releases, as long as an input may be."""
    return [(header, _begin(records)) for header, records in bases()]


def _begin(records: Records) -> Records:
    room, kept = 20 << 10, []
    for record in records:
        room -= len(record)
        if room < 0:
            break
        kept.append(record)
    return kept


@cache
def _sessions(dialect: str, channels: int) -> SearchStrategy[Any]:
    return sessions(described(dialect_of(dialect)), channels)


@st.composite
def capture_bytes(draw: DrawFn) -> Bytes:
    """Return captures, of real releases and of sessions as they should be, and then damage."""
    if draw(st.booleans()):
        header, records = draw(st.sampled_from(_real()))
    else:
        dialect, channels = draw(st.sampled_from(DIALECTS)), draw(st.integers(1, 3))
        steps = draw(_sessions(dialect.name, channels))
        sizes = draw(st.lists(st.integers(1, 3000), max_size=4))
        whole = draw(st.booleans())
        header, records = HEADER, session(steps, described(dialect), channels, sizes, whole=whole)
    harmless = _blameless(header + b"".join(records)) if draw(st.booleans()) else 0
    records, random = [*records], draw(st.randoms(use_true_random=False))
    for mutation in draw(st.lists(st.sampled_from(LOSSES if harmless else MUTATIONS), max_size=4)):
        if records:
            mutation(random, records)
            records = [record for record in records if record]
    data = header + b"".join(records)
    if not harmless:
        data = damaged(draw, data, most=2)
    return Bytes("capture", limit(data), options={"harmless": harmless})


class CaptureSubject(ByteSubject):
    """Reader, reassembly, machines, payload decoders, rules, rows, report."""

    name = "capture"
    options: Mapping[str, Any] = {"harmless": 0}
    """Of how many channels a capture was that passed, before some of it was lost; 0 for others."""

    def strategy(self) -> SearchStrategy[Bytes]:
        """Return captures."""
        return capture_bytes()

    def check(self, value: Bytes) -> Iterable[str]:
        """Demand an end, and no fault of the sender where a capture has only lost something."""
        try:
            with unnamed_file({0: value.data}) as path:
                found = reports(path)
        except CaptureError:
            yield "unreadable"
            return
        for report in found:
            yield report["verdict"]
            for result in report["requirements"]:
                if result["verdict"] == "failed":
                    yield result["id"]
                    # that a whole connection is missing, nothing shows
                    if 0 < self.option(value, "harmless") <= report["channels"]:
                        seen = f"the sender is blamed for what was lost, by {result['id']}"
                        raise Wrong("differs", seen, f"capture blamed {result['id']}")

    def smaller(self, value: Bytes) -> Iterator[Bytes]:
        """Yield captures with fewer bytes; where only records may be lost, with fewer records."""
        if not value.options.get("harmless"):
            yield from super().smaller(value)
            return
        records = [*_records(value.data)]
        step = len(records)
        while step:
            for at in range(0, len(records), step):
                kept = records[:at] + records[at + step :]
                yield replace(value, data=value.data[: len(HEADER)] + b"".join(kept))
            step //= 2


def _blameless(data: bytes) -> int:
    """Return how many channels a capture has; 0 if its sender is blamed for something."""
    with unnamed_file({0: data}) as path:
        found = reports(path)
    if any(report["verdict"] == "failed" for report in found):
        return 0
    return max((report["channels"] for report in found), default=0)


def outcome(data: bytes) -> str:
    """Return how a capture ended, as `mutate.run` says it."""
    with unnamed_file({0: data}) as path:
        return run(path)


def _records(data: bytes) -> Iterator[bytes]:
    at = len(HEADER)
    while at + 16 <= len(data):
        end = at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        yield data[at:end]
        at = end
