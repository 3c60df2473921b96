"""Cases of the mode without packets: files with a place for each page, loaded and saved.

What is exchanged here is a file, so these cases have their own peers: a `FileReader` loads a file
that the suite made, a `FileWriter` saves one that the suite judges (`file_target`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.mapped_ram import MappedRamFile
from multifd_proto.peers.mapped_ram_write import write
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.mapped_ram import MappedBlock
from multifd_proto.wire.requirements import Requirement, load

from .file_judging import FileExpect, SavedFile, judge_loaded
from .file_target import BLOCK, FilePeer, FileReader, FileWriter, SaveSetup
from .peers import split_uri
from .peers.guest_memory import GuestMemory, content
from .target import MEMORY
from .verdict import Judgement, Verdict

READERS = {
    "builtin": ("builtin_files", "the reference, or with ?broken=MAPR-5 one without any check"),
    "qemu": ("qemu_files", "a QEMU binary, or a release that was fetched"),
}
"""Scheme -> module of `peers` with `reader(rest, options, uri)`, and what it is."""
WRITERS = {
    "builtin": ("builtin_files", "the reference, or with ?broken=ID one that is wrong in one way"),
    "qemu-src": ("qemu_files", "a QEMU binary, or a release that was fetched"),
}
"""Scheme -> module of `peers` with `writer(rest, options, uri)`, and what it is."""


def reader_of(uri: str) -> FileReader | None:
    """Return the reader that a URI names; None if its scheme has none.

    Raises:
        PeerError: the URI is malformed, or names nothing.
    """
    if uri.partition(":")[0] not in READERS:
        return None
    module, rest, options = split_uri(uri, READERS)
    reader: FileReader = module.reader(rest, options, uri)
    return reader


def writer_of(uri: str) -> FileWriter | None:
    """Return the writer that a URI names; None if its scheme has none.

    Raises:
        PeerError: the URI is malformed, or names nothing.
    """
    if uri.partition(":")[0] not in WRITERS:
        return None
    module, rest, options = split_uri(uri, WRITERS)
    writer: FileWriter = module.writer(rest, options, uri)
    return writer


# ---- files -------------------------------------------------------------------------------------


@cache
def good_file(kind: str, dialect: Dialect, offset: int = 0) -> bytes:
    """Return a file that keeps all requirements.

    Args:
        kind: of memory, as `peers.guest_memory.content` knows it.
        dialect: that it is written in.
        offset: where in the file the stream begins.
    """
    with tempfile.TemporaryDirectory() as folder, GuestMemory(content(kind, MEMORY)) as memory:
        path = Path(folder, "saved")
        write(path, {BLOCK: memory.path}, template_for(dialect), writers=1, offset=offset)
        return path.read_bytes()


def block_of(file: bytes) -> MappedBlock:
    """Return the RAM block of a file of `good_file`, whose stream begins at 0."""
    with GuestMemory(file) as memory, MappedRamFile(memory.path) as opened:
        return opened.blocks[0].block


# ---- cases -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileCase:
    """A case of either role: one requirement, and how a peer is judged by it."""

    id: str
    says: str
    """What is done, in words."""
    expect: FileExpect
    judge: Callable[[str], Judgement]
    """Judges a peer, given by its URI."""

    @property
    def requirement(self) -> Requirement:
        """The one requirement that it is a case of."""
        return load()[self.id.partition("/")[0]]

    def run(self, peer_uri: str) -> Judgement:
        """Try a peer. Never raises for what a peer does, or cannot do.

        Args:
            peer_uri: `builtin:`, `qemu:` for readers, `qemu-src:` for writers; others have
                nothing to do with files, and the case is not applicable to them.
        """
        try:
            return self.judge(peer_uri)
        except PeerError as error:
            return Judgement(Verdict.HARNESS_ERROR, str(error))


def reads(
    slug: str,
    says: str,
    alter: Callable[[bytes], bytes] | None = None,
    *,
    kind: str = "mixed",
    multifd: bool = False,
    offset: int = 0,
) -> FileCase:
    """Return a case for readers.

    Args:
        slug: of the case's id; `-multifd` is added.
        says: what is loaded, in words.
        alter: makes the file one that has to be refused; None leaves it good.
        kind: content of memory, as `peers.guest_memory.content` knows it.
        multifd: whether the reader uses multifd.
        offset: where in the file the stream begins.
    """
    expect = FileExpect.REFUSES if alter else FileExpect.LOADS

    def judge(uri: str) -> Judgement:
        reader = reader_of(uri)
        if reader is None or (away := _away(reader)):
            return _not_applicable(away if reader else "peers of this scheme load no files")
        file = good_file(kind, reader.dialect, offset)
        with GuestMemory(alter(file) if alter else file) as given:
            loaded = reader.load(given.path, multifd=multifd, offset=offset)
        return judge_loaded(expect, loaded, content(kind, MEMORY))

    how = "with multifd" if multifd else "without multifd"
    name = f"MAPR-5/{slug}{'-multifd' if multifd else ''}"
    return FileCase(name, f"{says}, {how}", expect, judge)


def writes(requirement: str, slug: str, setup: SaveSetup) -> FileCase:
    """Return a case for writers: whether what is saved like this keeps a requirement."""

    def judge(uri: str) -> Judgement:
        writer = writer_of(uri)
        if writer is None or (away := _away(writer)):
            return _not_applicable(away if writer else "peers of this scheme save no files")
        seen = _saved(uri, setup)
        if seen is None:
            return _not_applicable("the peer's memory does not change while it is saved")
        return seen.judge(requirement)

    many = f"{setup.channels} channels" if setup.channels else "without multifd"
    where = f", from {setup.offset} on" if setup.offset else ""
    dirty = ", which changes meanwhile" if setup.dirty else ""
    says = f"{setup.memory} memory{dirty}, saved {many}{where}"
    return FileCase(f"{requirement}/{slug}", says, FileExpect.KEEPS, judge)


def _away(peer: FilePeer) -> str:
    """Return why a peer cannot know such files; empty if it can."""
    bound = load()["MAPR-1"]
    if peer.dialect in bound.dialects:
        return ""
    return f"binds {bound.dialect_text}, the peer is of {peer.dialect.name}"


def _not_applicable(why: str) -> Judgement:
    return Judgement(Verdict.NOT_APPLICABLE, why)


@cache
def _saved(uri: str, setup: SaveSetup) -> SavedFile | None:
    """Save once for all requirements that the file is judged by."""
    writer = writer_of(uri)
    assert writer is not None
    with GuestMemory(b"") as target:
        saved = writer.save(target.path, setup)
        return None if saved is None else SavedFile.of(target.path, setup.offset, saved)
