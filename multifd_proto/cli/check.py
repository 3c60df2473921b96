"""`multifd check`: the verdict on every requirement."""

from __future__ import annotations

import json
from typing import Any

import click

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
from multifd_proto.cli.verdict import print_report
from multifd_proto.machine.verdict import Report
from multifd_proto.views.report import as_data


@click.command()
@files_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a migration, on one line.")
@keylog_option
@parameter_options
def command(files: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Judge the sender of every migration in FILE by every requirement that shows on the wire.

    \b
    multifd check migration.pcap
    multifd check --dialect 10.0 --channels 4 migration.pcap
    multifd check --json migration.pcap | jq '.requirements[] | select(.verdict == "failed")'

    Without --dialect, the releases that fit what was seen are found out and printed. What a real
    release is known to do is a known deviation under its own dialect, and a failure under
    another. What bytes that are missing from a capture would have shown is not exercised, never
    passed.

    \b
    Exit codes: 0 conforming, 1 a MUST is violated, 2 usage or unreadable input,
                4 nothing was exercised.
    """
    follower = Follower(parameters(options), decode=True)
    with reading(files, options["keylog"]) as reader:
        for _ in follower.pieces(reader, shown=False):
            pass
    warn(reader, follower)
    reports = [(session, session.checker.conclude()) for session in follower.sessions]
    for session, report in reports:
        _print(session, report, as_json)
    if not any(report.exercised for _, report in reports):
        raise SystemExit(NOTHING_DONE)
    raise SystemExit(int(any(report.violated for _, report in reports)))


def _print(session: Session, report: Report, as_json: bool) -> None:
    migration = session.checker.migration
    if as_json:
        who = {"migration": session.number, "source": _end(session.source)}
        who["destination"] = _end(session.destination)
        click.echo(json.dumps(who | as_data(report, migration)))
        return
    ends = f"{session.source} -> {session.destination}" if session.source else "raw dumps"
    click.secho(f"migration {session.number}: {ends}", bold=True)
    print_report(report, migration)


def _end(endpoint: object) -> str | None:
    return str(endpoint) if endpoint else None
