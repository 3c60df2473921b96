"""From what was heard of a sender to the verdict on each requirement.

What shows in the bytes, the checker has judged. Here its known deviations become failures again,
as which of them are known is for the list of deviations to say; and what shows beside the bytes is
added: TLS, the memory that comes of it, and whether the sender lives and ends.
"""

from __future__ import annotations

from collections.abc import Callable

from multifd_proto.machine.verdict import Result
from multifd_proto.machine.verdict import Verdict as Found
from multifd_proto.wire.requirements import Requirement, Role, load

from ..target import Description, State
from ..verdict import Failure, Judgement, Verdict
from .session import Heard, TlsSeen

ENDS = "CHAN-1"
"""Requirement that a sender fails which crashes, or never comes to an end."""
MEMORY = "SYNC-8"
"""Requirement that a sender fails after which memory is not what it was at the source."""


def requirements_of(chapter: int) -> tuple[str, ...]:
    """Return the ids of a chapter's requirements for senders, in the order of the chapter."""
    start = f"{chapter:02d}-"
    return tuple(
        r.id for r in load().values() if r.role is Role.SENDER and r.chapter.startswith(start)
    )


def judge_heard(requirement_id: str, heard: Heard, description: Description) -> Judgement:
    """Return the verdict on one requirement in one scenario."""
    requirement = load()[requirement_id]
    if description.dialect not in requirement.dialects:
        return Judgement(Verdict.NOT_APPLICABLE, f"binds {requirement.dialect_text}")
    if not heard.connections:
        return Judgement(Verdict.INCONCLUSIVE, f"awaited in vain: {heard.waited}{_said(heard)}")
    if requirement_id == ENDS and (found := _liveness(heard)):
        return found
    judgement = _judge(requirement, heard)
    if judgement.verdict is Verdict.FAILED:
        return judgement
    if requirement_id == MEMORY and heard.image:
        seen = "; ".join(heard.image)
        return Judgement(Verdict.FAILED, f"memory differs: {seen}", Failure.WRONG_IMAGE)
    if judgement.verdict is not Verdict.NOT_EXERCISED:
        return judgement
    if trouble := _trouble(heard):
        return Judgement(Verdict.INCONCLUSIVE, f"{judgement.text}; {trouble}")
    if heard.broken and requirement.observable == "wire":
        return Judgement(Verdict.NOT_EXERCISED, "nothing showed it before the migration was broken")
    return judgement


def _judge(requirement: Requirement, heard: Heard) -> Judgement:
    if requirement.observable == "none":
        return Judgement(Verdict.NOT_EXERCISED, requirement.observable_reason)
    if requirement.id in _TLS and (heard.tls or requirement.observable == "live"):
        if heard.tls is None:
            return Judgement(Verdict.NOT_EXERCISED, "the connections are not in TLS")
        return _TLS[requirement.id](heard.tls, heard)
    result = next((r for r in heard.report.results if r.requirement is requirement), None)
    if result is None:
        return Judgement(Verdict.NOT_EXERCISED, f"shows in its {requirement.observable} alone")
    return _judge_result(result)


def _judge_result(result: Result) -> Judgement:
    match result.verdict:
        case Found.PASSED:
            return Judgement(Verdict.PASSED, f"kept {result.applied} times")
        case Found.NOT_EXERCISED:
            return Judgement(Verdict.NOT_EXERCISED, result.reason)
        case Found.NOT_APPLICABLE:
            return Judgement(Verdict.NOT_APPLICABLE, result.reason)
    quirk = f"{result.quirk.name}: " if result.quirk else ""
    first = result.violations[0]
    text = f"{quirk}{first.place}: {first.message}"
    more = f" ({result.count} times)" if result.count > 1 else ""
    return Judgement(Verdict.FAILED, text + more, Failure.WRONG_BYTES)


def _liveness(heard: Heard) -> Judgement | None:
    """Judge what is no matter of single bytes: the sender lives, and comes to an end."""
    if heard.crashed:
        return Judgement(Verdict.FAILED, f"crashed: {heard.death}", Failure.CRASHES)
    if heard.waited:
        text = f"awaited in vain: {heard.waited}{_said(heard)}"
        return Judgement(Verdict.FAILED, text, Failure.HANGS)
    return None


def _trouble(heard: Heard) -> str:
    """Return why a sender did not show all that it would have; empty if it did."""
    if heard.broken:
        return ""
    if heard.crashed:
        return f"the sender crashed: {heard.death}"
    if heard.waited:
        return f"awaited in vain: {heard.waited}"
    if heard.state is State.FAILED or heard.death:
        return f"the sender failed{_said(heard)}"
    return ""


def _said(heard: Heard) -> str:
    death = f"; it ended: {heard.death}" if heard.death else ""
    return death + (f"; it says: {heard.reason[0]}" if heard.reason else "")


# ---- TLS ---------------------------------------------------------------------------------------


def _all_or_none(tls: TlsSeen, _heard: Heard) -> Judgement:
    if tls.sessions and tls.clear:
        return _wrong(f"in the clear: {', '.join(tls.clear)}; in TLS: {tls.sessions}")
    how = "in TLS" if tls.sessions else "in the clear"
    return Judgement(Verdict.PASSED, f"all connections are {how}")


def _own_sessions(tls: TlsSeen, _heard: Heard) -> Judgement:
    if tls.clear:
        return _wrong(f"without a TLS session of its own: {', '.join(tls.clear)}")
    if tls.early:
        return _wrong("the main stream's handshake was not finished until channels had theirs")
    return Judgement(Verdict.PASSED, f"{tls.sessions} sessions, the main stream's first")


def _init_inside(tls: TlsSeen, _heard: Heard) -> Judgement:
    if tls.clear_inits:
        return _wrong(f"init in the clear: channel {', '.join(tls.clear_inits)}")
    return Judgement(Verdict.PASSED, "every init came inside TLS")


def _notified(tls: TlsSeen, heard: Heard) -> Judgement:
    if heard.broken or heard.waited:
        return Judgement(Verdict.NOT_EXERCISED, "the migration did not succeed")
    if tls.unnotified:
        return _wrong(f"ended without close_notify: channel {', '.join(tls.unnotified)}")
    return Judgement(Verdict.PASSED, "every channel ended with close_notify")


_TLS: dict[str, Callable[[TlsSeen, Heard], Judgement]] = {
    "TLS-1": _all_or_none,
    "TLS-2": _own_sessions,
    "TLS-3": _init_inside,
    "TLS-4": _notified,
}


def _wrong(text: str) -> Judgement:
    return Judgement(Verdict.FAILED, text, Failure.WRONG_BYTES)
