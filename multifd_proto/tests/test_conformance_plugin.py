from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from multifd_proto.conformance.catalogue import asks, receiver_cases
from multifd_proto.conformance.deviations import Deviations
from multifd_proto.conformance.ledger import HARNESS, NOTHING, UNEXPECTED, Ledger
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.receiver_bench import ReceiverBench
from multifd_proto.conformance.result import Evidence, Patience, Result
from multifd_proto.conformance.rows import row_of, story, unexpected
from multifd_proto.conformance.run import Run, Settings
from multifd_proto.conformance.sets import RequirementSet
from multifd_proto.conformance.verdict import Judgement, Verdict
from multifd_proto.errors import PeerError
from multifd_proto.wire.requirements import Role

INIT_9 = "--multifd-case=INIT-9/*"
BROKEN = "--multifd-target=builtin:?broken=INIT-9"
KNOWN = '[[miniature]]\ncase = "INIT-9/*"\nexpect = ["accepts-bad"]\nreason = "it is broken"\n'


PYTEST = [sys.executable, "-m", "pytest", "-p", "multifd_proto.conformance.plugin", "-p", "xdist"]
ALONE = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.fixture
def suite(tmp_path):
    """Run the installed suite as another project does, from a folder of its own."""

    def run(*options, package="multifd_proto.conformance.receiver"):
        return subprocess.run(
            [*PYTEST, "--pyargs", package, "-q", *options],
            cwd=tmp_path, env=ALONE, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def journal(path: Path):
    header, *rows, footer = map(json.loads, path.read_text().splitlines())
    return header, rows, footer


def test_a_peer_that_conforms_passes(suite, tmp_path):
    done = suite("--multifd-target=builtin:", INIT_9, "--multifd-report=run.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    header, rows, footer = journal(tmp_path / "run.jsonl")
    assert header["cases"] == [row["case"] for row in rows]
    assert (header["role"], header["set"]) == ("receiver", "2026.1")
    assert header["peers"][0]["uri"] == "builtin:"
    assert {row["verdict"] for row in rows} == {"passed"}
    assert (footer["counts"], footer["exit"]) == ({"builtin:": {"passed": 4}}, 0)
    assert footer["stale"] == []


def test_a_failure_tells_all_that_is_needed(suite, tmp_path):
    done = suite(BROKEN, "--multifd-case=INIT-9/zero", "--multifd-report=run.xml")
    assert done.returncode == 1
    for line in (
        "INIT-9/zero: failed (accepts-bad)",
        "requirement  INIT-9 (MUST, spec/03-init.md#init-9-refuse-a-wrong-magic)",
        "case         an init with the magic 0x00000000",
        "expected     is refused, and nothing of it is written to memory",
        "observed     accepted after",
        "sent     init of channel 1, magic 0, 64 bytes",
        "00000000000000016ba7b8109dad11d180b400c04fd430c801",
        "replay       multifd replay INIT-9/zero 'builtin:?broken=INIT-9'",
    ):
        assert line in done.stdout
    (case,) = ET.parse(tmp_path / "run.xml").iter("testcase")
    properties = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert properties["verdict"] == "failed"
    assert properties["failure"] == "accepts-bad"
    assert properties["requirement"] == "INIT-9"


def test_workers_send_their_rows(suite, tmp_path):
    options = ("--multifd-requirement=INIT-*", "--multifd-report=run.jsonl", "-n2")
    done = suite("--multifd-target=builtin:", *options)
    assert done.returncode == 0, done.stdout
    header, rows, footer = journal(tmp_path / "run.jsonl")
    assert sorted(row["case"] for row in rows) == sorted(header["cases"])
    assert len(rows) > 20
    assert footer["exit"] == 0


def test_the_report_is_there_while_it_runs(tmp_path):
    report = tmp_path / "run.jsonl"
    running = subprocess.Popen(
        [*PYTEST, "--pyargs", "multifd_proto.conformance.receiver", f"--multifd-report={report}"],
        cwd=tmp_path, env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with running:
        deadline = time.monotonic() + 60
        while not report.exists() or report.read_text().count("\n") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        try:
            running.communicate(timeout=60)
        finally:
            running.kill()
    kinds = [json.loads(line)["type"] for line in report.read_text().splitlines()]
    assert kinds[:5] == ["run", "case", "case", "case", "case"]
    assert "end" not in kinds


def test_a_known_deviation_is_expected_and_counted(suite, tmp_path):
    (tmp_path / "known.toml").write_text(KNOWN)
    done = suite(BROKEN, INIT_9, "--multifd-deviations=known.toml")
    assert done.returncode == 0, done.stdout
    assert "4 xfailed" in done.stdout
    assert (
        "   4 excused by known.toml: [[miniature]] entry 1 (INIT-9/*): it is broken" in done.stdout
    )
    assert suite(BROKEN, INIT_9, "--multifd-no-deviations").returncode == 1


STALE = KNOWN.replace("accepts-bad", "crashes").replace("INIT-9", "INIT-10")


def test_a_stale_deviation_fails_the_run(suite, tmp_path):
    (tmp_path / "known.toml").write_text(STALE)
    known = "--multifd-deviations=known.toml"
    done = suite(BROKEN, "--multifd-case=INIT-10/*", known)
    assert done.returncode == 1
    assert (
        "stale: known.toml: [[miniature]] entry 1 (INIT-10/*): no case of it fails any more on "
        "builtin:?broken=INIT-9"
    ) in done.stdout
    # what was not run may still fail
    assert suite(BROKEN, "--multifd-case=INIT-10/two", known).returncode == 0
    (tmp_path / "known.toml").write_text(STALE + "flaky = true\n")
    assert suite(BROKEN, "--multifd-case=INIT-10/*", known).returncode == 0


def test_entries_that_would_make_the_run_green_are_written(suite, tmp_path):
    options = (INIT_9, "--multifd-no-deviations", "--multifd-deviations-update=new.toml")
    assert suite(BROKEN, *options).returncode == 1
    text = (tmp_path / "new.toml").read_text()
    assert text.count("[[miniature]]") == 4
    (tmp_path / "known.toml").write_text(text.replace("TODO", "it is broken"))
    assert suite(BROKEN, INIT_9, "--multifd-deviations=known.toml").returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--multifd-target=ftp:x"], "peer 'ftp:x': scheme is 'ftp', must be one of "),
        (["--multifd-target=builtin:?broken=X"], "peer 'builtin:?broken=X': broken is 'X', must"),
        (["--multifd-set=1"], "set is '1', must be one of 2026.1, latest"),
        (["--multifd-deviations=absent"], "absent: No such file or directory"),
        (["--multifd-repeat=0"], "argument --multifd-repeat: '0' must be a number above 0"),
        (["--multifd-report=x.pdf"], "report x.pdf: must end in .jsonl, .md, .html, .xml"),
    ],
)
def test_wrong_options_are_refused(suite, options, message):
    done = suite(*options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_several_peers_have_tests_of_their_own(suite):
    done = suite("--multifd-target=builtin:", BROKEN, "--multifd-case=INIT-9/zero", "-vv")
    assert "test_init[INIT-9/zero@builtin:] PASSED" in done.stdout
    assert "test_init[INIT-9/zero@builtin:?broken=INIT-9] FAILED" in done.stdout


def test_a_selection_without_cases_exercises_nothing(suite):
    done = suite("--multifd-target=builtin:", "--multifd-case=NONE-1/*")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_peer_that_is_named_is_all_that_is_tested(suite):
    options = ("--collect-only", "--multifd-case=CHAN-1/plain")
    whole = "multifd_proto.conformance"
    done = suite("--multifd-target=builtin:", *options, package=whole)
    assert re.findall(r"::\S+", done.stdout) == ["::test_connections[CHAN-1/plain]"]
    assert "::test_the_matrix_has_no_holes" in suite(*options, package=whole).stdout


def test_other_projects_notice_nothing(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_nothing_is_imported():\n"
        "    ours = {name for name in sys.modules if name.startswith('multifd_proto')}\n"
        "    assert ours <= {'multifd_proto', 'multifd_proto.conformance',\n"
        "                    'multifd_proto.conformance.plugin',\n"
        "                    'multifd_proto.conformance.options'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "multifd" not in done.stdout


def test_a_sender_is_judged_by_all_requirements_of_a_scenario(suite):
    package = "multifd_proto.conformance.sender"
    options = ("--multifd-target=builtin:?broken=INIT-1", "--multifd-case=INIT-*/plain")
    done = suite(*options, package=package)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "INIT-1/plain: failed (wrong-bytes)" in done.stdout
    again = "multifd conformance sender 'builtin:?broken=INIT-1' --case INIT-1/plain"
    assert f"replay       {again}\n" in done.stdout


# ---- without pytest ----------------------------------------------------------------------------


def ledger(*rows, deviations=None, **how):
    account = Ledger(deviations or Deviations(), [], strict=False, inconclusive="fail", **how)
    for row in rows:
        account.add(row)
    return account


@pytest.fixture
def runs():
    opened = []

    def make(**settings):
        opened.append(Run(Settings(**settings)))
        return opened[-1]

    yield make
    for run in opened:
        run.close()


ZERO = asks(Role.RECEIVER)["INIT-9/zero"]


def test_what_is_not_in_the_set_fails_no_run(runs):
    run = runs(counted=RequirementSet("none", frozenset()))
    row = run.judge("builtin:?broken=INIT-9", ZERO)
    assert (row["verdict"], row["scored"]) == ("failed", False)
    assert not unexpected(row, strict=True, inconclusive="fail")
    assert ledger(row).exit_code([]) == 0


def test_a_peer_that_cannot_be_used_is_given_up(runs):
    run = runs(patience=Patience(max_dead=2))
    rows = [run.judge("tcp:127.0.0.1:1", ZERO) for _ in range(3)]
    assert {row["verdict"] for row in rows} == {"harness error"}
    assert rows[0]["observed"].startswith("not even a valid migration can be played: step 0: ")
    assert rows[2]["observed"] == "given up: 2 times in a row it could not be used"
    assert ledger(*rows).exit_code([]) == HARNESS


def test_a_refusal_says_nothing_of_a_receiver_that_refuses_all(runs):
    # a machine of another size: not even the valid migration is taken
    peer = parse_receiver("builtin:")

    class Stubborn:
        uri = "stubborn:"

        def describe(self):
            return peer.describe()

        def receive(self, setup):
            return peer.receive(replace(setup, uuid=bytes(16)))

        def close(self):
            peer.close()

    bench = ReceiverBench(Stubborn(), Patience())
    result = bench.judge(ZERO)
    assert result.judgement.verdict is Verdict.INCONCLUSIVE
    text = result.judgement.text  # in which words depends on whether it is seen before it is asked
    assert text.startswith("a valid migration fails: rejected"), text
    assert "INIT-11: uuid is" in text
    good = next(c for c in receiver_cases().values() if c.expect.name == "ACCEPTS")
    assert bench.judge(asks(Role.RECEIVER)[good.id]).judgement.verdict is Verdict.FAILED
    bench.close()


def test_nothing_exercised_is_no_success(runs):
    row = runs().judge("builtin:?dialect=7.2", asks(Role.RECEIVER)["DEV-5/ram"])
    assert row["verdict"] in ("not applicable", "reported")
    assert ledger(row | {"verdict": "not applicable"}).exit_code([]) == NOTHING
    assert ledger(row | {"verdict": "failed"}, row).exit_code([]) == UNEXPECTED


def test_inconclusive_and_weak_fail_as_asked(runs):
    row = runs().judge("builtin:", ZERO)
    for verdict, strict, inconclusive, fails in (
        ("inconclusive", False, "fail", True),
        ("inconclusive", True, "skip", False),
        ("passed, weakly", False, "fail", False),
        ("passed, weakly", True, "fail", True),
    ):
        seen = row | {"verdict": verdict}
        assert unexpected(seen, strict=strict, inconclusive=inconclusive) is fails


def test_what_a_peer_says_obeys_no_terminal():
    said = "\x1b[31mred"
    result = Result(Judgement(Verdict.FAILED, said), Evidence(reason=(said,), log=f"{said}\n"))
    row = row_of(ZERO, "x:", None, result, deviation=None, scored=True, seconds=0.1)
    assert row["observed"] == row["reason"][0] == "\N{REPLACEMENT CHARACTER}[31mred"
    assert "\x1b" not in story(row)


def test_a_capture_is_written_of_what_failed(runs, tmp_path):
    run = runs(pcap="failed", artifacts=tmp_path / "artifacts")
    row = run.judge("builtin:?broken=INIT-9", ZERO)
    path = Path(row["pcap"])
    assert path.parent == tmp_path / "artifacts"
    assert path.name == "INIT-9-zero-builtin-broken-INIT-9.pcapng"
    assert path.read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert run.judge("builtin:", ZERO)["pcap"] is None


def test_an_unusable_uri_is_a_harness_error(runs):
    row = runs().judge("tcp:nowhere", ZERO)
    assert row["verdict"] == "harness error"
    with pytest.raises(PeerError):
        parse_receiver("tcp:nowhere")


def test_a_worker_that_is_killed_leaves_a_row(suite, tmp_path, monkeypatch):
    monkeypatch.setitem(ALONE, "PYTHONPATH", str(tmp_path))
    (tmp_path / "killer.py").write_text(
        "import os, pytest\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_runtest_setup(item):\n"
        "    if 'INIT-9/plus-one' in item.nodeid:\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    done = suite("-n2", "-p", "killer", INIT_9, "--multifd-report=run.jsonl")
    assert done.returncode == 1
    _, rows, footer = journal(tmp_path / "run.jsonl")
    verdicts = {row["case"]: row["verdict"] for row in rows}
    assert len(verdicts) == 4
    assert verdicts["INIT-9/plus-one"] == "harness error"
    assert footer["exit"] == HARNESS
