"""Decompression of captures: everything before a fault is delivered, and the fault is noted.

A decompressor takes the window of the stored file and yields pieces of bounded size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from queue import Queue
from threading import Event, Thread
from types import ModuleType

from multifd_proto.capture.window import READ, Window

Pieces = Generator[bytes, None, None]
Decompressor = Callable[[Window], Pieces]
_AHEAD = 2
"""Pieces that wait to be taken."""
_LARGE = 2 << 20
"""Bytes from which on a piece is large enough to be handed over."""


def ahead(decompress: Decompressor, stored: Window) -> Pieces:
    """Decompress on a thread of its own, which ends with this iterator; notes come at the end.

    Raises:
        CaptureError: The stored file cannot be read.
    """
    notes, stored.truncated = stored.truncated, []
    queue: Queue[bytes | Exception] = Queue(_AHEAD)
    enough = Event()
    work = decompress(stored), queue, enough
    thread = Thread(target=_work, args=work, name="decompression", daemon=True)
    thread.start()
    try:
        while piece := queue.get():
            if isinstance(piece, Exception):
                raise piece
            yield piece
        notes += stored.truncated
    finally:
        enough.set()
        while thread.is_alive():  # perhaps it waits for room
            while not queue.empty():
                queue.get()
            thread.join(0.01)


def _work(pieces: Pieces, queue: Queue[bytes | Exception], enough: Event) -> None:
    """Hand over pieces until there are none, or `enough`; then what is empty, or what failed."""
    end: bytes | Exception = b""
    parts: list[bytes] = []
    try:
        for part in pieces:
            parts.append(part)
            if sum(map(len, parts)) >= _LARGE:
                queue.put(b"".join(parts))
                parts.clear()
            if enough.is_set():
                return
    except Exception as failure:  # whoever takes the pieces is to be told
        end = failure
    if rest := b"".join(parts):
        queue.put(rest)
    queue.put(end)


def _fastest() -> ModuleType:
    """Return zlib-ng where it is installed, which does the same in two thirds of the time."""
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib
    return zlib_ng


def gunzip(stored: Window) -> Pieces:
    """Decompress the members of a gzip file; zeros behind a member are padding."""
    library = _fastest()
    try:
        while stored.fill(1):
            yield from _gzip_member(stored, library)
            _pass_zeros(stored)
    except (EOFError, library.error) as fault:
        stored.note_fault(str(fault))


def _gzip_member(stored: Window, library: ModuleType) -> Pieces:
    inflate = library.decompressobj(wbits=31)
    while not inflate.eof:
        data = inflate.unconsumed_tail or stored.take(1 << 14)
        if not data:
            yield inflate.flush()
            raise _cut()
        before = inflate.copy()
        try:
            piece = inflate.decompress(data, READ)
        except library.error:
            # the call gave nothing of what it had done: again, byte by byte up to the same error
            for place in range(len(data)):
                yield before.decompress(data[place : place + 1])
            raise
        yield piece
    stored.start -= len(inflate.unused_data)


def _pass_zeros(stored: Window) -> None:
    while zeros := stored.take(READ):
        if rest := zeros.lstrip(b"\0"):
            stored.start -= len(rest)
            return


def unzstd(stored: Window) -> Pieces:
    """Decompress the frames of a zstd file; a fault takes its block with it, 128 KiB at most."""
    from zstandard import ZstdError  # only where there is something to decompress

    try:
        while stored.fill(1):
            _demand(stored, 8)
            magic = int.from_bytes(stored.view[stored.start :][:4], "little")
            if magic & 0xFFFFFFF0 == 0x184D2A50:
                _pass_over(stored)
            else:
                yield from _zstd_frame(stored)
    except (EOFError, ZstdError) as fault:
        stored.note_fault(str(fault))


def _pass_over(stored: Window) -> None:
    """Pass over a frame that holds no data."""
    left = int.from_bytes(stored.take(8)[4:], "little")
    while left:
        _demand(stored, 1)
        left -= len(stored.take(min(left, READ)))


def _zstd_frame(stored: Window) -> Pieces:
    """Feed a frame block by block: only this bounds the output and shows that a frame is cut."""
    from zstandard import ZstdDecompressor

    decompress = ZstdDecompressor().decompressobj().decompress
    descriptor = stored.view[stored.start + 4]
    single = descriptor >> 5 & 1
    checksum = descriptor & 4
    size = 6 - single + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    decompress(stored.take(size))
    last = 0
    while not last:
        _demand(stored, 3)
        head = stored.take(3)
        block = int.from_bytes(head, "little")
        last = block & 1
        size = 1 if block >> 1 & 3 == 1 else block >> 3  # one byte to repeat, or all of them
        size += checksum if last else 0
        _demand(stored, size)
        yield decompress(head + stored.take(size))


def _demand(stored: Window, count: int) -> None:
    if not stored.fill(count):
        raise _cut()


def _cut() -> EOFError:
    return EOFError("the compressed data ends too early")
