"""How fast captures are decoded: our verbs against `cat`, tshark, dpkt and scapy, in one run.

    python -m benchmarks.decode --size 1G --runs 5

Captures are generated, with the truth about them; every figure is of a whole process, its start
included. Contestants take turns, so that whatever else the machine does meets all of them; a ratio
is one of medians. Who would take too long is measured on a smaller capture of the same kind.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from multifd_proto.tests.bigcaptures import Recipe

from .bench import Bench, Row
from .contestants import BASELINE, Contestant, chosen
from .profiling import profile
from .report import table, targets_table, verdicts
from .running import BenchmarkError
from .sizes import SizeType

SCENARIOS = {
    "64 KiB": Recipe(),
    "1448 B": Recipe(segment=1448),
    "zero pages": Recipe(zero_only=True, round_packets=1024),
}
"""Captures; of zero pages, a packet of 1344 bytes each, there is a quarter of the size."""


@click.command()
@click.option("--size", type=SizeType(), default="1G", show_default=True, help="Of a capture.")
@click.option(
    "--small", type=SizeType(), default="64M", show_default=True,
    help="Of the captures that are tried first.",
)  # fmt: skip
@click.option("--large", type=SizeType(), help="Measure a sparse capture of this size as well.")
@click.option("--cold", is_flag=True, help="Measure with captures that are not in the page cache.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", default=30.0, show_default=True,
    help="What the runs of one contestant on one capture may take.",
)  # fmt: skip
@click.option("--scenario", default="", metavar="TEXT", help="Only those with TEXT in their name.")
@click.option(
    "--only", default="", metavar="TEXT", help="Only contestants with TEXT in their name."
)
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where captures are written. [a temporary folder]",
)  # fmt: skip
@click.option("--profile", "profiled", is_flag=True, help="Profile `multifd decode` instead.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="File for the figures.")
def main(
    size: int, small: int, large: int | None, cold: bool, runs: int, seconds: float,
    scenario: str, only: str, folder: Path | None, profiled: bool, file: Path | None,
) -> None:  # fmt: skip
    """Measure how fast captures are decoded, against what people would use instead."""
    wanted = dict(_scenarios(size, large, scenario))
    contestants = list(chosen(only))
    try:
        with tempfile.TemporaryDirectory(prefix="multifd-bench-", dir=folder) as temporary:
            if profiled:
                for name, recipe in wanted.items():
                    profile(name, recipe, Path(temporary))
                return
            say = Console(stderr=True, highlight=False).print
            bench = Bench(Path(temporary), runs, seconds, say)
            figures = dict(_figured(bench, wanted, small, contestants, cold=cold))
    except (BenchmarkError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    judged = list(verdicts(figures))
    if file:
        facts = {"cpus": os.cpu_count(), "runs": runs, "scenarios": figures, "targets": judged}
        file.write_text(json.dumps(facts, indent=1) + "\n")
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, rows in figures.items():
        console.print(table(name, rows))
    console.print(targets_table(judged))


def _scenarios(size: int, large: int | None, text: str) -> Iterator[tuple[str, Recipe]]:
    for name, recipe in SCENARIOS.items():
        if text in name:
            yield name, replace(recipe, size=size // 4 if recipe.zero_only else size)
    if large:
        yield "large", Recipe(size=large, sparse=True)


def _figured(
    bench: Bench,
    wanted: dict[str, Recipe],
    small: int,
    contestants: list[Contestant],
    *,
    cold: bool,
) -> Iterator[tuple[str, dict[str, Row]]]:
    for name, recipe in wanted.items():
        bench.say(name)
        if recipe.sparse:  # what is slow needs no days to show that it is
            own = [c for c in contestants if c.ours or c.name == BASELINE]
            yield name, bench.scenario(recipe, max(small, recipe.size // 16), own)
            continue
        tried = small // 4 if recipe.zero_only else small
        yield name, bench.scenario(recipe, tried, contestants)
        if cold:
            yield f"{name}, cold", bench.scenario(recipe, tried, contestants, cold=True)


if __name__ == "__main__":
    main()
