"""`multifd fuzz`: what it takes, what it says, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from multifd_proto.cli.fuzz import DurationType, command
from multifd_proto.cli.fuzz_report import Watch
from multifd_proto.errors import MultiFDError
from multifd_proto.fuzz.campaign import Plan
from multifd_proto.fuzz.tally import Tally
from multifd_proto.tests.test_fuzz_campaign import processes_of

FOUND = {
    "kind": "wedges",
    "requirement": "CHAN-7",
    "observed": "hung",
    "detail": "",
    "confirmed": [0, 0],
    "found": {"seconds": 1.5, "executions": 22, "seed": 1, "worker": 0},
    "minimised": False,
}


def fuzz(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from multifd_proto.cli import main; main()", "fuzz", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5s", 0.5)]
)
def test_a_budget_is_a_time(text, seconds):
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "ten", "10x", "-5s", "1h 30"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no time, must be such as 90s, 10m or 1h30m"):
        DurationType().convert(text, None, None)


def test_two_peers_are_for_receivers():
    done = CliRunner().invoke(command, ["sender", "qemu-src:10.0", "--against", "builtin:"])
    assert done.exit_code == 2
    assert "--against is for receivers" in done.output


def test_a_malformed_peer_is_wrong_usage(tmp_path):
    done = CliRunner().invoke(command, ["receiver", "qemux:10", "--findings", str(tmp_path)])
    assert isinstance(done.exception, MultiFDError)
    assert "qemux:10" in str(done.exception)


def test_a_peer_that_cannot_be_used_is_status_3(tmp_path):
    done = CliRunner().invoke(command, ["receiver", "qemu:/nowhere", "--findings", str(tmp_path)])
    assert done.exit_code == 3
    assert "no QEMU '/nowhere'" in done.output


def test_a_receiver_that_is_right_has_no_findings(tmp_path):
    done = CliRunner().invoke(
        command,
        ["receiver", "builtin:", "--budget", "3s", "--workers", "2", "--corpus", "none",
         "--seed", "7", "--findings", str(tmp_path), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["findings"] == []
    assert data["exit"] == 0
    assert (data["role"], data["peer"], data["seed"]) == ("receiver", "builtin:", 7)
    assert data["executions"] > 0
    assert all(row["kept"] == row["reached"] for row in data["requirements"])
    assert done.stderr.startswith(f"seed 7, findings in {tmp_path}\n")


def test_an_interrupt_ends_it_at_once_and_leaves_nothing(tmp_path):
    words = ("receiver", "builtin:", "--workers", "2", "--findings", str(tmp_path))
    with fuzz(*words, "--corpus", "none", "--budget", "60s") as process:
        deadline = time.monotonic() + 20
        while len(workers := processes_of(process.pid)) < 2 or not list(tmp_path.glob("hypo*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "no findings" in out
    assert "Traceback" not in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_news_are_lines_where_there_is_no_terminal(capsys):
    plan = Plan("receiver", "", {}, 60.0, facts={"dialect": "10.0"})
    tally = Tally(60.0, findings={"wedges CHAN-7": {"finding": FOUND}})
    with Watch(plan) as watch:
        watch.see(tally)
        settled = FOUND | {"confirmed": [3, 3], "minimised": True}
        tally.findings["wedges CHAN-7"] = {"finding": settled}
        watch.see(tally)
        watch.see(tally)
    lines = [line.partition(" s  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "wedges CHAN-7: found after 22 executions",
        "wedges CHAN-7: confirmed 3 of 3, minimised",
    ]


def test_a_terminal_shows_how_it_goes():
    plan = Plan("receiver", "", {}, 60.0, facts={"dialect": "10.0"})
    tally = Tally(60.0, executions=1234, findings={"wedges CHAN-7": {"finding": FOUND}})
    tally.reached.update({"CHAN-7": 3, "multifd_recv": 9})
    file = StringIO()
    Console(file=file, width=120).print(Watch(plan).screen(tally))
    shown = file.getvalue()
    assert "left, 1234 executions" in shown
    assert "1 of 111 requirements, 1 finding\n" in shown
    assert "wedges CHAN-7" in shown
    assert "1.5 s" in shown


def test_a_receiver_that_is_wrong_is_status_1(tmp_path):
    done = CliRunner().invoke(
        command,
        ["receiver", "builtin:?broken=PKT-25", "--budget", "4s", "--workers", "3",
         "--findings", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    assert "accepts-bad PKT-25" in done.stdout
    assert f"files in {tmp_path}; tell the product's maintainers first" in done.stdout
