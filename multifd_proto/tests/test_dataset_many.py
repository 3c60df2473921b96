"""Many captures into one data set: resumed, told apart, and done by processes that may die."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet
import pytest
import zstandard

from multifd_proto.cli.many import Task, captures
from multifd_proto.cli.pool import in_processes
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.tests.test_cli import FOLDER, NONE, OLD, multifd
from multifd_proto.views import dataset
from multifd_proto.views.dataset_schema import TABLES

DECODE = ("decode", "--format", "parquet", "--partition")


@pytest.fixture
def given(tmp_path):
    """A folder with two captures, one of them deeper, and a file that is none."""
    folder = tmp_path / "captures"
    (folder / "old").mkdir(parents=True)
    shutil.copy(NONE, folder / "new.pcap.zst")
    shutil.copy(OLD, folder / "old" / "a b.zst")
    (folder / "notes.txt").write_text("11.1 on both hosts")
    return folder


def decode(target, *words):
    return multifd(*DECODE, "-o", target, *words)


def said(target, written, already=0, failed=0):
    return f"{target}: {written} captures written, {already} there already, {failed} failed\n"


def parts(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def wait_for(condition):
    end = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


# ---- which captures there are, and which of them are done ----------------------------------------


def test_a_folder_stands_for_the_captures_in_it(given, tmp_path):
    target = tmp_path / "dataset"
    assert decode(target, given) == (0, said(target, 2), "")
    names = {"capture=new.pcap.zst", "capture=old%2Fa%20b.zst"}
    expected = {Path(t) / name / "part-0.parquet" for t in TABLES for name in names}
    assert parts(target) == expected
    table = pyarrow.parquet.read_table(target / "migrations")
    assert table.column("page_size").to_pylist() == [4096, 4096]


def test_what_is_there_is_not_written_again(given, tmp_path):
    target = tmp_path / "dataset"
    decode(target, given)
    before = {path: (target / path).stat().st_mtime_ns for path in parts(target)}
    assert decode(target, given) == (0, said(target, 0, 2), "")
    assert before == {path: (target / path).stat().st_mtime_ns for path in parts(target)}
    shutil.copy(FOLDER / "q7_2-none.pcap.zst", given / "third")
    assert decode(target, given) == (0, said(target, 1, 2), "")


def aged(path):
    os.utime(path, ns=(0, 0))
    return []


@pytest.mark.parametrize(
    "change",
    [
        aged,
        lambda path: path.write_bytes(OLD.read_bytes()) and [],
        lambda path: ["--dialect", "10.0"],
        lambda path: ["--page-size", "4096"],
        lambda path: ["--channels", "4"],
        lambda path: ["--uuid", "3a1f7c52-0000-0000-0000-000000000000"],
        lambda path: ["--keylog", __file__],
    ],
    ids=["time", "content", "dialect", "page size", "channels", "uuid", "secrets"],
)
def test_what_was_made_of_something_else_is_written_anew(tmp_path, change):
    path, target = tmp_path / "one.pcap.zst", tmp_path / "dataset"
    shutil.copy(NONE, path)
    assert decode(target, path)[1] == said(target, 1)
    options = change(path)
    assert decode(target, path, *options)[1] == said(target, 1)
    assert decode(target, path, *options)[1] == said(target, 0, 1)


def test_another_release_of_this_package_writes_anew(tmp_path, monkeypatch):
    target = tmp_path / "dataset"
    decode(target, NONE)
    assert dataset.made_of(target, NONE.name)
    monkeypatch.setattr(dataset, "__version__", "0")
    assert dataset.made_of(target, NONE.name) is None


def test_a_table_that_is_no_parquet_is_written_anew(tmp_path):
    target = tmp_path / "dataset"
    decode(target, NONE)
    dataset.place(target, "migrations", NONE.name).write_bytes(b"PAR1 of something else")
    assert decode(target, NONE)[1] == said(target, 1)


def test_two_captures_never_share_a_name(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(NONE, tmp_path / name / "x.zst")
    a, b, target = tmp_path / "a" / "x.zst", tmp_path / "b" / "x.zst", tmp_path / "dataset"
    status, _, err = decode(target, a, b)
    assert (status, err.splitlines()[-1]) == (2, f"Error: {a} and {b} would both be capture=x.zst")
    assert decode(target, a)[0] == 0
    why = f"{target} has a capture=x.zst already, of {a}"
    assert decode(target, b) == (2, said(target, 0, 0, 1), f"multifd: {b}: {why}\n")


def test_what_fails_is_named_and_the_rest_is_done(given, tmp_path):
    target = tmp_path / "dataset"
    bad, gone = given / "bad.pcap", tmp_path / "gone.pcap"
    bad.write_bytes(zstandard.decompress(NONE.read_bytes(), 1 << 24)[:24] + b"\xff" * 400)
    status, out, err = decode(target, given, gone)
    assert (status, out) == (2, said(target, 2, 0, 2))
    first, second = sorted(err.splitlines())
    assert first.startswith(f"multifd: {bad}: ")
    assert second == f"multifd: {gone}: No such file or directory"
    assert not list(target.glob("*/capture=bad.pcap"))
    bad.unlink()
    assert decode(target, given) == (0, said(target, 0, 2), "")


def test_warnings_name_the_capture(tmp_path):
    path, target = tmp_path / "cut.pcap", tmp_path / "dataset"
    path.write_bytes(zstandard.decompress(NONE.read_bytes(), 1 << 24)[:-5])
    status, out, err = decode(target, path)
    assert (status, out) == (0, said(target, 1))
    assert err.startswith(f"warning: {path}: ")
    assert err.count(str(path)) == 1


def test_captures_without_a_migration_are_told(tmp_path):
    path, target = tmp_path / "none.pcap", tmp_path / "dataset"
    path.write_bytes(zstandard.decompress(NONE.read_bytes(), 1 << 24)[:24])
    why = "no migration in it: 0 records, no TCP connection"
    assert decode(target, path) == (4, said(target, 1), f"warning: {path}: {why}\n")
    assert decode(target, path) == (4, said(target, 0, 1), "")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert decode(target, empty) == (4, "", f"multifd: no capture file in {empty}\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_cannot_be_read_is_no_file_that_is_none(given):
    (given / "notes.txt").chmod(0)
    assert "notes.txt" in captures([str(given)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition"], "--partition needs --format parquet and -o FOLDER"),
        (["--partition", "-o", "x"], "--partition needs --format parquet and -o FOLDER"),
        (["--jobs", "2"], "--jobs and --dask need --partition"),
        (["--dask", "tcp://h:1"], "--jobs and --dask need --partition"),
        (
            [*DECODE[1:], "-o", "x", "--offsets"],
            "--offsets: with --partition, pages are a table of their own",
        ),
        ([*DECODE[1:], "-o", "x", "--hash"], "--hash: a data set has no digests"),
        ([*DECODE[1:], "-o", "x", "--jobs", "2", "--dask", "h"], "--jobs and --dask: one of them"),
        ([*DECODE[1:], "-o", "x", "/dev/null"], None),
    ],
)
def test_wrong_usage_is_said(words, message):
    status, out, err = multifd("decode", *words, NONE)
    message = message or "--partition demands files and folders, not /dev/null"
    assert (status, out, err.splitlines()[-1]) == (2, "", f"Error: {message}")


# ---- processes that die --------------------------------------------------------------------------


def task(path, folder, name=None):
    return Task(name or path.name, path, folder, MigrationParameters(), None)


@pytest.fixture
def endless(tmp_path):
    """A capture that does not end before it is told to."""
    path = tmp_path / "endless.pcap"
    os.mkfifo(path)
    return path


def feed(path, data):
    """Wait until somebody reads a capture; write, and leave it open."""

    def opened():
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody does so far
            return None

    descriptor = wait_for(opened)
    os.set_blocking(descriptor, True)
    os.write(descriptor, data)
    return descriptor


def test_a_killed_process_fails_its_capture_alone(endless, tmp_path):
    target = tmp_path / "dataset"
    tasks = [task(path, target) for path in (endless, NONE, OLD)]
    read: list[int] = []

    def kill():
        held = feed(endless, zstandard.decompress(NONE.read_bytes(), 1 << 24)[:40_000])
        wait_for(lambda: list(target.glob(".unfinished/*/*/packets")))
        (worker,) = multiprocessing.active_children()
        worker.kill()
        os.close(held)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = list(in_processes(1, tasks, read.append))
    killer.join()
    assert [o.path for o in outcomes] == [endless, NONE, OLD]
    assert [o.error for o in outcomes] == ["its process was killed by SIGKILL", None, None]
    assert [o.written for o in outcomes] == [False, True, True]
    assert not dataset.made_of(target, endless.name)
    assert sum(read) >= sum(path.stat().st_size for path in (NONE, OLD))
    assert multiprocessing.active_children() == []


def test_who_stops_listening_stops_the_processes(endless, tmp_path):
    target = tmp_path / "dataset"
    tasks = [task(path, target) for path in (NONE, endless)]
    with closing(in_processes(2, tasks, lambda count: None)) as outcomes:
        assert next(outcomes).path == NONE
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


PARENT = """
import sys
from pathlib import Path
from multifd_proto.cli.pool import in_processes
from multifd_proto.tests.test_dataset_many import task
if __name__ == "__main__":
    print([*in_processes(2, [task(Path(p), Path(sys.argv[1])) for p in sys.argv[2:]], print)])
"""


def test_processes_die_with_their_parent_and_leave_no_half_file(endless, tmp_path):
    target = tmp_path / "dataset"
    words = [sys.executable, "-c", PARENT, str(target), str(endless)]
    parent = subprocess.Popen(words)
    held = feed(endless, zstandard.decompress(NONE.read_bytes(), 1 << 24)[:40_000])
    wait_for(lambda: list(target.glob(".unfinished/*/*/packets")))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert children
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    os.close(held)
    assert list(target.glob("*/capture=*")) == []
    endless.unlink()
    shutil.copy(NONE, endless)
    assert decode(target, endless) == (0, said(target, 1), "")
    assert sorted(path.name for path in target.iterdir()) == sorted(TABLES)
