"""What a real QEMU without a guest sends on its main stream, but for the sections of its memory.

A sender that is no VMM has no devices to save, yet a destination demands their state: it is taken
from a migration that QEMU made. `templates/RELEASE.json` holds such main streams whole, as hex;
they were recorded by

    python -m multifd_proto.peers.templates 5.2 7.2 10.0 11.1 --into multifd_proto/peers/templates
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from io import BufferedReader
from pathlib import Path

import click

from multifd_proto.errors import PeerError
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.main_records import (
    COMMANDS,
    STREAM_MAGIC,
    Command,
    Footer,
    MainFault,
    MainRecord,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.main_stream import RAM, MainStream
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamSetup,
    RamZero,
)

RELEASES = ("5.2", "7.2", "10.0", "11.1")
"""The releases whose main streams are shipped, oldest first."""

_Placed = tuple[int, int, MainRecord]
_RETURN_PATH = {"OPEN_RETURN_PATH", "PING"}
_SWITCHOVER = "SWITCHOVER_START"
_SIZE = 64 << 10
_CHANNELS = 1
_TIMEOUT = 20.0


@dataclass(frozen=True)
class Template:
    """A main stream without its `ram` sections, and what those of a new one have to be like.

    A whole stream is `prefix`, the START of `ram`, PARTs of it, `switchover`, the END of `ram`
    with its footer, `suffix`.
    """

    release: str | None
    """The QEMU release that wrote it, such as "10.0"; None if it is not known."""
    prefix: bytes
    """Everything before the START of `ram`, but for commands that ask for a return path."""
    ram_section_id: int
    """Number of the `ram` section; other sections of the stream have other ones."""
    ram_version: int
    """Version of the `ram` section."""
    blocks: tuple[RamBlockEntry, ...]
    """The RAM blocks that the source had."""
    modern: bool
    """Rounds are marked by MULTIFD_FLUSH words (machine types of 8.1 and newer), not by EOS."""
    switchover: bytes
    """The command SWITCHOVER_START, before the END of `ram` (10.0 and newer), or nothing."""
    suffix: bytes
    """Everything after the footer of the END of `ram`: devices, end, description."""


def template_for(dialect: Dialect) -> Template:
    """Return what a source of that dialect sends, without a guest: its machine type is `none`.

    It is that of the newest recorded release that is not newer than the dialect, or else of the
    oldest one; the mark of a round is the dialect's own.
    """
    known = [release for release in RELEASES if dialect_of(release).index <= dialect.index]
    return replace(_shipped(known[-1] if known else RELEASES[0]), modern=dialect.flush_mark)


@cache
def _shipped(release: str) -> Template:
    file = resources.files("multifd_proto.peers") / "templates" / f"{release}.json"
    return template_of(bytes.fromhex(json.loads(file.read_text())["stream"]), release)


def template_of(stream: bytes, release: str | None = None) -> Template:
    """Make a template of a recorded main stream.

    Args:
        stream: the whole stream, as the source sent it.
        release: the QEMU release that wrote it, if known.

    Raises:
        PeerError: the stream cannot be followed or is not whole, has no `ram` section, or has
            something between START and END of it that a template cannot keep: parts of another
            section, a postcopy, or pages, as it was recorded without multifd.
    """
    placed = _read(stream)
    start = _find(placed, 0, "START of ram", _is_ram_start)
    end = _find(placed, start, "END of ram", lambda r: isinstance(r, SectionEnd) and r.ram)
    end = _find(placed, end, "footer of ram", lambda r: isinstance(r, Footer)) + 1
    _find(placed, end, "end of the stream", lambda r: isinstance(r, StreamEnd))
    head, inside = placed[start][2], placed[start + 1 : end]
    assert isinstance(head, SectionStart)
    for offset, _, record in inside:
        if not _is_replaced(record) and _command(record) != _SWITCHOVER:
            what = _command(record) or type(record).__name__
            raise _unfit(offset, f"{what} between START and END of ram cannot be kept")
    return Template(
        release=release,
        prefix=_cut(stream, (p for p in placed[:start] if _command(p[2]) not in _RETURN_PATH)),
        ram_section_id=head.section_id,
        ram_version=head.version_id,
        blocks=tuple(b for _, _, r in inside if isinstance(r, RamSetup) for b in r.blocks),
        modern=any(isinstance(record, RamFlush) for _, _, record in inside),
        switchover=_cut(stream, (p for p in inside if _command(p[2]) == _SWITCHOVER)),
        suffix=_cut(stream, placed[end:]),
    )


def _read(stream: bytes) -> list[_Placed]:
    parser = MainStream()
    parser.receive_data(stream)
    parser.receive_eof()
    placed = list(parser.records())
    for offset, _, record in placed:
        if isinstance(record, MainFault):
            seen = f"{record.seen:#x}" if isinstance(record.seen, int) else repr(record.seen)
            raise _unfit(offset, f"{record.kind.value}: {seen}, must be {record.demanded}")
    return placed


def _find(
    placed: Sequence[_Placed], begin: int, what: str, wanted: Callable[[MainRecord], bool]
) -> int:
    for at, (_, _, record) in enumerate(placed[begin:], begin):
        if wanted(record):
            return at
    offset, length, _ = placed[-1] if placed else (0, 0, None)
    raise _unfit(offset + length, f"the stream is over, without {what}")


def _is_ram_start(record: MainRecord) -> bool:
    return isinstance(record, SectionStart) and record.idstr == RAM and not record.full


def _is_replaced(record: MainRecord) -> bool:
    """Tell whether a record belongs to the sections of `ram`."""
    if isinstance(record, SectionPart | SectionEnd):
        return record.ram
    return isinstance(record, RamSetup | RamFlush | RamZero | RamEos | Footer)


def _command(record: MainRecord) -> str | None:
    if isinstance(record, Command):
        return COMMANDS.get(record.cmd, f"command {record.cmd}")
    return None


def _cut(stream: bytes, placed: Iterable[_Placed]) -> bytes:
    return b"".join(stream[offset : offset + length] for offset, length, _ in placed)


def _unfit(offset: int, why: str) -> PeerError:
    return PeerError(f"recorded main stream @{offset:#x}: {why}")


# ---- recording ---------------------------------------------------------------------------------


def record(release: str) -> Mapping[str, str]:
    """Let the QEMU of a release migrate into a sink, and return what its `.json` says.

    Raises:
        PeerError: that QEMU is not there or fails, or what it sends is no template.
    """
    from multifd_proto.peers.lab import qemu_of  # a sender needs no asyncio

    version, stream = record_from(qemu_of(release))
    template_of(stream)
    return {"qemu": version, "stream": stream.hex()}


def record_from(binary: Path, *, machine: str = "none", size: int = _SIZE) -> tuple[str, bytes]:
    """Let a QEMU migrate into a sink, and return its version and its main stream.

    None of the memory's pages is zero, so that none of them is on the main stream.

    Args:
        binary: the command that runs QEMU.
        machine: machine type.
        size: bytes of memory.

    Raises:
        PeerError: QEMU fails, or its migration does not come to its end.
    """
    from multifd_proto.peers.lab import configure, guestless

    with (
        os.fdopen(os.memfd_create("guest"), "wb") as memory,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        memory.write(bytes([0x55]) * size)
        memory.flush()
        path = Path(f"/proc/{os.getpid()}/fd/{memory.fileno()}")
        with guestless(binary, path, size=size, machine=machine, directory=None) as source:
            configure(source, channels=_CHANNELS)
            source.migrate(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
            stream = _main_stream(listener)
            return source.version(), stream


def _main_stream(listener: socket.socket) -> bytes:
    """Accept the main stream and all channels, read them to their ends, and return the former."""
    with ExitStack() as stack:
        try:
            listener.settimeout(_TIMEOUT)
            files = []
            for _ in range(1 + _CHANNELS):
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(_TIMEOUT)
                files.append(stack.enter_context(connection.makefile("rb")))
            # all at once: what one of them holds back, QEMU may wait for before it uses another
            with ThreadPoolExecutor(len(files)) as readers:
                streams = list(readers.map(BufferedReader.read, files))
        except OSError as error:
            raise PeerError(f"the migration does not come to its end: {error}") from None
    return next((stream for stream in streams if stream.startswith(STREAM_MAGIC)), b"")


@click.command()
@click.argument("versions", nargs=-1, required=True, metavar="VERSION...")
@click.option("--into", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
def main(versions: Sequence[str], into: Path) -> None:
    """Record anew what the QEMU of each VERSION sends on its main stream without a guest."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        for version in versions:
            recorded = record(version)
            (into / f"{version}.json").write_text(json.dumps(recorded, indent=1) + "\n")
            click.echo(f"QEMU {recorded['qemu']}: {len(recorded['stream']) // 2} bytes")
    except (PeerError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
