"""What the suite points at: a receiver or a sender that can be started, seen and stopped.

A peer is named by a URI (`uri.py`). Its `Description` says what it can do, which decides what is
not applicable to it, and what can be seen of it: what cannot be seen is never taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol, Self
from uuid import UUID

from multifd_proto.machine.sending import Surroundings
from multifd_proto.peers.address import Address
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.requirements import Role

MACHINE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8").bytes
"""UUID of the machines that the suite migrates."""
MEMORY = 1 << 20
"""Bytes of a machine's first RAM block, where the suite may choose."""


class Sense(Enum):
    """What can be seen of a peer beside its connections."""

    MEMORY = auto()
    """The guest's memory, while it is written to."""
    PROCESS = auto()
    """Whether the process lives, and how it ended."""
    STATE = auto()
    """Whether it says that the migration runs, completed or failed."""
    REASON = auto()
    """The text that it gives for a failure."""


class State(Enum):
    """What a peer says of its migration."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SILENT = "silent"
    """It was asked, and does not answer."""
    UNKNOWN = "unknown"
    """It cannot be asked."""


@dataclass(frozen=True)
class Setup:
    """What a peer is started for: what both ends of the migration agree on."""

    channels: int = 2
    method: str = "none"
    """Payload method, by its name in `wire.payload.METHODS`."""
    uuid: bytes = MACHINE
    """16 bytes, in text order."""
    tls: TlsCredentials | None = None
    """Credentials that the peer is to use on every connection."""


@dataclass(frozen=True)
class Description:
    """What a peer is, what it can do, and what can be seen of it."""

    product: str
    """Such as `QEMU`; together with `version` it selects the known deviations."""
    version: str
    """Such as `10.0.13 (Debian ...)`; may be empty."""
    dialect: Dialect
    roles: frozenset[Role]
    around: Surroundings
    """What a main stream has to hold beside the sections of memory."""
    blocks: Mapping[bytes, int]
    """RAM blocks by name, with their used lengths in bytes; the first is the one to write to."""
    page_size: int = 4096
    """Target page size in bytes."""
    methods: frozenset[str] = frozenset({"none"})
    """Payload methods that it was built with."""
    tls: bool = False
    max_channels: int = 255
    min_channels: int = 1
    """As many as `max_channels` where it cannot be told how many there are."""
    uuid: bytes = MACHINE
    """UUID that its machine has, or can be told to have: 16 bytes, in text order."""
    return_path: bool = True
    """It answers on the main stream's connection, if the source asks it to."""
    senses: frozenset[Sense] = frozenset()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Requirement id -> why this peer cannot be asked for it."""


class Running(Protocol):
    """A peer at work. It is a context manager: at its end nothing of the peer is left."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(self, *exception: object) -> None:
        """Stop the peer by force."""

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory; None if it cannot be seen."""

    @property
    def death(self) -> str | None:
        """How the process ended: `exit status 1`, `signal SIGSEGV`; None while it lives."""

    @property
    def crashed(self) -> bool:
        """It ended by a signal that nobody sent, or says so itself (sanitizers, panics)."""

    def state(self, timeout: float) -> State:
        """Ask for the state of the migration, and wait for the answer that many seconds."""

    def reason(self) -> tuple[str, ...]:
        """Return what the peer gave as the reason of a failure, the best first."""

    def log(self) -> str:
        """Return the end of what the peer printed: at most some KiB."""


class RunningReceiver(Running, Protocol):
    """A destination that listens."""

    @property
    def address(self) -> Address:
        """Where a source has to dial."""


class ReceiverPeer(Protocol):
    """A receiver that can be started again and again, each time for one migration."""

    @property
    def uri(self) -> str:
        """What the user called it."""

    def describe(self) -> Description:
        """Tell what it is; may start it. Raises PeerError if it cannot be used at all."""

    def receive(self, setup: Setup) -> RunningReceiver:
        """Start a destination. Raises PeerError if that fails."""

    def close(self) -> None:
        """Let go of what outlives a single migration."""


@dataclass(frozen=True)
class SourceSetup(Setup):
    """What a sender is started for."""

    memory: str = "mixed"
    """Content of the guest's memory: `mixed` (random, patterned and zero pages), `zero`,
    `random`, `partial` (so many pages that the last packet is not full)."""
    size: int = MEMORY
    """Bytes of memory."""
    blocks: int = 1
    """RAM blocks that hold something."""
    dirty: bool = False
    """Memory changes while it migrates, so that there are several rounds."""
    return_path: bool = False


class RunningSender(Running, Protocol):
    """A source that migrates."""

    def cancel(self) -> bool:
        """Cancel the migration; False if this peer cannot."""

    def image(self, block: bytes) -> bytes | None:
        """Return what memory has to be at the destination; None if it is not known."""


class SenderPeer(Protocol):
    """A sender that can be started again and again, each time for one migration."""

    @property
    def uri(self) -> str:
        """What the user called it."""

    def describe(self) -> Description:
        """Tell what it is; may start it. Raises PeerError if it cannot be used at all."""

    def send(self, setup: SourceSetup, to: Address) -> RunningSender:
        """Start a migration to an address that is listened on. Raises PeerError if that fails."""

    def close(self) -> None:
        """Let go of what outlives a single migration."""
