"""The benchmark of decoding runs, and says what it measured and what it could not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "benchmarks" / "decode"

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="not in a checkout")


def bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.decode", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env=os.environ | {"COLUMNS": "160"} | environment,
    )  # fmt: skip


def measured(tmp_path, *arguments):
    done = bench(*arguments, "--json", tmp_path / "json", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "json"]
    return json.loads((tmp_path / "json").read_text()), done


def test_what_is_no_size_is_refused():
    done = bench("--size", "5T")
    assert done.returncode == 2
    assert "'5T' is no size, such as 512M" in done.stderr


def test_every_contestant_is_measured_as_often_as_asked(tmp_path):
    facts, done = measured(
        tmp_path, "--size", "4M", "--runs", 2, "--scenario", "64", "--only", "decode"
    )
    figures = facts["scenarios"]["64 KiB"]
    assert list(figures) == [
        "cat", "decode", "decode --json", "decode --format parquet", "decode --json --hash",
    ]  # fmt: skip
    for row in figures.values():
        if "note" not in row:
            assert len(row["seconds"]) == 2
            assert row["gib_per_s_best"] == row["bytes"] / 2**30 / min(row["seconds"])
            assert f"{row['gib_per_s']:.3g}" in done.stdout
    for name in ("decode", "decode --json", "decode --format parquet"):
        assert figures[name]["found"] == figures[name]["packets"] > 8
        assert 0 < figures[name]["first_row_s"] < 60
    assert figures["cat"]["found"] is None
    assert figures["cat"]["peak_mib"] < 20 < figures["decode"]["peak_mib"]
    (ratio,) = [t for t in facts["targets"] if t["target"] == "decode: gib_per_s, in cat's"]
    assert ratio["value"] == figures["decode"]["gib_per_s"] / figures["cat"]["gib_per_s"]
    assert ratio["met"] == (ratio["value"] >= 0.8)


@pytest.mark.parametrize("scenario", ["64", "1448", "zero"])
def test_what_others_find_is_counted(scenario, tmp_path):
    facts, _ = measured(
        tmp_path, "--size", "2M", "--runs", 1, "--scenario", scenario, "--only", "dpkt"
    )
    (figures,) = facts["scenarios"].values()
    assert figures["dpkt"]["found"] == figures["dpkt"]["packets"] > 8


def test_who_would_take_too_long_is_measured_on_a_smaller_capture(tmp_path):
    facts, _ = measured(
        tmp_path, "--size", "64M", "--small", "1M", "--runs", 1, "--seconds", 0.05,
        "--scenario", "1448", "--only", "dpkt",
    )  # fmt: skip
    figures = facts["scenarios"]["1448 B"]
    assert figures["dpkt"]["bytes"] < 4 << 20 < 64 << 20 < figures["cat"]["bytes"]


def test_a_sparse_capture_is_measured_by_ours_and_cat_alone(tmp_path):
    facts, _ = measured(
        tmp_path, "--size", "1M", "--small", "16M", "--runs", 1, "--scenario", "none",
        "--large", "64M", "--only", "a",
    )  # fmt: skip
    figures = facts["scenarios"]["large"]
    assert "cat" in figures
    assert "summary --json" in figures
    assert not {"tshark with multifd.lua", "scapy TCPSession"} & set(figures)


def test_a_cold_capture_on_a_file_system_in_memory_is_refused():
    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("no /dev/shm")
    done = bench("--size", "1M", "--cold", "--folder", shm, "--scenario", "64", "--only", "none")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.endswith("/capture cannot be dropped from the page cache: give another --folder")


def test_a_profile_tells_where_the_time_goes():
    done = bench("--size", "1M", "--scenario", "64", "--profile")
    assert done.returncode == 0, done.stderr
    assert "Ordered by: internal time" in done.stdout
    assert "64 KiB: " in done.stdout


def test_a_capture_can_be_generated_for_other_tools(tmp_path):
    command = [sys.executable, "-m", "benchmarks.decode.generate", tmp_path / "a.pcapng"]
    options = "--size 1M --segment 1448 --link sll2 --loss 0.1 --resolutions 6 --resolutions 9"
    done = subprocess.run(
        [*map(str, command), *options.split()],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    truth = json.loads((tmp_path / "a.pcapng.truth.json").read_text())
    assert truth["recipe"]["link"] == "sll2"
    assert truth["recipe"]["resolutions"] == [6, 9]
    assert done.stdout == (
        f"{truth['bytes']} bytes, {truth['records']} records, {truth['packets']} packets\n"
    )
