"""The report of a check: as text for people, as data for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from multifd_proto.machine.migration import Migration
from multifd_proto.machine.verdict import Report, Result, Verdict, Violation
from multifd_proto.views.messages import clock
from multifd_proto.wire.dialect import describe

_SHOWN = 3
"""Violations of one requirement that the text shows."""


def verdict_line(report: Report) -> str:
    """Return the verdict on the whole migration, in one sentence."""
    failed, known = report.of(Verdict.FAILED), report.of(Verdict.DEVIATION)
    if not report.exercised:
        return "NOT EXERCISED: nothing could be judged"
    if report.violated:
        ids = ", ".join(r.requirement.id for r in failed)
        return f"VIOLATED: {len(failed)} requirements ({ids})"
    said = f"CONFORMING: {len(report.of(Verdict.PASSED))} requirements passed"
    if failed:
        said += f", {len(failed)} that SHOULD hold do not"
    if known:
        said += f", {len(known)} known deviations of this dialect"
    return said


def as_text(report: Report, migration: Migration) -> Iterator[tuple[str, str]]:
    """Yield the report's lines, each with a style: `good`, `bad`, `note`, `dim` or nothing."""
    yield from _known(report, migration)
    for verdict, style in ((Verdict.FAILED, "bad"), (Verdict.DEVIATION, "note")):
        results = report.of(verdict)
        if results:
            yield "", ""
            yield f"{verdict.value}:", style
        for result in results:
            yield from _found(result, style)
    yield "", ""
    passed = report.of(Verdict.PASSED)
    if passed:
        yield from _listed("passed", [r.requirement.id for r in passed], "good")
    reasons: dict[str, list[str]] = {}
    for r in report.of(Verdict.NOT_EXERCISED) + report.of(Verdict.NOT_APPLICABLE):
        reasons.setdefault(f"{r.verdict.value} ({r.reason})", []).append(r.requirement.id)
    for reason, ids in reasons.items():
        yield from _listed(reason, ids, "dim")
    yield "", ""
    yield verdict_line(report), "bad" if report.violated else "good" if report.exercised else "note"


def _known(report: Report, migration: Migration) -> Iterator[tuple[str, str]]:
    given = report.given
    if given.dialect:
        yield (
            f"  dialect    {report.dialect.name} (QEMU {report.dialect.releases}), as demanded",
            "",
        )
    else:
        fits = describe(frozenset(report.candidates))
        yield f"  dialect    inferred: fits QEMU {fits}; judged as {report.dialect.name}", ""
    if migration.page_size:
        how = "as demanded" if given.page_size else "inferred"
        yield f"  page size  {migration.page_size} bytes, {how}", ""
    ids = sorted(c.id for c in migration.streams.values() if c.id is not None)
    how = f"of {given.channels} demanded" if given.channels else "seen"
    yield f"  channels   {len(migration.streams)} {how} (ids {', '.join(map(str, ids)) or '?'})", ""
    if migration.first_init:
        yield f"  uuid       {UUID(bytes=migration.first_init.init.uuid)}", ""
    if migration.method:
        yield f"  payload    {migration.method.name}", ""
    if migration.blocks:
        sizes = (f"{n.decode('latin-1')} {b.used_length:#x}" for n, b in migration.blocks.items())
        yield f"  RAM blocks {', '.join(sizes)}", ""
    if migration.gaps:
        lost = f"{migration.missing} bytes in {migration.gaps} gaps: what they hide is not judged"
        yield f"  missing    {lost}", "note"


def _found(result: Result, style: str) -> Iterator[tuple[str, str]]:
    requirement = result.requirement
    yield (
        f"  {requirement.id} {requirement.slug} ({requirement.level.value}), {result.count}x",
        style,
    )
    yield from _wrapped(requirement.text, "dim")
    for violation in result.violations[:_SHOWN]:
        yield from _wrapped(f"{_when(violation)}{violation.place}: {violation.message}", "")
    if result.count > _SHOWN:
        yield f"      ... and {result.count - _SHOWN} more", "dim"
    if result.quirk:
        kind = "known defect" if result.quirk.defect else "known"
        dialects = describe(result.quirk.dialects)
        yield from _wrapped(f"{kind} of QEMU {dialects}: {result.quirk.reason}", "note")
        yield f"      source: {result.quirk.source}", "dim"
    yield f"      read spec/{requirement.anchor}, or: multifd spec {requirement.id}", "dim"


def _when(violation: Violation) -> str:
    return f"{clock(violation.time)} " if violation.time else ""


def _wrapped(text: str, style: str) -> Iterator[tuple[str, str]]:
    for line in textwrap.wrap(text, 94, break_long_words=False, break_on_hyphens=False):
        yield f"      {line}", style


def _listed(title: str, ids: list[str], style: str) -> Iterator[tuple[str, str]]:
    yield f"{len(ids)} {title}:", style
    for line in textwrap.wrap(" ".join(ids), 96, break_on_hyphens=False):
        yield f"  {line}", "dim"


def as_data(report: Report, migration: Migration) -> dict[str, Any]:
    """Return the report as plain data for JSON."""
    return {
        "verdict": "failed"
        if report.violated
        else "passed"
        if report.exercised
        else "not exercised",
        "dialect": report.dialect.name,
        "dialects_that_fit": [d.name for d in report.candidates],
        "dialect_inferred": report.given.dialect is None,
        "page_size": migration.page_size,
        "channels": len(migration.streams),
        "uuid": str(UUID(bytes=migration.first_init.init.uuid)) if migration.first_init else None,
        "gaps": migration.gaps,
        "missing": migration.missing,
        "method": migration.method.name if migration.method else None,
        "ramblocks": {
            n.decode("utf-8", "backslashreplace"): b.used_length
            for n, b in (migration.blocks or {}).items()
        },
        "requirements": [_result(r) for r in report.results],
    }


def _result(result: Result) -> dict[str, Any]:
    requirement = result.requirement
    return {
        "id": requirement.id,
        "slug": requirement.slug,
        "level": requirement.level.value,
        "verdict": result.verdict.value,
        "applied": result.applied,
        "count": result.count,
        "reason": result.reason or (result.quirk.reason if result.quirk else None),
        "quirk": result.quirk.name if result.quirk else None,
        "chapter": f"spec/{requirement.anchor}",
        "violations": [
            {
                "stream": v.stream,
                "channel": v.channel,
                "offset": v.offset,
                "time": v.time / 1e9 if v.time else None,
                "what": v.fault.what,
                "seen": v.fault.seen,
                "demanded": v.fault.demanded,
            }
            for v in result.violations
        ],
    }
