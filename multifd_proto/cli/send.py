"""`multifd send`: be the source of a migration."""

from __future__ import annotations

import json
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
from multifd_proto.cli.progress import progress_bar
from multifd_proto.machine.sending import SourceParameters, ZeroPages
from multifd_proto.peers.address import Address
from multifd_proto.peers.send.ram_image import Order
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.peers.send.sent import Sent
from multifd_proto.peers.templates import Template, template_of
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.views.summary import size
from multifd_proto.wire.block_names import file_name

_Ram = tuple[bytes, list[Path]]


class _RamType(click.ParamType[_Ram]):
    name = "NAME=FILE[,FILE...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> _Ram:
        name, equals, files = str(value).partition("=")
        if not name or not equals or not all(files.split(",")):
            self.fail(f"{value!r} is no RAM block, must be {self.name}", param, ctx)
        return name.encode(), [Path(file) for file in files.split(",")]


def _choice(kind: type[Order] | type[ZeroPages]) -> click.Choice[str]:
    return click.Choice([member.value for member in kind])


@click.command()
@click.argument("address", metavar="URI", type=AddressType())
@click.option(
    "--ram",
    "blocks",
    type=_RamType(),
    multiple=True,
    help="A RAM block and the file that holds its memory; of further files, what differs from the "
    "one before is sent in a further round.",
)
@peer_options
@click.option("--level", type=int, help="Compression level.  [default: 1, as QEMU's]")
@click.option(
    "--main-stream",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Send the devices of a recorded main stream. Its RAM blocks are the files NAME.ram beside "
    "it, unless --ram gives others.  [default: no devices, `-machine none`]",
)
@click.option(
    "--zero-pages",
    type=_choice(ZeroPages),
    help="`zero-page-detection`: pages of zeros in packets, on the main stream, or like others.  "
    "[default: multifd since 9.0, else legacy]",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 65535),
    default=1,
    show_default=True,
    help="Rounds in which memory is sent; before the last one it is not yet all as in the files.",
)
@click.option(
    "--dirty",
    type=click.FloatRange(0, 100, min_open=True),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Share of the pages that are sent in every round, with --rounds.",
)
@click.option(
    "--pages-per-packet", type=int, help="At most so many.  [default: all it has room for]"
)
@click.option(
    "--order",
    type=_choice(Order),
    default=Order.ASCENDING.value,
    show_default=True,
    help="Order of packets, and of pages in them.",
)
@click.option(
    "--max-bandwidth", type=SizeType(), help="Bytes a second, as 100M.  [default: no limit]"
)
@click.option("--zero-copy", is_flag=True, help="Have the kernel take pages from where they are.")
@click.option(
    "--return-path/--no-return-path",
    default=True,
    show_default=True,
    help="Demand the destination's word that it has loaded everything.",
)
@tls_option("Use TLS; DIR has ca-cert.pem and client-cert.pem, client-key.pem, or keys.psk.")
@click.option("--tls-hostname", metavar="NAME", help="Name in the other end's certificate.")
def command(
    address: Address,
    blocks: tuple[_Ram, ...],
    main_stream: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Be the source of a migration: a complete peer for a real destination.

    \b
    multifd send tcp:127.0.0.1:4444 --channels 4 --uuid $UUID --ram ram0=guest.ram
    multifd send unix:/tmp/migrate.sock --compression zstd --ram ram0=old.ram,new.ram
    multifd send tcp:[::1]:4444 --dialect 7.2 --main-stream guest/main.stream

    The destination is a QEMU with `-machine none,memory-backend=NAME` and `-incoming defer` or,
    with --main-stream, one like that which the stream was recorded from: by `multifd receive
    --save guest`, which also saves the RAM blocks that are sent then. Channels, uuid and
    compression have to be those of the destination, as nothing of it is negotiated. Files are
    only read; their length is that of the RAM block.

    \b
    Exit codes: 0 completed, 2 usage or unreadable input, 3 the migration did not complete.
    """
    try:
        parameters = _parameters(options)
        peer = _peer_options(options)
        template = template_of(main_stream.read_bytes()) if main_stream else None
        files = _beside(main_stream, template) | _by_name(blocks)
        page_size, dirty = parameters.page_size, options["dirty"] / 100
        with RamImages(files, page_size, rounds=options["rounds"], dirty=dirty) as ram:
            sent = _send(address, parameters, ram, template, peer)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _print(sent, as_json=as_json)
    raise SystemExit(0 if sent.completed else INCOMPLETE)


def _beside(main_stream: Path | None, template: Template | None) -> dict[bytes, list[Path]]:
    """Return the RAM blocks that are in files beside a main stream, as `receive --save` has it."""
    if not main_stream or not template:
        return {}
    files: dict[bytes, list[Path]] = {}
    taken: list[str] = []
    for block in template.blocks:
        taken.append(file_name(block.name, taken))
        file = main_stream.parent / taken[-1]
        if file.exists():
            files[block.name] = [file]
    return files


def _by_name(blocks: tuple[_Ram, ...]) -> dict[bytes, list[Path]]:
    files = dict(blocks)
    if len(files) < len(blocks):
        raise ValueError("a RAM block is given twice, must be given once, with all its files")
    return files


def _parameters(options: dict[str, Any]) -> SourceParameters:
    return SourceParameters(
        dialect=options["dialect"],
        channels=options["channels"],
        uuid=options["uuid"],
        page_size=options["page_size"],
        method=options["compression"],
        detection=ZeroPages(options["zero_pages"]) if options["zero_pages"] else None,
    )


def _peer_options(options: dict[str, Any]) -> Options:
    folder, hostname = options["tls_creds"], options["tls_hostname"]
    return Options(
        timeout=options["timeout"],
        return_path=options["return_path"],
        tls=TlsCredentials(folder, hostname=hostname) if folder else None,
        level=options["level"],
        zero_copy=options["zero_copy"],
        max_bandwidth=options["max_bandwidth"],
        pages_per_packet=options["pages_per_packet"],
        order=Order(options["order"]),
    )


def _send(
    address: Address,
    parameters: SourceParameters,
    ram: RamImages,
    template: Template | None,
    options: Options,
) -> Sent:
    with progress_bar("sending") as progress:
        return Sender(
            address, parameters, ram, template=template, options=options, progress=progress
        ).run()


def _print(sent: Sent, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_data(sent)))
    else:
        print_channels(sent.channels)
        rate = size(sent.multifd_bytes / sent.seconds) if sent.seconds else "-"
        click.echo(
            f"{sent.normal} normal and {sent.duplicate} zero pages, main stream of"
            f" {size(sent.main_bytes)}, {sent.seconds:.3f} s, {rate}/s"
        )
        if sent.completed:
            proof = "the destination has loaded it" if sent.shut == 0 else "sent"
            click.secho(f"COMPLETED: {proof}", fg="green")
    if sent.error:
        click.secho(f"FAILED: {sent.error}", fg="red", bold=True, err=as_json)


def _data(sent: Sent) -> dict[str, Any]:
    return {
        "status": "completed" if sent.completed else "failed",
        "error": str(sent.error) if sent.error else None,
        "seconds": round(sent.seconds, 6),
        "multifd-bytes": sent.multifd_bytes,
        "main-bytes": sent.main_bytes,
        "normal": sent.normal,
        "duplicate": sent.duplicate,
        "pong": sent.pong,
        "shut": sent.shut,
        "switchover-ack": sent.switchover_ack,
        "zero-copy-copied": sent.copied,
        "channels": [asdict(channel) for channel in sent.channels],
    }
