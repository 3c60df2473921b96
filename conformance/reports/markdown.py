"""Runs as a Markdown matrix, requirement by peer, and each failure below it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from ..observation import Exchange
from .run import Row, Run
from .table import MISSING, SYMBOLS, WIRE_LINES, Column, Line, Section, sections

_SHOWN = 32
"""Bytes of a message that the wire log shows."""


def report(runs: Sequence[Run], folder: Path) -> str:
    """Return the report, to be written into `folder`.

    It links to the chapters of `spec/` if it is written somewhere in their project.
    """
    found = sections(runs)
    spec = _spec(folder)
    lines = ["# multifd conformance", ""]
    for section in found:
        lines += [*_peers(section), *_matrix(section, spec)]
    lines += [_legend(), ""]
    for section in found:
        for column in section.columns:
            for row in column.unexpected:
                lines += _failure(column, row, spec)
    return "\n".join(lines).rstrip() + "\n"


def _spec(folder: Path) -> str:
    """Return the way from a folder to the chapters; empty if it is no part of their project."""
    spec = Path(str(files("multifd_proto.spec")))
    inside = folder.resolve().is_relative_to(spec.parent)
    return os.path.relpath(spec, folder.resolve()) if inside else ""


def _legend() -> str:
    said = [f"{symbol} {verdict.value}" for verdict, symbol in SYMBOLS.items()]
    return " · ".join([*said, f"{MISSING} not reported"])


# ---- who, and how it went ----------------------------------------------------------------------


def _peers(section: Section) -> Iterator[str]:
    yield from (f"## As {section.role}", "")
    yield from ("| peer | dialect | outcome | cases |", "| --- | --- | --- | --- |")
    for column in section.columns:
        name = f"{_escape(column.label)} ({_code(column.peer.uri)})"
        counts = [f"{SYMBOLS[verdict]} {n} {verdict.value}" for verdict, n in column.counts]
        counts += [f"{MISSING} {len(column.missing)} not reported"] if column.missing else []
        counts += [_escape(column.peer.error)] if column.peer.error else []
        dialect = _escape(column.peer.dialect)
        yield f"| {name} | {dialect} | **{column.outcome}** | {', '.join(counts)} |"
    yield ""
    for run in _runs(section.columns):
        yield from _notes(run)


def _runs(columns: Iterable[Column]) -> Iterator[Run]:
    """Yield each run once; they cannot be hashed."""
    yield from {id(column.run): column.run for column in columns}.values()


def _notes(run: Run) -> Iterator[str]:
    if not run.complete:
        yield f"**Incomplete**: the run {_code(run.name)} was ended before it was done."
        yield ""
    for entry in run.stale:
        yield f"- stale known deviation: {_escape(entry)}"
    if run.stale:
        yield ""


# ---- the matrix --------------------------------------------------------------------------------


def _matrix(section: Section, spec: str) -> Iterator[str]:
    for chapter in section.chapters:
        heads = ["requirement", "", *(_escape(column.label) for column in section.columns)]
        yield from (f"### {chapter.title}", "")
        yield f"| {' | '.join(heads)} |"
        yield f"| --- | --- |{' :-: |' * len(section.columns)}"
        for line in chapter.lines:
            yield _line(line, spec)
        yield ""


def _line(line: Line, spec: str) -> str:
    cells = [
        _link(line.id, line.anchor, spec),
        f"{_escape(line.title)} ({line.level})",
        *(symbol for symbol, _ in line.symbols),
    ]
    return f"| {' | '.join(cells)} |"


def _link(text: str, anchor: str, spec: str) -> str:
    return f"[{text}]({spec}/{anchor})" if spec and anchor else text


# ---- failures ----------------------------------------------------------------------------------


def _failure(column: Column, row: Row, spec: str) -> Iterator[str]:
    kind = f" ({row.failure})" if row.failure else ""
    kind += "" if row.scored else ", not scored"
    symbol = SYMBOLS[row.verdict]
    yield f"### {symbol} {row.case}, {_escape(column.label)}: {row.verdict.value}{kind}"
    yield ""
    yield f"> {_link(row.requirement, row.chapter, spec)}: {row.text}"
    yield ""
    for name, value in (
        ("sent", row.says),
        ("expected", row.expected),
        ("observed", row.observed),
        *(("reason", reason) for reason in row.reason),
        ("aftermath", row.aftermath),
    ):
        if value not in ("", "unknown"):
            yield f"- {name}: {_escape(value)}"
    yield f"- replay: {_code(row.replay)}"
    yield ""
    name, lines = "wire log", len(row.exchanges)
    if lines > WIRE_LINES:
        name += f", the last {WIRE_LINES} of {lines} lines"
    yield from _block(name, "\n".join(map(_exchange, row.exchanges[-WIRE_LINES:])))
    yield from _block("log", row.log)


def _exchange(exchange: Exchange) -> str:
    data = exchange.data[:_SHOWN].hex(" ")
    more = f" ... {exchange.size} bytes" if exchange.size > _SHOWN else ""
    said = f"{exchange.time * 1000:9.1f} ms  {exchange.wire:<6} {exchange.kind:<8} {exchange.what}"
    return f"{said}\n{' ' * 14}{data}{more}" if data else said


def _block(name: str, text: str) -> Iterator[str]:
    """Yield text that folds away, behind a fence that it cannot close."""
    if text.strip():
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        yield from ("<details>", f"<summary>{name}</summary>", "")
        yield from (f"{fence}text", text.rstrip("\n"), fence, "", "</details>", "")


def _code(text: str) -> str:
    """Return a code span that the text cannot close, and that fits into a table."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if fence != "`" else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}".replace("|", "\\|")


def _escape(text: str) -> str:
    """Return text in one line in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split()))
