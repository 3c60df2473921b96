"""`multifd decode`: every message of a capture."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
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
from multifd_proto.errors import MultiFDError
from multifd_proto.machine.payload import Digest
from multifd_proto.views.export import Csv, Json, Text, Writer, parquet
from multifd_proto.views.rows import row

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.views.packet_columns import Columns


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
@click.option("--hash", "hashed", is_flag=True, help="Tell the XXH3 of each packet's payload.")
@click.option("-o", "--output", type=click.Path(), help="Write to this file. [standard output]")
@click.option(
    "--partition",
    is_flag=True,
    help="With --format parquet: write a data set into the folder that -o names.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --partition: captures decoded at a time. [cores]",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="With --partition: decode on the cluster of this Dask scheduler.",
)
@keylog_option
@parameter_options
def command(
    files: tuple[str, ...],
    as_json: bool,
    format_: str,
    offsets: bool,
    hashed: bool,
    output: str | None,
    partition: bool,
    jobs: int | None,
    dask: str | None,
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

    With --partition, each FILE is a capture of its own, and a folder stands for all captures in
    it. They become the tables packets, pages, rounds, requirements, violations and migrations,
    partitioned by capture, for DuckDB, Polars and Spark. What is there already is not written
    again, unless the capture, the options or the release of this tool have changed:

    \b
    multifd decode --format parquet --partition -o dataset captures/
    """
    format_ = "json" if as_json else format_
    if partition:
        if hashed:
            raise click.UsageError("--hash: a data set has no digests")
        _partition(files, format_, offsets, output, jobs, dask, options)
        return
    if jobs or dask:
        raise click.UsageError("--jobs and --dask need --partition")
    follower = Follower(parameters(options), judge=False, digest=_digest() if hashed else None)
    with reading(files, options["keylog"]) as reader, _writer(format_, offsets, output) as write:
        # with digests, what belongs to a packet comes behind it: its payload's row
        singly = hashed and format_ in ("csv", "parquet")
        for piece in follower.follow(reader) if singly else follower.pieces(reader):
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


def _digest() -> Callable[[], Digest]:
    try:
        from xxhash import xxh3_64
    except ImportError:
        message = "--hash needs xxhash: pip install 'multifd-proto[hash]'"
        raise MultiFDError(message) from None
    return xxh3_64


def _partition(
    files: tuple[str, ...],
    format_: str,
    offsets: bool,
    output: str | None,
    jobs: int | None,
    dask: str | None,
    options: dict[str, Any],
) -> None:
    from multifd_proto.cli.cluster import on_cluster
    from multifd_proto.cli.many import Runner, decode_many
    from multifd_proto.cli.pool import in_processes

    if format_ != "parquet" or output is None:
        raise click.UsageError("--partition needs --format parquet and -o FOLDER")
    if offsets:
        raise click.UsageError("--offsets: with --partition, pages are a table of their own")
    if jobs and dask:
        raise click.UsageError("--jobs and --dask: one of them")
    run: Runner = partial(on_cluster, dask) if dask else partial(in_processes, jobs or _cores())
    decode_many(files, Path(output), parameters(options), options["keylog"], run)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _columns(follower: Follower, batch: PacketBatch, offsets: bool) -> Columns:
    from multifd_proto.views.packet_columns import Columns

    return Columns(batch, lambda stream: follower.connections[stream].channel, offsets=offsets)


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
