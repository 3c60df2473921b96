"""What the cases of mapped-ram files point at: a reader or a writer of files.

What is exchanged is a file and no connection. Both files and guest memory are `GuestMemory`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.mapped_ram import MappedBlock

from .observation import Reaction

BLOCK = b"ram0"
"""Name of the RAM block that is saved and loaded."""
PAGE_SIZE = 4096
"""Target page size in bytes of the machines here."""


@dataclass(frozen=True)
class Loaded:
    """What came of a file that a reader was given."""

    reaction: Reaction
    memory: bytes | None = None
    """The block's memory afterwards; None if it cannot be seen."""
    reason: tuple[str, ...] = ()
    """Why it was refused, the best first."""
    death: str | None = None
    """How the reader ended by itself."""


@dataclass(frozen=True)
class SaveSetup:
    """How a file is to be saved."""

    memory: str = "mixed"
    """As `peers.guest_memory.content` knows it."""
    channels: int = 0
    """Multifd channels; 0 is without multifd."""
    offset: int = 0
    """Place in the file at which the stream begins."""
    dirty: bool = False
    """Memory changes meanwhile, also to zeros."""


@dataclass(frozen=True)
class Saved:
    """What came of a writer that was to save its machine."""

    reaction: Reaction
    """ACCEPTED: it says that the file is complete."""
    memory: bytes | None = None
    """What memory was in the end; None if it cannot be seen."""
    reason: tuple[str, ...] = ()
    death: str | None = None


class FilePeer(Protocol):
    """Something that has to do with mapped-ram files."""

    @property
    def dialect(self) -> Dialect:
        """The dialect that it speaks. Raises PeerError if it cannot be used at all."""


class FileReader(FilePeer, Protocol):
    """Loads files."""

    def load(self, path: Path, *, multifd: bool, offset: int) -> Loaded:
        """Load a file into fresh memory of `target.MEMORY` bytes.

        Args:
            path: the file.
            multifd: whether with multifd, which makes no difference to the file.
            offset: where in the file the stream begins.

        Raises:
            PeerError: the reader could not be started.
        """


class FileWriter(FilePeer, Protocol):
    """Saves files."""

    def save(self, path: Path, setup: SaveSetup) -> Saved | None:
        """Save a machine with such memory into a file; None if it cannot do so.

        Raises:
            PeerError: the writer could not be started.
        """


def with_header(file: bytes, block: MappedBlock, **values: int) -> bytes:
    """Return a file whose block has other values in its header."""
    built = replace(block.header, **values).build()
    return file[: block.end - len(built)] + built + file[block.end :]
