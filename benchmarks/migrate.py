"""How fast memory migrates over multifd: each leg against QEMU to QEMU, in one run.

    python benchmarks/migrate.py --size 2G --channels 4 --runs 3

Memory is random, without a guest and on /dev/shm; bandwidth is not limited and nothing is
compressed. A leg counts only if the memory has arrived. Legs take turns, in alternating order, so
that whatever else the machine does meets all of them; a ratio is the median over the rounds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from multifd_proto.errors import PeerError
from multifd_proto.peers.lab import UUID, Outcome, configure, guestless, outcome, qemu_of
from multifd_proto.peers.qemu import Qemu

RELEASE = "10.0"
SHM = Path("/dev/shm")
GIB = 1 << 30
PAGE = 4096

_MULTIFD = (sys.executable, "-c", "from multifd_proto.cli import main; main()")
_PIECE = 16 << 20
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Case:
    """What every leg has to do: bring the source's memory to the destination's."""

    folder: Path
    """Where the memory files are, and where a leg may write."""
    size: int
    """Bytes of memory."""
    channels: int

    @property
    def source(self) -> Path:
        """File with the memory to send."""
        return self.folder / "source"

    @property
    def destination(self) -> Path:
        """File for the memory that arrives; missing before a leg runs."""
        return self.folder / "destination"

    def qemu(self, memory: Path, *, incoming: bool = False) -> Qemu:
        """Start a QEMU whose memory is that file, ready to migrate."""
        qemu = guestless(
            qemu_of(RELEASE),
            memory,
            size=self.size,
            directory=self.folder,
            name=memory.name,
            incoming=incoming,
        )
        configure(qemu, channels=self.channels)
        return qemu


@dataclass(frozen=True)
class Measure:
    """One migration."""

    seconds: float
    """From the command to migrate until both ends were done."""
    qemu_seconds: float | None = None
    """What QEMU counted, if it was the source (`total-time`, in milliseconds)."""


def qemu_to_qemu(case: Case) -> Measure:
    """Migrate from QEMU to QEMU: the leg that all others are compared with."""
    with (
        case.qemu(case.destination, incoming=True) as destination,
        case.qemu(case.source) as source,
    ):
        uri = destination.listen_uri("tcp:127.0.0.1:0")
        began = time.perf_counter()
        source.migrate(uri)
        sent = demand_success(source)
        demand_success(destination)
        return Measure(time.perf_counter() - began, sent.seconds)


def qemu_to_ours(case: Case, options: Sequence[str] = ()) -> Measure:
    """Migrate from QEMU into `multifd receive`, a process of its own."""
    command = [*_MULTIFD, "receive", "tcp:127.0.0.1:0", "--channels", str(case.channels)]
    command += ["--uuid", UUID, "--dialect", RELEASE, "--save", str(case.folder), "--json"]
    with case.qemu(case.source) as source, _run([*command, *options]) as receiver:
        source.migrate(_said(receiver))
        sent = demand_success(source)
        received = _demand_completed(receiver)
    (case.folder / "ram0.ram").rename(case.destination)
    # from the first connection until the last one is closed; the verdict of --check comes after
    return Measure(received["seconds"], sent.seconds)


def ours_to_qemu(case: Case) -> Measure:
    """Migrate from `multifd send`, a process of its own, into QEMU."""
    with case.qemu(case.destination, incoming=True) as destination:
        command = [*_MULTIFD, "send", destination.listen_uri("tcp:127.0.0.1:0")]
        command += ["--channels", str(case.channels), "--uuid", UUID, "--dialect", RELEASE]
        command += ["--ram", f"ram0={case.source}", "--json"]
        with _run(command) as sender:
            answer = _demand_completed(sender)
            demand_success(destination)
        return Measure(answer["seconds"])


def qemu_to_qemu_by_proxy(case: Case, options: Sequence[str] = ()) -> Measure:
    """Migrate from QEMU to QEMU through `multifd proxy`."""
    with (
        case.qemu(case.destination, incoming=True) as destination,
        case.qemu(case.source) as source,
    ):
        target = destination.listen_uri("tcp:127.0.0.1:0")
        command = [*_MULTIFD, "proxy", "tcp:127.0.0.1:0", target, "--json"]
        with _run([*command, *options]) as proxy:
            uri = _said(proxy)
            began = time.perf_counter()
            source.migrate(uri)
            sent = demand_success(source)
            demand_success(destination)
            seconds = time.perf_counter() - began
            _demand_completed(proxy)
        return Measure(seconds, sent.seconds)


@contextmanager
def _run(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _said(process: subprocess.Popen[str]) -> str:
    """Return where a peer says that it listens."""
    assert process.stderr
    line = process.stderr.readline()
    return line.removeprefix("listening on ").partition(",")[0].strip()


def _demand_completed(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    assert process.stderr
    answer: dict[str, Any] = json.loads(process.stdout.readline() or "{}")
    if answer.get("status") != "completed":
        why = answer.get("error") or process.stderr.read().strip()
        raise PeerError(f"{' '.join(map(str, process.args))}: {why}")  # type: ignore[arg-type]
    return answer


LEGS: Mapping[str, Callable[[Case], Measure]] = {
    "QEMU -> QEMU": qemu_to_qemu,
    "QEMU -> receive": qemu_to_ours,
    "QEMU -> receive --check": partial(qemu_to_ours, options=("--check",)),
    "send -> QEMU": ours_to_qemu,
    "QEMU -> proxy -> QEMU": qemu_to_qemu_by_proxy,
    "QEMU -> proxy --check -> QEMU": partial(qemu_to_qemu_by_proxy, options=("--check",)),
}
"""What is measured, by name; the first is the baseline."""


def demand_success(qemu: Qemu) -> Outcome:
    """Wait until a QEMU is done.

    Raises:
        PeerError: the migration did not complete.
    """
    ended = outcome(qemu, _TIMEOUT)
    if ended.status != "completed":
        raise PeerError(f"{qemu.name}: migration is {ended.status!r}: {'; '.join(ended.errors)}")
    return ended


# ---- running -----------------------------------------------------------------------------------


def measure(
    case: Case, names: Sequence[str], runs: int, progress: Console
) -> dict[str, list[Measure]]:
    """Run each of the legs `runs` times, after writing random memory."""
    free = shutil.disk_usage(case.folder).free
    if free < 2 * case.size:
        raise PeerError(f"{SHM} has {free} bytes free, must be {2 * case.size}")
    with case.source.open("wb") as file:
        for begin in range(0, case.size, _PIECE):
            file.write(os.urandom(min(_PIECE, case.size - begin)))
    measured: dict[str, list[Measure]] = {name: [] for name in names}
    for run in range(runs):
        for name in names[:: -1 if run % 2 else 1]:
            progress.print(f"run {run + 1} of {runs}: {name}", highlight=False)
            measured[name].append(LEGS[name](case))
            _demand_arrived(case, name)
            case.destination.unlink()
    return measured


def _demand_arrived(case: Case, leg: str) -> None:
    with case.source.open("rb") as source, case.destination.open("rb") as destination:
        for begin in range(0, case.size, _PIECE):
            if source.read(_PIECE) != destination.read(_PIECE):
                raise PeerError(f"{leg}: memory differs, between {begin:#x} and 16 MiB further on")


# ---- reporting ---------------------------------------------------------------------------------


def summarize(measured: Mapping[str, Sequence[Measure]], size: int) -> dict[str, dict[str, Any]]:
    """Return speeds (GiB a second) and ratios to the first leg, by leg."""
    baseline = next(iter(measured.values()))
    summary = {}
    for name, runs in measured.items():
        speeds = [size / GIB / run.seconds for run in runs]
        counted = [size / GIB / run.qemu_seconds for run in runs if run.qemu_seconds]
        summary[name] = {
            "runs": [asdict(run) for run in runs],
            "gib_per_s": statistics.median(speeds),
            "gib_per_s_min": min(speeds),
            "gib_per_s_max": max(speeds),
            "qemu_gib_per_s": statistics.median(counted) if counted else None,
            "ratio": statistics.median(
                base.seconds / run.seconds for base, run in zip(baseline, runs, strict=True)
            ),
        }
    return summary


def table(summary: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Return the summary for people."""
    shown = Table(title=title)
    for header in ("leg", "GiB/s", "min to max", "by QEMU's clock", "ratio"):
        shown.add_column(header, justify="left" if header == "leg" else "right")
    for name, leg in summary.items():
        counted = leg["qemu_gib_per_s"]
        shown.add_row(
            name,
            f"{leg['gib_per_s']:.2f}",
            f"{leg['gib_per_s_min']:.2f} to {leg['gib_per_s_max']:.2f}",
            f"{counted:.2f}" if counted else "",
            f"{leg['ratio']:.2f}",
        )
    return shown


def _bytes(text: str) -> int:
    """Read a size: a number, with K, M or G behind it or not."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    size = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else 0
    if not size or size % PAGE:
        raise click.BadParameter(f"{text!r} is no multiple of {PAGE} bytes, such as 512M")
    return size


@click.command()
@click.option(
    "--size", type=_bytes, metavar="SIZE", default="2G", show_default=True, help="Memory."
)
@click.option("--channels", type=click.IntRange(1, 255), default=4, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Per leg.")
@click.option("--leg", default="", metavar="TEXT", help="Only the legs with TEXT in their name.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="File for the figures.")
def main(size: int, channels: int, runs: int, leg: str, file: Path | None) -> None:
    """Measure how fast memory migrates, against QEMU to QEMU."""
    names = [name for index, name in enumerate(LEGS) if not index or leg in name]
    try:
        with tempfile.TemporaryDirectory(prefix="multifd-bench-", dir=SHM) as folder:
            case = Case(Path(folder), size, channels)
            summary = summarize(measure(case, names, runs, Console(stderr=True)), size)
        if file:
            facts = {"size": size, "channels": channels, "cpus": os.cpu_count(), "qemu": RELEASE}
            file.write_text(json.dumps({**facts, "legs": summary}, indent=1) + "\n")
    except (PeerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    title = f"{size / GIB:g} GiB, {channels} channels, {os.cpu_count()} CPUs, QEMU {RELEASE}"
    Console().print(table(summary, title))


if __name__ == "__main__":
    main()
