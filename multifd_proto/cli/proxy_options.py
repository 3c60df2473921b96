"""What `proxy` and `watch` share: options, the proxy that they make, the report at the end."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from multifd_proto.cli.common import NOTHING_DONE, parameter_options, parameters
from multifd_proto.cli.peer_options import INCOMPLETE, AddressType
from multifd_proto.cli.verdict import print_report
from multifd_proto.errors import PeerError
from multifd_proto.machine.check import Checker
from multifd_proto.machine.migration import Migration
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.address import Address
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.proxy.faults import Fault, parse_fault
from multifd_proto.peers.proxy.pcapng_writer import PcapngWriter
from multifd_proto.peers.proxy.proxy import MAX_CONNECTIONS, TIMEOUT, Outcome, Proxy, Served
from multifd_proto.peers.proxy.tamper import Faults
from multifd_proto.views.report import as_data

_FAILED = 2
_INTERRUPTED = 130


class _FaultType(click.ParamType[Fault]):
    name = "RULE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Fault:
        try:
            return value if isinstance(value, Fault) else parse_fault(value)
        except PeerError as error:
            return self.fail(str(error), param, ctx)


def proxy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take what a `Setup` is made of, and what is known of the migration."""
    command = parameter_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.argument("listen", type=AddressType()),
    click.argument("target", type=AddressType()),
    click.option(
        "--record",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write all connections to FILE, a pcapng; it can be read at any time.",
    ),
    click.option(
        "--fault",
        "rules",
        type=_FaultType(),
        multiple=True,
        help="Put a fault into what goes to the target. Repeatable.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0.001, 1e6),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="Give up when no connection has carried a byte for so long. The wait "
        "for the first one has no end.",
    ),
    click.option(
        "--max-connections",
        type=click.IntRange(1, 4096),
        default=MAX_CONNECTIONS,
        show_default=True,
        help="Refuse connections beyond so many.",
    ),
)


@dataclass(frozen=True)
class Setup:
    """A proxy that listens, and what is attached to it."""

    proxy: Proxy
    judge: JudgingProcess | None
    faults: Faults | None
    writer: PcapngWriter | None

    def run(self) -> Result:
        """Serve until the migration is over, and judge it."""
        outcome = self.proxy.run()
        return self.result(outcome, self.judge.conclude() if self.judge else None)

    def result(self, outcome: Outcome, verdict: tuple[Report, Migration] | None) -> Result:
        """Return what came of it all."""
        return Result(outcome, self.faults, verdict, self.writer.error if self.writer else "")


@contextmanager
def proxying(
    options: dict[str, Any],
    log: Callable[[str], None],
    *,
    check: bool,
    live: type[Checker] | None = None,
) -> Iterator[Setup]:
    """Listen as the options of `proxy_options` say.

    Args:
        options: their values.
        log: is told what happens.
        check: there is a judge.
        live: what it judges with, see `JudgingProcess`.
    """
    _allow_descriptors()
    known, rules, record = parameters(options), options["rules"], options["record"]
    listen: Address = options["listen"]
    target: Address = options["target"]
    faults = Faults(rules, page_size=known.page_size or 4096, log=log) if rules else None
    judge = JudgingProcess(known, live) if check else None
    with judge or nullcontext():
        writer = PcapngWriter(record, f"{listen} to {target}") if record else None
        with (
            writer or nullcontext(),
            Proxy(
                listen, target, recorder=writer, judge=judge, faults=faults, parameters=known,
                timeout=options["timeout"], max_connections=options["max_connections"], log=log,
            ) as proxy,
        ):  # fmt: skip
            yield Setup(proxy, judge, faults, writer)


def _allow_descriptors() -> None:
    """Have as many descriptors as the system allows: a connection takes four."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Result:
    """What came of it all."""

    def __init__(
        self,
        outcome: Outcome,
        faults: Faults | None,
        verdict: tuple[Report, Migration] | None,
        error: str,
    ) -> None:
        self.outcome, self.faults, self.error = outcome, faults, error
        self.report = verdict[0] if verdict else None
        self.migration = verdict[1] if verdict else None

    def status(self) -> int:
        """Return the exit status."""
        if self.outcome.interrupted:
            return _INTERRUPTED
        if self.outcome.problems:
            return INCOMPLETE
        if self.error:
            return _FAILED
        if self.report and self.report.violated:
            return 1
        return NOTHING_DONE if self.faults and self.faults.idle else 0

    def data(self) -> dict[str, Any]:
        """Return it all for JSON."""
        faults, report = self.faults, self.report
        return {
            "status": "failed" if self.outcome.problems else "completed",
            "problems": self.outcome.problems,
            "refused": self.outcome.refused,
            "connections": [_connection(served) for served in self.outcome.connections],
            "faults": {rule.text: faults.applied[rule] for rule in faults.rules} if faults else {},
            "record_error": self.error or None,
            "check": as_data(report, self.migration) if report and self.migration else None,
        }

    def print(self) -> None:
        """Print it all for people."""
        if self.report and self.migration:
            print_report(self.report, self.migration)
            click.echo()
        _print_connections(self.outcome.connections)
        if self.faults:
            _print_faults(self.faults)
        if self.outcome.refused:
            click.echo(f"{self.outcome.refused} connections were refused")
        if self.error:
            click.secho(f"the record is not complete: {self.error}", fg="red", bold=True)
        for problem in self.outcome.problems:
            click.secho(f"NOT THROUGH: {problem}", fg="red", bold=True)
        if not self.outcome.problems:
            click.secho("THROUGH", fg="green")


def _connection(served: Served) -> dict[str, Any]:
    counted = served.statistics
    return {
        "number": served.number,
        "kind": served.kind,
        "id": served.id,
        "sent": served.sent,
        "returned": served.returned,
        "packets": counted.packets + counted.device_state if counted else None,
        "syncs": counted.syncs if counted else None,
        "normal": counted.normal if counted else None,
        "zero": counted.zero if counted else None,
        "ended": f"reset by the {served.broken.value}" if served.broken else "in order",
    }


def _print_connections(connections: Sequence[Served]) -> None:
    rows = [_connection(served) for served in connections]
    names = ("#", "kind", "id", "sent", "back", "packets", "SYNCs", "normal", "zero", "ended")
    followed = any(served.statistics for served in connections)
    # what was not looked at has no columns
    shown = [n for n in range(len(names)) if followed or not 5 <= n <= 8]
    table = Table(*(names[n] for n in shown))
    for column in table.columns[2:-1]:
        column.justify = "right"
    for row in rows:
        values = ["" if value is None else str(value) for value in row.values()]
        table.add_row(*(values[n] for n in shown))
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _print_faults(faults: Faults) -> None:
    for rule in faults.rules:
        times = faults.applied[rule]
        said = f"applied {times}x" if times else "never found its place"
        click.secho(f"fault {rule.text}: {said}", fg=None if times else "yellow")
