"""Campaigns: with targets of our own, which are wrong in known ways, and with real peers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from multifd_proto.conformance.script import load_script
from multifd_proto.fuzz.begin import NO_CORPUS, CorpusError, Wanted, begin, target_of
from multifd_proto.fuzz.campaign import Campaign, Plan
from multifd_proto.fuzz.feedback import Feedback
from multifd_proto.fuzz.link import Journal
from multifd_proto.fuzz.store import DirectoryStore
from multifd_proto.fuzz.tally import Tally, flaky, in_reach, worth_another_try
from multifd_proto.fuzz.target import Result

PLANTED = "multifd_proto.tests.fuzz_targets:Planted"
FACTS = {"peer": "planted", "product": "planted", "version": "1", "dialect": "10.0"}
SUM = "crashes PKT-25 signal SIGSEGV"


def plan(*faults: str, seconds: float = 20.0, target: str = PLANTED, **options: Any) -> Plan:
    delay = options.pop("delay", 0.0)
    arguments = {"faults": faults, "delay": delay} if target == PLANTED else {}
    return Plan("receiver", target, arguments, seconds, seed=1, facts=FACTS, **options)


def run(given: Plan, folder: Path, *until: str) -> Tally:
    """Run a campaign until it is over, or has settled findings whose signatures begin so."""
    with Campaign(given, DirectoryStore(folder)) as campaign:

        def watch(tally: Tally) -> None:
            done = [
                name
                for name, data in tally.findings.items()
                if data["finding"]["confirmed"][1] or "worker" in name
            ]
            if until and all(any(name.startswith(one) for name in done) for one in until):
                raise InterruptedError

        with suppress(InterruptedError):
            campaign.run(watch)
    return campaign.tally


def processes_of(parent: int) -> list[int]:
    """Return the processes that descend from one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            child = int(path.parent.name)
            found += [child, *processes_of(child)]
    return found


def test_a_finding_is_kept_confirmed_and_made_small(tmp_path):
    run(plan("sum"), tmp_path, SUM)
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    assert sum(data["numbers"]) == 601
    finding = data["finding"]
    assert finding["signature"] == SUM
    assert finding["confirmed"] == [3, 3]
    assert finding["minimised"] is True
    assert finding["found"]["executions"] > 0
    assert {key: finding[key] for key in FACTS} == FACTS


def test_the_same_finding_is_kept_once_whoever_finds_it(tmp_path):
    tally = run(plan("sum", seconds=4.0, workers=3), tmp_path)
    assert list(tally.findings) == [SUM]
    assert tally.seen[SUM] > 1
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_an_input_that_is_drawn_again_is_not_run_again(tmp_path):
    tally = run(plan(seconds=3.0, database=str(tmp_path / "hypothesis")), tmp_path)
    assert tally.skipped > 0
    assert list(tmp_path.glob("hypothesis/*"))


def test_what_does_not_show_again_is_kept_and_does_not_count(tmp_path):
    tally = run(plan("fluke", seconds=3.0), tmp_path)
    assert flaky(tally.findings["hangs INIT-9"])
    # it was met again, and tried again, but not for ever
    good, tried = tally.findings["hangs INIT-9"]["finding"]["confirmed"]
    assert good == 0
    assert 3 < tried <= 21
    assert tally.counted() == {}
    assert tally.fresh() == {}


def test_a_crash_counts_also_if_it_does_not_show_again():
    data = {"finding": {"kind": "crashes", "requirement": "SYNC-14", "confirmed": [0, 10]}}
    tally = Tally(1.0, findings={"crashes SYNC-14 signal SIGSEGV": data})
    assert tally.counted() == tally.findings
    assert worth_another_try(data, 0)


def test_what_kills_its_worker_is_a_finding_and_the_campaign_goes_on(tmp_path):
    tally = run(plan("dies", "sum"), tmp_path, "kills-the-worker", SUM)
    (signature,) = (name for name in tally.findings if name.startswith("kills"))
    assert signature == "kills-the-worker signal SIGKILL"
    assert 7 in tally.findings[signature]["numbers"]
    assert tally.deaths >= 1


def test_what_does_not_come_back_is_a_finding_and_the_campaign_goes_on(tmp_path):
    tally = run(plan("hangs", stall=1.0), tmp_path, "stalls-the-worker")
    (data,) = tally.findings.values()
    assert data["finding"]["signature"] == "stalls-the-worker no answer for 1 s"
    assert 7 in data["numbers"]


def test_what_our_own_code_raises_is_a_finding_and_made_small(tmp_path):
    signature = "fuzzer-fails ZeroDivisionError fuzz_targets.py:run"
    tally = run(plan("raises"), tmp_path, signature)
    assert tally.findings[signature]["numbers"] == [7]
    observed = "the fuzzer itself failed: ZeroDivisionError: seven"
    assert tally.findings[signature]["finding"]["observed"] == observed


def test_a_peer_that_is_gone_ends_the_campaign(tmp_path):
    tally = run(plan("unusable"), tmp_path)
    assert tally.unusable == "planted: the peer is gone"
    assert tally.elapsed < 15


def test_workers_that_die_at_once_end_the_campaign(tmp_path):
    tally = run(plan(target="multifd_proto.tests.fuzz_targets:broken"), tmp_path)
    assert tally.unusable.startswith("workers die before they have run anything: exit status 3")
    assert tally.deaths == 3


def test_a_campaign_ends_with_its_budget(tmp_path):
    tally = run(plan(seconds=2.0, delay=0.01), tmp_path)
    assert 2.0 <= tally.elapsed < 4.0
    assert tally.executions > 20
    assert tally.requirements().keys() == {"INIT-9", "PKT-25"}


def test_the_same_folder_knows_its_findings(tmp_path):
    run(plan("sum"), tmp_path, SUM)
    tally = run(plan("sum", seconds=2.0), tmp_path)
    assert tally.before == {SUM}
    assert tally.seen[SUM] > 0
    assert tally.fresh().keys() == {SUM}
    # what is not there any more is no news
    assert run(plan(seconds=1.0), tmp_path).fresh() == {}


def test_what_was_left_unconfirmed_is_confirmed_first(tmp_path):
    store = DirectoryStore(tmp_path)
    finding = {"kind": "crashes", "requirement": "PKT-25", "confirmed": [0, 0]}
    store.add(SUM, {"numbers": [255, 255, 100], "finding": finding})
    tally = run(plan("sum"), tmp_path, SUM)
    assert tally.findings[SUM]["finding"]["confirmed"] == [3, 3]
    assert sum(tally.findings[SUM]["numbers"]) == 601


def test_the_corpus_is_run_first(tmp_path):
    corpus = [{"numbers": [200, 200, 201]}]
    tally = run(plan("sum", corpus=corpus), tmp_path, SUM)
    assert tally.findings[SUM]["finding"]["found"]["executions"] == 1


def test_a_campaign_that_is_killed_leaves_no_process(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from multifd_proto.tests.test_fuzz_campaign import plan, run\n"
        f"run(plan(delay=0.01, workers=2), Path({str(tmp_path)!r}))\n"
    )
    campaign = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 20
        while len(workers := processes_of(campaign.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        campaign.send_signal(signal.SIGKILL)
        campaign.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_journal_survives_its_writer():
    journal = Journal()
    try:
        code = (
            "from multifd_proto.fuzz.link import Journal\n"
            f"""Journal({journal.file}).write('{{"é": 1}}')"""
        )
        subprocess.run([sys.executable, "-c", code], pass_fds=[journal.file], check=True)
        assert journal.read() == '{"é": 1}'
        journal.write("")
        assert journal.read() == ""
    finally:
        journal.close()


def test_feedback_calls_rare_what_nobody_has_reached():
    feedback = Feedback({"PKT-25": 9})
    assert feedback.novelty({"PKT-25", "INIT-9"}) == 1.0
    assert feedback.take({"PKT-25", "INIT-9"})
    assert not feedback.take({"PKT-25", "INIT-9"})
    assert feedback.news() == {"PKT-25": 2, "INIT-9": 2}
    assert feedback.news() == {}
    assert feedback.novelty({"PKT-25"}) == 0.1
    result = Result(reached=frozenset({"PKT-25"}), scores={"depth": 4.0})
    assert feedback.scores(result) == {"depth": 4.0, "novelty": 0.1}


def test_what_can_be_reached_depends_on_role_and_dialect():
    assert set(in_reach("sender", "10.0")) < set(in_reach("receiver", "10.0"))
    assert set(in_reach("receiver", "5.2")) != set(in_reach("receiver", "10.0"))


def test_a_corpus_that_is_not_there_is_told(tmp_path):
    wanted = Wanted("receiver", "builtin:", 1.0, 1, 1, tmp_path / "found", corpus=str(tmp_path))
    with closing(target_of(wanted)) as target, pytest.raises(CorpusError) as caught:
        begin(wanted, target)
    text = f"corpus {tmp_path}: holds no input for a receiver, must be *.json"
    assert str(caught.value) == text


def test_the_shipped_corpus_shows_a_miniature_that_takes_too_many_pages(tmp_path):
    wanted = Wanted("receiver", "builtin:?broken=PKT-25", 60.0, 2, 1, tmp_path)
    tally = fuzz(wanted, "PKT-25")
    assert 0 < tally.executions <= 2 * len(shipped())


@pytest.mark.qemu
def test_real_qemu_does_something_that_it_must_not(qemu, tmp_path):
    uri = f"qemu:{qemu('10.0')}"
    fuzz(Wanted("receiver", uri, 120.0, 4, 5, tmp_path, corpus=NO_CORPUS), "")
    (path, *_) = tmp_path.glob("*.json")
    text = path.read_text()
    assert load_script(text).steps
    said = json.loads(text)["finding"]
    assert (said["peer"], said["product"], said["dialect"]) == (uri, "QEMU", "10.0")


def shipped() -> list[Path]:
    return list((Path(str(files("multifd_proto.fuzz"))) / "corpus").glob("*.json"))


def fuzz(wanted: Wanted, until: str) -> Tally:
    """Fuzz a peer until there is a finding with some words in its signature."""
    with closing(target_of(wanted)) as target, begin(wanted, target) as campaign:

        def watch(tally: Tally) -> None:
            if any(until in name for name in tally.findings):
                raise InterruptedError

        with pytest.raises(InterruptedError):
            campaign.run(watch)
    return campaign.tally
