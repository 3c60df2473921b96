"""The table: what a case demands x what was seen of a receiver -> a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .case import Case, Expect
from .observation import Aftermath, Observation, Reaction
from .target import Description
from .verdict import Failure, Judgement, Verdict

_REFUSALS = (Expect.REFUSES, Expect.REFUSES_ALL)


def judge(
    case: Case, peer: Description, seen: Observation, reasons: Sequence[re.Pattern[str]] = ()
) -> Judgement:
    """Return the verdict on what was seen of a receiver while a case was played to it.

    Args:
        case: what was played, and what keeps its requirement.
        peer: what it was played to.
        seen: what came of it.
        reasons: what a receiver of this product gives as its reason for the right refusal; with
            none of them, any reason is right.
    """
    judgement = _demanded(case, peer, seen, reasons)
    if case.binds(peer.dialect) or judgement.verdict is Verdict.INCONCLUSIVE:
        return judgement
    return Judgement(Verdict.REPORTED, judgement.text)


def _demanded(
    case: Case, peer: Description, seen: Observation, reasons: Sequence[re.Pattern[str]]
) -> Judgement:
    """Judge as if the requirement bound the peer."""
    text = words(seen)
    if seen.reaction is Reaction.CRASHED:
        return Judgement(Verdict.FAILED, text, Failure.CRASHES)
    if seen.reaction is Reaction.UNREACHED:
        return Judgement(Verdict.INCONCLUSIVE, text)
    if lacking := case.needs - peer.senses:
        names = " and ".join(sorted(sense.name.lower() for sense in lacking))
        return Judgement(Verdict.INCONCLUSIVE, f"{text}; the peer's {names} cannot be seen")
    if failed := _failure(case, seen):
        failure, why = failed
        return Judgement(Verdict.FAILED, f"{text}{why and '; '}{why}", failure)
    if weak := _weakness(case, seen, reasons):
        return Judgement(Verdict.PASSED_WEAK, f"{text}; {weak}")
    return Judgement(Verdict.PASSED, text)


def _failure(case: Case, seen: Observation) -> tuple[Failure, str] | None:
    """Return in which way a living peer fails, and what the reaction alone does not tell of it."""
    if seen.reaction is Reaction.HUNG:
        return Failure.HANGS, ""
    if seen.early:
        return Failure.ACCEPTS_BAD, f"in memory before its time: {seen.early[0]}"
    if case.expect is Expect.ACCEPTS:
        failed = _of_acceptance(seen)
    elif case.expect is Expect.SURVIVES:
        failed = _of_survival(seen)
    else:
        failed = _of_refusal(case.expect, seen)
    if failed is None and (also := case.also(seen)):
        # what comes beside the reaction is what the peer wrote
        return Failure.WRONG_BYTES, also
    return failed


def _of_acceptance(seen: Observation) -> tuple[Failure, str] | None:
    if seen.reaction is Reaction.REJECTED:
        return Failure.REJECTS_GOOD, ""
    if seen.image:
        return Failure.WRONG_IMAGE, f"memory differs: {seen.image[0]}"
    return None


def _of_survival(seen: Observation) -> tuple[Failure, str] | None:
    if seen.aftermath is Aftermath.CRASHED:
        return Failure.CRASHES, "and crashed later"
    if seen.aftermath is Aftermath.WEDGED:
        return Failure.HANGS, "and neither ends nor answers afterwards"
    return None


def _of_refusal(expect: Expect, seen: Observation) -> tuple[Failure, str] | None:
    if seen.reaction is Reaction.ACCEPTED:
        return Failure.ACCEPTS_BAD, ""
    if seen.image:
        return Failure.ACCEPTS_BAD, f"memory was written although it refused: {seen.image[0]}"
    # the end of a process ends its connections, seen or not
    left = [wire for wire in seen.opened if wire not in seen.ended]
    if expect is Expect.REFUSES_ALL and left and seen.death is None:
        return Failure.HANGS, f"it does not end {', '.join(left)}"
    return None


def _weakness(case: Case, seen: Observation, reasons: Sequence[re.Pattern[str]]) -> str:
    """Return why a right reaction is not quite right; empty if it is."""
    if seen.aftermath is Aftermath.CRASHED:
        return "but it crashed later"
    if seen.aftermath is Aftermath.WEDGED:
        return "but it neither ends nor answers afterwards"
    refused = case.expect in _REFUSALS and seen.reaction is Reaction.REJECTED
    right = any(pattern.search(text) for pattern in reasons for text in seen.reason)
    if refused and seen.reason and reasons and not right:
        return f"but for another reason than {' or '.join(p.pattern for p in reasons)!r}"
    return ""


def words(seen: Observation) -> str:
    """Tell an observation in a line, such as `rejected: wire 1 ended after 2 ms: bad magic`."""
    what = {
        Reaction.CRASHED: seen.death,
        Reaction.HUNG: f"waiting for {seen.stood}" if seen.stood else "",
        Reaction.REJECTED: seen.death or _ends(seen),
        Reaction.ACCEPTED: "",
        Reaction.UNREACHED: seen.stood,
    }[seen.reaction]
    said = f"{seen.reaction.value}{': ' if what else ''}{what or ''}"
    if seen.reaction is not Reaction.UNREACHED:
        said += f" after {seen.seconds * 1000:.0f} ms"
    if seen.reason and seen.reaction is Reaction.REJECTED:
        said += f", saying {seen.reason[0]!r}"
    return said


def _ends(seen: Observation) -> str:
    return ", ".join(f"{wire} {how}" for wire, how in seen.ended.items())
