"""What `multifd conformance` prints: progress, counts, failures, deviations, the list of cases."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import click

from multifd_proto.conformance.child import Outcome
from multifd_proto.conformance.ledger import NOTHING
from multifd_proto.conformance.result import Ask
from multifd_proto.conformance.rows import story, unexpected
from multifd_proto.conformance.verdict import Verdict

Line = Mapping[str, Any]
_SHOWN = 20


class Watch:
    """Shows on a terminal how far a run is; a context manager."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._bad = 0

    def __enter__(self) -> Self:
        """Begin to show, if somebody can see it."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task(self._what, total=None)
        return self

    def __exit__(self, *exception: object) -> None:
        """Clear the line."""
        if self._bar:
            self._bar.stop()

    def see(self, line: Line) -> None:
        """Take a line of the journal."""
        if self._bar is None:
            return
        (task,) = self._bar.task_ids
        if line["type"] == "run":
            self._bar.update(task, total=len(line["cases"]) * len(line["peers"]))
        elif line["type"] == "case":
            self._bad += line["verdict"] == Verdict.FAILED.value
            failed = f", {self._bad} failed" if self._bad else ""
            self._bar.update(task, advance=1, description=f"{self._what}{failed}")


def as_data(outcome: Outcome, demands: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as JSON: what it was, counts for each peer, and what failed it."""
    return {
        "suite": outcome.header.get("suite"),
        "set": outcome.header.get("set"),
        "role": outcome.header.get("role"),
        "exit": outcome.exit,
        "seconds": outcome.footer.get("seconds"),
        "peers": [
            dict(peer) | {"counts": dict(counts)}
            for peer, counts in zip(outcome.header.get("peers", ()), _counts(outcome), strict=True)
        ],
        "failures": [dict(row) for row in outcome.rows if unexpected(row, **demands)],
        "harness": _harness(outcome),
        "deviations": [
            {"reason": reason, "link": link, "cases": count}
            for (reason, link), count in _excused(outcome).items()
        ],
        "stale": outcome.footer.get("stale", []),
        "trouble": outcome.trouble or None,
    }


def print_outcome(outcome: Outcome, demands: Mapping[str, Any]) -> None:
    """Print a run."""
    failures = [row for row in outcome.rows if unexpected(row, **demands)]
    for row in failures[:_SHOWN]:
        click.echo(story(row) + "\n")
    for row in failures[_SHOWN:]:
        click.echo(f"{row['case']}: {row['verdict']} ({row['failure']}), {row['peer']}")
    for text, count in _harness(outcome).items():
        click.secho(f"harness error, {count} cases: {text}", fg="red")
    _print_counts(outcome)
    for (reason, _), count in _excused(outcome).items():
        click.echo(f"{count:4} known: {reason}")
    for text in outcome.footer.get("stale", []):
        click.secho(f"stale: {text}", fg="red")
    if outcome.trouble:
        click.echo(f"multifd: {outcome.trouble}", err=True)
    if outcome.exit == NOTHING:
        click.echo("multifd: nothing was exercised", err=True)


def _print_counts(outcome: Outcome) -> None:
    """Print a table: a peer a row, a verdict a column."""
    if not outcome.rows:
        return
    from rich.console import Console
    from rich.table import Table

    counts = _counts(outcome)
    used = [v.value for v in Verdict if any(count[v.value] for count in counts)]
    table = Table("peer", "product", *used, box=None, pad_edge=False)
    for peer, count in zip(outcome.header["peers"], counts, strict=True):
        product = f"{peer.get('product', '')} {peer.get('version', '')}".split("(")[0]
        table.add_row(peer["uri"], product.strip(), *(str(count[verdict]) for verdict in used))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    click.echo(
        f"{len(outcome.header['cases'])} cases, set {outcome.header['set']},"
        f" {outcome.footer.get('seconds', 0):.1f} s"
    )


def _counts(outcome: Outcome) -> list[Counter[str]]:
    """Return the verdicts of each peer, in the order of the header."""
    return [
        Counter(row["verdict"] for row in outcome.rows if row["peer"] == peer["uri"])
        for peer in outcome.header.get("peers", ())
    ]


def _harness(outcome: Outcome) -> dict[str, int]:
    bad = (row for row in outcome.rows if row["verdict"] == Verdict.HARNESS_ERROR.value)
    return dict(Counter(row["observed"] for row in bad))


def _excused(outcome: Outcome) -> Counter[tuple[str, str]]:
    """Return how many cases each known deviation excuses."""
    known = (row["deviation"] for row in outcome.rows if row["deviation"])
    return Counter((one["reason"], one["link"]) for one in known)


# ---- the list of cases -------------------------------------------------------------------------


def case_data(ask: Ask) -> dict[str, Any]:
    """Return a case as JSON."""
    requirement = ask.requirement
    return {
        "case": ask.case,
        "role": ask.role.value,
        "requirement": requirement.id,
        "level": requirement.level.value,
        "dialects": requirement.dialect_text,
        "text": requirement.text,
        "says": ask.says,
        "expected": ask.expected,
    }


def case_text(found: Iterable[Ask]) -> Iterator[str]:
    """Yield the lines of a list of cases: each requirement with its text, then its cases."""
    cases: dict[str, list[Ask]] = {}
    for ask in found:
        cases.setdefault(ask.requirement.id, []).append(ask)
    for id_, asks in cases.items():
        requirement = asks[0].requirement
        yield f"{id_} ({requirement.level.value}, {requirement.role.value}): {requirement.text}"
        for ask in asks:
            yield f"  {ask.case:<36} {ask.says}"
