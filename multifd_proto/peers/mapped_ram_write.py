"""Mapped-ram files written: memory images become a file that a QEMU without a guest loads.

Theory of operation. Every page has its place before anything is written, so writers need no
order among them: each takes the next slice of a block, finds out which of its pages are zero, and
writes the others from where the image is mapped to where they belong. The bitmaps are written
when all pages are there, the end of the stream after them, and only then does the file get its
name: what was interrupted is never taken for a file that is whole.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from multifd_proto.errors import PeerError
from multifd_proto.peers.mapped_ram import Progress, open_input, write_at
from multifd_proto.peers.templates import Template
from multifd_proto.wire.main_records import Configuration
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.mapped_ram import (
    CAPABILITY,
    MappedBlock,
    lay_out,
    pack_bitmap,
    ram_head,
    ram_tail,
    runs_to_write,
)

PAGE_SIZE = 4096
"""Target page size in bytes: that of x86, whose machines the shipped templates are of."""
_SLICE = 4 << 20
"""Bytes of memory that a writer takes at once: whole words of the bitmap."""
_ZERO_PAGE = bytes(PAGE_SIZE)


@dataclass(frozen=True)
class _Image:
    """A block's memory, mapped, and its bitmap in the making."""

    block: MappedBlock
    fd: int
    memory: mmap.mmap
    bitmap: bytearray

    def flags(self, begin: int, end: int) -> str:
        """Return the flags of a stretch: 1 for each page that is not zero."""
        if not self._has_data(begin, end):
            return "0" * ((end - begin) // PAGE_SIZE)
        memory = self.memory
        # the first byte decides about most pages, and spares a copy of them
        return "".join(
            "1" if memory[at] or memory[at : at + PAGE_SIZE] != _ZERO_PAGE else "0"
            for at in range(begin, end, PAGE_SIZE)
        )

    def _has_data(self, begin: int, end: int) -> bool:
        try:
            return os.lseek(self.fd, begin, os.SEEK_DATA) < end
        except OSError as error:
            return error.errno != errno.ENXIO  # there is a hole up to the end


class _Writers:
    """What the writers share: the slices still to be written, and how far all of them are."""

    def __init__(self, fd: int, images: list[_Image], progress: Progress | None) -> None:
        self._fd = fd
        self._slices = self._cut(images)
        self._progress = progress
        self._done, self._total = 0, sum(image.block.used_length for image in images)
        self._lock = Lock()

    @staticmethod
    def _cut(images: list[_Image]) -> Iterator[tuple[_Image, range]]:
        for image in images:
            length = image.block.used_length
            for begin in range(0, length, _SLICE):
                yield image, range(begin, min(begin + _SLICE, length))

    def run(self, writers: int) -> None:
        """Write all pages, and make the bitmaps."""
        with ThreadPoolExecutor(writers) as pool:
            try:
                for future in [pool.submit(self._write) for _ in range(writers)]:
                    future.result()
            finally:
                self._stop()  # or else the other writers would go on after an error

    def _stop(self) -> None:
        with self._lock:
            self._slices = iter(())

    def _write(self) -> None:
        try:
            while taken := self._take():
                self._write_slice(*taken)
        except BaseException:
            self._stop()
            raise

    def _take(self) -> tuple[_Image, range] | None:
        with self._lock:
            return next(self._slices, None)

    def _write_slice(self, image: _Image, piece: range) -> None:
        flags = image.flags(piece.start, piece.stop)
        view, slots = memoryview(image.memory), image.block.slots.start
        for run in runs_to_write(flags):
            begin = piece.start + run.start * PAGE_SIZE
            write_at(self._fd, view[begin : begin + len(run) * PAGE_SIZE], slots + begin)
        place, bitmap = piece.start // PAGE_SIZE // 8, pack_bitmap(flags)
        image.bitmap[place : place + len(bitmap)] = bitmap
        with self._lock:
            self._done += len(piece)
            if self._progress:
                self._progress(self._done, self._total)


def write(
    path: Path,
    images: Mapping[bytes, Path],
    template: Template,
    *,
    writers: int = 4,
    direct_io: bool = False,
    offset: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a mapped-ram file. Pages of zeros are left out, as holes.

    Args:
        path: the file; it appears when it is whole.
        images: a memory image for the name of each RAM block, in the file's order; they must not
            get shorter meanwhile.
        template: the rest of the stream.
        writers: threads that write pages.
        direct_io: whether the pages bypass the page cache (O_DIRECT).
        offset: where in the file the stream begins; what is before it is a hole.
        overwrite: whether an existing file is replaced.
        progress: called by the writers, never by two at once.

    Raises:
        PeerError: an image cannot be read or is not made of whole pages, the file cannot be
            written or exists, or its file system does not take O_DIRECT.
    """
    if path.exists() and not (path.is_file() and overwrite):
        what = "exists, must be a new file" if path.is_file() else "is no regular file"
        raise PeerError(f"{path}: {what}")
    if not images:
        raise PeerError(f"{path}: no RAM block is given, must be one or more")
    with ExitStack() as stack:
        opened, stream = _open_images(images, template, offset, stack)
        try:
            fd, name = stack.enter_context(_appearing(path))
            os.ftruncate(fd, opened[-1].block.slots.stop)
            write_at(fd, stream, offset)
            for image in opened:
                write_at(fd, image.block.entry.build(), image.block.place)
            pages = stack.enter_context(_direct(name)) if direct_io else fd
            _Writers(pages, opened, progress).run(writers)
            for image in opened:
                write_at(fd, image.bitmap, image.block.bitmap.start)
            tail = ram_tail(template.ram_section_id, template.switchover) + template.suffix
            write_at(fd, tail, opened[-1].block.slots.stop)
        except OSError as error:
            raise PeerError(f"{path}: cannot be written: {error.strerror}") from None


def _stream_begin(template: Template, total: int) -> bytes:
    """Return the stream up to the block list, for as many bytes of memory."""
    parser = MainStream()
    parser.receive_data(template.prefix)
    parser.receive_eof()
    known = b"".join(
        replace(record, capabilities=(CAPABILITY,)).build()
        if isinstance(record, Configuration)
        else template.prefix[place : place + size]
        for place, size, record in parser.records()
    )
    return known + ram_head(template.ram_section_id, template.ram_version, total)


def _open_images(
    images: Mapping[bytes, Path], template: Template, offset: int, stack: ExitStack
) -> tuple[list[_Image], bytes]:
    """Map the images and give them places; return them and the stream up to the first of them."""
    inputs = [(name, *_open_image(name, path, stack)) for name, path in images.items()]
    lengths = [(name, length) for name, _, length in inputs]
    stream = _stream_begin(template, sum(length for _, length in lengths))
    blocks = lay_out(offset + len(stream), lengths, PAGE_SIZE)
    opened = [
        # unmapped when the last view of it is gone, which may be that of an error's traceback
        _Image(block, fd, mmap.mmap(fd, length, prot=mmap.PROT_READ), bytearray(len(block.bitmap)))
        for block, (_, fd, length) in zip(blocks, inputs, strict=True)
    ]
    return opened, stream


def _open_image(name: bytes, path: Path, stack: ExitStack) -> tuple[int, int]:
    """Return an image's descriptor and size in bytes."""
    if not 0 < len(name) < 256:
        raise PeerError(f"name of a RAM block has {len(name)} bytes, must have 1 to 255")
    fd, length = open_input(path)
    stack.callback(os.close, fd)
    if not length or length % PAGE_SIZE:
        raise PeerError(f"{path}: has {length} bytes, must have a multiple of {PAGE_SIZE}")
    return fd, length


@contextmanager
def _appearing(path: Path) -> Iterator[tuple[int, str]]:
    """Make a file, whose descriptor and name are given, that gets its path when all is well."""
    fd, name = tempfile.mkstemp(prefix=".mapped-ram-", dir=path.parent)
    try:
        yield fd, name
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


@contextmanager
def _direct(name: str) -> Iterator[int]:
    """Open a file once more, past the page cache."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise PeerError(f"{Path(name).parent}: the file system takes no O_DIRECT") from None
    try:
        yield fd
    finally:
        os.close(fd)
