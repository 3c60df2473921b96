"""`builtin:` as a reader and writer of mapped-ram files: the reference, or wrong on purpose.

    builtin:?broken=MAPR-3

Options that have nothing to do with files, and requirements of other chapters as `broken`, change
nothing here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.mapped_ram import MappedRamFile
from multifd_proto.peers.mapped_ram_write import write
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.mapped_ram import MappedBlock, unpack_bitmap
from multifd_proto.wire.ram_records import RamFlush

from ..file_target import BLOCK, PAGE_SIZE, Loaded, Saved, SaveSetup, with_header
from ..observation import Reaction
from ..target import MEMORY
from .guest_memory import GuestMemory, content


def reader(rest: str, options: dict[str, str], uri: str) -> BuiltinFiles:
    """Return the reader, and writer, of a `builtin:` URI.

    Raises:
        PeerError: the URI is malformed.
    """
    if rest:
        raise PeerError(f"peer {uri!r}: {rest!r} follows the scheme, must be options")
    return BuiltinFiles(_dialect(uri, options), options.get("broken", ""))


writer = reader


def _dialect(uri: str, options: dict[str, str]) -> Dialect:
    try:
        return dialect_of(options.get("dialect", DIALECTS[-1].name))
    except ValueError as error:
        raise PeerError(f"peer {uri!r}: dialect: {error}") from None


class BuiltinFiles:
    """Our own reader and writer."""

    def __init__(self, dialect: Dialect, broken: str) -> None:
        self.dialect = dialect
        self._broken = broken

    def load(self, path: Path, *, multifd: bool, offset: int) -> Loaded:  # noqa: ARG002
        """Load a file; see `file_target.FileReader`."""
        try:
            with MappedRamFile(path, offset) as file, tempfile.TemporaryDirectory() as folder:
                block = next(info.block for info in file.blocks if info.block.name == BLOCK)
                if self._broken == "MAPR-5":
                    return Loaded(Reaction.ACCEPTED, _believed(path.read_bytes(), block))
                wrong = [v.message for result in file.results for v in result.violations]
                if block.header.page_size != PAGE_SIZE:
                    wrong.append(f"page_size is {block.header.page_size}, must be {PAGE_SIZE}")
                if wrong:
                    return Loaded(Reaction.REJECTED, reason=tuple(wrong))
                target = Path(folder, "memory")
                file.extract(block, target)
                return Loaded(Reaction.ACCEPTED, target.read_bytes())
        except (PeerError, StopIteration) as error:
            return Loaded(Reaction.REJECTED, reason=(str(error) or "the file has no RAM block",))

    def save(self, path: Path, setup: SaveSetup) -> Saved | None:
        """Save a machine; see `file_target.FileWriter`."""
        if setup.dirty:
            return None
        memory = content(setup.memory, MEMORY)
        with tempfile.TemporaryDirectory() as folder, GuestMemory(memory) as image:
            saved, template = Path(folder, "saved"), template_for(self.dialect)
            many = setup.channels or 1
            write(saved, {BLOCK: image.path}, template, writers=many, offset=setup.offset)
            data = saved.read_bytes()
            if spoil := SPOILS.get(self._broken):
                with MappedRamFile(saved, setup.offset) as file:
                    data = spoil(data, file.blocks[0].block)
        path.write_bytes(data)
        return Saved(Reaction.ACCEPTED, memory)


def _believed(file: bytes, block: MappedBlock) -> bytes:
    """Load a block as its header says, checking nothing; what is not there is zero."""
    begin = block.header.bitmap_offset
    flags = unpack_bitmap(file[begin : begin + MEMORY // PAGE_SIZE // 8])
    memory = bytearray(MEMORY)
    for page, flag in enumerate(flags):
        if flag == "1":
            place = block.header.pages_offset + page * PAGE_SIZE
            there = file[place : place + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")
            memory[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = there
    return bytes(memory)


# ---- writers that are wrong in one way: a whole file in, the same with one thing wrong out ------


def _other_version(file: bytes, block: MappedBlock) -> bytes:
    return with_header(file, block, version=2)


def _unaligned_pages(file: bytes, block: MappedBlock) -> bytes:
    begin = block.slots.start
    file = with_header(file, block, pages_offset=begin + PAGE_SIZE)
    return file[:begin] + bytes(PAGE_SIZE) + file[begin:]


def _forgotten_page(file: bytes, block: MappedBlock) -> bytes:
    bitmap = int.from_bytes(file[block.bitmap.start : block.bitmap.stop], "little")
    less = (bitmap & max(bitmap - 1, 0)).to_bytes(len(block.bitmap), "little")
    return file[: block.bitmap.start] + less + file[block.bitmap.stop :]


def _flush_word(file: bytes, block: MappedBlock) -> bytes:
    return file[: block.slots.stop] + RamFlush().build() + file[block.slots.stop :]


SPOILS: dict[str, Callable[[bytes, MappedBlock], bytes]] = {
    "MAPR-1": _other_version,
    "MAPR-2": _unaligned_pages,
    "MAPR-3": _forgotten_page,
    "MAPR-4": _flush_word,
}
"""Requirement -> what makes a file violate it and no other."""
