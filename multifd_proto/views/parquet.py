"""Parquet files, written in row groups: rows one by one, or many at once as columns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from multifd_proto.errors import MultiFDError

GROUP = 1 << 17
"""Rows of a row group at most: what a reader reads in parallel."""
_HELD = 1 << 22
"""Bytes of rows that are held, until they become a row group."""
_ROWS = 1_000
"""Rows that are made columns together."""


def require() -> None:
    """See to it that pyarrow is there.

    Raises:
        MultiFDError: it is not.
    """
    # its own allocators keep what they were given back; our processes inherit this
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
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
        self._held = self._length = 0
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
            columns: their values, as pyarrow or numpy arrays, as `Words` or as lists; columns that
                are not there are empty.
        """
        import pyarrow

        self._rows_to_columns()
        arrays = [_array(columns.get(f.name), length, f.type) for f in self._schema]
        self._hold(pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _rows_to_columns(self) -> None:
        import pyarrow

        if self._rows:
            rows, self._rows = self._rows, []
            self._hold(pyarrow.RecordBatch.from_pylist(rows, schema=self._schema))

    def _hold(self, part: Any) -> None:
        self._parts.append(part)
        self._held += part.get_total_buffer_size()  # nbytes takes many times as long
        self._length += len(part)
        if self._held >= _HELD or self._length >= GROUP:
            self._write()

    def _write(self) -> None:
        import pyarrow

        parts, self._parts, self._held, self._length = self._parts, [], 0, 0
        if parts:
            table = pyarrow.Table.from_batches(parts).unify_dictionaries()
            self._file.write_table(table, GROUP)

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


def _array(values: Any, length: int, kind: Any) -> Any:
    """Return values as an array of pyarrow, without its functions: they take memory to load."""
    import numpy as np
    import pyarrow

    from multifd_proto.views.typeset import Words

    if values is None:
        return pyarrow.nulls(length, kind)
    if isinstance(values, Words):
        values = np.array(values.said, object)[values.which].tolist()
    if isinstance(values, pyarrow.Array):
        return values.view(kind)
    if isinstance(values, np.ndarray) and pyarrow.types.is_timestamp(kind):
        return pyarrow.array(values).view(kind)
    if isinstance(values, np.ndarray):
        values = values.astype(kind.to_pandas_dtype(), copy=False)
    return pyarrow.array(values, kind)
