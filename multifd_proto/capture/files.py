"""Opening inputs: what an input is, its first bytes decide, never its name. Nothing seeks."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from select import select
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from multifd_proto.capture import compressed, pcap, pcapng
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Frame
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import CHANNEL_MAGIC

if TYPE_CHECKING:
    from multifd_proto.capture.columns.records import Records

_BEGIN = 32 << 20
"""Bytes of a file that are read while we are still starting."""
Progress = Callable[[int, int | None], None]
"""Told the bytes read so far of all inputs as they are stored, and their sum if it is known."""


class CaptureFile(Protocol):
    """A capture file of some format, read forwards in one of two ways.

    Raises:
        CaptureError: What it holds contradicts itself, or claims to be larger than `Limits`.
    """

    def frames(self) -> Iterator[Frame]:
        """Yield all frames that are left."""

    def records(self, most: int, first: int) -> Records | None:
        """Return the next records as columns; None where they are not simple, or at the end."""

    def take_back(self) -> None:
        """Have the records that were returned last read again."""

    def more(self) -> bool:
        """Tell whether there is anything left, and have it in memory."""

    def one(self) -> Iterator[Frame]:
        """Pass over the next record, which `more` has seen; yield its frame, if it is one."""


class Format(NamedTuple):
    """A file format: its name and what reads it; None for the dump of a single stream."""

    name: str
    open: Callable[[Window, CaptureInfo, Limits], CaptureFile] | None


RAW_DUMP = Format("raw dump", None)
_FORMATS = {
    **dict.fromkeys(pcap.MAGICS, Format("pcap", pcap.Pcap)),
    pcapng.MAGIC: Format("pcapng", pcapng.Pcapng),
    CHANNEL_MAGIC: RAW_DUMP,
    STREAM_MAGIC: RAW_DUMP,
    **{bytes((0x16, 3, minor)): RAW_DUMP for minor in range(5)},  # a TLS handshake
}
_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", compressed.gunzip),
    b"\x28\xb5\x2f\xfd": ("zstd", compressed.unzstd),
}
_UNREAD = {
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}
"""What is recognised and not read: its name, and the program that makes something readable."""


class Inputs:
    """The files of an input in the order given, each with its format and a window on its content.

    Attributes:
        paths: Where they are.
        regular: They can be read again and again: none is a pipe.

    Raises:
        CaptureError: A path cannot be read (all are tried before the first is opened), or while
            iterating: a file is empty or no capture.
    """

    def __init__(
        self, paths: Sequence[str | Path], info: CaptureInfo, progress: Progress | None
    ) -> None:
        self.paths = paths
        self._info = info
        self._progress = progress
        self._opened: list[_Stored] = []
        sizes = [_size(path) for path in paths]
        self.regular = None not in sizes and "-" not in map(str, paths)
        self._total = None if None in sizes else sum(filter(None, sizes))

    def __iter__(self) -> Iterator[tuple[Format, Window]]:
        for path in self.paths:
            with self.open(path) as opened:
                yield opened

    @contextmanager
    def open(
        self, path: str | Path, *, only_begin: bool = False
    ) -> Iterator[tuple[Format, Window]]:
        """Open one of the files.

        Args:
            path: of the file.
            only_begin: no more than its first frame is looked at.

        Raises:
            CaptureError: It cannot be read, is empty or no capture.
        """
        with _open(path) as file:
            _widen(file)
            name, regular = _name(path), _regular(path, file)
            if regular is not None and not only_begin:
                _announce(regular)
            reader = _Stored(name, file, self._tell)
            self._opened.append(reader)
            stored = Window(name, reader.read, self._info.truncated, regular, reader.seek)
            with _decompressed(stored) as (container, content):
                form = _recognise(content, container)
                self._info.files.append(stored.name)
                self._info.formats.append(form.name + container)
                try:
                    yield form, content
                finally:
                    self._info.bytes += content.offset + content.left

    def _tell(self) -> None:
        if self._progress:
            self._progress(sum(stored.place for stored in self._opened), self._total)


class _Stored:
    """A file as it is stored, and how far it is read."""

    def __init__(self, name: str, file: BinaryIO, tell: Callable[[], None]) -> None:
        self.place = 0
        self._name = name
        self._file = file
        self._tell = tell

    def read(self, count: int) -> bytes:
        try:
            while (data := self._file.read(count)) is None:  # a pipe somebody made non-blocking
                select([self._file], [], [])
        except OSError as error:
            raise _unreadable(self._name, error) from error
        self.place += len(data)
        self._tell()
        return data

    def seek(self, place: int) -> None:
        self.place = self._file.seek(place)
        self._tell()


@contextmanager
def _decompressed(stored: Window) -> Iterator[tuple[str, Window]]:
    """Give the content of a stored file, and words on what it is stored in."""
    for magic, (compression, decompress) in _COMPRESSIONS.items():
        if _starts_with(stored, magic):
            # what comes through a pipe is not held back, and who fills it works beside us anyway
            beside = stored.file is not None
            pieces = compressed.ahead(decompress, stored) if beside else decompress(stored)
            content = Window(stored.name, _reader_of(pieces), stored.truncated)
            with closing(pieces):
                yield f" in {compression}", content
            return
    yield "", stored


def _recognise(content: Window, container: str) -> Format:
    for magic, form in _FORMATS.items():
        if _starts_with(content, magic):
            return form
    for magic, (compression, program) in _UNREAD.items():
        if _starts_with(content, magic):
            raise CaptureError(f"{content.name}: {compression} is not read: {program} it first")
    seen = f"starts with {content.view[:4].hex(' ')}" if content.left else "is empty"
    raise CaptureError(
        f"{content.name}: {seen}{container}, "
        "a pcap, a pcapng or the dump of a migration stream was demanded"
    )


def _starts_with(window: Window, magic: bytes) -> bool:
    window.fill(len(magic))
    return window.view[: len(magic)] == magic


def _reader_of(pieces: Iterable[bytes]) -> Callable[[int], bytes]:
    """Make a window's read function of a decompressor; how much it gives, it decides itself."""
    filled = filter(None, pieces)
    return lambda _count: next(filled, b"")


def _name(path: str | Path) -> str:
    return "standard input" if str(path) == "-" else str(path)


def _open(path: str | Path) -> BinaryIO:
    standard_input = str(path) == "-"
    try:
        return open(0 if standard_input else path, "rb", buffering=0, closefd=not standard_input)
    except OSError as error:
        raise _unreadable(_name(path), error) from error


def _widen(file: BinaryIO) -> None:
    """Have a pipe take as much at once as this machine lets it."""
    if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        with suppress(OSError, ValueError, AttributeError):  # it is Linux that can
            most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
            fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, most)


def _size(path: str | Path) -> int | None:
    """Return the bytes of a regular file; None for what has no size, such as a pipe."""
    try:
        status = os.fstat(0) if str(path) == "-" else Path(path).stat()
    except OSError as error:
        raise _unreadable(_name(path), error) from error
    if stat.S_ISDIR(status.st_mode):
        raise CaptureError(f"{path}: is a directory, a file was demanded")
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _regular(path: str | Path, file: BinaryIO) -> int | None:
    """Return the descriptor of a file whose places are those of its bytes; None for others."""
    return file.fileno() if _size(path) is not None and not file.tell() else None


def _announce(file: int) -> None:
    """Tell the system that a file is read from its begin to its end, and have it begin to."""
    with suppress(OSError, AttributeError):  # not every system can be told
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        os.posix_fadvise(file, 0, _BEGIN, os.POSIX_FADV_WILLNEED)


def _unreadable(name: str, error: OSError) -> CaptureError:
    return CaptureError(f"{name}: cannot be read: {error.strerror}")
