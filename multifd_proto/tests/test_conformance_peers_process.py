"""Processes of peers: they die with us, by force, and it is told how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multifd_proto.conformance.peers.process import (
    describe_death,
    kill_group,
    reports_crash,
    spawn,
)
from multifd_proto.errors import PeerError
from multifd_proto.peers import mortal


def is_running(pid: int) -> bool:
    """Tell whether a process is there, and no mere zombie that its new parent has not met yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait(ready: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_a_process_has_started_is_killed_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    process = spawn(["sh", "-c", f"sleep 60 & echo $! >{pid}; wait"])
    try:
        wait(lambda: pid.exists() and pid.read_text().endswith("\n"))
    finally:
        kill_group(process)
    assert describe_death(process.returncode) == "signal SIGKILL"
    wait(lambda: not is_running(int(pid.read_text())))


def test_the_pipes_of_a_killed_process_are_closed() -> None:
    process = spawn(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"never read")
    kill_group(process)
    assert process.stdin.closed
    assert process.stdout.closed


def test_a_process_dies_with_the_one_that_started_it(tmp_path: Path) -> None:
    if not mortal.tied(["true"])[0].endswith("setpriv"):
        pytest.skip("no setpriv that ties a process to its parent")
    text = (
        "import time; from multifd_proto.conformance.peers.process import spawn;"
        "print(spawn(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        os.kill(parent.pid, signal.SIGKILL)
    wait(lambda: not is_running(pid), 2.0)


def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as caught:
        spawn([f"{tmp_path}/vmm", "--now"])
    assert str(caught.value) == f"{tmp_path}/vmm cannot be run: No such file or directory"


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vmm").touch(0o644)
    with pytest.raises(PeerError) as caught:
        spawn([f"{tmp_path}/vmm"])
    assert str(caught.value) == f"{tmp_path}/vmm cannot be run: Permission denied"


def test_without_setpriv_a_command_is_run_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mortal, "_TIED", ("no-setpriv-here", "--pdeathsig", "KILL"))
    mortal._can_tie.cache_clear()
    try:
        assert mortal.tied(["true", "1"]) == ["true", "1"]
    finally:
        mortal._can_tie.cache_clear()


@pytest.mark.parametrize(
    ("returncode", "said"),
    [(0, "exit status 0"), (139, "exit status 139"), (-11, "signal SIGSEGV"), (-99, "signal 99")],
)
def test_the_end_of_a_process_has_a_name(returncode: int, said: str) -> None:
    assert describe_death(returncode) == said


@pytest.mark.parametrize(
    ("text", "is_crash"),
    [
        ("==7==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60", True),
        ("multifd.c:42:7: runtime error: load of misaligned address", True),
        ("thread 'main' (7) panicked at src/main.rs:4:5:\nboom", True),
        ("first\npanic: runtime error: index out of range [5]", True),
        ("qemu-system-x86_64: load of migration failed: Invalid argument", False),
        ("", False),
    ],
)
def test_the_report_of_a_sanitizer_is_a_crash(text: str, is_crash: bool) -> None:
    assert reports_crash(text) is is_crash
