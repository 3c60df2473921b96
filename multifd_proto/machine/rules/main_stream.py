"""MAIN-: the main stream."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.migration import MainInfo, MainReceived, Migration
from multifd_proto.machine.rule import Condition, Fault, rule
from multifd_proto.wire.dialect import where
from multifd_proto.wire.main_records import (
    FaultKind,
    Footer,
    MainFault,
    MainHeader,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.ram_records import RamEos, RamFlush, RamPage, RamSetup, RamZero

_K = FaultKind
FAULTS: dict[str, tuple[FaultKind, ...]] = {
    "MAIN-1": (_K.MAGIC, _K.VERSION),
    "MAIN-2": (_K.RECORD_TYPE, _K.SECTION, _K.BOUND),
    "MAIN-3": (_K.NO_FOOTER, _K.FOOTER),
    "MAIN-5": (_K.RAM_FLAGS, _K.CONTINUE),
    "MAIN-6": (_K.BLOCK_LIST,),
    "MAIN-7": (_K.BLOCK_NAME,),
    "MAIN-11": (_K.ENDED,),
}
"""Which faults of framing violate which requirement."""


def _about(requirement: str, *records: type) -> Condition:
    """Apply to records that show the requirement kept, and to the faults that violate it."""

    def applies(_m: Migration, _c: MainInfo, e: MainReceived) -> bool:
        record = e.record
        if isinstance(record, MainFault):
            return record.kind in FAULTS.get(requirement, ())
        return isinstance(record, records)

    return applies


def _framing(e: MainReceived) -> Iterator[Fault]:
    if isinstance(e.record, MainFault):
        yield Fault(e.record.kind.value, _say(e.record.seen), _say(e.record.demanded))


def _say(value: int | bytes | str) -> str:
    return (
        value
        if isinstance(value, str)
        else repr(value)
        if isinstance(value, bytes)
        else f"{value:#x}"
    )


@rule("MAIN-1", on=MainReceived, when=_about("MAIN-1", MainHeader))
def header(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)


@rule("MAIN-2", on=MainReceived, when=_about("MAIN-2", SectionStart, SectionPart, SectionEnd))
def framing(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)


@rule("MAIN-3", on=MainReceived, when=_about("MAIN-3", Footer))
def footer(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)


@rule(
    "MAIN-4",
    on=MainReceived,
    when=lambda _m, _c, e: isinstance(e.record, SectionStart) and e.record.idstr == b"ram",
)
def ram_section(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    assert isinstance(e.record, SectionStart)
    if (e.record.instance_id, e.record.version_id) != (0, 4):
        seen = f"instance {e.record.instance_id}, version {e.record.version_id}"
        yield Fault("section ram", seen, "instance 0, version 4")


@rule("MAIN-5", on=MainReceived, when=_about("MAIN-5", RamEos, RamFlush, RamZero))
def ram_words(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)


@rule("MAIN-6", on=MainReceived, when=_about("MAIN-6", RamSetup))
def block_list(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)
    if isinstance(e.record, RamSetup):
        names = [block.name for block in e.record.blocks]
        if len(set(names)) < len(names) or not all(names):
            twice = next((n for n in names if not n or names.count(n) > 1), b"")
            yield Fault(
                "block list", f"{twice!r} twice" if twice else "an empty name", "unique names"
            )


@rule("MAIN-7", on=MainReceived, when=_about("MAIN-7", RamZero))
def listed_blocks(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)


@rule(
    "MAIN-8",
    on=MainReceived,
    when=lambda m, _c, e: m.streams and isinstance(e.record, (RamPage, RamEos)),
)
def no_pages(_m: Migration, c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    if isinstance(e.record, RamPage) and not c.postcopy:
        yield Fault("page on the main stream", f"{e.record.offset:#x}", "on a multifd channel")


@rule("MAIN-9", on=MainReceived, when=lambda _m, _c, e: isinstance(e.record, RamZero))
def zero_fill(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    assert isinstance(e.record, RamZero)
    if e.record.fill:
        yield Fault("fill byte", f"{e.record.fill:#04x}", "0x00")


@rule("MAIN-10", on=MainReceived, when=lambda _m, _c, e: isinstance(e.record, (RamFlush, RamEos)))
def flush_words(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    if isinstance(e.record, RamFlush):
        wrong = where(lambda d: not d.flush_mark)
        yield Fault("word of the ram section", "MULTIFD_FLUSH", "none before 8.1", dialects=wrong)


@rule("MAIN-11", on=MainReceived, when=_about("MAIN-11", StreamEnd))
def whole_records(_m: Migration, _c: MainInfo, e: MainReceived) -> Iterator[Fault]:
    yield from _framing(e)
