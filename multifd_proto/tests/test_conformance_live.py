"""What the suite reports of real QEMU by itself: the right things, on the right releases alone."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files

import pytest

from multifd_proto.conformance.catalogue import asks, receiver_cases
from multifd_proto.conformance.cross import cross
from multifd_proto.conformance.deviations_file import load_deviations
from multifd_proto.conformance.run import Run, Settings
from multifd_proto.wire.requirements import Role

RELEASES = ("5.2", "7.2", "10.0", "11.1")
ACCEPTS, CRASHES, HANGS = "accepts-bad", "crashes", "hangs"
WEAK = "passed, weakly"
KNOWN: dict[str, tuple[str, str, str, str]] = {
    # half an init, and silence: the monitor does not answer, nobody else is let in
    "CHAN-7/half-an-init": (HANGS, HANGS, HANGS, HANGS),
    # a rejection in mid-session wedges the main thread
    "CHAN-13/mark-then-fault": (HANGS, HANGS, HANGS, HANGS),
    "CHAN-13/fault-then-mark": (HANGS, HANGS, HANGS, HANGS),
    "SYNC-13/end-then-mark": (HANGS, HANGS, HANGS, HANGS),
    # a page before the first SYNC
    "SYNC-14/page": ("", "", CRASHES, CRASHES),
    "SYNC-14/full-packet": ("", "", CRASHES, CRASHES),
    # offsets that are not looked at
    "PKT-31/unaligned-1": (ACCEPTS, ACCEPTS, ACCEPTS, ACCEPTS),
    "PKT-31/twice": (ACCEPTS, ACCEPTS, ACCEPTS, ACCEPTS),
    # what nothing is demanded of is reported: pages_alloc in 5.2, a method bit without pages
    "PKT-25/alloc-one-more": ("reported: accepted", "", "", ""),
    "PAY-12/without-pages": ("reported: accepted",) * 4,
}
"""Case -> by release: how it fails without the list of deviations; empty where it passes."""


@pytest.fixture(scope="module")
def without():
    run = Run(Settings())
    yield run
    run.close()


@pytest.fixture(scope="module")
def excused():
    run = Run(Settings(deviations=load_deviations(None)))
    yield run
    run.close()


@pytest.mark.qemu
@pytest.mark.parametrize("case", KNOWN)
@pytest.mark.parametrize("release", RELEASES)
def test_what_qemu_does_is_reported(case, release, qemu, without):
    qemu(release)
    row = without.judge(f"qemu:{release}", asks(Role.RECEIVER)[case])
    said = row["failure"] or row["verdict"]
    if said == "reported":
        said = f"reported: {row['observed'].split()[0]}"
    assert said == (KNOWN[case][RELEASES.index(release)] or "passed")


@pytest.mark.qemu
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_an_id_that_equals_the_number_of_channels(count, qemu, without):
    # what follows a write behind the end of an array is up to the heap: never all is well
    for release in RELEASES:
        qemu(release)
        row = without.judge(
            f"qemu:{release}", asks(Role.RECEIVER)[f"INIT-12/id-equals-channels-{count}"]
        )
        assert (row["failure"] or row["verdict"]) in (
            ("passed",) if release == "11.1" else (CRASHES, HANGS, ACCEPTS, "passed", WEAK)
        )


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
def test_the_list_of_deviations_excuses_it(release, qemu, excused):
    qemu(release)
    for case in ("PKT-31/twice", "CHAN-13/fault-then-mark"):
        row = excused.judge(f"qemu:{release}", asks(Role.RECEIVER)[case])
        assert row["verdict"] == "known deviation"
        assert row["deviation"]["reason"]
        assert row["deviation"]["link"].startswith("https://")


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
def test_a_garbled_reason_is_known(release, qemu, excused):
    qemu(release)
    row = excused.judge(f"qemu:{release}", asks(Role.RECEIVER)["INIT-12/id-above-channels"])
    garbled = release in ("5.2", "7.2")
    assert row["verdict"] == ("known deviation" if garbled else "passed")
    assert ("received channel version 1 expected 1" in str(row["reason"])) is garbled


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("option", "status"), [("--strict", 0), ("--no-deviations", 1)])
def test_a_run_is_green_with_the_list_and_red_without(release, option, status, qemu):
    qemu(release)
    command = [
        sys.executable, "-c", "from multifd_proto.cli import main; main()", "conformance",
        "receiver", f"qemu:{release}", "--case", "PKT-31/*", option,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stdout + done.stderr


@pytest.mark.qemu
def test_each_release_loads_the_session_of_each_release(qemu):
    for release in RELEASES:
        qemu(release)
    pairs = list(cross(RELEASES, ["none", "zlib"]))
    assert len(pairs) == 32
    assert [pair for pair in pairs if not pair.equal] == []


OPEN = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (files("multifd_proto.spec") / "unspecified.md").read_text().splitlines()
    if re.match(r"\| [A-Z]+-\d+/", line)
]
"""Rows of the table of what is left open."""


def test_what_is_left_open_is_what_is_reported():
    cases = [case for case in receiver_cases().values() if case.reported]
    assert [row[:3] for row in OPEN] == [[case.id, case.says, case.reported] for case in cases]


@pytest.mark.qemu
@pytest.mark.parametrize(
    "row", [row for row in OPEN if "chance" not in row], ids=lambda row: row[0]
)
def test_what_is_left_open_is_as_told(row, qemu, without):
    ask = asks(Role.RECEIVER)[row[0]]
    found = []
    for uri in ("builtin:", *(f"qemu:{release}" for release in RELEASES)):
        if uri != "builtin:":
            qemu(uri.removeprefix("qemu:"))
        told = without.judge(uri, ask)
        reacted = told["observed"].split()[0].rstrip(":")
        found.append("-" if told["verdict"] == "not applicable" else reacted)
    assert found == row[3:]
