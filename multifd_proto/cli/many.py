"""Many captures, each by itself: into a data set, in processes of ours or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from multifd_proto.capture.files import Inputs
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.cli.common import NOTHING_DONE, seen, unused
from multifd_proto.cli.progress import progress_bar
from multifd_proto.errors import CaptureError, MultiFDError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.views import dataset
from multifd_proto.views.parquet import require

Done = Callable[[int], None]
"""Told how many more bytes of captures have been read."""


@dataclass(frozen=True)
class Task:
    """One capture to be written; paths are absolute, as another machine may do it."""

    name: str
    """Of the capture in the data set."""
    path: Path
    folder: Path
    parameters: MigrationParameters
    keylog: Path | None

    @property
    def size(self) -> int:
        """Bytes of the capture."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Outcome:
    """What became of a capture."""

    path: Path
    migrations: int = 0
    written: bool = False
    """False where it was there already."""
    error: str | None = None
    warnings: tuple[str, ...] = ()


Runner = Callable[[Sequence[Task], Done], Iterator[Outcome]]


def do(task: Task, done: Done | None = None) -> Outcome:
    """Write one capture's tables, if they are not there; a failure is told, never raised."""
    try:
        return _do(task, done)
    except Exception as error:  # whatever it is, the other captures go on
        return Outcome(task.path, error=message_of(error))


def message_of(error: BaseException) -> str:
    """Return what to say of an exception; the type's name as well, where it was not foreseen."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, MultiFDError) else f"{type(error).__name__}: {error}"


def _do(task: Task, done: Done | None) -> Outcome:
    origin = _origin(task)
    there = dataset.made_of(task.folder, task.name)
    if there and there[0] == origin:
        return Outcome(task.path, migrations=there[1])
    if there and there[0]["source"] != origin["source"]:
        other = there[0]["source"]
        raise CaptureError(f"{task.folder} has a capture={task.name} already, of {other}")
    so_far = 0

    def progress(now: int, _total: int | None) -> None:
        nonlocal so_far
        if done:
            done(now - so_far)
        so_far = now

    reader = CaptureReader([task.path], progress=progress)
    if task.keylog:
        reader.info.secrets.read(task.keylog)
    follower = Follower(task.parameters, decode=True)
    dataset.write(task.folder, task.name, origin, follower, Decrypted(reader))
    warnings = tuple(unused(reader.info, follower))
    if not follower.sessions:
        warnings += (f"no migration in it: {seen(reader.info, follower)}",)
    return Outcome(task.path, len(follower.sessions), True, warnings=warnings)


def _origin(task: Task) -> dataset.Origin:
    """Return all that a capture's tables depend on."""
    given = task.parameters
    return {
        "source": str(task.path),
        **_state(task.path),
        "keylog": _state(task.keylog) if task.keylog else None,
        "dialect": given.dialect.name if given.dialect else None,
        "page_size": given.page_size,
        "channels": given.channels,
        "uuid": given.uuid.hex() if given.uuid else None,
    }


def _state(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


# ---- which captures ------------------------------------------------------------------------------


def captures(given: Sequence[str]) -> dict[str, Path]:
    """Return the captures that are meant, by the names they shall have in the data set.

    A folder stands for all capture files in it and below; their names are their paths in it.

    Raises:
        UsageError: a name cannot be had, or two captures would have the same one.
    """
    found: dict[str, Path] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = {p.relative_to(path).as_posix(): p for p in _captures_in(path)}
        elif path.is_file() or not path.exists():
            inside = {path.name: path}
        else:
            raise click.UsageError(f"--partition demands files and folders, not {path}")
        for name, file in inside.items():
            if name in found:
                raise click.UsageError(f"{found[name]} and {file} would both be capture={name}")
            found[name] = file
    return found


def _captures_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _may_be_capture(path):
            yield path


def _may_be_capture(path: Path) -> bool:
    """Tell by its first bytes; what cannot be read shall be complained about."""
    try:
        return any(Inputs([path], CaptureInfo(), None))
    except CaptureError:
        return not os.access(path, os.R_OK)


# ---- all of them ---------------------------------------------------------------------------------


def decode_many(
    files: Sequence[str],
    folder: Path,
    parameters: MigrationParameters,
    keylog: str | None,
    run: Runner,
) -> None:
    """Write captures into a data set; say what became of them and exit accordingly."""
    require()
    secrets = Path(keylog).absolute() if keylog else None
    tasks = [
        Task(name, path.absolute(), folder.absolute(), parameters, secrets)
        for name, path in captures(files).items()
    ]
    if not tasks:
        click.echo(f"multifd: no capture file in {', '.join(files)}", err=True)
        raise SystemExit(NOTHING_DONE)
    outcomes = []
    with progress_bar("reading") as bar:
        for outcome in run(tasks, _adding(bar, tasks)):
            outcomes.append(outcome)
            _say(outcome)
    failed = sum(1 for o in outcomes if o.error)
    written = sum(1 for o in outcomes if o.written)
    already = len(outcomes) - failed - written
    click.echo(f"{folder}: {written} captures written, {already} there already, {failed} failed")
    if failed:
        raise SystemExit(2)
    if not any(o.migrations for o in outcomes):
        raise SystemExit(NOTHING_DONE)


def _say(outcome: Outcome) -> None:
    for warning in outcome.warnings:
        text = warning.removeprefix(f"{outcome.path}: ")
        click.echo(f"warning: {outcome.path}: {text}", err=True)
    if outcome.error:
        text = outcome.error.removeprefix(f"{outcome.path}: ")
        click.echo(f"multifd: {outcome.path}: {text}", err=True)


def _adding(bar: Any, tasks: Sequence[Task]) -> Done:
    """Return what adds to the bytes that a bar shows."""
    total = sum(task.size for task in tasks if task.path.exists()) if bar else 0
    so_far = 0

    def done(more: int) -> None:
        nonlocal so_far
        so_far += more
        if bar:
            bar(so_far, total)

    return done
