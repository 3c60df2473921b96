"""Chapter 12, mapped-ram files: what a reader refuses, and what it has to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..file_target import PAGE_SIZE, with_header
from ..mapped_ram import FileCase, block_of, reads

_MIB = 1 << 20
_END = 1 << 64


def _header(slug: str, says: str, **values: int) -> FileCase:
    def alter(file: bytes) -> bytes:
        return with_header(file, block_of(file), **values)

    return reads(slug, f"a file whose header has {says}", alter)


def _bitmap(slug: str, says: str, place: Callable[[bytes], int]) -> FileCase:
    def alter(file: bytes) -> bytes:
        return with_header(file, block_of(file), bitmap_offset=place(file))

    return reads(slug, f"a file whose bitmap {says}", alter)


def _pages(slug: str, says: str, place: Callable[[bytes], int]) -> Iterator[FileCase]:
    def alter(file: bytes) -> bytes:
        return with_header(file, block_of(file), pages_offset=place(file))

    for multifd in (False, True):
        yield reads(slug, f"a file whose pages {says}", alter, kind="random", multifd=multifd)


def _cut(slug: str, says: str, place: Callable[[bytes], int], *, multifd: bool = False) -> FileCase:
    def alter(file: bytes) -> bytes:
        return file[: place(file)]

    return reads(slug, f"a file that ends {says}", alter, kind="random", multifd=multifd)


def _good(slug: str, says: str, *, kind: str = "mixed", offset: int = 0) -> Iterator[FileCase]:
    for multifd in (False, True):
        yield reads(slug, f"a good file, {says}", kind=kind, offset=offset, multifd=multifd)


def _up(place: int) -> int:
    return -(-place // _MIB) * _MIB


CASES: tuple[FileCase, ...] = (
    *_good("good", "of some pages that are zero, and others"),
    *_good("all-zero", "of memory that is zero", kind="zero"),
    *_good("none-zero", "of memory without zero pages", kind="random"),
    *_good("offset", "that does not begin at 0", offset=12345),
    _header("version-0", "version 0", version=0),
    _header("version-2", "version 2", version=2),
    _header("version-turned-round", "version 1 in the wrong byte order", version=1 << 24),
    _header("page-size-0", "a page size of 0", page_size=0),
    _header("page-size-1", "a page size of 1", page_size=1),
    _header("page-size-halved", "a page size of 2048", page_size=2048),
    _header("page-size-doubled", "a page size of 8192", page_size=8192),
    _bitmap("bitmap-outside", "lies behind the end of the file", lambda file: _up(len(file))),
    _bitmap("bitmap-over-the-end", "lies but for its first byte behind the end of the file",
            lambda file: len(file) - 1),
    _bitmap("bitmap-at-the-highest-place", "begins at 2^64 - 8", lambda _: _END - 8),
    *_pages("pages-outside", "lie behind the end of the file", lambda file: _up(len(file))),
    *_pages("pages-over-the-end", "lie partly behind the end of the file",
            lambda file: block_of(file).slots.start + 16 * PAGE_SIZE),
    *_pages("pages-at-the-highest-place", "begin at 2^64 - 1 MiB, and end at 0",
            lambda _: _END - _MIB),
    *(_cut("truncated-in-a-page", "in the middle of its last page",
           lambda file: block_of(file).slots.stop - PAGE_SIZE // 2, multifd=multifd)
      for multifd in (False, True)),
    _cut("truncated-in-the-pages", "in the middle of its pages",
         lambda file: block_of(file).slots.start + 100 * PAGE_SIZE),
    _cut("truncated-before-the-pages", "where its pages should begin",
         lambda file: block_of(file).slots.start),
    _cut("truncated-in-the-bitmap", "in its bitmap", lambda file: block_of(file).bitmap.start + 1),
    _cut("truncated-in-the-header", "in the header of a block",
         lambda file: block_of(file).end - 1),
)  # fmt: skip


def test_mapped_ram(multifd_case: Callable[[], None]) -> None:
    multifd_case()
