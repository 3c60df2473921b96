"""A run of the suite in a process of its own: pytest, apart from whatever is configured here.

Its temporary files are in a folder of ours, and it is killed with all that it has started when the
run is broken off: nothing of it is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from multifd_proto.errors import MultiFDError
from multifd_proto.peers.mortal import tied

from .ledger import HARNESS, NOTHING

_TICK = 0.05
_TAIL = 40
_PYTEST_INTERNAL, _PYTEST_USAGE, _PYTEST_NOTHING = 3, 4, 5
_SERVED_ONCE = ("tcp:", "unix:", "listen:")
"""Peers of which there is only one, however many processes we are."""


class RunError(MultiFDError):
    """The run cannot be made: an option is wrong, or pytest is missing."""


@dataclass
class Outcome:
    """A run that has ended."""

    exit: int
    """As `ledger.py` numbers them."""
    header: Mapping[str, Any] = field(default_factory=dict)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    footer: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    """What pytest printed last, if the run did not come to its end."""


def jobs_for(uris: Sequence[str]) -> int:
    """Return in how many processes a run is made that nobody has said anything about."""
    if any(uri.startswith(_SERVED_ONCE) for uri in uris):
        return 1
    return min(4, os.cpu_count() or 1)


def run(
    role: str,
    options: Sequence[str],
    jobs: int,
    watch: Callable[[Mapping[str, Any]], None],
) -> Outcome:
    """Run the suite for a role.

    Args:
        role: `receiver` or `sender`.
        options: of the plugin.
        jobs: processes; 1 is ours alone.
        watch: called with each line of the journal as it comes.

    Raises:
        RunError: an option is wrong, or pytest is missing.
    """
    if any(find_spec(name) is None for name in ("pytest", "xdist")):
        raise RunError("the suite needs pytest: pip install 'multifd-proto[conformance]'")
    with TemporaryDirectory(prefix="multifd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        journal = folder / "run.jsonl"
        command = _command(role, [*options, f"--multifd-report={journal}"], jobs, folder)
        with (folder / "output").open("w+", encoding="utf-8", errors="replace") as output:
            status, lines = _follow(command, folder, output, journal, watch)
            output.seek(0)
            return _outcome(status, lines, output.read())


def _command(role: str, options: Sequence[str], jobs: int, folder: Path) -> list[str]:
    """Return pytest's command line: the installed suite, with no plugin that it does not need."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    # the cases of one scenario of a sender are judged by one observation
    dist = "loadgroup" if role == "sender" else "worksteal"
    many = ["-n", str(jobs), "--dist", dist] if jobs > 1 else []
    return tied([
        sys.executable, "-m", "pytest", str(Path(__file__).parent / role),
        "-c", str(folder / "pytest.ini"), "--rootdir", str(folder),
        "--basetemp", str(folder / "pytest"), "-p", "no:cacheprovider", "-p", "xdist",
        "-p", "multifd_proto.conformance.plugin", "-q", "--tb=short", "--assert=plain",
        *many, *options,
    ])  # fmt: skip


def _follow(
    command: Sequence[str],
    folder: Path,
    output: TextIO,
    journal: Path,
    watch: Callable[[Mapping[str, Any]], None],
) -> tuple[int, list[Mapping[str, Any]]]:
    """Run pytest to its end; return its status, and the journal."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    # in a session of its own, an interrupt from the terminal reaches us alone, who clear up
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
        start_new_session=True,
    )  # fmt: skip
    lines: list[Mapping[str, Any]] = []
    # whoever ends us politely, as CI systems do, gets the same as one who interrupts us
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for line in _lines(journal, lambda: process.poll() is None):
            lines.append(line)
            watch(line)
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)
    return process.returncode, lines


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of pytest's session: workers, and what they have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(journal: Path, alive: Callable[[], bool]) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a file that is being written, until its writer has ended."""
    rest, offset = b"", 0
    while True:
        going = alive()
        data = b""
        if journal.exists():
            with journal.open("rb") as file:
                file.seek(offset)
                data = file.read()
        offset += len(data)
        *whole, rest = (rest + data).split(b"\n")
        yield from map(json.loads, whole)
        if not going:
            return
        time.sleep(_TICK)


def _outcome(status: int, lines: list[Mapping[str, Any]], said: str) -> Outcome:
    if status == _PYTEST_USAGE:
        errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
        raise RunError(errors[0].removeprefix("ERROR: ") if errors else said.strip())
    header = next((line for line in lines if line["type"] == "run"), {})
    footer = next((line for line in lines if line["type"] == "end"), {})
    rows = [line for line in lines if line["type"] == "case"]
    if not header and status == _PYTEST_NOTHING:
        return Outcome(NOTHING)
    whole = header and footer and len(rows) >= len(header["cases"]) * len(header["peers"])
    if not whole or status == _PYTEST_INTERNAL:
        what = "not all reports were written" if whole else "the run is incomplete"
        tail = "\n".join(said.splitlines()[-_TAIL:])
        return Outcome(HARNESS, header, rows, footer, f"{what}:\n{tail}")
    return Outcome(footer["exit"], header, rows, footer)
