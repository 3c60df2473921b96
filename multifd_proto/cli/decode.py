"""`multifd decode`: every message of a capture."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from multifd_proto.capture.follow import Follower
from multifd_proto.cli.common import (
    NOTHING_DONE,
    files_argument,
    parameter_options,
    parameters,
    reading,
    warn,
)
from multifd_proto.errors import MultiFDError
from multifd_proto.views.messages import describe
from multifd_proto.views.rows import COLUMNS, Row, row

Writer = Callable[[Row], None]


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
    with reading(files) as reader, _writer(format_, offsets, output) as write:
        for connection, event in follower.follow(reader):
            values = row(connection.half.stream, connection.channel, event, offsets=offsets)
            if values:
                write(values)
    warn(reader, follower)
    if not follower.sessions:
        raise SystemExit(NOTHING_DONE)


@contextmanager
def _writer(format_: str, offsets: bool, output: str | None) -> Iterator[Writer]:
    if format_ == "parquet":
        with _parquet(output, offsets) as write:
            yield write
        return
    with click.open_file(output or "-", "w") as file:
        match format_:
            case "json":
                yield lambda values: _write_json(file, values)
            case "csv":
                yield _csv(file, offsets)
            case _:
                yield lambda values: print(describe(values), file=file)


def _write_json(file: IO[str], values: Row) -> None:
    """Write a row with its time in seconds, all nine digits of it."""
    seconds, nanoseconds = divmod(values.pop("time"), 10**9)
    rest = json.dumps(values, separators=(", ", ": "))
    file.write(f'{rest[:-1]}, "time": {seconds}.{nanoseconds:09d}}}\n')


def _csv(file: IO[str], offsets: bool) -> Writer:
    columns = [*COLUMNS, "page_offsets"] if offsets else list(COLUMNS)
    table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()

    def write(values: Row) -> None:
        seconds, nanoseconds = divmod(values["time"], 10**9)
        values["time"] = f"{seconds}.{nanoseconds:09d}"
        if values.get("page_offsets") is not None:
            values["page_offsets"] = " ".join(map(str, values["page_offsets"]))
        table.writerow(values)

    return write


@contextmanager
def _parquet(output: str | None, offsets: bool) -> Iterator[Writer]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        message = "--format parquet needs pyarrow: pip install 'multifd-proto[parquet]'"
        raise MultiFDError(message) from None
    if output is None and sys.stdout.isatty():
        raise click.UsageError("--format parquet needs -o FILE")
    types = {
        name: getattr(pyarrow, kind.replace("bool", "bool_"))() for name, kind in COLUMNS.items()
    }
    types["time"] = pyarrow.timestamp("ns", tz="UTC")
    if offsets:
        types["page_offsets"] = pyarrow.list_(pyarrow.uint64())
    schema = pyarrow.schema(list(types.items()))
    batch: list[Row] = []
    with pyarrow.parquet.ParquetWriter(output or sys.stdout.buffer, schema) as file:

        def flush() -> None:
            file.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            batch.clear()

        def write(values: Row) -> None:
            batch.append(values)
            if len(batch) >= 10_000:
                flush()

        yield write
        flush()
