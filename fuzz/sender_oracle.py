"""The oracle for senders: what one has done while it was treated badly, and what is wrong with it.

Up to a misdeed, whatever it sends has to keep the requirements; and however badly it is treated,
it has to live, to come to an end, and to tell the truth about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from multifd_proto.conformance.observation import Exchange
from multifd_proto.conformance.sender.judging import ENDS, MEMORY
from multifd_proto.conformance.target import State

from multifd_proto.machine.verdict import Report, Verdict
from multifd_proto.wire.return_path import shut_status

from .misbehaving import Ending
from .misdeeds import Misdeeds
from .target import Finding

GROWTH = 64 << 20
"""Bytes of memory, beside the guest's, that a sender may take for a migration."""
_COUNT = "CHAN-3"
"""Requirement on the number of channels, which a sender may be kept from opening."""
_TRACE = re.compile(r"\b(multifd_\w+)")
_ASSERTION = re.compile(r"Assertion `?(.*?)'? failed")
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)


class Kind(Enum):
    """In which way a sender is wrong, the worst first."""

    CRASHES = "crashes"
    WEDGES = "wedges"
    """Its monitor does not answer any more."""
    FALSE_COMPLETION = "false-completion"
    """It says that its migration has completed, and the destination has not said so."""
    HANGS = "hangs"
    """It does not come to an end, or leaves connections open when it has."""
    WRONG_BYTES = "wrong-bytes"
    GIVES_UP = "gives-up"
    """It fails, although the destination has taken everything."""
    GROWS = "grows"


@dataclass(frozen=True)
class Seen:
    """What a sender has done, and what was done to it."""

    misdeeds: Misdeeds
    ending: Ending
    report: Report
    broken: bool
    """It was given a reason to fail."""
    said: bytes
    """What it was sent on the return path."""
    left_open: tuple[str, ...]
    state: State
    """What it says, when all of its connections were closed."""
    status: str
    """The same in its own words, if it has any."""
    answers: bool
    """Its monitor answers; True as well if it has none."""
    death: str | None
    crashed: bool
    growth: int
    """Bytes of memory that it has taken."""
    image: tuple[str, ...]
    """Where memory is not as it is at the source, where that can be told."""
    log: str
    exchanges: tuple[Exchange, ...]
    reason: tuple[str, ...]
    taken: int
    """Bytes that were read from it."""
    seconds: float

    @property
    def owed(self) -> bool:
        """It has to complete: everything was taken, and nothing done that forbids it."""
        return self.misdeeds.harmless and self.ending is not Ending.TIME

    @property
    def shut(self) -> bool:
        """It may call the migration completed, as far as the destination has a say in it."""
        return not self.misdeeds.source.return_path or shut_status(self.said) == 0


def judge(seen: Seen) -> Finding | None:
    """Return what is wrong with what a sender has done: the worst of it."""
    if seen.crashed:
        return _crash(seen)
    if seen.state is State.SILENT or not seen.answers:
        return _found(Kind.WEDGES, f"its monitor is silent, {told(seen)}", "")
    if seen.state is State.RUNNING:
        return _found(Kind.HANGS, f"still {told(seen)} with all connections closed", seen.status)
    return _ends_badly(seen) or _lies(seen)


def _ends_badly(seen: Seen) -> Finding | None:
    if seen.state is State.COMPLETED and not seen.shut:
        text = f"completed, the destination said: {seen.said[-16:].hex(' ') or 'nothing'}"
        return _found(Kind.FALSE_COMPLETION, text, "")
    if seen.left_open:
        text = f"{told(seen)}, and leaves open: {', '.join(seen.left_open)}"
        what = "main stream" if seen.left_open == ("main",) else "channels"
        return _found(Kind.HANGS, text, f"{seen.state.value}, {what} left open")
    if seen.owed and seen.ending is Ending.STILL:
        return _found(Kind.HANGS, f"sends nothing, {told(seen)}", "although all was taken")
    return None


def _lies(seen: Seen) -> Finding | None:
    """Judge what it has sent, and what it came to."""
    for result in seen.report.of(Verdict.FAILED):
        kept_from = seen.broken and result.requirement.id == _COUNT
        if not (result.quirk or kept_from):
            first = result.violations[0]
            label = result.requirement.id
            return _found(Kind.WRONG_BYTES, f"{first.place}: {first.message}", "", label)
    if seen.owed and seen.state is State.FAILED:
        return _found(Kind.GIVES_UP, told(seen), _NUMBER.sub("#", (*seen.reason, "")[0])[:80])
    if seen.state is State.COMPLETED and seen.image:
        return _found(Kind.WRONG_BYTES, "; ".join(seen.image), "", MEMORY)
    if seen.growth > GROWTH:
        return _found(Kind.GROWS, f"takes {seen.growth} bytes, must be up to {GROWTH}", "")
    return None


def _found(kind: Kind, observed: str, detail: str, requirement: str = ENDS) -> Finding:
    return Finding(kind.value, requirement, observed, detail)


def told(seen: Seen) -> str:
    """Return what the sender says of its migration, in words."""
    why = f": {seen.reason[0]}" if seen.reason else ""
    return f"{seen.status or seen.state.value}{why}"


def _crash(seen: Seen) -> Finding:
    # which trace event comes last is chance: the threads race until the process ends
    assertion, traced = _ASSERTION.search(seen.log), _TRACE.findall(seen.log)
    death = seen.death or "an uncaught exception"
    detail = f"{death} {assertion[1]}" if assertion else death
    after = f", after {traced[-1]}" if traced else ""
    return _found(Kind.CRASHES, f"{detail}{after}", detail)


# ---- feedback -----------------------------------------------------------------------------------


def reached(seen: Seen) -> frozenset[str]:
    """Return labels: requirements that were judged, trace events, reasons of failures, state."""
    kept = {result.requirement.id for result in seen.report.results if result.applied}
    events = set(_TRACE.findall(seen.log))
    reasons = {_NUMBER.sub("#", reason)[:80] for reason in seen.reason}
    return frozenset(kept | events | reasons | {f"state {seen.status or seen.state.value}"})


def scores(seen: Seen) -> Mapping[str, float]:
    """Return the bytes that were taken, the SYNC packets among them, and the time to the end."""
    applied = {r.requirement.id: r.applied for r in seen.report.results}
    return {"bytes": seen.taken, "syncs": applied.get("SYNC-1", 0), "seconds": seen.seconds}
