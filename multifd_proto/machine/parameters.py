"""What is known of a migration beforehand; what is not known is None, and inferred openly."""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.payload import PayloadMethod


@dataclass(frozen=True)
class RamBlock:
    """A RAM block of the migrating machine."""

    name: bytes
    used_length: int
    """Bytes that are in use and migrate."""
    migratable: bool = True


@dataclass(frozen=True)
class MigrationParameters:
    """What both ends of a migration are configured for."""

    dialect: Dialect | None = None
    page_size: int | None = None
    """Target page size in bytes."""
    channels: int | None = None
    uuid: bytes | None = None
    """16 bytes, in text order."""
    ramblocks: tuple[RamBlock, ...] | None = None
    compression: PayloadMethod | None = None


@dataclass(frozen=True)
class Bounds:
    """How much memory a check may take, whatever its input claims."""

    rounds: int = 4096
    """Rounds that channels may be apart before their packets are no longer compared."""
    runs: int = 65536
    """Runs of packet numbers that are told apart."""
    page_chunks: int = 8192
    """Chunks of 32768 pages (128 MiB at 4 KiB) whose arrival is remembered, 4 KiB each."""
    blocks: int = 4096
    """RAM blocks that are told apart."""
    examples: int = 20
    """Violations of one requirement that are kept whole; the rest is counted."""
