"""The JSON lines of a run, as `--report RUN.jsonl` writes them, read back.

A run is a header, a row a case and peer, and a footer. One that was killed has no footer, and
perhaps half a last line: what is there is read, and it stays visible that something is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from multifd_proto.errors import MultiFDError

from ..observation import Exchange
from ..verdict import Verdict

Object = Mapping[str, Any]


class ReportError(MultiFDError):
    """A run cannot be read, or a report not be written: says file, line and what is wrong."""


@dataclass(frozen=True)
class Peer:
    """One of the implementations that a run was pointed at."""

    uri: str
    product: str = ""
    version: str = ""
    dialect: str = ""
    role: str = ""
    """What it was asked as, where the run has both roles."""
    error: str = ""
    """Why it could not be used at all."""


@dataclass(frozen=True)
class Deviation:
    """The entry of the list of known deviations that a row matches."""

    reason: str
    link: str = ""


@dataclass(frozen=True)
class Row:
    """What became of one case with one peer; all texts are free of control characters."""

    peer: str
    """URI of the peer."""
    product: str
    version: str
    dialect: str
    case: str
    requirement: str
    title: str
    """The requirement's heading."""
    level: str
    text: str
    """What the requirement demands."""
    chapter: str
    """Where it stands in `spec/`: file name and anchor."""
    says: str
    """What was sent."""
    failure: str
    """In which way it failed; empty if it did not."""
    expected: str
    observed: str
    aftermath: str
    log: str
    """End of the peer's log."""
    role: str
    replay: str
    """The command that plays it again."""
    pcap: str
    """File that holds what was exchanged; empty if none was written."""
    verdict: Verdict
    reason: tuple[str, ...] = ()
    deviation: Deviation | None = None
    scored: bool = True
    """It counts in the frozen set of the run."""
    seconds: float = 0.0
    attempts: int = 1
    exchanges: tuple[Exchange, ...] = ()


@dataclass
class Run:
    """One run of the suite."""

    name: str
    """Name of its file, without the suffix."""
    suite: str
    set: str
    roles: tuple[str, ...]
    started: str
    host: str
    peers: list[Peer]
    cases: list[str]
    """Ids of the cases that were selected."""
    strict: bool = False
    """Passing weakly is failing."""
    lenient: bool = False
    """Being inconclusive is not failing."""
    rows: list[Row] = field(default_factory=list)
    complete: bool = False
    """It has its footer."""
    seconds: float = 0.0
    stale: list[str] = field(default_factory=list)
    """Known deviations that nothing showed."""


def read(paths: Iterable[Path]) -> list[Run]:
    """Return the runs of several files, in their order; a file may hold several.

    Raises:
        ReportError: a file cannot be read, or holds something else.
    """
    runs: list[Run] = []
    for path in paths:
        found: list[Run] = []
        for place, line in _lines(path):
            _take(found, path.stem, place, line)
        if not found:
            raise ReportError(f"{path}: holds no run")
        runs += found
    return runs


def _lines(path: Path) -> Iterator[tuple[str, Object]]:
    """Yield place and object of each line; a last line that has no end is torn, and left out."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n") and line.strip():
                    yield f"{path}: line {number}", _object(f"{path}: line {number}", line)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None


def _object(place: str, line: str) -> Object:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ReportError(f"{place}: {_plain(line[:40])!r} is not a JSON object")
    return value


def _take(runs: list[Run], name: str, place: str, line: Object) -> None:
    """Add what a line says to the runs of its file."""
    kind = line.get("type")
    try:
        if kind == "run":
            runs.append(_header(name, line))
        elif not runs:
            raise ReportError(f"{place}: type is {kind!r}, a run begins with 'run'")
        elif kind == "case":
            runs[-1].rows.append(_row_of(runs[-1], line))
        elif kind == "end":
            runs[-1].complete = True
            runs[-1].seconds = float(line.get("seconds") or 0)
            runs[-1].stale = [_text(entry) for entry in line.get("stale") or ()]
        else:
            raise ReportError(f"{place}: type is {kind!r}, known are 'run', 'case' and 'end'")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{place}: not a {kind} line: {error!r}") from None


def _header(name: str, line: Object) -> Run:
    return Run(
        name=_text(name),
        suite=_text(line.get("suite")),
        set=_text(line.get("set")),
        roles=tuple(_text(line["role"]).split(" and ")),
        started=_text(line.get("started")),
        host=_text(line.get("host")),
        peers=[
            Peer(**{f.name: _text(peer.get(f.name)) for f in fields(Peer)})
            for peer in line["peers"]
        ],
        cases=[_text(case) for case in line.get("cases") or ()],
        strict=bool(line.get("strict")),
        lenient=line.get("inconclusive") == "skip",
    )


def _row_of(run: Run, line: Object) -> Row:
    row = _row(line)
    if row.role not in run.roles or row.peer not in [peer.uri for peer in run.peers]:
        raise ValueError(f"{row.role} {row.peer} is not in the run's header")
    return row


def _row(line: Object) -> Row:
    texts = {f.name: _text(line.get(f.name)) for f in fields(Row) if f.type == "str"}
    for needed in ("peer", "case", "requirement"):
        if not texts[needed]:
            raise KeyError(needed)
    known = line.get("deviation")
    return Row(
        **texts,
        verdict=Verdict(line["verdict"]),
        reason=tuple(_text(reason) for reason in line.get("reason") or ()),
        deviation=known and Deviation(_text(known.get("reason")), _text(known.get("link"))),
        scored=bool(line.get("scored", True)),
        seconds=float(line.get("seconds") or 0),
        attempts=int(line.get("attempts") or 1),
        exchanges=tuple(_exchange(exchange) for exchange in line.get("exchanges") or ()),
    )


def _exchange(line: Object) -> Exchange:
    return Exchange(
        time=float(line["time"]),
        wire=_text(line["wire"]),
        kind=_text(line["kind"]),
        what=_text(line["what"]),
        data=bytes.fromhex(line.get("hex") or ""),
        size=int(line.get("size") or 0),
    )


# What a terminal or a browser would obey instead of show: C0 and C1 without tab and line feed,
# what turns the direction of writing, and halves of surrogate pairs.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _plain(text: str) -> str:
    return _CONTROL.sub(lambda m: chr(0x2400 + ord(m[0])) if m[0] < " " else "\ufffd", text)


def _text(value: object) -> str:
    if value is None:
        return ""
    return _plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
