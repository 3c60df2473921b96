"""The row of a case in a run's journal, of whichever role."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from .deviations import Deviation
from .observation import Exchange
from .result import Ask, Result
from .target import Description
from .verdict import Verdict

Row = dict[str, Any]
"""A line of the journal, as JSON."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_QUIET = (Verdict.PASSED, Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)


def row_of(
    ask: Ask,
    uri: str,
    peer: Description | None,
    result: Result,
    *,
    deviation: Deviation | None,
    scored: bool,
    seconds: float,
) -> Row:
    """Return the row of a case that was judged."""
    requirement, judgement, evidence = ask.requirement, result.judgement, result.evidence
    loud = judgement.verdict not in _QUIET
    return {
        "type": "case",
        "peer": uri,
        "product": peer.product if peer else "",
        "version": peer.version if peer else "",
        "dialect": peer.dialect.name if peer else "",
        "role": ask.role.value,
        "case": ask.case,
        "requirement": requirement.id,
        "title": requirement.slug,
        "level": requirement.level.value,
        "text": requirement.text,
        "chapter": requirement.anchor,
        "says": ask.says,
        "verdict": judgement.verdict.value,
        "failure": judgement.failure.value if judgement.failure else None,
        "expected": ask.expected,
        "observed": _plain(judgement.text),
        "reason": [_plain(text) for text in evidence.reason],
        "aftermath": evidence.aftermath,
        "deviation": {"reason": deviation.reason, "link": deviation.link} if deviation else None,
        "scored": scored,
        "seconds": round(seconds, 6),
        "attempts": result.attempts,
        "exchanges": [_exchange(e) for e in evidence.exchanges] if loud else [],
        "log": _plain(evidence.log) if loud else "",
        "replay": _replay(ask, uri),
        "pcap": None,
    }


def _replay(ask: Ask, uri: str) -> str:
    """Return the command that does it again: what is no script is done by the suite itself."""
    if ask.group:
        return f"multifd conformance {ask.role.value} {shlex.quote(uri)} --case {ask.case}"
    return f"multifd replay {ask.case} {shlex.quote(uri)}"


def unexpected(row: Mapping[str, Any], *, strict: bool, inconclusive: str) -> bool:
    """Tell whether a row fails a run.

    Args:
        row: of a journal.
        strict: passing weakly is failing.
        inconclusive: `fail` or `skip`: what inconclusive cases come to.
    """
    bad = {Verdict.FAILED.value}
    if strict:
        bad.add(Verdict.PASSED_WEAK.value)
    if inconclusive == "fail":
        bad.add(Verdict.INCONCLUSIVE.value)
    return row["verdict"] in bad and bool(row["scored"])


def _plain(text: str) -> str:
    """Return what a peer says without what a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


_KEPT = 1024
"""Bytes of a message that a row keeps; a capture (`--pcap`) has all."""


def _exchange(exchange: Exchange) -> dict[str, Any]:
    return {
        "time": round(exchange.time, 6),
        "wire": exchange.wire,
        "kind": exchange.kind,
        "what": _plain(exchange.what),
        "size": exchange.size,
        "hex": exchange.data[:_KEPT].hex(),
    }


# ---- a row as text -----------------------------------------------------------------------------

_LINES = 16
_BYTES = 64


def story(row: Row) -> str:
    """Return all that a failure needs to be understood: what was demanded, done and seen."""
    failure = f" ({row['failure']})" if row["failure"] else ""
    lines = [
        f"{row['case']}: {row['verdict']}{failure}",
        f"peer         {row['peer']}: {row['product']} {row['version']}".rstrip(),
        f"requirement  {row['requirement']} ({row['level']}, spec/{row['chapter']})",
        f"             {row['text']}",
        f"case         {row['says']}",
        f"expected     {row['expected']}",
        f"observed     {row['observed']}",
    ]
    lines += [f"reason       {text}" for text in row["reason"]]
    if row["aftermath"] not in ("", "unknown"):
        lines.append(f"afterwards   {row['aftermath']}")
    lines += _wire_log(row["exchanges"])
    if row["log"]:
        lines += ["log of the peer", *(f"  {line}" for line in row["log"].splitlines()[-_LINES:])]
    if row["pcap"]:
        lines.append(f"capture      {row['pcap']}")
    return "\n".join([*lines, f"replay       {row['replay']}"])


def _wire_log(exchanges: list[dict[str, Any]]) -> Iterable[str]:
    if not exchanges:
        return
    left = len(exchanges) - _LINES
    yield "wire log" + (f", the last {_LINES} of {len(exchanges)} lines" if left > 0 else "")
    for one in exchanges[-_LINES:]:
        size = f", {one['size']} bytes" if one["size"] else ""
        clock = f"{one['time'] * 1000:9.3f} ms"
        yield f"  {clock}  {one['wire']:<6} {one['kind']:<8} {one['what']}{size}"
        if one["hex"]:
            shown = one["hex"][: 2 * _BYTES]
            more = "..." if one["size"] > _BYTES else ""
            yield f"{'':23}{shown}{more}"
