"""Captures decoded on a cluster: two workers of Dask, which may be killed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet
import pytest
import zstandard
from click.testing import CliRunner

from multifd_proto.cli import cli
from multifd_proto.cli.cluster import on_cluster
from multifd_proto.errors import MultiFDError
from multifd_proto.tests.test_cli import NONE, OLD
from multifd_proto.tests.test_dataset_many import DECODE, endless, feed, parts, said, task, wait_for
from multifd_proto.views import dataset

__all__ = ["endless"]  # a fixture

CAPTURE = zstandard.decompress(NONE.read_bytes(), 1 << 24)


@pytest.fixture(scope="module")
def cluster():
    """A scheduler that gives a task up when two workers have died over it."""
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 1,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as made,
    ):
        yield made


def decode(cluster, target, *words):
    said = [*DECODE, "-o", target, "--dask", cluster.scheduler_address, *words]
    done = CliRunner().invoke(cli, list(map(str, said)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_cluster_writes_what_processes_write(cluster, tmp_path):
    target, alone = tmp_path / "dataset", tmp_path / "alone"
    assert decode(cluster, target, NONE, OLD) == (0, said(target, 2), "")
    CliRunner().invoke(cli, [*DECODE, "-o", str(alone), str(NONE), str(OLD)])
    assert parts(target) == parts(alone)
    for path in parts(alone):
        same = (pyarrow.parquet.ParquetFile(folder / path).read() for folder in (target, alone))
        assert next(same).equals(next(same))
    assert decode(cluster, target, NONE, OLD) == (0, said(target, 0, 2), "")


def test_what_fails_is_named_and_the_rest_is_done(cluster, tmp_path):
    target, bad = tmp_path / "dataset", tmp_path / "bad.pcap"
    bad.write_bytes(CAPTURE[:24] + b"\xff" * 400)
    status, out, err = decode(cluster, target, bad, NONE)
    assert (status, out) == (2, said(target, 1, 0, 1))
    assert err.startswith(f"multifd: {bad}: ")
    assert len(err.splitlines()) == 1


def kill_reader_of(cluster, path):
    """Kill the worker that reads a capture, in the middle of it."""
    held = feed(path, CAPTURE[:40_000])
    workers = wait_for(lambda: readers(cluster, path))
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    os.close(held)  # before another one opens it
    wait_for(lambda: not Path(f"/proc/{workers[0]}").exists())  # all of its threads


def readers(cluster, path):
    processes = [worker.process for worker in cluster.workers.values()]
    return [p.pid for p in processes if p and p.pid and reads(p.pid, path)]


def reads(pid, path):
    found = False
    with suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found |= link.readlink() == path
    return found


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_worker_fails_its_capture_alone_if_at_all(cluster, endless, tmp_path, deaths):
    target = tmp_path / "dataset"
    read: list[int] = []
    tasks = [task(path, target) for path in (endless, NONE, OLD)]

    def kill():
        for _ in range(deaths):
            kill_reader_of(cluster, endless)
        if deaths == 1:
            os.close(feed(endless, CAPTURE))

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = {o.path: o for o in on_cluster(cluster.scheduler_address, tasks, read.append)}
    killer.join()
    assert {path: o.written for path, o in outcomes.items()} == {
        endless: deaths == 1,
        NONE: True,
        OLD: True,
    }
    if deaths == 2:
        assert str(outcomes[endless].error).startswith("KilledWorker: ")
        assert not dataset.made_of(target, endless.name)
    assert sum(read) == NONE.stat().st_size + OLD.stat().st_size
    wait_for(lambda: len(cluster.scheduler_info["workers"]) == 2)


def test_a_scheduler_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("multifd_proto.cli.cluster._PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"tcp://127.0.0.1:{held.getsockname()[1]}"
    with pytest.raises(MultiFDError, match=f"^no Dask scheduler at {address}: "):
        next(on_cluster(address, [task(NONE, tmp_path)], lambda count: None))
