"""`multifd receive`: be the destination of a migration."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from multifd_proto.cli.channels import print_channels
from multifd_proto.cli.peer_options import (
    INCOMPLETE,
    AddressType,
    SizeType,
    peer_options,
    tls_option,
)
from multifd_proto.cli.progress import counter
from multifd_proto.cli.verdict import print_report
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.receive.receiver import Received, Receiver
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.views.report import as_data


@click.command()
@click.argument("address", metavar="URI", type=AddressType())
@peer_options
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep guest memory in DIR/NAME.ram, a file a RAM block, the main stream in "
    "DIR/main.stream, and device state.",
)
@click.option("--check", is_flag=True, help="Judge the sender while it sends, as `check` does.")
@click.option(
    "--max-ram", type=SizeType(), default="1T", show_default=True, help="RAM that is taken at most."
)
@tls_option("Demand TLS; DIR has ca-cert.pem, server-cert.pem and server-key.pem, or keys.psk.")
def command(
    address: Address,
    save: Path | None,
    check: bool,
    max_ram: int,
    tls_creds: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Be the destination of a migration: a complete peer for a real source.

    \b
    multifd receive tcp:127.0.0.1:4444 --channels 4 --uuid $UUID --save guest
    multifd receive unix:/tmp/migrate.sock --channels 2 --compression zstd --check
    multifd receive tcp:[::]:4444 --tls-creds /etc/pki/qemu --dialect 7.2

    URI is as QEMU's `-incoming` takes it: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT, or fd:N of a
    listening socket. Channels, uuid and compression have to be those of the source, as nothing of
    it is negotiated. One migration is received: then, or as soon as it has failed, it ends.

    \b
    Exit codes: 0 completed, 1 completed but a MUST is violated (--check),
                2 usage, 3 the migration did not complete.
    """
    timeout = options.pop("timeout")
    parameters = MigrationParameters(**options)
    credentials = TlsCredentials(tls_creds) if tls_creds else None
    if save:
        save.mkdir(parents=True, exist_ok=True)
    with Receiver(
        address, parameters, save=save, check=check, tls=credentials, timeout=timeout,
        max_ram=max_ram,
    ) as receiver:  # fmt: skip
        click.echo(f"listening on {receiver.address}", err=True)
        with counter("waiting for a source", "receiving", lambda: receiver.received_bytes):
            received = receiver.run()
        blocks = {b.name.decode("latin-1"): b.length for b in receiver.memory.blocks.values()}
        # before the memory is let go of, which takes its time
        if as_json:
            click.echo(json.dumps(_data(received, blocks)))
            sys.stdout.flush()
        else:
            _print(received, blocks)
    if received.failure:
        raise SystemExit(INCOMPLETE)
    raise SystemExit(int(bool(received.report and received.report.violated)))


def _data(received: Received, blocks: dict[str, int]) -> dict[str, Any]:
    failure, report = received.failure, received.report
    return {
        "status": "failed" if failure else "completed",
        "error": failure.message if failure else None,
        "requirement": failure.violation.requirement.id if failure and failure.violation else None,
        "machine": received.machine,
        "ramblocks": blocks,
        "rounds": received.rounds,
        "seconds": round(received.seconds, 6),
        "main-bytes": received.main_bytes,
        "channels": [asdict(channel) for channel in received.channels],
        "warnings": list(received.warnings),
        "check": as_data(report, received.migration) if report and received.migration else None,
    }


def _print(received: Received, blocks: dict[str, int]) -> None:
    if received.report and received.migration:
        print_report(received.report, received.migration)
        click.echo()
    print_channels(received.channels)
    for warning in received.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    ram = ", ".join(f"{name} ({length} bytes)" for name, length in blocks.items())
    click.echo(
        f"machine {received.machine or 'unknown'}, {received.rounds} rounds,"
        f" main stream of {received.main_bytes} bytes, {received.seconds:.3f} s"
    )
    if ram:
        click.echo(f"RAM: {ram}")
    if received.failure:
        click.secho(f"FAILED: {received.failure.message}", fg="red", bold=True)
    else:
        click.secho("COMPLETED", fg="green")
