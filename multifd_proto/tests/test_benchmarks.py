"""The benchmark of migrations runs, and says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "migrate.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not in a checkout")


def bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_what_is_no_size_is_refused():
    done = bench("--size", "5000")
    assert done.returncode == 2
    assert "'5000' is no multiple of 4096 bytes, such as 512M" in done.stderr


def test_a_qemu_that_is_not_there_is_one_line(tmp_path):
    done = bench("--size", "4K", MULTIFD_QEMU_DIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "error: no QEMU 10.0: python -m multifd_proto.peers.debian 10.0"
    )


@pytest.mark.qemu
def test_every_leg_is_measured_as_often_as_asked(qemu, tmp_path):
    qemu("10.0")
    done = bench("--size", "16M", "--channels", 2, "--runs", 2, "--json", tmp_path / "json")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "json").read_text())
    assert (facts["size"], facts["channels"]) == (16 << 20, 2)
    assert facts["legs"]["QEMU -> QEMU"]["ratio"] == 1.0
    for name, leg in facts["legs"].items():
        speeds = [(16 << 20) / (1 << 30) / run["seconds"] for run in leg["runs"]]
        assert len(speeds) == 2
        assert (leg["gib_per_s_min"], leg["gib_per_s_max"]) == (min(speeds), max(speeds))
        assert f"{leg['gib_per_s']:.2f}" in done.stdout
        assert done.stderr.count(f": {name}\n") == 2
