"""What the verbs that read captures share: options, progress, messages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.schema import PAGE_SIZES

NOTHING_DONE = 4
"""Exit status: the input held nothing to do it on."""


class _DialectType(click.ParamType[Dialect]):
    name = "RELEASE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Dialect:
        try:
            return value if isinstance(value, Dialect) else dialect_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _PageSizeType(click.ParamType[int]):
    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        text = str(value).lower().removesuffix("b").removesuffix("i")
        number, unit = (text[:-1], 1024) if text.endswith("k") else (text, 1)
        if number.isdigit() and int(number) * unit in PAGE_SIZES:
            return int(number) * unit
        sizes = ", ".join(map(str, PAGE_SIZES))
        return self.fail(f"{value!r} is no target page size: one of {sizes}", param, ctx)


class _UuidType(click.ParamType[bytes]):
    name = "UUID"

    def convert(self, value: Any, param: Any, ctx: Any) -> bytes:
        try:
            return value if isinstance(value, bytes) else UUID(value).bytes
        except ValueError:
            return self.fail(f"{value!r} is no UUID", param, ctx)


def files_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take one FILE or more."""
    return click.argument("files", metavar="FILE...", nargs=-1, required=True)(command)


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take what is known of a migration: dialect, page size, channels, uuid."""
    for option in (
        click.option(
            "--dialect",
            type=_DialectType(),
            help="Judge as this QEMU release does: 5.2, 7.2, 10.0, 'seed'. [inferred]",
        ),
        click.option("--page-size", type=_PageSizeType(), help="Target page size. [inferred]"),
        click.option(
            "--channels", type=click.IntRange(1, 255), help="Configured multifd-channels."
        ),
        click.option("--uuid", type=_UuidType(), help="UUID of the migrating machine."),
    ):
        command = option(command)
    return command


def parameters(options: dict[str, Any]) -> MigrationParameters:
    """Return what the options of `parameter_options` say."""
    return MigrationParameters(
        dialect=options["dialect"],
        page_size=options["page_size"],
        channels=options["channels"],
        uuid=options["uuid"],
    )


@contextmanager
def reading(files: tuple[str, ...]) -> Iterator[CaptureReader]:
    """Open captures, with a bar on a terminal as soon as reading takes more than two seconds."""
    if not sys.stderr.isatty():
        yield CaptureReader(files)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    bar = Progress(
        BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task("reading", total=None)
    begun = time.monotonic()

    def progress(done: int, total: int | None) -> None:
        if not bar.live.is_started and time.monotonic() - begun > 2:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield CaptureReader(files, progress=progress)
    finally:
        bar.stop()


def warn(reader: CaptureReader, follower: Follower) -> None:
    """Say on standard error what of the input could not be used, and why."""
    info = reader.info
    for message in info.truncated:
        click.echo(f"warning: {message}", err=True)
    if info.drops:
        click.echo(f"warning: the capturing kernel dropped {info.drops} packets", err=True)
    for reason, count in sorted(info.skipped.items()):
        if reason != "not TCP":
            click.echo(f"warning: {count} frames skipped: {reason}", err=True)
    kinds = [c.kind for c in follower.connections.values()]
    if "tls" in kinds:
        click.echo(
            f"warning: {kinds.count('tls')} of {len(kinds)} connections are encrypted (TLS): "
            "their bytes tell nothing",
            err=True,
        )
    if not follower.sessions:
        found = f"{len(kinds)} TCP connections" if kinds else "no TCP connection"
        click.echo(f"multifd: no migration in the input: {info.records} records, {found}", err=True)
