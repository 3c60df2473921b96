"""`multifd summary`: who sent what, how fast, in which rounds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.session import Session
from multifd_proto.cli.common import (
    NOTHING_DONE,
    files_argument,
    keylog_option,
    parameter_options,
    parameters,
    reading,
    warn,
)
from multifd_proto.machine.migration import ChannelInfo
from multifd_proto.views.summary import Summary, rate, size, sparkline, traffic
from multifd_proto.wire.dialect import describe

_ROUNDS = 20
_COLUMNS = 40


@click.command()
@files_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a migration, on one line.")
@keylog_option
@parameter_options
def command(files: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Sum up every migration in FILE: ends, channels, pages, rates, rounds, losses.

    \b
    multifd summary migration.pcap
    multifd summary --json migration.pcap | jq '.channels[].payload'
    """
    follower = Follower(parameters(options))
    summaries: dict[int, Summary] = {}
    with reading(files, options["keylog"]) as reader:
        for piece in follower.pieces(reader, shown=False):
            if not isinstance(piece, tuple):
                for session, batch in follower.by_session(piece):
                    summaries.setdefault(session.number, Summary()).add_batch(batch)
                continue
            connection, event = piece
            if connection.session and isinstance(connection.peer, ChannelInfo):
                summary = summaries.setdefault(connection.session.number, Summary())
                summary.add(connection.half.stream, event)
    warn(reader, follower)
    for session in follower.sessions:
        summary = summaries.get(session.number, Summary())
        if as_json:
            click.echo(json.dumps(_data(session, summary)))
        else:
            _print(session, summary)
    if not follower.sessions:
        raise SystemExit(NOTHING_DONE)


def _data(session: Session, summary: Summary) -> dict[str, Any]:
    migration = session.checker.migration
    report = session.checker.conclude()
    return {
        "migration": session.number,
        "source": str(session.source) if session.source else None,
        "destination": str(session.destination) if session.destination else None,
        "dialects_that_fit": [d.name for d in report.candidates],
        "page_size": migration.page_size,
        "method": migration.method.name if migration.method else None,
        **traffic(summary.total),
        "missing_packet_nums": migration.numbers.missing_count(),
        "conflicting_bytes": sum(
            half.conflicts for c in session.connections for half in (c.half, c.reverse)
        ),
        "marks": migration.main.marks if migration.main else None,
        "channels": [
            {"stream": stream, "channel": migration.streams[stream].id, **traffic(part)}
            for stream, part in summary.channels.items()
        ],
        "rounds": [{"round": n, **traffic(part)} for n, part in sorted(summary.rounds.items())],
    }


def _print(session: Session, summary: Summary) -> None:
    migration, total = session.checker.migration, summary.total
    ends = f"{session.source} -> {session.destination}" if session.source else "raw dumps"
    click.secho(f"migration {session.number}: {ends}", bold=True)
    fits = describe(frozenset(session.checker.conclude().candidates))
    method = migration.method.name if migration.method else "unknown"
    click.echo(f"  fits QEMU {fits}; page size {migration.page_size or '?'}, payload {method}")
    click.echo(
        f"  {len(summary.channels)} channels, {total.packets} packets, {total.normal} normal and "
        f"{total.zero} zero pages, {size(total.payload)} of payload in {total.seconds:.3f} s "
        f"({rate(total)})"
    )
    least = "at least " if summary.pages_full else ""
    click.echo(
        f"  {least}{total.resent} pages were sent again by a later round (dirtied meanwhile)"
    )
    for line in _losses(session, summary):
        click.secho(f"  {line}", fg="yellow")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_channels(session, summary))
    console.print(_rounds(summary))


def _losses(session: Session, summary: Summary) -> Iterator[str]:
    migration, total = session.checker.migration, summary.total
    if total.gaps:
        yield f"{total.gaps} gaps hide {size(total.missing)} of the channels' bytes"
    missing = migration.numbers.missing_count()
    if missing:
        yield f"{missing} packet numbers are missing"
    if migration.main is None:
        yield "the main stream was not seen"
    for connection in session.connections:
        if connection.half.missing:
            yield f"stream {connection.half.stream}: {size(connection.half.missing)} not captured"


def _channels(session: Session, summary: Summary) -> Table:
    table = Table(
        "channel", "stream", "packets", "SYNCs", "normal", "zero", "payload", "share", "rate"
    )
    table.title, table.title_justify = "channels", "left"
    table.add_column("payload over time")
    total = summary.total
    lines = {
        stream: timeline.between(total.first, total.last, _COLUMNS)
        for stream, timeline in summary.timelines.items()
    }
    top = max((max(line) for line in lines.values()), default=1)
    for stream, part in sorted(summary.channels.items(), key=lambda item: item[0]):
        id_ = session.checker.migration.streams[stream].id
        share = f"{part.payload / total.payload:.0%}" if total.payload else "-"
        numbers = (part.packets, part.syncs, part.normal, part.zero)
        table.add_row(
            "?" if id_ is None else str(id_), str(stream), *map(str, numbers),
            size(part.payload), share, rate(part), sparkline(lines.get(stream, []), top),
        )  # fmt: skip
    return table


def _rounds(summary: Summary) -> Table:
    table = Table("round", "seconds", "packets", "normal", "zero", "sent again", "payload")
    table.title, table.title_justify = "rounds", "left"
    rounds = sorted(summary.rounds.items())
    for number, part in rounds[:_ROUNDS]:
        counts = (part.packets, part.normal, part.zero, part.resent)
        table.add_row(str(number), f"{part.seconds:.6f}", *map(str, counts), size(part.payload))
    if len(rounds) > _ROUNDS:
        table.caption = f"and {len(rounds) - _ROUNDS} more rounds (--json lists them all)"
    return table
