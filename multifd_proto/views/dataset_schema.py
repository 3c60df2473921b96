"""The tables of a data set: their columns and types, which a version names.

Each table is a folder with a Parquet file for each capture, partitioned as Hive does it:
`packets/capture=NAME/part-0.parquet`. Names are those of the wire and of `rows`. Times are UTC to
the microsecond, as every reader of Parquet takes them, and once more in whole nanoseconds since
the epoch (`_ns`); both are empty where the time is not known.
"""

from __future__ import annotations

from multifd_proto.views.rows import COLUMNS

VERSION = 1
"""Grows when a column changes its name, type or meaning; columns may be added without."""

_PLACE = {"migration": "int32", "stream": "int32", "channel": "int16", "offset": "int64"}
_TIME = {"time": "time", "time_ns": "int64"}
_TRAFFIC = ("packets", "syncs", "normal_pages", "zero_pages", "payload", "device_state")

_ROWS = {name: kind for name, kind in COLUMNS.items() if name != "xxh3"}

TABLES: dict[str, dict[str, str]] = {
    # the rows of `decode`, without what only --hash tells
    "packets": {"migration": "int32"} | _ROWS | {"ramblock": "names"} | _TIME,
    # a row a page: `offset` is the place of its packet or record in the stream
    "pages": _PLACE
    | _TIME
    | {
        "packet_num": "uint64",
        "round": "int32",
        "ramblock": "names",
        "page_offset": "uint64",
        "zero": "bool",
    },
    # a row for each round of each channel
    "rounds": {"migration": "int32", "stream": "int32", "channel": "int16", "round": "int32"}
    | dict.fromkeys(_TRAFFIC, "int64")
    | {"first": "time", "first_ns": "int64", "last": "time", "last_ns": "int64"},
    # the verdict on every requirement
    "requirements": {
        "migration": "int32",
        "requirement": "string",
        "slug": "string",
        "level": "string",
        "verdict": "string",
        "dialect": "string",
        "applied": "int64",
        "count": "int64",
        "reason": "string",
        "quirk": "string",
    },
    # what speaks against one: the first violations of each
    "violations": _PLACE
    | _TIME
    | {
        "requirement": "string",
        "level": "string",
        "verdict": "string",
        "dialect": "string",
        "what": "string",
        "seen": "string",
        "demanded": "string",
        "quirk": "string",
    },
    # a row a migration
    "migrations": {
        "migration": "int32",
        "source": "string",
        "destination": "string",
        "uuid": "string",
        "verdict": "string",
        "dialect": "string",
        "dialects_that_fit": "strings",
        "dialect_inferred": "bool",
        "page_size": "int32",
        "method": "string",
        "channels": "int32",
        "ramblocks": "sizes",
        "gaps": "int64",
        "missing": "int64",
    },
}
"""Table -> column -> type, see `parquet.schema`. The last table is the last to be written."""
