"""Mapped-ram files read: verified, and their RAM blocks extracted or compared.

Nothing is read as a whole because a header claims so: places are checked against the size of the
file, bitmaps and pages go by in chunks. Pages are copied by the kernel where it can do so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.machine.mapped_ram import MappedRamJudge
from multifd_proto.machine.verdict import Result
from multifd_proto.peers.owner import Owner
from multifd_proto.wire.main_records import STREAM_MAGIC, Configuration
from multifd_proto.wire.mapped_ram import MappedBlock, absent_runs, runs_to_write, unpack_bitmap
from multifd_proto.wire.mapped_ram_stream import MappedRamStream

Progress = Callable[[int, int], None]
"""Called with the bytes of memory done and those there are in all."""

_CHUNK = 1 << 20
_STREAM_CHUNK = 64 << 10
_BITMAP_CHUNK = 4 << 10
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class BlockInfo:
    """A RAM block of an open file."""

    block: MappedBlock
    present: int | None
    """Pages whose content is in the file, the others being zero; None if that cannot be read."""

    @property
    def readable(self) -> bool:
        """The file has the block's content, in places that make sense."""
        return self.present is not None


class MappedRamFile(Owner):
    """A mapped-ram file that is open for reading. Use it as a context manager.

    Args:
        path: the file.
        offset: where in the file the stream begins, as with `file:PATH,offset=N`.

    Raises:
        PeerError: there is no main stream at that place, or it cannot be read.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.mapped = False
        """The stream tells that it is that of a mapped-ram file; if not, it was read no further."""
        self.configuration = Configuration(b"")
        """What the stream tells of its machine."""
        self.blocks: list[BlockInfo] = []
        """The RAM blocks, in the file's order, as far as it could be read."""
        self.results: tuple[Result, ...] = ()
        """The verdict on each requirement that such a file can show."""
        self._kernel_copies = True
        self._buffer = bytearray()  # a new one for each stretch would cost more than the copying
        self._fd, self.size = open_input(path)
        try:
            self._verify()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def flags(self, block: MappedBlock) -> Iterator[tuple[int, str]]:
        """Yield the bitmap of a readable block in pieces.

        Yields:
            The number of a page, and the flags of the pages from there on: 1 if the file has a
            page's content, 0 if it is zero. Bits behind the last page come too.
        """
        bitmap = block.bitmap
        for begin in range(0, len(bitmap), _BITMAP_CHUNK):
            length = min(_BITMAP_CHUNK, len(bitmap) - begin)
            yield begin * 8, unpack_bitmap(self._read(bitmap.start + begin, length))

    def extract(self, block: MappedBlock, target: Path, progress: Progress | None = None) -> None:
        """Write a readable block to a file, which is sparse: zero pages take no room.

        Raises:
            PeerError: the target cannot be written, or the file got shorter meanwhile.
        """
        try:
            # not truncated at once, as it may be the very file that is read
            target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.path.sameopenfile(target_fd, self._fd):
                    raise PeerError(f"{target}: is what is read, must be another file")
                os.ftruncate(target_fd, 0)
                self._extract(block, target_fd, progress)
            finally:
                os.close(target_fd)
        except OSError as error:
            raise PeerError(f"{target}: cannot be written: {error.strerror}") from None

    def _extract(self, block: MappedBlock, target: int, progress: Progress | None) -> None:
        os.ftruncate(target, block.used_length)
        for begin, flags in self._chunks(block):
            if "0" in flags or not self._copy(block, target, begin, len(flags)):
                self._copy_some(block, target, begin, flags)
            if progress:
                progress(begin + len(flags) * block.header.page_size, block.used_length)

    def compare(
        self, block: MappedBlock, image: Path, progress: Progress | None = None
    ) -> int | None:
        """Compare a readable block with an image of it.

        Returns:
            Place in the block, in bytes, of the first page that differs; None if none does. Of
            sizes that differ, that is the first page which only one of both has.

        Raises:
            PeerError: the image cannot be read, or a file got shorter meanwhile.
        """
        image_fd, image_size = open_input(image)
        try:
            size = block.header.page_size
            common = min(image_size, block.used_length)
            for begin, flags in self._chunks(block):
                length = min(len(flags) * size, common - begin)
                if length <= 0:
                    break
                expected = _pread(image, image_fd, length, begin)
                seen = self._content(block, begin, flags)[:length]
                if seen != expected:
                    return begin + _difference(seen, expected, size)
                if progress:
                    progress(begin + length, block.used_length)
            return None if image_size == block.used_length else common // size * size
        finally:
            os.close(image_fd)

    def _verify(self) -> None:
        """Read the stream and all bitmaps, and judge what they show."""
        if self.size < self.offset + len(STREAM_MAGIC):
            demanded = f"{self.offset + len(STREAM_MAGIC)} or more"
            raise PeerError(f"{self.path}: has {self.size} bytes, must have {demanded}")
        begin = self._read(self.offset, len(STREAM_MAGIC))
        if begin != STREAM_MAGIC:
            raise PeerError(
                f"{self.path}: @{self.offset:#x} begins with {begin!r}, must be {STREAM_MAGIC!r}"
            )
        judge = MappedRamJudge()
        stream = MappedRamStream(self.size, self.offset)
        while not stream.done:
            length = min(_STREAM_CHUNK, self.size - stream.position)
            if length > 0:
                stream.receive_data(self._read(stream.position, length))
            else:
                stream.receive_eof()
            for place, record in stream.records():
                judge.take(place, record)
                if isinstance(record, MappedBlock):
                    self.blocks.append(self._survey(record, judge))
        self.configuration, self.mapped = stream.configuration, stream.mapped
        self.results = judge.results()

    def _survey(self, block: MappedBlock, judge: MappedRamJudge) -> BlockInfo:
        """Count the pages of a block."""
        if not block.in_file or not block.readable(self.size):
            return BlockInfo(block, None)
        present = stray = 0
        for first, flags in self.flags(block):
            inside = flags[: block.pages - first].count("1")
            present += inside
            stray += flags.count("1") - inside
        judge.take_bitmap(block, stray)
        return BlockInfo(block, present)

    def _read(self, place: int, length: int) -> bytes:
        return _pread(self.path, self._fd, length, place)

    def _chunks(self, block: MappedBlock) -> Iterator[tuple[int, str]]:
        """Yield the flags of stretches of a block, and where in the block these begin."""
        size = block.header.page_size
        step = _CHUNK // size
        for first, flags in self.flags(block):
            for at in range(0, min(len(flags), block.pages - first), step):
                yield (first + at) * size, flags[at : min(at + step, block.pages - first)]

    def _content(self, block: MappedBlock, begin: int, flags: str) -> bytearray:
        """Return the memory of a stretch of pages, good until the next call."""
        size = block.header.page_size
        length, place = len(flags) * size, block.slots.start + begin
        if len(self._buffer) != length:
            self._buffer = bytearray(length)
        try:
            read = os.preadv(self._fd, [self._buffer], place)
        except OSError:
            read = 0
        if read < length:
            self._buffer[:] = self._read(place, length)  # tells what is wrong
        for run in absent_runs(flags):
            self._buffer[run.start * size : run.stop * size] = bytes(len(run) * size)
        return self._buffer

    def _copy(self, block: MappedBlock, target: int, begin: int, pages: int) -> bool:
        """Have the kernel copy a stretch of pages; tell whether it can."""
        done, end = begin, begin + pages * block.header.page_size
        while self._kernel_copies and done < end:
            place = block.slots.start + done
            try:
                copied = os.copy_file_range(self._fd, target, end - done, place, done)
            except OSError as error:
                self._kernel_copies = error.errno not in _CANNOT_COPY
                if self._kernel_copies:
                    raise
                break
            if not copied:
                self._read(place, 1)  # tells what is wrong
            done += copied
        return self._kernel_copies

    def _copy_some(self, block: MappedBlock, target: int, begin: int, flags: str) -> None:
        """Copy those pages of a stretch that are present."""
        size = block.header.page_size
        if "1" not in flags:
            return
        content = memoryview(self._content(block, begin, flags))
        for run in runs_to_write(flags):
            write_at(target, content[run.start * size : run.stop * size], begin + run.start * size)


def open_input(path: Path) -> tuple[int, int]:
    """Open a file; return its descriptor and its size in bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PeerError(f"{path}: cannot be read: {error.strerror}") from None
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        kind = "a directory" if stat.S_ISDIR(mode) else "something else"
        raise PeerError(f"{path}: is {kind}, must be a file")
    return fd, os.lseek(fd, 0, os.SEEK_END)


def _pread(path: Path, fd: int, length: int, place: int) -> bytes:
    """Read exactly so many bytes."""
    try:
        data = os.pread(fd, length, place)
    except OSError as error:
        raise PeerError(f"{path}: @{place:#x} cannot be read: {error.strerror}") from None
    if len(data) < length:
        raise PeerError(f"{path}: @{place:#x} are {len(data)} bytes, must be {length}")
    return data


def write_at(fd: int, data: bytes | bytearray | memoryview, place: int) -> None:
    """Write all of it to a place in a file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, place)
        view, place = view[written:], place + written


def _difference(seen: bytes | bytearray, expected: bytes, size: int) -> int:
    """Return where the first page begins that differs."""
    pages = range(0, max(len(seen), len(expected)), size)
    return next(at for at in pages if seen[at : at + size] != expected[at : at + size])
