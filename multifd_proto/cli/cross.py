"""`multifd conformance cross`: every release's recorded session, played into every release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from multifd_proto.errors import MultiFDError

DIFFERENT, ERROR = 1, 3
"""Exit statuses: a session was not loaded as it was saved; a QEMU could not be used."""


@click.command()
@click.argument("binaries", metavar="QEMU...", nargs=-1, required=True)
@click.option(
    "--compression",
    "methods",
    multiple=True,
    default=["none"],
    show_default=True,
    type=click.Choice(["none", "zlib", "zstd"]),
    help="Migrate with it; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a pair.")
def command(binaries: Sequence[str], methods: Sequence[str], as_json: bool) -> None:
    """Record a session of each QEMU, play it into each QEMU, and compare the memory.

    A QEMU is a path, or a release that was fetched. A pair migrates the newest versioned machine
    type that both have; where they have none in common, the pair is left out.

    \b
    multifd conformance cross 5.2 7.2 10.0 11.1 --compression none --compression zlib

    Exit status 0 if every session was loaded with equal memory, 1 if not, 3 if a QEMU could not
    be used.
    """
    from multifd_proto.conformance.cross import cross

    qemus, ways = list(dict.fromkeys(binaries)), list(dict.fromkeys(methods))
    console = Console(stderr=True)
    pairs: list[Any] = []
    try:
        for pair in track(
            cross(qemus, ways), "sessions", total=len(qemus) ** 2 * len(ways),
            console=console, transient=True, disable=not console.is_terminal,
        ):  # fmt: skip
            pairs.append(pair)
            if as_json:
                click.echo(json.dumps(vars(pair) | {"equal": pair.equal}))
    except MultiFDError as error:
        click.echo(f"multifd: {error}", err=True)
        raise SystemExit(ERROR) from None
    if not as_json:
        _print(pairs, binaries)
    raise SystemExit(0 if all(pair.equal or pair.left_out for pair in pairs) else DIFFERENT)


def _print(pairs: Sequence[Any], binaries: Sequence[str]) -> None:
    for method in dict.fromkeys(pair.method for pair in pairs):
        table = Table(box=None, title=f"compression {method}: source by row", title_justify="left")
        for head in ("", *binaries):
            table.add_column(head, overflow="fold")
        for source in dict.fromkeys(binaries):
            row = [p for p in pairs if (p.source, p.method) == (source, method)]
            table.add_row(source, *(f"{p.outcome} ({p.machine or '-'})" for p in row))
        Console().print(table)
    equal = sum(pair.equal for pair in pairs)
    left_out = sum(pair.left_out for pair in pairs)
    rest = f", {left_out} left out" if left_out else ""
    click.echo(f"{equal} of {len(pairs) - left_out} sessions loaded with equal memory{rest}")
