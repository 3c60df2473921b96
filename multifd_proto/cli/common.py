"""What the verbs that read captures share: options, progress, messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import click

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.info import CaptureInfo, TlsFate
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.cli.progress import progress_bar
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.schema import PAGE_SIZES

NOTHING_DONE = 4
"""Exit status: the input held nothing to do it on."""
_SEVERAL_FILES = """
    Several FILEs are one capture, in any order: rotated ones (tcpdump -C) follow one another, those
    of several hosts are merged by time. If one is a pipe, all are read in the order given.
"""
_HOW_TO_GET_SECRETS = "--keylog FILE; QEMU writes one if SSLKEYLOGFILE=FILE is in its environment"


class DialectType(click.ParamType[Dialect]):
    """A QEMU release."""

    name = "RELEASE"

    def convert(self, value: Any, param: Any, ctx: Any) -> Dialect:
        """Find the release's dialect."""
        try:
            return value if isinstance(value, Dialect) else dialect_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PageSizeType(click.ParamType[int]):
    """A target page size, such as 4096 or 4K."""

    name = "BYTES"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Read a size, with K for 1024 bytes."""
        text = str(value).lower().removesuffix("b").removesuffix("i")
        number, unit = (text[:-1], 1024) if text.endswith("k") else (text, 1)
        if number.isdigit() and int(number) * unit in PAGE_SIZES:
            return int(number) * unit
        sizes = ", ".join(map(str, PAGE_SIZES))
        return self.fail(f"{value!r} is no target page size: one of {sizes}", param, ctx)


class UuidType(click.ParamType[bytes]):
    """A UUID, as its 16 bytes."""

    name = "UUID"

    def convert(self, value: Any, param: Any, ctx: Any) -> bytes:
        """Read a UUID in its text form."""
        try:
            return value if isinstance(value, bytes) else UUID(value).bytes
        except ValueError:
            return self.fail(f"{value!r} is no UUID", param, ctx)


def files_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take one FILE or more, and say what several are."""
    command.__doc__ = f"{command.__doc__}\n\n{_SEVERAL_FILES}"
    return click.argument("files", metavar="FILE...", nargs=-1, required=True)(command)


def keylog_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take the secrets of TLS connections."""
    return click.option(
        "--keylog",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="TLS secrets as SSLKEYLOGFILE holds them; those inside a pcapng are used anyway.",
    )(command)


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take what is known of a migration: dialect, page size, channels, uuid."""
    for option in (
        click.option(
            "--dialect",
            type=DialectType(),
            help="Judge as this QEMU release does: 5.2, 7.2, 10.0, 'seed'. [inferred]",
        ),
        click.option("--page-size", type=PageSizeType(), help="Target page size. [inferred]"),
        click.option(
            "--channels", type=click.IntRange(1, 255), help="Configured multifd-channels."
        ),
        click.option("--uuid", type=UuidType(), help="UUID of the migrating machine."),
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
def reading(files: tuple[str, ...], keylog: str | None = None) -> Iterator[Decrypted]:
    """Open captures, with a bar on a terminal as soon as reading takes more than two seconds.

    TLS is decrypted as far as its secrets are in `keylog` or in the captures.
    """
    with progress_bar("reading") as progress:
        reader = CaptureReader(files, progress=progress)
        if keylog:
            reader.info.secrets.read(keylog)
        yield Decrypted(reader)


def warn(reader: Decrypted, follower: Follower) -> None:
    """Say on standard error what of the input could not be used, and why."""
    for message in unused(reader.info, follower):
        click.echo(f"warning: {message}", err=True)
    if not follower.sessions:
        click.echo(f"multifd: no migration in the input: {seen(reader.info, follower)}", err=True)


def unused(info: CaptureInfo, follower: Follower) -> Iterator[str]:
    """Say what of an input could not be used, and why."""
    yield from info.truncated
    if info.drops:
        yield f"the capturing kernel dropped {info.drops} packets"
    for reason, count in sorted(info.skipped.items()):
        if reason != "not TCP":
            yield f"{count} frames skipped: {reason}"
    connections = follower.connections.values()
    conflicts = sum(half.conflicts for c in connections for half in (c.half, c.reverse))
    if conflicts:
        yield f"{conflicts} bytes were repeated with other values: the first ones count"
    yield from _of_tls(info, [c.kind for c in connections])


def seen(info: CaptureInfo, follower: Follower) -> str:
    """Say what an input holds that has no migration in it."""
    count = len(follower.connections)
    found = f"{count} TCP connections" if count else "no TCP connection"
    return f"{info.records} records, {found}"


def _of_tls(info: CaptureInfo, kinds: list[str]) -> Iterator[str]:
    """Say which connections stayed encrypted, and why."""
    yield from info.secrets.faults
    encrypted = kinds.count("tls")
    if encrypted:
        hint = "" if info.secrets else f" without secrets ({_HOW_TO_GET_SECRETS})"
        yield (
            f"{encrypted} of {len(kinds)} connections are encrypted (TLS): "
            f"their bytes tell nothing{hint}"
        )
    if info.secrets:
        for fate, count in info.tls.items():
            if fate is not TlsFate.DECRYPTED:
                yield f"{count} of {info.tls.total()} TLS connections: {fate.value}"
