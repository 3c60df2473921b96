"""What became of a migration that was sent, in QEMU's own terms."""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.errors import PeerError
from multifd_proto.peers.statistics import ChannelStatistics, total
from multifd_proto.wire.schema import MultiFDInit


@dataclass(frozen=True)
class Sent:
    """What became of a migration that was sent."""

    error: PeerError | None
    """What went wrong first; where a connection broke, what the destination says of it."""
    seconds: float
    """From the first connection until the end."""
    channels: tuple[ChannelStatistics, ...]
    main_bytes: int
    """Bytes of the main stream."""
    main_zero: int
    """Pages of zeros that went on the main stream."""
    pong: bool
    """The destination has answered the PING: it has begun to load."""
    switchover_ack: bool
    """The destination has said that it agrees to a switchover."""
    shut: int | None
    """What the destination said at the end: 0 if it has loaded everything."""
    copied: int
    """With zero copy, packets whose pages the kernel has copied after all, as on loopback
    (QEMU: `dirty-sync-missed-zero-copy` counts the rounds with such)."""

    @property
    def completed(self) -> bool:
        """Everything was sent and, with a return path, loaded."""
        return self.error is None

    @property
    def normal(self) -> int:
        """Pages sent with their content (QEMU: `normal`)."""
        return total(self.channels).normal

    @property
    def duplicate(self) -> int:
        """Pages of zeros sent, wherever they went (QEMU: `duplicate`)."""
        return total(self.channels).zero + self.main_zero

    @property
    def multifd_bytes(self) -> int:
        """Bytes of all channels, their preambles included (QEMU: `multifd-bytes`).

        So 10.0 and 11.1 count it. 5.2 and 7.2 leave the preambles out, and count pages that are
        compressed as if they were not.
        """
        return total(self.channels).bytes + MultiFDInit.size() * len(self.channels)
