from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from multifd_proto.cli import cli
from multifd_proto.conformance.child import jobs_for

COMMAND = [sys.executable, "-c", "from multifd_proto.cli import main; main()", "conformance"]
BROKEN = "builtin:?broken=INIT-9"


@pytest.fixture
def multifd(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def run(*words):
        done = subprocess.run(
            [*COMMAND, *words], cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert list(temporary.iterdir()) == []
        return done

    return run


def listed(*words):
    result = CliRunner().invoke(cli, ["conformance", "list", *words])
    return result.exit_code, result.output


def test_the_list_shows_each_requirement_with_its_cases():
    code, output = listed("--case", "INIT-9/zero", "--case", "INIT-9/plus-one")
    assert code == 0
    assert output.splitlines() == [
        (
            "INIT-9 (MUST, receiver): A receiver MUST close the channel when `magic` is not "
            "`0x11223344`."
        ),
        "  INIT-9/zero                          an init with the magic 0x00000000",
        "  INIT-9/plus-one                      an init with the magic 0x11223345",
    ]


def test_the_list_is_one_object_a_case():
    _, output = listed("--role", "sender", "--json", "--case", "PKT-3/*")
    rows = [json.loads(line) for line in output.splitlines()]
    assert {row["requirement"] for row in rows} == {"PKT-3"}
    assert "PKT-3/slow-reader" in {row["case"] for row in rows}
    assert set(rows[0]) == {
        "case", "role", "requirement", "level", "dialects", "text", "says", "expected",
    }  # fmt: skip


def test_a_list_of_nothing_says_so():
    assert listed("--case", "NONE-1/*") == (4, "multifd: no case matches\n")


def test_a_run_as_expected_prints_a_table(multifd, tmp_path):
    done = multifd("receiver", "builtin:", "--case", "INIT-9/*", "-j2", "--report", "run.jsonl",
                   "--report", "run.md")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    head, row, total = done.stdout.splitlines()
    assert head.split() == ["peer", "product", "passed"]
    assert row.split()[::3] == ["builtin:", "4"]
    assert total.startswith("4 cases, set 2026.1, ")
    assert (tmp_path / "run.jsonl").read_text().count("\n") == 6
    assert "INIT-9" in (tmp_path / "run.md").read_text()


def test_a_failure_is_printed_whole_and_exits_1(multifd):
    done = multifd("receiver", BROKEN, "--case", "INIT-9/zero", "-j1")
    assert done.returncode == 1
    assert "INIT-9/zero: failed (accepts-bad)\n" in done.stdout
    assert "replay       multifd replay INIT-9/zero 'builtin:?broken=INIT-9'\n" in done.stdout


def test_json_is_one_object(multifd):
    done = multifd("receiver", BROKEN, "builtin:", "--case", "INIT-*/zero", "--json", "-j1")
    data = json.loads(done.stdout)
    assert (done.returncode, data["exit"], data["role"]) == (1, 1, "receiver")
    assert [peer["uri"] for peer in data["peers"]] == [BROKEN, "builtin:"]
    assert data["peers"][0]["counts"]["failed"] == 1
    assert [row["case"] for row in data["failures"]] == ["INIT-9/zero"]
    assert data["stale"] == data["deviations"] == []


def test_known_deviations_are_counted(multifd, tmp_path):
    entry = '[[miniature]]\ncase = "INIT-9/*"\nexpect = ["accepts-bad"]\nreason = "it is broken"\n'
    (tmp_path / "known.toml").write_text(entry)
    words = ("receiver", BROKEN, "--case", "INIT-9/*", "--deviations", "known.toml", "-j1")
    done = multifd(*words)
    assert done.returncode == 0, done.stdout
    assert "   4 known: it is broken\n" in done.stdout
    (tmp_path / "known.toml").write_text(entry.replace("INIT-9", "INIT-10"))
    done = multifd(*words, "--case", "INIT-10/*")
    assert done.returncode == 1
    assert (
        "stale: known.toml: [[miniature]] entry 1 (INIT-10/*): no case of it fails" in done.stdout
    )


def test_a_sender_is_judged(multifd):
    done = multifd("sender", "builtin:", "--case", "INIT-*/plain", "-j1", "--strict")
    assert done.returncode == 0, done.stdout
    assert "8 cases" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["receiver"], "Missing argument 'PEER...'"),
        (["receiver", "ftp:x"], "multifd: peer 'ftp:x': scheme is 'ftp', must be one of builtin:"),
        (["sender", "qemu:10.0"], "scheme is 'qemu', must be one of builtin:, qemu-src:"),
        (["receiver", "builtin:", "--set", "1"], "multifd: set is '1', must be one of 2026.1"),
        (["receiver", "builtin:", "--report", "x.pdf"], "multifd: report x.pdf: must end in"),
        (["receiver", "builtin:", "--deviations", "no"], "multifd: no: No such file or directory"),
    ],
)
def test_wrong_usage_exits_2(multifd, words, message):
    done = multifd(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_that_is_not_there_exits_3(multifd):
    done = multifd("receiver", "tcp:127.0.0.1:1", "--case", "INIT-9/*")
    assert done.returncode == 3
    assert "harness error, 3 cases: not even a valid migration can be played: " in done.stdout
    assert "harness error, 1 cases: given up: 3 times in a row it could not be used" in done.stdout


def test_nothing_to_do_exits_4(multifd):
    done = multifd("receiver", "builtin:", "--case", "NONE-1/*")
    assert (done.returncode, done.stderr) == (4, "multifd: nothing was exercised\n")


def test_the_users_pytest_has_no_say(multifd, tmp_path, monkeypatch):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--more-nonsense")
    assert multifd("receiver", "builtin:", "--case", "INIT-9/zero", "-j1").returncode == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything(tmp_path, how):
    mark = f"multifd-test-{os.getpid()}-{time.monotonic_ns()}"
    temporary = tmp_path / mark
    temporary.mkdir()
    report = tmp_path / "run.jsonl"
    running = subprocess.Popen(
        [*COMMAND, "receiver", "builtin:", "-j2", "--report", str(report)],
        cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with running:
        deadline = time.monotonic() + 60
        while not report.exists() or report.read_text().count("\n") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(processes(mark)) > 2
        running.send_signal(how)
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors.strip()) == (130, "interrupted")
    assert processes(mark) == []
    assert list(temporary.iterdir()) == []


def processes(mark):
    """Return the processes that have a text in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_peer_of_which_there_is_one_is_asked_by_one_process():
    assert jobs_for(["tcp:127.0.0.1:4444", "builtin:"]) == 1
    assert jobs_for(["builtin:"]) == min(4, os.cpu_count() or 1)


@pytest.mark.qemu
def test_a_real_receiver_is_as_is_known(multifd, qemu):
    done = multifd("receiver", f"qemu:{qemu('10.0')}", "--case", "INIT-*", "-j2")
    assert done.returncode == 0, done.stdout
    assert "known: the bound was >" in done.stdout


@pytest.mark.qemu
def test_a_real_sender_is_as_is_known(multifd, qemu):
    done = multifd("sender", f"qemu-src:{qemu('7.2')}", "--case", "*/plain", "-j1")
    assert done.returncode == 0, done.stdout
    assert "known: the packet's buffer is used again without clearing it" in done.stdout
