"""`multifd decode`: every message of a capture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
from multifd_proto.views.export import Csv, Json, Text, Writer, parquet
from multifd_proto.views.rows import row

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.views.packet_lines import Columns


@click.command()
@files_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line (--format json).")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "csv", "parquet"]),
    default="text",
    show_default=True,
)
@click.option("--offsets", is_flag=True, help="List the offsets of pages (JSON: page_offsets).")
@click.option("-o", "--output", type=click.Path(), help="Write to this file. [standard output]")
@keylog_option
@parameter_options
def command(
    files: tuple[str, ...],
    as_json: bool,
    format_: str,
    offsets: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Print every message of the migrations in FILE, in the order of the capture.

    \b
    multifd decode migration.pcap
    multifd decode --json migration.pcap | jq 'select(.type == "packet" and .zero_pages > 0)'
    tcpdump -i eth0 -w - tcp | multifd decode -

    JSON: stream, channel (null: main stream), offset (of the message in its stream), time
    (seconds since the epoch), type (init, packet, device_state, main, gap, eof), the fields of
    the wire under QEMU's names, payload (bytes that really follow) and round.
    """
    format_ = "json" if as_json else format_
    follower = Follower(parameters(options))
    with reading(files, options["keylog"]) as reader, _writer(format_, offsets, output) as write:
        for piece in follower.pieces(reader):
            if isinstance(piece, tuple):
                connection, event = piece
                values = row(connection.half.stream, connection.channel, event, offsets=offsets)
                if values:
                    write.row(values)
            else:
                write.packets(_columns(follower, piece, offsets))
    warn(reader, follower)
    if not follower.sessions:
        raise SystemExit(NOTHING_DONE)


def _columns(follower: Follower, batch: PacketBatch, offsets: bool) -> Columns:
    from multifd_proto.views.packet_lines import Columns

    channels = {s: follower.connections[s].channel for s in set(batch.stream.tolist())}
    return Columns(batch, channels, offsets=offsets)


@contextmanager
def _writer(format_: str, offsets: bool, output: str | None) -> Iterator[Writer]:
    if format_ == "parquet":
        if output is None and sys.stdout.isatty():
            raise click.UsageError("--format parquet needs -o FILE")
        with parquet(output or sys.stdout.buffer, offsets=offsets) as writer:
            yield writer
        return
    with click.open_file(output or "-", "w") as file:
        match format_:
            case "json":
                yield Json(file)
            case "csv":
                yield Csv(file, offsets=offsets)
            case _:
                yield Text(file)
