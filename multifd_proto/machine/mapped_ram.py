"""What a mapped-ram file shows of its writer: the verdict on each requirement that it can show.

A file is judged as it is read, by the records that `MappedRamStream` reports and by what else is
found out about bitmaps and pages. Requirements that bind readers are not exercised by any file.
"""

from __future__ import annotations

from collections import Counter

from multifd_proto.machine.rule import Fault
from multifd_proto.machine.rules.main_stream import FAULTS
from multifd_proto.machine.verdict import Result, Verdict, Violation
from multifd_proto.wire.main_records import FaultKind, MainFault, StreamEnd
from multifd_proto.wire.mapped_ram import BlockFault, MappedBlock, PlaceFault
from multifd_proto.wire.mapped_ram_stream import MappedRecord
from multifd_proto.wire.ram_records import RamEos, RamFlag, RamFlush, RamPage, RamSetup, RamZero
from multifd_proto.wire.requirements import Level, Requirement, Role, load

_KEPT = 100
"""Violations of a requirement that are kept; all are counted."""
_NO_PAGES = "MAPR-4"
_PAGE_FLAGS = RamFlag.PAGE | RamFlag.ZERO | RamFlag.MULTIFD_FLUSH | 0x40 | 0x80
"""Flags of words that such a stream must not have; the last two are XBZRLE and HOOK."""
_CALLED = {
    FaultKind.MAGIC: "begin of the stream",
    FaultKind.VERSION: "version of the stream",
    FaultKind.RECORD_TYPE: "first byte of a record",
    FaultKind.SECTION: "number of a section that goes on",
    FaultKind.NO_FOOTER: "byte behind the data of section ram",
    FaultKind.FOOTER: "number in a footer",
    FaultKind.RAM_FLAGS: "flags of a word of section ram",
    FaultKind.BLOCK_NAME: "block of a page in section ram",
    FaultKind.CONTINUE: "flags of a word of section ram",
    FaultKind.BLOCK_LIST: "sum of the blocks' lengths",
    FaultKind.BOUND: "length of a record or list",
    FaultKind.ENDED: "what is left of the file",
}
"""What a message calls the value that is wrong."""
_FRAMING = ("MAIN-1", "MAIN-2", "MAIN-3", "MAIN-5", "MAIN-6", "MAIN-11")
"""Requirements of the main stream that are kept where the file is read to its end."""


class MappedRamJudge:
    """Collects what the parts of one mapped-ram file show."""

    def __init__(self) -> None:
        self._violations: dict[str, list[Violation]] = {}
        self._counts: Counter[str] = Counter()
        self._applied: Counter[str] = Counter()
        self._block = b""
        self._ended = False

    def take(self, place: int, record: MappedRecord) -> None:
        """Judge a record.

        Args:
            place: where in the file it is.
            record: as `MappedRamStream` reports it.
        """
        match record:
            case MappedBlock():
                self._block = record.name
                if record.in_file:
                    self._applied.update(("MAPR-1", "MAPR-2"))
            case BlockFault():
                self._take_place(place, record)
            case MainFault():
                self._take_framing(place, record)
            case RamEos():
                self._applied[_NO_PAGES] += 1
            case RamPage() | RamZero() | RamFlush():
                self._applied[_NO_PAGES] += 1
                word = type(record).__name__.removeprefix("Ram").upper()
                self.fault(_NO_PAGES, place, "a word of the ram section", word, "EOS")
            case RamSetup():
                self.fault("MAIN-6", place, "a block list", "the second one", "the only one")
            case StreamEnd():
                self._ended = True

    def take_bitmap(self, block: MappedBlock, stray: int) -> None:
        """Judge a bitmap.

        Args:
            block: whose bitmap it is.
            stray: bits that are set, and behind that of the last page.
        """
        self._applied["MAPR-3"] += 1
        if stray:
            seen, demanded = f"{stray} bits set", "clear"
            what = f"bitmap of {_name(block.name)} behind its last page"
            self.fault("MAPR-3", block.bitmap.start, what, seen, demanded)

    def fault(self, requirement: str, place: int, what: str, seen: str, demanded: str) -> None:
        """Take note of a violation: `WHAT is SEEN, must be DEMANDED` at a place in the file."""
        self._counts[requirement] += 1
        found = self._violations.setdefault(requirement, [])
        if len(found) < _KEPT:
            fault = Fault(what, seen, demanded)
            found.append(Violation(load()[requirement], None, None, place, 0, fault))

    def results(self) -> tuple[Result, ...]:
        """Return the verdicts: of all requirements for mapped-ram, and of those on framing."""
        if self._ended:
            self._applied.update(_FRAMING)
        wanted = {r for r in load() if r.startswith("MAPR-")} | set(_FRAMING) | {*self._violations}
        requirements = sorted((load()[r] for r in wanted), key=lambda r: r.sort_key)
        return tuple(map(self._result, requirements))

    def _result(self, requirement: Requirement) -> Result:
        violations = tuple(self._violations.get(requirement.id, ()))
        applied, count = self._applied[requirement.id], self._counts[requirement.id]
        verdict, reason = Verdict.PASSED, ""
        if violations:
            verdict = Verdict.FAILED
        elif requirement.role is Role.RECEIVER:
            verdict, reason = Verdict.NOT_EXERCISED, "binds readers"
        elif not applied:
            verdict, reason = Verdict.NOT_EXERCISED, "the file could not be read that far"
        return Result(requirement, verdict, applied, count, violations, None, reason)

    def _take_place(self, place: int, fault: BlockFault) -> None:
        pages = fault.kind in (PlaceFault.ALIGNMENT, PlaceFault.PAGES_OFFSET)
        what = f"{fault.kind.value} of {_name(self._block)}"
        self.fault("MAPR-2" if pages else "MAPR-1", place, what, fault.seen, fault.demanded)

    def _take_framing(self, place: int, fault: MainFault) -> None:
        seen, demanded = _said(fault.seen), _said(fault.demanded)
        if fault.kind is FaultKind.ENDED:
            seen = f"{fault.seen!s} bytes"
            if isinstance(fault.demanded, int):
                demanded = f"{fault.demanded} or more"
        self.fault(_requirement(fault), place, _CALLED[fault.kind], seen, demanded)


def violated(results: tuple[Result, ...]) -> bool:
    """Tell whether a MUST is violated."""
    return any(r.verdict is Verdict.FAILED and r.requirement.level is Level.MUST for r in results)


def _requirement(fault: MainFault) -> str:
    """Return the requirement that a fault of framing violates."""
    pages = fault.kind is FaultKind.RAM_FLAGS and int(fault.seen) & _PAGE_FLAGS
    if pages or fault.kind in (FaultKind.BLOCK_NAME, FaultKind.CONTINUE):
        return _NO_PAGES
    return next(requirement for requirement, kinds in FAULTS.items() if fault.kind in kinds)


def _said(value: int | bytes | str) -> str:
    return hex(value) if isinstance(value, int) else str(value)


def _name(block: bytes) -> str:
    return f"block {block.decode('utf-8', 'backslashreplace')!r}"
