"""`multifd replay`: play a script to a receiver again, and say whether its fault is still there."""

from __future__ import annotations

import json
from typing import Any

import click

from multifd_proto.errors import MultiFDError

FAILED, ERROR = 1, 3
"""Exit statuses: it still fails, always or sometimes; it could not be played."""


@click.command()
@click.argument("script", metavar="FILE|CASE")
@click.argument("peer", metavar="PEER")
@click.option(
    "--repeat",
    default=3,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How often, each time with a fresh receiver.",
)
@click.option(
    "--timeout-scale",
    default=1.0,
    type=click.FloatRange(0.1, 100),
    metavar="X",
    help="Wait so many times as long: for slow machines and sanitizers.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the wire log of the last time.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def command(
    script: str, peer: str, repeat: int, timeout_scale: float, verbose: bool, as_json: bool
) -> None:
    """Play a script to a receiver again, and say whether its fault is still there.

    A script is a FILE that a run or the fuzzer has written, or the id of a CASE (`multifd
    conformance list`). PEER is a receiver: qemu:10.0, run:CMD, tcp:HOST:PORT, ... What the fuzzer
    has found is judged as the fuzzer does.

    \b
    FIXED          it passes every time
    FAILED         it fails every time
    FLAKY k of n   it fails k times
    ERROR          it could not be played

    \b
    multifd replay INIT-12/id-equals-channels qemu:10.0 --repeat 10

    Exit status 0 for FIXED, 1 for FAILED and FLAKY, 3 for ERROR.
    """
    from multifd_proto.conformance.player import Budgets

    try_once = _judge_of(script)
    rows: list[dict[str, Any]] = []
    log: list[str] = []
    try:
        for _ in range(repeat):
            tried = try_once(script, peer, Budgets().scaled(timeout_scale))
            rows.append(_row(tried))
            log = [line for exchange in tried.exchanges for line in exchange.lines()]
    except MultiFDError as error:
        status, said = ERROR, f"ERROR: {error}"
    else:
        status, said = _status([row["verdict"] for row in rows])
    if as_json:
        click.echo(json.dumps({"script": script, "peer": peer, "result": said, "runs": rows}))
    else:
        for line in log if verbose else ():
            click.echo(line)
        for row in rows:
            click.echo(f"{row['verdict']}: {row['observed']}")
        click.echo(said)
    raise SystemExit(status)


def _judge_of(script: str) -> Any:
    """Return what plays a script once: the fuzzer's way for what it has found, if it is there."""
    from multifd_proto.conformance.trial import try_once

    try:
        from multifd_proto.fuzz.again import is_finding, try_finding
    except ModuleNotFoundError:  # without Hypothesis there is the script's own expectation
        return try_once
    return try_finding if is_finding(script) else try_once


def _row(tried: Any) -> dict[str, Any]:
    judgement = tried.judgement
    failure = judgement.failure.value if judgement.failure else None
    return {
        "verdict": judgement.verdict.value,
        "failure": failure,
        "observed": judgement.text,
    }


def _status(verdicts: list[str]) -> tuple[int, str]:
    failed = sum(not verdict.startswith(("passed", "reported")) for verdict in verdicts)
    if not failed:
        return 0, "FIXED"
    if failed == len(verdicts):
        return FAILED, "FAILED"
    return FAILED, f"FLAKY {failed} of {len(verdicts)}"
