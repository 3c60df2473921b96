"""The judge in a process of its own says what a checker on the spot would say."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers import judging
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.populate import Populate, Populator
from multifd_proto.tests.mainstreams import REAL
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

SYNC = MultiFDPacket(flags=1, offset=(0,) * 128).build()


def page(number, offset):
    return MultiFDPacket(
        pages_alloc=128, normal_pages=1, next_packet_size=4096, packet_num=number,
        ramblock=b"ram0".ljust(256, b"\0"), offset=(offset,) + (0,) * 127,
    ).build()  # fmt: skip


@pytest.fixture
def judge():
    with JudgingProcess(MigrationParameters(channels=1)) as judge:
        yield judge


def alive(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


def test_what_it_is_fed_is_judged(judge):
    judge.open(0)
    judge.feed(0, REAL["10.0"])
    judge.open(1)
    judge.feed(1, MultiFDInit().build() + SYNC + page(1, 0))
    judge.skip(1, 4096)
    judge.feed(1, page(2, 1))
    judge.skip(1, 4096)
    judge.feed(1, SYNC)
    for number in (0, 1):
        judge.returned(number, 0)
        judge.end(number)
    report, migration = judge.conclude()
    failed = {str(found) for result in report.of(Verdict.FAILED) for found in result.violations}
    place = 64 + 2 * 1344 + 4096
    assert f"channel 0 @{place:#x} PKT-14: offset is 0x1, must be a multiple of 0x1000" in failed
    assert migration.streams[1].packets == 4
    assert "CHAN-2" in {result.requirement.id for result in report.of(Verdict.PASSED)}


def test_it_falls_behind_no_further_than_it_may(judge):
    packets = 2000
    judge.open(0)
    judge.feed(0, MultiFDInit().build() + SYNC)
    for number in range(packets):
        judge.feed(0, page(number, 0))
        judge.skip(0, 4096)
    assert len(judge._batches[0]) <= judging._BATCH + 2 * 1344
    _, migration = judge.conclude()
    assert migration.streams[0].packets == packets + 1


def test_a_judge_that_was_killed_is_told_of(judge):
    judge.open(0)
    judge._child.kill()
    judge.feed(0, bytes(1 << 20))
    judge.end(0)
    with pytest.raises(PeerError, match="the judge has ended with status -9"):
        judge.conclude()


def test_it_does_not_outlive_its_parent():
    code = (
        "import time; from multifd_proto.peers.judging import JudgingProcess;"
        "from multifd_proto.machine.parameters import MigrationParameters;"
        "judge = JudgingProcess(MigrationParameters()); print(judge._child.pid, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupt_of_the_terminal_is_not_for_the_judge(judge):
    assert os.getsid(judge._child.pid) == judge._child.pid


def test_memory_is_made_ready_as_far_as_the_system_can():
    with mmap.mmap(-1, 1 << 20) as memory:
        populate = Populator(memory, Populate.WRITE)
        populate(0, 1 << 20)
        populate(1, 5)  # refused by the system: nothing happens
        assert not any(memory[:])
