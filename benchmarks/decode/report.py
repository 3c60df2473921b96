"""Figures as tables for people, and the targets beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from .contestants import BASELINE
from .targets import TARGETS, Figures

GIB = 1 << 30


def table(title: str, figures: dict[str, dict[str, Any]]) -> Table:
    """Return a scenario's figures for people."""
    shown = Table(title=title)
    headers = ("", "GiB", "GiB/s", "best", "x cat", "packets/s", "found", "first row", "peak MiB")
    for header in headers:
        shown.add_column(header, justify="right" if header else "left")
    base = figures[BASELINE].get("gib_per_s")
    for name, row in figures.items():
        if "note" in row:
            shown.add_row(name, row["note"], style="dim")
            continue
        found, first = row["found"], row["first_row_s"]
        shown.add_row(
            name,
            f"{row['bytes'] / GIB:.3g}",
            f"{row['gib_per_s']:.3g}",
            f"{row['gib_per_s_best']:.3g}",
            f"{row['gib_per_s'] / base:.3g}" if base else "",
            f"{row['packets_per_s']:,.0f}",
            ""
            if found is None
            else "all"
            if found == row["packets"]
            else f"{found} of {row['packets']}",
            f"{first:.3f} s" if first is not None and found is not None else "",
            f"{row['peak_mib']:.0f}",
        )
    return shown


def verdicts(figures: Figures) -> Iterator[dict[str, Any]]:
    """Yield the targets of which something was measured."""
    for target in TARGETS:
        value = target.value(figures)
        if value is not None:
            yield {
                "scenario": target.scenario,
                "target": str(target),
                "demanded": f"{'at most' if target.most else 'at least'} {target.bound:,g}",
                "value": value,
                "met": target.met(value),
            }


def targets_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the verdicts for people."""
    shown = Table("scenario", "target", "demanded", "reached", "", title="targets")
    for row in rows:
        met = "[green]met[/]" if row["met"] else "[red]not met[/]"
        reached = f"{row['value']:,.3g}" if row["value"] < 1000 else f"{row['value']:,.0f}"
        shown.add_row(row["scenario"], row["target"], row["demanded"], reached, met)
    return shown
