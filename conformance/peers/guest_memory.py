"""The memory of the machines that the suite's own sources migrate: in memory, never on disk."""

from __future__ import annotations

import os
import random
from functools import lru_cache
from pathlib import Path

from multifd_proto.peers.owner import Owner

from ..target import SourceSetup

PAGE = 4096
"""Bytes of a page of content; target pages may be larger."""
_MISSING = 42
"""Pages that a block for a partial last packet is short of whole packets; QEMU wants it even."""


def size_of(setup: SourceSetup) -> int:
    """Return the bytes of the machine's memory."""
    return setup.size - _MISSING * PAGE if setup.memory == "partial" else setup.size


@lru_cache(4)
def content(memory: str, size: int) -> bytes:
    """Return guest memory, the same for the same arguments.

    Args:
        memory: as `SourceSetup.memory`.
        size: bytes.
    """
    if memory == "zero":
        return bytes(size)
    chooser = random.Random(f"{memory} {size}")
    if memory == "random":
        return chooser.randbytes(size)
    pages: list[bytes] = []
    while len(pages) * PAGE < size:
        kind, row = chooser.choice("rtz"), chooser.choice((1, 1, 2, 8, 40))
        for _ in range(row):
            text = f"page {len(pages)} ".encode() * (PAGE // 5)
            pages.append({"r": chooser.randbytes(PAGE), "t": text[:PAGE], "z": bytes(PAGE)}[kind])
    return b"".join(pages)[:size]


class GuestMemory(Owner):
    """A file in memory, gone with its last descriptor; other processes open it by its path."""

    def __init__(self, data: bytes) -> None:
        self._file = os.memfd_create("guest")
        self._size = len(data)
        with open(self._file, "wb", closefd=False) as file:
            file.write(data)

    @property
    def path(self) -> Path:
        """Path of the file, as long as it is open."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file}")

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Return what it holds now."""
        return os.pread(self._file, self._size if length is None else length, offset)

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
