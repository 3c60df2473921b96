"""`multifd fuzz`: find what a receiver, a sender or this package itself does wrong."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from multifd_proto.errors import MultiFDError, PeerError

if TYPE_CHECKING:
    from multifd_proto.fuzz.begin import Wanted
    from multifd_proto.fuzz.campaign import Campaign

UNUSABLE, INTERRUPTED = 3, 130
"""Exit statuses: the peer could not be used; somebody interrupted."""
ROLES = ("receiver", "sender", "decoder")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WAITING = 3
"""Workers a core where a live peer is mostly waited for."""


class DurationType(click.ParamType[float]):
    """A time, such as 90s, 10m or 1h30m; in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read a time; a number alone is seconds."""
        text = str(value).strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
        seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
        if "".join(number + unit for number, unit in parts) != text or not seconds:
            self.fail(f"{value!r} is no time, must be such as 90s, 10m or 1h30m", param, ctx)
        return seconds


@click.command()
@click.argument("role", type=click.Choice(ROLES), metavar="receiver|sender|decoder")
@click.argument("peer", metavar="PEER")
@click.option(
    "--budget",
    type=DurationType(),
    default="10m",
    show_default=True,
    help="How long: 90s, 10m, 1h30m.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes. [default: three a core, for a decoder one; 1 for a peer that listens or"
    " dials by itself]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    help="Draw the same inputs again, as far as time allows. [default: any]",
)
@click.option(
    "--corpus",
    metavar="DIR",
    help="Inputs to run first and to vary; 'none' begins with nothing. [default: shipped]",
)
@click.option(
    "--findings",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where findings are kept; the same DIR again goes on with them. "
    "[default: multifd-findings/ROLE-PEER]",
)
@click.option(
    "--campaign", metavar="URL", help="Share findings with other machines: redis://HOST/0#NAME."
)
@click.option(
    "--against", metavar="PEER", help="A second receiver: find what the two do not agree on."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the tables.")
def command(role: str, peer: str, *, as_json: bool, **options: Any) -> None:
    """Find what a PEER does wrong: draw sessions, right ones and broken ones, and run them.

    Each input meets a fresh peer. A finding is a crash, a hang, a wedge, memory written that nobody
    asked for, something accepted that must be refused, or the other way round; it is labelled with
    the requirement of the specification. It is kept as soon as it is found, in DIR, as a file that
    `multifd replay FILE PEER` plays; then it is confirmed on fresh peers and made small. After the
    budget, what was just found is still confirmed, for some seconds.

    \b
    multifd fuzz receiver qemu:10.0 --budget 2m
    multifd fuzz receiver 'run:./my-vmm --listen {port}' --findings ~/vmm-findings
    multifd fuzz receiver qemu:10.0 --against qemu:11.1
    multifd fuzz sender qemu-src:10.0
    multifd fuzz decoder all --budget 5m

    On several machines, with one Redis: each runs

    \b
    multifd fuzz receiver qemu:10.0 --budget 8h --campaign redis://192.0.2.7/0#nightly

    They share findings and what is worth to be varied. A machine may be killed, and join again; if
    the Redis goes away, findings are kept in DIR, and sent when it is back.

    A finding can be a security problem of a product. Report it to the product's maintainers before
    you show it to anybody else: for QEMU see https://www.qemu.org/contribute/security-process/.

    \b
    Exit codes: 0 nothing found, 1 findings, 2 usage, 3 the peer could not be used.
    """
    from multifd_proto.cli.fuzz_report import Watch

    try:
        from multifd_proto.fuzz.begin import begin, target_of
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise MultiFDError("fuzzing needs Hypothesis: pip install 'multifd-proto[fuzz]'") from None
    wanted = _wanted(role, peer, options)
    status = None
    # a malformed name is wrong usage; that the peer cannot be used comes to light later
    with closing(target_of(wanted)) as target:
        try:
            campaign = begin(wanted, target)
        except PeerError as error:
            click.echo(f"multifd: {error}", err=True)
            raise SystemExit(UNUSABLE) from None
    click.echo(f"seed {wanted.seed}, findings in {wanted.findings}", err=True)
    # whoever ends us politely, as CI systems do, gets the same as one who interrupts us
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with campaign, Watch(campaign.plan) as watch:
        try:
            campaign.run(watch.see)
        except KeyboardInterrupt:
            status = INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, before)
    _show(campaign, wanted, status, as_json=as_json)


def _show(campaign: Campaign, wanted: Wanted, status: int | None, *, as_json: bool) -> None:
    """Print what came of a campaign, and exit."""
    from multifd_proto.cli.fuzz_report import as_data, print_outcome

    tally = campaign.tally
    if status is None:
        status = UNUSABLE if tally.unusable else int(bool(tally.fresh()))
    if as_json:
        click.echo(json.dumps(as_data(campaign, wanted, status)))
    else:
        print_outcome(campaign, wanted)
    if tally.unusable:
        click.echo(f"multifd: {tally.unusable}", err=True)
    raise SystemExit(status)


def _wanted(role: str, peer: str, options: dict[str, Any]) -> Wanted:
    from multifd_proto.fuzz.begin import Wanted

    if options["against"] and role != "receiver":
        raise click.UsageError("--against is for receivers")
    if options["seed"] is None:
        options["seed"] = secrets.randbits(32)
    if options["workers"] is None:
        options["workers"] = _workers(role, peer)
    if options["findings"] is None:
        slug = re.sub(r"[^\w.]+", "-", f"{role}-{peer}").strip("-")
        options["findings"] = Path("multifd-findings") / slug[:80]
    return Wanted(role, peer, **options)


def _workers(role: str, peer: str) -> int:
    from multifd_proto.conformance.child import jobs_for

    cores = len(os.sched_getaffinity(0))
    if cores > 1 and jobs_for([peer]) == 1:
        return 1
    # most of the time a live peer is waited for
    return cores if role == "decoder" else _WAITING * cores
