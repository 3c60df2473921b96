"""Stripping a capture: reads it twice, first for what is structure, then to write that."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from multifd_proto.capture.files import Progress
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.strip.frames import Frames
from multifd_proto.capture.strip.headers import Addresses
from multifd_proto.capture.strip.outline import Outline, Uuids
from multifd_proto.capture.strip.output import Output, replacing
from multifd_proto.capture.strip.slim import Slim
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.errors import CaptureError


@dataclass
class Stripped:
    """What was done.

    Attributes:
        info: What was read.
        frames: Records written.
        size: Bytes written, as they are stored.
        messages: Messages that were kept.
        migrations: Migrations in the input; nothing was written if there is none.
        replaced: Bytes of payload that were not kept, by what they are of; not of a slim one.
        dropped: Frames left out, by reason: they hold no TCP segment that can be read.
    """

    info: CaptureInfo
    frames: int
    size: int
    messages: int
    migrations: int
    replaced: Counter[str]
    dropped: Counter[str]


def strip(
    files: Sequence[str],
    output: Path,
    *,
    slim: bool = False,
    uuids: Uuids | None = None,
    addresses: Addresses | None = None,
    keylog: str | None = None,
    progress: Progress | None = None,
) -> Stripped:
    """Write a capture without guest memory.

    Args:
        files: the capture; '-' is standard input, which is first copied to a temporary file.
        output: where to; replaced when all is written.
        slim: a record a message instead of frames.
        uuids: replaces the machine's UUID.
        addresses: replaces addresses of IP and of hardware.
        keylog: secrets of TLS, for a slim one: its messages are those of the plaintext.
        progress: as for `CaptureReader`.

    Raises:
        CaptureError: the input cannot be read, or the output not be written.
    """
    if output.exists() and any(_same(file, output) for file in files if file != "-"):
        raise CaptureError(f"{output}: is an input, another file was demanded")
    with _files(files) as names:
        reader = CaptureReader(names, progress=progress)
        if keylog:
            reader.info.secrets.read(keylog)
        outline = Outline(Decrypted(reader) if slim else reader, uuids)
        found = outline.follower
        done = Stripped(
            reader.info, 0, 0, outline.messages, len(found.sessions), Counter(), Counter()
        )
        if not found.sessions:
            return done
        with replacing(output) as file:
            written = Output(file)
            if slim:
                _write_slim(outline, names, written, addresses, keylog)
            else:
                frames = Frames(outline.halves, found.connections.values(), written, addresses)
                frames.strip(names, Limits(), progress)
                done.replaced, done.dropped = frames.replaced, frames.dropped
            written.write_drops(reader.info.drops)
        done.frames, done.size = written.frames, output.stat().st_size
    return done


def _write_slim(
    outline: Outline,
    files: Sequence[str],
    output: Output,
    addresses: Addresses | None,
    keylog: str | None,
) -> None:
    reader = CaptureReader(files)
    if keylog:
        reader.info.secrets.read(keylog)
    connections = outline.follower.connections
    halves = {
        (half.stream, half.forward): outline.kept(half)
        for connection in connections.values()
        for half in (connection.half, connection.reverse)
        if connection.session or connection.kind == "tls"
    }
    Slim(halves, output, addresses, connections).write(Decrypted(reader))


def _same(file: str, output: Path) -> bool:
    return Path(file).exists() and output.samefile(file)


@contextmanager
def _files(files: Sequence[str]) -> Iterator[list[str]]:
    """Give files that can be read twice."""
    if "-" not in files:
        yield list(files)
        return
    with NamedTemporaryFile(prefix="multifd-strip-") as copy:  # for the owner's eyes alone
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield [copy.name if file == "-" else file for file in files]
