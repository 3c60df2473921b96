"""`multifd proxy`: stand between two peers."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from multifd_proto.cli.common import NOTHING_DONE, parameter_options, parameters
from multifd_proto.cli.peer_options import INCOMPLETE, AddressType
from multifd_proto.cli.progress import counter
from multifd_proto.cli.verdict import print_report
from multifd_proto.errors import PeerError
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


@click.command()
@click.argument("listen", type=AddressType())
@click.argument("target", type=AddressType())
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all connections to FILE, a pcapng; it can be read at any time.",
)
@click.option("--check", is_flag=True, help="Judge the source while it sends, as `check` does.")
@click.option(
    "--fault",
    "rules",
    type=_FaultType(),
    multiple=True,
    help="Put a fault into what goes to the target. Repeatable.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.001, 1e6),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Give up when no connection has carried a byte for so long. The wait "
    "for the first one has no end.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 4096),
    default=MAX_CONNECTIONS,
    show_default=True,
    help="Refuse connections beyond so many.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@parameter_options
def command(
    listen: Address,
    target: Address,
    record: Path | None,
    check: bool,
    rules: tuple[Fault, ...],
    timeout: float,
    max_connections: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Forward one migration from LISTEN to TARGET, where a real destination listens.

    \b
    multifd proxy tcp:0:4444 tcp:10.0.0.2:4444
    multifd proxy tcp:0:4444 tcp:10.0.0.2:4444 --record migration.pcapng --check
    multifd proxy unix:/tmp/in.sock unix:/tmp/out.sock --fault id=1,packet=3:magic=0

    Both are as QEMU's `migrate` takes them: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N. For
    each connection one is opened onward, in the same order; bytes, ends and resets go on as they
    come. The migration is over when the source has sent something, and all connections are closed.

    FILE is a capture for tcpdump, Wireshark, and `multifd decode` and `check`: what a kill leaves
    is whole but for the last packet. It holds, as --check judges, what went on to the target:
    faults included.

    \b
    A fault RULE is WHERE:ACTION. WHERE is one of
      init, packet=N, sync=N   a message of a channel; counted from 0, without =N each of them
      id=I,packet=N            the same, of the channel with that id alone
      main,offset=N            a byte of the main stream
    and ACTION one of
      FIELD=VALUE              set a field by QEMU's name: 7, 0xff, +1, -1; text or 0xHEX for bytes
      offset[I]=VALUE          set an item of the packet's offsets
      payload[I]=VALUE         set a byte of the packet's payload
      byte=VALUE               set the byte of the main stream
      drop, repeat             leave out the message with its payload, or send it twice
      truncate=N               end the stream after N bytes of the message and its payload
      close, reset             end the stream before the message, or break the connection
      stall, stall=S, delay=S  wait before the message, for ever or S seconds
    such as
      --fault id=0,init:uuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8
      --fault id=1,packet=3:normal_pages=+1 --fault packet:delay=0.01
      --fault id=1,sync=1:drop --fault main,offset=1000:reset

    \b
    Exit codes: 0 went through, and conforming (--check), 1 a MUST is violated (--check),
                2 usage, or FILE could not be written, 3 the migration did not go through,
                4 a fault never found its place, 130 interrupted.
    Without --check, --record and --fault nothing is read: every migration whose connections end
    in order went through.
    """
    _allow_descriptors()
    known = parameters(options)
    faults = Faults(rules, page_size=known.page_size or 4096, log=_log) if rules else None
    judge = JudgingProcess(known) if check else None
    writer = PcapngWriter(record, f"{listen} to {target}") if record else None
    with (
        writer or nullcontext(),
        judge or nullcontext(),
        Proxy(
            listen, target, recorder=writer, judge=judge, faults=faults, parameters=known,
            timeout=timeout, max_connections=max_connections, log=_log,
        ) as proxy,
    ):  # fmt: skip
        click.echo(f"listening on {proxy.address}", err=True)
        with counter("waiting for a source", "forwarding", lambda: proxy.forwarded):
            outcome = proxy.run()
        verdict = judge.conclude() if judge else None
    result = _Result(outcome, faults, verdict, writer.error if writer else "")
    if as_json:
        click.echo(json.dumps(result.data()))
    else:
        result.print()
    raise SystemExit(result.status())


def _allow_descriptors() -> None:
    """Have as many descriptors as the system allows: a connection takes four."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log(line: str) -> None:
    click.echo(f"multifd proxy: {line}", err=True)


class _Result:
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
