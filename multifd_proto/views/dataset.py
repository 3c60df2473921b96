"""A data set of captures, for DuckDB, Polars and Spark: see `dataset_schema` for its tables.

What is written of a capture is there whole or not at all: its files are written aside and moved
into their places when all are done, `migrations` last. Each file says in its metadata what it was
made of, so that nothing is made twice.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from multifd_proto import __version__
from multifd_proto.capture.events import StreamEvent
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.session import Connection, Session
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import Event
from multifd_proto.views.dataset_rounds import Rounds
from multifd_proto.views.dataset_schema import TABLES, VERSION
from multifd_proto.views.parquet import Table, schema
from multifd_proto.views.report import as_data
from multifd_proto.views.rows import Row, row

_UNFINISHED = ".unfinished"
"""Folder for what is being written; no reader looks into a folder whose name begins like this."""
_LAST = list(TABLES)[-1]
Origin = dict[str, Any]
"""What a capture's tables are made of: plain data, compared as a whole."""


def place(folder: Path, table: str, capture: str) -> Path:
    """Return the file of a capture in a table."""
    return folder / table / f"capture={quote(capture, safe='')}" / "part-0.parquet"


def made_of(folder: Path, capture: str) -> tuple[Origin, int] | None:
    """Return what the tables of a capture were made of and its migrations; None if not there.

    A file that this release cannot make sense of counts as not there.
    """
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_metadata(place(folder, _LAST, capture))
        said = found.metadata or {}
        if json.loads(said[b"multifd.schema"]) != VERSION:
            return None
        if said[b"multifd.version"].decode() != __version__:
            return None
        return json.loads(said[b"multifd.origin"]), found.num_rows
    except (FileNotFoundError, KeyError, ValueError, pyarrow.ArrowException):
        return None


def write(
    folder: Path, capture: str, origin: Origin, follower: Follower, stream: Iterable[StreamEvent]
) -> None:
    """Write the tables of one capture.

    Args:
        folder: of the data set.
        capture: name that the capture has in it.
        origin: what they are made of, to be found by `made_of`.
        follower: follows the capture; it should decode payloads, as a check does.
        stream: the capture's streams.

    Raises:
        CaptureError: the capture cannot be read.
        OSError: the files cannot be written.
    """
    metadata = {
        "multifd.schema": str(VERSION),
        "multifd.version": __version__,
        "multifd.origin": json.dumps(origin),
    }
    with _aside(folder, capture) as scratch:
        with ExitStack() as files:
            tables = {}
            for name, columns in TABLES.items():
                described = schema(columns, metadata | {"multifd.table": name})
                tables[name] = files.enter_context(Table(scratch / name, described))
            _fill(tables, follower, stream)
        for name in TABLES:
            target = place(folder, name, capture)
            target.parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(target)


@contextmanager
def _aside(folder: Path, capture: str) -> Iterator[Path]:
    """Make a folder for unfinished files of a capture, and remove what a killed run has left."""
    own = folder / _UNFINISHED / quote(capture, safe="")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    try:
        # whoever wrote here and is alive after all cannot come upon our files
        with tempfile.TemporaryDirectory(dir=own, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    finally:
        with suppress(OSError):
            own.rmdir()
            own.parent.rmdir()


def _fill(tables: dict[str, Table], follower: Follower, stream: Iterable[StreamEvent]) -> None:
    rounds = Rounds(lambda values: tables["rounds"].row(_timed(values, "first", "last")))
    for piece in follower.pieces(stream):
        if isinstance(piece, PacketBatch):
            _add_packets(tables, rounds, follower, piece)
        else:
            _add_event(tables, rounds, *piece)
    rounds.finish()
    for session in follower.sessions:
        _conclude(tables, session)


def _add_packets(
    tables: dict[str, Table], rounds: Rounds, follower: Follower, batch: PacketBatch
) -> None:
    from multifd_proto.views.dataset_columns import packets, pages, slices

    for stream in set(batch.stream.tolist()):
        rounds.batch(follower.connections[stream], batch.of([stream]))
    tables["packets"].columns(len(batch), packets(follower, batch))
    for part in slices(batch):
        tables["pages"].columns(*pages(follower, part))


def _add_event(
    tables: dict[str, Table], rounds: Rounds, connection: Connection, event: Event
) -> None:
    rounds.event(connection, event)
    values = row(connection.half.stream, connection.channel, event, offsets=True)
    if values is None:
        return
    assert connection.session
    values = _timed(values | {"migration": connection.session.number}, "time")
    for page in _pages(values):
        tables["pages"].row(page)
    values.pop("page_offsets", None)
    tables["packets"].row(values)


def _pages(values: Row) -> Iterator[Row]:
    """Yield a row for each page of a packet or of a record of the main stream."""
    normal = values.get("normal_pages") or 0
    for index, offset in enumerate(values.get("page_offsets") or ()):
        yield values | {"page_offset": offset, "zero": index >= normal}


def _timed(values: Row, *names: str) -> Row:
    """Return a row with its times in both units, empty where they are not known."""
    for name in names:
        known = values[name] or None
        values |= {name: known and known // 1000, f"{name}_ns": known}
    return values


def _conclude(tables: dict[str, Table], session: Session) -> None:
    """Write what a migration comes to, as `check` says it."""
    migration, report = session.checker.migration, session.checker.conclude()
    data = as_data(report, migration)
    who = {"migration": session.number, "dialect": data["dialect"]}
    for result, said in zip(report.results, data["requirements"], strict=True):
        about = who | said | {"requirement": said["id"]}
        tables["requirements"].row(about)
        for violation, what in zip(result.violations, said["violations"], strict=True):
            tables["violations"].row(_timed(about | what | {"time": violation.time}, "time"))
    ends = {"source": session.source, "destination": session.destination}
    named = {name: str(end) if end else None for name, end in ends.items()}
    data["ramblocks"] = list(data["ramblocks"].items())
    tables["migrations"].row(data | who | named)
