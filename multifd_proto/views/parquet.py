"""Parquet files, written in row groups: rows one by one, or many at once as columns."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from multifd_proto.errors import MultiFDError

GROUP = 1 << 17
"""Rows of a row group: what is held in memory, and what a reader reads in parallel."""
_ROWS = 10_000
"""Rows that are made columns together."""


def require() -> None:
    """See to it that pyarrow is there.

    Raises:
        MultiFDError: it is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        message = "--format parquet needs pyarrow: pip install 'multifd-proto[parquet]'"
        raise MultiFDError(message) from None


def schema(columns: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Any:
    """Return columns as a schema of pyarrow.

    Args:
        columns: their names and types. A type is pyarrow's name of it, `bool`, `time` (UTC, in
            microseconds), `time ns`, `names` (strings that repeat), `strings` and
            `offsets` (lists), or `sizes` (a map from name to bytes).
        metadata: what the file says of itself.
    """
    import pyarrow

    special = {
        "bool": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
        "time ns": pyarrow.timestamp("ns", tz="UTC"),
        "names": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "strings": pyarrow.list_(pyarrow.string()),
        "sizes": pyarrow.map_(pyarrow.string(), pyarrow.uint64()),
        "offsets": pyarrow.list_(pyarrow.uint64()),
    }
    fields = [(n, special.get(kind) or getattr(pyarrow, kind)()) for n, kind in columns.items()]
    return pyarrow.schema(fields, metadata=dict(metadata) if metadata else None)


class Table:
    """A Parquet file that is being written; it holds the rows of one row group at most.

    Strings are dictionary-encoded, integers and times as differences, all of it in zstd.
    """

    def __init__(self, output: Any, schema: Any) -> None:
        """Begin a file.

        Args:
            output: a path or a binary file.
            schema: its columns, see `schema`.
        """
        import pyarrow.types as kinds
        from pyarrow.parquet import ParquetWriter

        numbers = [f.name for f in schema if kinds.is_integer(f.type) or kinds.is_timestamp(f.type)]
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._parts: list[Any] = []
        self._held = 0
        self._file = ParquetWriter(
            output,
            schema,
            compression="zstd",
            use_dictionary=[f.name for f in schema if f.name not in numbers],
            column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        )

    def row(self, values: dict[str, Any]) -> None:
        """Add a row; columns that it lacks are empty in it."""
        self._rows.append(values)
        if len(self._rows) >= _ROWS:
            self._rows_to_columns()

    def columns(self, length: int, columns: Mapping[str, Any]) -> None:
        """Add rows.

        Args:
            length: how many.
            columns: their values, as pyarrow or numpy arrays or as lists; columns that are not
                there are empty.
        """
        import pyarrow

        self._rows_to_columns()
        arrays = []
        for field in self._schema:
            values = columns.get(field.name)
            if values is None:
                arrays.append(pyarrow.nulls(length, field.type))
            elif isinstance(values, pyarrow.Array):
                arrays.append(values.cast(field.type))
            else:
                arrays.append(pyarrow.array(values, field.type))
        self._hold(pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def _rows_to_columns(self) -> None:
        import pyarrow

        if self._rows:
            rows, self._rows = self._rows, []
            self._hold(pyarrow.Table.from_pylist(rows, schema=self._schema))

    def _hold(self, part: Any) -> None:
        self._parts.append(part)
        self._held += len(part)
        if self._held >= GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow

        parts, self._parts, self._held = self._parts, [], 0
        if parts:
            self._file.write_table(pyarrow.concat_tables(parts).unify_dictionaries(), GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._rows_to_columns()
            self._write()
        self._file.close()
