"""`multifd report`: a page on a migration that was slow or failed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from multifd_proto.capture.follow import Follower
from multifd_proto.cli.common import (
    NOTHING_DONE,
    files_argument,
    keylog_option,
    parameter_options,
    parameters,
    reading,
    warn,
)
from multifd_proto.views.page import Collector, Facts, demand_libraries, page


@click.command()
@files_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="report.html",
    show_default=True,
    help="Write to this file.",
)
@click.option("--join", is_flag=True, help="The FILEs are one capture, in pieces.")
@keylog_option
@parameter_options
def command(files: tuple[str, ...], output: str, join: bool, **options: Any) -> None:
    """Write a page on every migration in FILE: what happened, why, and what to look at next.

    \b
    multifd report migration.pcap -o migration.html
    multifd report good.pcap bad.pcap
    multifd report --join migration.pcap0 migration.pcap1

    The page is one file that needs no network. Each FILE is a capture of its own, and what they
    hold is set side by side; --join reads the pieces of a rotated capture, or the raw dumps of one
    migration, as one.

    \b
    Exit codes: 0 written, whatever it says, 2 usage or unreadable input,
                4 no migration in the input, and nothing was written.
    """
    demand_libraries()
    inputs = [files] if join else [(file,) for file in files]
    found = [facts for each in inputs for facts in _read(each, options)]
    if not found:
        raise SystemExit(NOTHING_DONE)
    with click.open_file(output, "w", encoding="utf-8") as out:
        out.writelines(page(found))
    if output != "-":
        for facts in found:
            click.echo(f"{facts.name}: {facts.outcome.value.lower()}")
        click.echo(f"written: {output}")


def _read(files: tuple[str, ...], options: dict[str, Any]) -> Iterator[Facts]:
    follower = Follower(parameters(options), decode=True)
    collected: dict[int, Collector] = {}
    with reading(files, options["keylog"]) as reader:
        for piece in follower.pieces(reader, shown=False):
            if not isinstance(piece, tuple):
                for session, batch in follower.by_session(piece):
                    collected.setdefault(session.number, Collector()).add_batch(session, batch)
                continue
            connection, event = piece
            if connection.session:
                collected.setdefault(connection.session.number, Collector()).add(connection, event)
    warn(reader, follower)
    encrypted = sum(c.kind == "tls" for c in follower.connections.values())
    name = "standard input" if files[0] == "-" else Path(files[0]).name
    for session in follower.sessions:
        several = f", migration {session.number}" if len(follower.sessions) > 1 else ""
        yield Facts(
            name=name + several,
            files=files,
            info=reader.info,
            session=session,
            collected=collected.get(session.number, Collector()),
            report=session.checker.conclude(),
            encrypted=encrypted,
            options=_as_given(options),
        )


def _as_given(options: dict[str, Any]) -> str:
    """Return what later commands have to be told to see what this one saw."""
    said = []
    if options["keylog"]:
        said.append(f"--keylog {shlex.quote(options['keylog'])}")
    if options["dialect"]:
        said.append(f"--dialect {options['dialect'].name}")
    if options["page_size"]:
        said.append(f"--page-size {options['page_size']}")
    if options["channels"]:
        said.append(f"--channels {options['channels']}")
    if options["uuid"]:
        said.append(f"--uuid {UUID(bytes=options['uuid'])}")
    return " ".join(said)
