"""Writing rows: as text, JSON, CSV or Parquet; one by one, or as columns of packets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from multifd_proto.errors import MultiFDError
from multifd_proto.views.messages import describe
from multifd_proto.views.rows import COLUMNS, Row

if TYPE_CHECKING:
    from multifd_proto.views.packet_lines import Columns

_GROUP = 10_000
"""Rows of a row group in a Parquet file."""


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
    """Row groups of a Parquet file."""

    def __init__(self, file: Any, schema: Any) -> None:
        self._file = file
        self._schema = schema
        self._rows: list[Row] = []

    def row(self, values: Row) -> None:
        """Add a row to the next group."""
        self._rows.append(values)
        if len(self._rows) >= _GROUP:
            self.flush()

    def packets(self, columns: Columns) -> None:
        """Write packets as a group of their own."""
        import pyarrow

        self.flush()
        arrays = []
        for field in self._schema:
            values = columns.array(field.name)
            nothing = values is None
            arrays.append(
                pyarrow.nulls(len(columns), field.type)
                if nothing
                else pyarrow.array(values, field.type)
            )
        self._file.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def flush(self) -> None:
        """Write the rows that wait."""
        import pyarrow

        if self._rows:
            self._file.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


@contextmanager
def parquet(output: Any, *, offsets: bool) -> Iterator[Parquet]:
    """Open a Parquet file for rows.

    Args:
        output: a path or a binary file.
        offsets: rows have `page_offsets`.

    Raises:
        MultiFDError: pyarrow is not there.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        message = "--format parquet needs pyarrow: pip install 'multifd-proto[parquet]'"
        raise MultiFDError(message) from None
    types = {
        name: getattr(pyarrow, kind.replace("bool", "bool_"))() for name, kind in COLUMNS.items()
    }
    types["time"] = pyarrow.timestamp("ns", tz="UTC")
    if offsets:
        types["page_offsets"] = pyarrow.list_(pyarrow.uint64())
    schema = pyarrow.schema(list(types.items()))
    with pyarrow.parquet.ParquetWriter(output, schema) as file:
        writer = Parquet(file, schema)
        yield writer
        writer.flush()
