"""A data set says what `decode`, `summary` and `check` say, for every capture of a real QEMU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from multifd_proto import __version__
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.cli import cli
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import DeviceStateReceived, PacketReceived
from multifd_proto.tests.bigcaptures import Recipe, generate
from multifd_proto.views import dataset
from multifd_proto.views.dataset_schema import TABLES, VERSION
from multifd_proto.views.parquet import Table, schema
from multifd_proto.views.rows import COLUMNS

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
CAPTURES = sorted(path.name for path in FOLDER.glob("*.pcap*.zst"))
MAIN_TRAFFIC = {"RamZero", "RamPage"}


def multifd(*words):
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return [json.loads(line, parse_float=Decimal) for line in done.stdout.splitlines()]


def read(folder, table, capture):
    path = dataset.place(folder, table, capture)
    return pyarrow.parquet.ParquetFile(path).read().to_pylist()


def written(folder, stream):
    """Write one capture, as a library's user does; return its name."""
    dataset.write(folder, "one", {}, Follower(decode=True), stream)
    return "one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All captures, through processes."""
    target = tmp_path_factory.mktemp("dataset")
    words = ("decode", "--format", "parquet", "--partition", "--jobs", "2", "-o", target, FOLDER)
    done = CliRunner().invoke(cli, list(map(str, words)))
    assert done.exit_code == 0, done.output
    said = f"{target}: {len(CAPTURES)} captures written, 0 there already, 0 failed\n"
    assert (done.stdout, done.stderr) == (said, "")
    return target


def in_nanoseconds(seconds):
    return int(seconds * 10**9) or None


def pages_of(rows):
    for row in rows:
        for index, offset in enumerate(row.get("page_offsets") or ()):
            yield {
                "stream": row["stream"],
                "channel": row["channel"],
                "offset": row["offset"],
                "time_ns": in_nanoseconds(row["time"]),
                "packet_num": row.get("packet_num"),
                "round": row["round"],
                "ramblock": row["ramblock"],
                "page_offset": offset,
                "zero": index >= row.get("normal_pages", 0),
            }


def without_time(rows):
    return [{k: v for k, v in row.items() if k not in ("time", "migration")} for row in rows]


# ---- the same as the other verbs -----------------------------------------------------------------


@pytest.mark.parametrize("capture", CAPTURES)
def test_packets_and_pages_are_those_of_decode(folder, capture):
    rows = multifd("decode", "--json", "--offsets", FOLDER / capture)
    packets = read(folder, "packets", capture)
    assert len(packets) == len(rows) > 30
    for row, packet in zip(rows, packets, strict=True):
        expected = {name: row.get(name) for name in COLUMNS if name not in ("time", "xxh3")}
        nanoseconds = in_nanoseconds(row["time"])
        time = packet.pop("time")
        assert packet == expected | {"migration": 0, "time_ns": nanoseconds}
        assert time.isoformat().endswith("+00:00")
        assert int(time.timestamp() * 10**6 + 0.5) == nanoseconds // 1000
    pages = read(folder, "pages", capture)
    assert {page["migration"] for page in pages} == {0}
    assert without_time(pages) == list(pages_of(rows))


@pytest.mark.parametrize("capture", CAPTURES)
def test_rounds_add_up_to_the_summary(folder, capture):
    (summary,) = multifd("summary", "--json", FOLDER / capture)
    rounds = read(folder, "rounds", capture)
    names = ("packets", "syncs", "normal_pages", "zero_pages", "payload", "device_state")
    for key in ("channel", "round"):
        sums: dict[int, Counter[str]] = {}
        for row in rounds:
            sums.setdefault(row[key], Counter()).update({name: row[name] for name in names})
        expected = {p[key]: Counter({n: p[n] for n in names}) for p in summary[f"{key}s"]}
        assert sums == expected
    for channel in summary["channels"]:
        own = [row for row in rounds if row["stream"] == channel["stream"]]
        assert [row["round"] for row in own] == list(range(len(own)))


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_round_lasts_from_its_first_head_to_its_last_payload(folder, capture):
    times: dict[tuple[int, int | None], list[int]] = {}
    for connection, event in Follower().follow(Decrypted(CaptureReader([FOLDER / capture]))):
        head = getattr(event, "head", event)
        if isinstance(head, PacketReceived | DeviceStateReceived):
            times.setdefault((connection.half.stream, head.round), []).append(event.time)
    rounds = read(folder, "rounds", capture)
    for row in rounds:
        seen = times.pop((row["stream"], row["round"]))
        assert (row["first_ns"], row["last_ns"]) == (min(seen), max(seen))
        for name in ("first", "last"):
            assert row[f"{name}_ns"] // 1000 == round(row[name].timestamp() * 10**6)
    assert times == {}


@pytest.mark.parametrize("capture", CAPTURES)
def test_requirements_violations_and_migrations_are_those_of_check(folder, capture):
    (report,) = multifd("check", "--json", FOLDER / capture)
    (migration,) = read(folder, "migrations", capture)
    migration["ramblocks"] = dict(migration["ramblocks"])
    assert migration == {name: report[name] for name in TABLES["migrations"]}
    requirements = read(folder, "requirements", capture)
    violations = read(folder, "violations", capture)
    assert [r["requirement"] for r in requirements] == [r["id"] for r in report["requirements"]]
    for row, said in zip(requirements, report["requirements"], strict=True):
        for name in ("slug", "level", "verdict", "applied", "count", "reason", "quirk"):
            assert row[name] == said[name]
        own = [v for v in violations if v["requirement"] == said["id"]]
        assert len(own) == len(said["violations"])
        for violation, what in zip(own, said["violations"], strict=True):
            assert violation["dialect"] == report["dialect"]
            for name in ("level", "verdict", "quirk"):
                assert violation[name] == said[name]
            for name in ("stream", "channel", "offset", "what", "seen", "demanded"):
                assert violation[name] == what[name]
            time = violation["time_ns"]
            assert (time and time / 1e9) == (what["time"] and float(what["time"]))


# ---- in columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(size=4 << 20),
        Recipe(size=8 << 20, segment=1448),
        Recipe(size=8 << 20, zero_only=True),
        Recipe(size=4 << 20, loss=0.01, seed=7),
    ],
    ids=["pages", "small segments", "zero pages", "losses"],
)
def test_packets_in_columns_come_to_the_same_as_their_events(tmp_path, recipe):
    path = tmp_path / "capture.pcap"
    generate(path, recipe)
    assert PacketBatch in {type(piece) for piece in Follower().pieces(CaptureReader([path]))}
    name = written(tmp_path / "columns", CaptureReader([path]))
    # what is no reader of captures is followed event by event
    assert written(tmp_path / "events", iter(CaptureReader([path]))) == name
    for table in TABLES:
        columns, events = (
            in_order(dataset.place(tmp_path / way, table, name)) for way in ("columns", "events")
        )
        assert columns.equals(events), table


def in_order(path):
    """Read a table, sorted, with strings for what is dictionary-encoded."""
    table = pyarrow.parquet.ParquetFile(path).read()
    plain = [
        f.with_type(pyarrow.string()) if "dictionary" in str(f.type) else f for f in table.schema
    ]
    keys = ("stream", "offset", "page_offset", "round", "requirement", "seen")
    order = [(key, "ascending") for key in keys if key in table.column_names]
    # only what cannot be sorted has no such column: one row
    return table.cast(pyarrow.schema(plain)).sort_by(order) if order else table


# ---- the files -----------------------------------------------------------------------------------

SCHEMA = """
packets
  migration int32
  stream int32
  channel int16
  offset int64
  time timestamp[us, tz=UTC]
  type string
  round int32
  magic int64
  version int64
  flags int64
  pages_alloc int64
  normal_pages int64
  zero_pages int64
  next_packet_size int64
  packet_num uint64
  ramblock dictionary<values=string, indices=int32, ordered=0>
  payload int64
  uuid string
  id int16
  idstr string
  instance_id int64
  record string
  length int64
  reason string
  reset bool
  due int64
  time_ns int64

pages
  migration int32
  stream int32
  channel int16
  offset int64
  time timestamp[us, tz=UTC]
  time_ns int64
  packet_num uint64
  round int32
  ramblock dictionary<values=string, indices=int32, ordered=0>
  page_offset uint64
  zero bool

rounds
  migration int32
  stream int32
  channel int16
  round int32
  packets int64
  syncs int64
  normal_pages int64
  zero_pages int64
  payload int64
  device_state int64
  first timestamp[us, tz=UTC]
  first_ns int64
  last timestamp[us, tz=UTC]
  last_ns int64

requirements
  migration int32
  requirement string
  slug string
  level string
  verdict string
  dialect string
  applied int64
  count int64
  reason string
  quirk string

violations
  migration int32
  stream int32
  channel int16
  offset int64
  time timestamp[us, tz=UTC]
  time_ns int64
  requirement string
  level string
  verdict string
  dialect string
  what string
  seen string
  demanded string
  quirk string

migrations
  migration int32
  source string
  destination string
  uuid string
  verdict string
  dialect string
  dialects_that_fit list<element: string>
  dialect_inferred bool
  page_size int32
  method string
  channels int32
  ramblocks map<string, uint64 ('ramblocks')>
  gaps int64
  missing int64
"""


def test_the_schema_is_that_of_its_version(folder):
    said = []
    for table in TABLES:
        found = pyarrow.parquet.read_schema(dataset.place(folder, table, CAPTURES[0]))
        said += ["", table, *(f"  {field.name} {field.type}" for field in found)]
    assert VERSION == 1
    assert "\n".join(said) + "\n" == SCHEMA


def test_each_file_says_what_it_is(folder):
    for table in TABLES:
        for capture in CAPTURES:
            path = dataset.place(folder, table, capture)
            assert path.parts[-3:] == (table, f"capture={capture}", "part-0.parquet")
            metadata = pyarrow.parquet.read_metadata(path).metadata
            assert metadata[b"multifd.table"].decode() == table
            assert metadata[b"multifd.schema"] == b"1"
            assert metadata[b"multifd.version"].decode() == __version__
            assert json.loads(metadata[b"multifd.origin"])["source"] == str(FOLDER / capture)
    assert sorted(path.name for path in folder.iterdir()) == sorted(TABLES)


def test_numbers_are_written_as_differences_and_names_once(folder):
    path = dataset.place(folder, "pages", "q10_0-none.pcap.zst")
    group = pyarrow.parquet.read_metadata(path).row_group(0)
    columns = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    for name in ("stream", "offset", "time_ns", "packet_num", "round", "page_offset"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    assert "RLE_DICTIONARY" in columns["ramblock"].encodings


def test_a_table_holds_one_row_group_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("multifd_proto.views.parquet.GROUP", 10_000)
    path = tmp_path / "capture.pcap"
    generate(path, Recipe(size=1 << 20, zero_only=True))
    name = written(tmp_path / "dataset", CaptureReader([path]))
    found = pyarrow.parquet.read_metadata(dataset.place(tmp_path / "dataset", "pages", name))
    groups = [found.row_group(index).num_rows for index in range(found.num_row_groups)]
    assert len(groups) > 5
    assert max(groups) <= 10_000


def test_a_row_group_ends_where_its_rows_have_become_large(tmp_path, monkeypatch):
    monkeypatch.setattr("multifd_proto.views.parquet._HELD", 1 << 16)
    path = tmp_path / "numbers.parquet"
    with Table(path, schema({"number": "int64"})) as table:
        for _ in range(5):
            table.columns(5000, {"number": np.arange(5000)})
    found = pyarrow.parquet.read_metadata(path)
    groups = [found.row_group(index).num_rows for index in range(found.num_row_groups)]
    assert groups == [10_000, 10_000, 5000]


FORMS = {
    "file": """
from multifd_proto.cli import cli
cli(["decode", "--format", "parquet", "--offsets", "-o", target, path], standalone_mode=False)
""",
    "data set": """
from pathlib import Path
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.views import dataset
dataset.write(Path(target), "one", {}, Follower(decode=True), CaptureReader([path]))
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_functions_of_pyarrow_take_no_memory(tmp_path, form):
    path = tmp_path / "capture.pcap"
    generate(path, Recipe(size=1 << 20, zero_only=True))
    code = (
        f"import sys\npath, target = sys.argv[1:]\n{FORMS[form]}"
        "print([name for name in ('compute', 'parquet') if f'pyarrow.{name}' in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("['parquet']\n", "")


def test_a_capture_without_times_has_none(tmp_path):
    from multifd_proto.tests.test_cli import channel_bytes

    path = tmp_path / "channel-2.bin"
    path.write_bytes(channel_bytes(2))
    name = written(tmp_path / "dataset", CaptureReader([path]))
    packets = read(tmp_path / "dataset", "packets", name)
    assert len(packets) > 5
    for row in packets:
        assert (row["time"], row["time_ns"]) == (None, None)
    for row in read(tmp_path / "dataset", "rounds", name):
        assert (row["first"], row["first_ns"], row["last"], row["last_ns"]) == (None,) * 4


# ---- the recipes of the README -------------------------------------------------------------------

README = Path(__file__).parents[2] / "README.md"
RECIPES = re.findall(
    r"^```sql\n(.*?)^```$", README.read_text() if README.exists() else "", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_the_readme_run(folder, recipe):
    import duckdb

    with duckdb.connect() as connection:
        found = connection.execute(recipe.replace("'dataset/", f"'{folder}/")).fetchall()
    assert len(found) >= 5
    # a number at least in each column that may be empty here and there
    assert all(any(row[n] is not None for row in found) for n in range(len(found[0])))
