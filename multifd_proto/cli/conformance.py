"""`multifd conformance`: judge a receiver or a sender, requirement by requirement."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from multifd_proto.cli.common import NOTHING_DONE
from multifd_proto.cli.cross import command as cross

_OWN = ("jobs", "as_json")


@click.group()
def command() -> None:
    """Judge any implementation of multifd, requirement by requirement.

    \b
    multifd conformance receiver qemu:/usr/bin/qemu-system-x86_64
    multifd conformance receiver 'run:./my-vmm --listen {port}' --report report.html
    multifd conformance sender qemu-src:10.0 --report run.jsonl
    multifd conformance list --role receiver

    A peer is named by a URI. Receivers: builtin:, tcp:HOST:PORT, unix:PATH, run:COMMAND,
    shim:COMMAND, qemu:BINARY. Senders: builtin:, qemu-src:BINARY, listen:URI, pcap:FILE.
    """


def _options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Take what both roles have in common; the plugin's options, without their prefix."""
    for option in reversed((
        click.argument("peers", metavar="PEER...", nargs=-1, required=True),
        click.option("--case", multiple=True, metavar="GLOB", help="Cases by id: 'INIT-12/*'."),
        click.option("--requirement", multiple=True, metavar="GLOB",
                     help="Cases of these requirements: 'PKT-*'."),
        click.option("--level", type=click.Choice(["MUST", "SHOULD"]),
                     help="Requirements that bind at least as much. [default: SHOULD]"),
        click.option("--strict", is_flag=True, help="Passing weakly is failing."),
        click.option("--set", metavar="NAME",
                     help="Requirements that count: a frozen set, or 'latest'."),
        click.option("--deviations", multiple=True, metavar="FILE",
                     help="Known deviations, in place of those that are shipped."),
        click.option("--no-deviations", is_flag=True, help="Know of no deviations."),
        click.option("--deviations-update", metavar="FILE",
                     help="Write the entries that would make the run green."),
        click.option("--inconclusive", type=click.Choice(["fail", "skip"]),
                     help="What a case comes to that says nothing. [default: fail]"),
        click.option("--repeat", type=click.IntRange(1), help="Play each case so often."),
        click.option("--timeout-scale", type=click.FloatRange(0.01), metavar="X",
                     help="Wait so many times as long for everything."),
        click.option("--max-dead", type=click.IntRange(1), metavar="N",
                     help="Give up a peer that could not be used so often in a row. [default: 3]"),
        click.option("--report", multiple=True, metavar="FILE",
                     help="Write .jsonl (while it runs), .md, .html or .xml (JUnit)."),
        click.option("--pcap", type=click.Choice(["none", "failed", "all"]),
                     help="Write what was exchanged as pcapng. [default: none]"),
        click.option("--artifacts", metavar="DIR",
                     help="Where captures go. [default: multifd-artifacts]"),
        click.option("-j", "--jobs", type=click.IntRange(1, 256),
                     help="Processes. [default: 4; 1 for a peer that listens or dials by itself]"),
        click.option("--json", "as_json", is_flag=True, help="One JSON object in place of text."),
    )):  # fmt: skip
        verb = option(verb)
    return verb


@command.command()
@_options
def receiver(peers: tuple[str, ...], **options: Any) -> None:
    """Judge destinations: play cases to each PEER, and see what it does.

    \b
    multifd conformance receiver builtin:
    multifd conformance receiver qemu:10.0 qemu:11.1 --report compared.html
    multifd conformance receiver tcp:192.0.2.7:4444 --case 'INIT-*' --strict

    \b
    Exit codes: 0 as expected, 1 unexpected failure or stale deviation, 2 usage,
                3 the peer or the suite could not be used, 4 nothing was exercised.
    """
    from multifd_proto.conformance.peers import parse_receiver

    for uri in peers:
        parse_receiver(uri)
    _run("receiver", peers, options)


@command.command()
@_options
def sender(peers: tuple[str, ...], **options: Any) -> None:
    """Judge sources: be the destination of each PEER, and judge what it sends.

    \b
    multifd conformance sender qemu-src:10.0
    multifd conformance sender pcap:migration.pcap --json
    multifd conformance sender 'listen:tcp:0.0.0.0:4444?trigger=./start-migration.sh'

    \b
    Exit codes: 0 as expected, 1 unexpected failure or stale deviation, 2 usage,
                3 the peer or the suite could not be used, 4 nothing was exercised.
    """
    from multifd_proto.conformance.peers import parse_sender

    for uri in peers:
        parse_sender(uri)
    _run("sender", peers, options)


def _run(role: str, peers: tuple[str, ...], options: dict[str, Any]) -> None:
    from multifd_proto.cli.conformance_report import Watch, as_data, print_outcome
    from multifd_proto.conformance import child

    jobs = options["jobs"] or child.jobs_for(peers)
    with Watch(f"{role}s under test") as watch:
        outcome = child.run(role, _words(peers, options), jobs, watch.see)
    demands = {"strict": options["strict"], "inconclusive": options["inconclusive"] or "fail"}
    if options["as_json"]:
        click.echo(json.dumps(as_data(outcome, demands)))
    else:
        print_outcome(outcome, demands)
    raise SystemExit(outcome.exit)


def _words(peers: tuple[str, ...], options: dict[str, Any]) -> list[str]:
    """Return the plugin's options."""
    words = [f"--multifd-target={uri}" for uri in peers]
    for name, value in options.items():
        word = f"--multifd-{name.replace('_', '-')}"
        if name in _OWN or value in (None, False, ()):
            continue
        if value is True:
            words.append(word)
        else:
            words += [f"{word}={one}" for one in (value if isinstance(value, tuple) else [value])]
    return words


@command.command("list")
@click.option("--role", type=click.Choice(["receiver", "sender"]), help="Cases of one role alone.")
@click.option("--case", "globs", multiple=True, metavar="GLOB", help="Cases by id: 'INIT-12/*'.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a case, on one line.")
def list_(role: str | None, globs: tuple[str, ...], as_json: bool) -> None:
    """List the cases, each under its requirement; no peer is needed.

    \b
    multifd conformance list --role receiver
    multifd conformance list --case 'SYNC-*' --json | jq .says
    """
    from multifd_proto.cli.conformance_report import case_data, case_text
    from multifd_proto.conformance.catalogue import matching

    found = matching(role, globs)
    if as_json:
        for ask in found:
            click.echo(json.dumps(case_data(ask)))
    else:
        for line in case_text(found):
            click.echo(line)
    if not found:
        click.echo("multifd: no case matches", err=True)
        raise SystemExit(NOTHING_DONE)


command.add_command(cross, "cross")
