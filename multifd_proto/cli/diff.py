"""`multifd diff`: the same script, played to several receivers, side by side."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from multifd_proto.errors import MultiFDError

DIFFERENT, ERROR = 1, 3
"""Exit statuses: the receivers do not agree; a script could not be played."""


@click.command()
@click.argument("scripts", metavar="FILE|CASE...", nargs=-1, required=True)
@click.option(
    "--peer",
    "peers",
    metavar="PEER",
    multiple=True,
    required=True,
    help="A receiver; twice or more.",
)
@click.option(
    "--timeout-scale",
    default=1.0,
    type=click.FloatRange(0.1, 100),
    metavar="X",
    help="Wait so many times as long: for slow machines and sanitizers.",
)
@click.option("--markdown", is_flag=True, help="A table for a document.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a script.")
def command(
    scripts: Sequence[str],
    peers: Sequence[str],
    timeout_scale: float,
    markdown: bool,
    as_json: bool,
) -> None:
    """Play the same script to several receivers, and show the outcomes side by side.

    Nothing is judged: where receivers do not agree, the specification has to speak. A script is a
    FILE, or the id of a CASE; `*` in an id stands for anything.

    \b
    multifd diff 'PKT-25/*' --peer qemu:5.2 --peer qemu:11.1

    Exit status 0 if all agree, 1 if not, 3 if a script could not be played.
    """
    if len(peers) < 2:
        raise click.UsageError("--peer must be given twice or more")
    try:
        rows = list(_rows(_names(scripts), peers, timeout_scale))
    except MultiFDError as error:
        click.echo(f"multifd: {error}", err=True)
        raise SystemExit(ERROR) from None
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif markdown:
        _print_markdown(rows, peers)
    else:
        _print_table(rows, peers)
    raise SystemExit(DIFFERENT if any(row["agreement"] != "same" for row in rows) else 0)


def _names(patterns: Sequence[str]) -> list[str]:
    from fnmatch import fnmatchcase

    from multifd_proto.conformance.catalogue import receiver_cases

    names: list[str] = []
    for pattern in patterns:
        found = [case for case in receiver_cases() if fnmatchcase(case, pattern)]
        names += found or [pattern]
    return names


def _rows(names: Sequence[str], uris: Sequence[str], scale: float) -> Any:
    from multifd_proto.conformance.credentials import credentials
    from multifd_proto.conformance.judging import words
    from multifd_proto.conformance.peers import parse_receiver
    from multifd_proto.conformance.player import Budgets
    from multifd_proto.conformance.trial import agreement, find_script, trial, why_not

    peers = [parse_receiver(uri) for uri in uris]
    budgets = Budgets().scaled(scale)
    try:
        with tempfile.TemporaryDirectory(prefix="multifd-") as folder:
            scripts = [find_script(name) for name in names]
            tls = credentials(Path(folder, "tls")) if any(s.tls for s in scripts) else None
            for name, script in zip(names, scripts, strict=True):
                seen = {}
                outcomes = {}
                for uri, peer in zip(uris, peers, strict=True):
                    description = peer.describe()
                    if why := why_not(script, description):
                        outcomes[uri] = {"reaction": "not applicable", "observed": why}
                        continue
                    seen[uri] = trial(peer, description, script, tls, budgets)
                    reaction = seen[uri].reaction.value
                    outcomes[uri] = {"reaction": reaction, "observed": words(seen[uri])}
                agreed = agreement(list(seen.values())).value
                yield {"script": name, "agreement": agreed, "outcomes": outcomes}
    finally:
        for peer in peers:
            peer.close()


def _print_table(rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> None:
    table = Table(box=None)
    table.add_column("script", no_wrap=True)
    for head in ("", *peers):
        table.add_column(head, overflow="fold")
    for row in rows:
        outcomes = (row["outcomes"][peer]["observed"] for peer in peers)
        table.add_row(row["script"], row["agreement"], *outcomes)
    Console().print(table)


def _print_markdown(rows: Sequence[dict[str, Any]], peers: Sequence[str]) -> None:
    click.echo(f"| script | | {' | '.join(peers)} |")
    click.echo(f"| --- | --- |{' --- |' * len(peers)}")
    for row in rows:
        outcomes = " | ".join(row["outcomes"][peer]["reaction"] for peer in peers)
        click.echo(f"| {row['script']} | {row['agreement']} | {outcomes} |")
