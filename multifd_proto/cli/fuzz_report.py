"""What `multifd fuzz` prints: how it goes, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Self

import click

from multifd_proto.fuzz.begin import Wanted
from multifd_proto.fuzz.campaign import Campaign, Plan
from multifd_proto.fuzz.store import file_name
from multifd_proto.fuzz.tally import Data, Tally, flaky, in_reach

_LINES = 10.0
_SHOWN = 12


class Watch:
    """Shows how a campaign goes: live on a terminal, line by line elsewhere. A context manager."""

    def __init__(self, plan: Plan) -> None:
        self._reachable = frozenset(in_reach(plan.role, plan.facts.get("dialect", "")))
        self._told: dict[str, str] = {}
        self._notes = 0
        self._next = _LINES
        self._live: Any = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Clear what was shown."""
        if self._live:
            self._live.stop()

    def see(self, tally: Tally) -> None:
        """Take a look."""
        notes = tally.notes[self._notes :]
        self._notes += len(notes)
        if self._live:
            self._live.update(self.screen(tally))
        for line in notes if self._live else [*self._news(tally), *notes]:
            # rich writes it above what is live
            sys.stderr.write(f"{tally.elapsed:7.1f} s  {line}\n")

    def _news(self, tally: Tally) -> Iterator[str]:
        for signature, data in tally.findings.items():
            said = _standing(data)
            if signature not in self._told and signature in tally.before:
                self._told[signature] = said
            if self._told.get(signature) != said:
                self._told[signature] = said
                yield f"{signature}: {said}"
        if tally.elapsed >= self._next:
            self._next += _LINES
            yield self._state(tally)

    def _state(self, tally: Tally) -> str:
        reached = len(self._reachable & set(tally.reached))
        found = len(tally.counted())
        return (
            f"{_clock(tally.left)} left, {tally.executions} executions, {tally.rate:.1f}/s, "
            f"{reached} of {len(self._reachable)} requirements, "
            f"{found} finding{'' if found == 1 else 's'}"
        )

    def screen(self, tally: Tally) -> Any:
        """Return what a terminal shows, for rich to print."""
        from rich.console import Group
        from rich.text import Text

        findings = list(reversed(_by_time(tally)))[:_SHOWN]
        return Group(Text(self._state(tally)), *([_table(findings, tally)] if findings else []))


def as_data(campaign: Campaign, wanted: Wanted, status: int) -> dict[str, Any]:
    """Return a campaign as JSON."""
    plan, tally = campaign.plan, campaign.tally
    return {
        "role": plan.role,
        **plan.facts,
        "seed": plan.seed,
        "workers": plan.workers,
        "seconds": round(tally.elapsed, 1),
        "executions": tally.executions,
        "rate": round(tally.rate, 1),
        "skipped": tally.skipped,
        "deaths": tally.deaths,
        "findings": [
            {
                **{key: data["finding"].get(key) for key in _TOLD},
                "signature": signature,
                "seen": tally.seen[signature],
                "new": signature not in tally.before,
                "flaky": flaky(data),
                "file": str(wanted.findings / file_name(signature)),
            }
            for signature, data in _by_time(tally, all_of_them=True)
        ],
        "requirements": tally.coverage(),
        "reached": dict(tally.reached),
        "notes": tally.notes,
        "unusable": tally.unusable or None,
        "exit": status,
    }


_TOLD = ("kind", "requirement", "observed", "detail", "confirmed", "found", "minimised")


def print_outcome(campaign: Campaign, wanted: Wanted) -> None:
    """Print what came of a campaign."""
    from rich.console import Console

    tally, plan = campaign.tally, campaign.plan
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    findings = _by_time(tally)
    if findings:
        console.print(_table(findings, tally, files=True))
    coverage = tally.coverage()
    if coverage:
        console.print()
        console.print(_covered(coverage))
    refuted = [signature for signature, data in tally.findings.items() if flaky(data)]
    for signature in refuted:
        click.echo(f"did not show again: {signature}")
    product = f"{plan.facts.get('product', '')} {plan.facts.get('version', '')}".split("(")[0]
    reachable = in_reach(plan.role, plan.facts.get("dialect", ""))
    click.echo(
        f"\n{product.strip()}: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}"
        f", {tally.executions} executions in {tally.elapsed:.0f} s "
        f"({tally.rate:.1f}/s), {len(coverage)} of {len(reachable)} requirements reached, "
        f"seed {plan.seed}"
    )
    if findings:
        click.echo(f"files in {wanted.findings}; tell the product's maintainers first")


def _by_time(tally: Tally, *, all_of_them: bool = False) -> list[tuple[str, Data]]:
    findings = tally.findings if all_of_them else tally.counted()
    return sorted(findings.items(), key=lambda item: _found(item[1]).get("seconds", 0.0))


def _found(data: Data) -> Mapping[str, Any]:
    return data["finding"].get("found") or {}


def _standing(data: Data) -> str:
    good, tried = data["finding"].get("confirmed", (0, 0))
    if not tried:
        return f"found after {_found(data).get('executions', '?')} executions"
    small = ", minimised" if data["finding"].get("minimised") else ""
    return f"flaky, 0 of {tried}" if flaky(data) else f"confirmed {good} of {tried}{small}"


def _table(findings: list[tuple[str, Data]], tally: Tally, *, files: bool = False) -> Any:
    from rich.table import Table

    table = Table("finding", "requirement", "after", "executions", "confirmed", "seen",
                  box=None, pad_edge=False)  # fmt: skip
    if files:
        table.add_column("file", overflow="fold")
    for signature, data in findings:
        found = _found(data)
        good, tried = data["finding"].get("confirmed", (0, 0))
        old = signature in tally.before
        cells = [
            signature,
            data["finding"].get("requirement", ""),
            "before" if old else f"{found.get('seconds', 0):.1f} s",
            "" if old else str(found.get("executions", "")),
            f"{good} of {tried}" if tried else "not yet",
            str(tally.seen[signature]),
        ]
        table.add_row(*cells, *([file_name(signature)] if files else []))
    return table


def _covered(coverage: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("requirement", "", "reached", "kept", "broken", box=None, pad_edge=False)
    for row in coverage:
        table.add_row(
            *(str(row[key]) for key in ("requirement", "slug", "reached", "kept", "broken"))
        )
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
