"""Writing rows: as text, JSON, CSV or Parquet; one by one, or as columns of packets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from multifd_proto.views.messages import describe
from multifd_proto.views.parquet import Table, require, schema
from multifd_proto.views.rows import COLUMNS, Row

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.views.packet_columns import Columns


class Writer(Protocol):
    """Writes rows in some form."""

    def row(self, values: Row) -> None:
        """Write a row; it may be changed."""

    def packets(self, columns: Columns) -> None:
        """Write the rows of many packets."""


class Text:
    """A line a message, for people."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def row(self, values: Row) -> None:
        """Write a line."""
        self._file.write(describe(values) + "\n")

    def packets(self, columns: Columns) -> None:
        """Write lines."""
        from multifd_proto.views.packet_lines import text_lines

        self._file.write(text_lines(columns))


class Json:
    """A JSON object a line, its time in seconds with all nine digits."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def row(self, values: Row) -> None:
        """Write an object."""
        seconds, nanoseconds = divmod(values.pop("time"), 10**9)
        rest = json.dumps(values, separators=(", ", ": "))
        self._file.write(f'{rest[:-1]}, "time": {seconds}.{nanoseconds:09d}}}\n')

    def packets(self, columns: Columns) -> None:
        """Write objects."""
        from multifd_proto.views.packet_lines import json_lines

        self._file.write(json_lines(columns))


class Csv:
    """A table with a header."""

    def __init__(self, file: IO[str], *, offsets: bool) -> None:
        self._names = [*COLUMNS, "page_offsets"] if offsets else list(COLUMNS)
        self._file = file
        self._table = csv.DictWriter(file, self._names, extrasaction="ignore", lineterminator="\n")
        self._table.writeheader()

    def row(self, values: Row) -> None:
        """Write a line."""
        seconds, nanoseconds = divmod(values["time"], 10**9)
        values["time"] = f"{seconds}.{nanoseconds:09d}"
        if values.get("page_offsets") is not None:
            values["page_offsets"] = " ".join(map(str, values["page_offsets"]))
        self._table.writerow(values)

    def packets(self, columns: Columns) -> None:
        """Write lines."""
        from multifd_proto.views.packet_lines import csv_lines

        self._file.write(csv_lines(columns, self._names))


class Parquet:
    """A Parquet file."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def row(self, values: Row) -> None:
        """Add a row."""
        self._table.row(values)

    def packets(self, columns: Columns) -> None:
        """Add the rows of packets."""
        values: dict[str, Any] = {
            name: columns.column(name, _as_it_is) for name in columns.names if name in COLUMNS
        }
        if "page_offsets" in columns.names:
            values["page_offsets"] = _page_offsets(columns.batch)
        self._table.columns(len(columns), values)


def _as_it_is(value: Any) -> Any:
    return value


def _page_offsets(batch: PacketBatch) -> Any:
    """Return a list for each packet, as an array of pyarrow."""
    import numpy as np
    import pyarrow

    counts = np.minimum(batch.pages, batch.page_count)
    ends = np.append(0, np.cumsum(counts)).astype(np.int32)
    offsets = batch.offsets[np.arange(batch.page_count) < counts[:, None]]
    return pyarrow.ListArray.from_arrays(ends, offsets)


@contextmanager
def parquet(output: Any, *, offsets: bool) -> Iterator[Parquet]:
    """Open a Parquet file for rows.

    Args:
        output: a path or a binary file.
        offsets: rows have `page_offsets`.

    Raises:
        MultiFDError: pyarrow is not there.
    """
    require()
    types = COLUMNS | {"time": "time ns"} | ({"page_offsets": "offsets"} if offsets else {})
    with Table(output, schema(types)) as table:
        yield Parquet(table)
