"""How verbs print the verdict on a migration."""

from __future__ import annotations

from typing import Any

import click

from multifd_proto.machine.migration import Migration
from multifd_proto.machine.verdict import Report
from multifd_proto.views.report import as_text

_STYLES: dict[str, dict[str, Any]] = {
    "good": {"fg": "green"},
    "bad": {"fg": "red", "bold": True},
    "note": {"fg": "yellow"},
    "dim": {"dim": True},
    "": {},
}


def print_report(report: Report, migration: Migration) -> None:
    """Print a report, coloured on a terminal."""
    for line, style in as_text(report, migration):
        click.secho(line, **_STYLES[style])
