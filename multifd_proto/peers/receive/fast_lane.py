"""The way that nearly every uncompressed packet takes: two system calls, and a few comparisons.

One call fills the pages of a straight packet, the other one the head of the next packet. Whatever
is not straight, or does not come whole, goes back to the reader and its machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.errors import PeerError
from multifd_proto.machine.straight import StraightPackets
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.receive.reception import Reception
from multifd_proto.peers.statistics import ChannelStatistics


@dataclass(frozen=True, slots=True)
class Leftover:
    """Where the fast lane ends: what the reader has to go on with."""

    passed: int
    """Bytes of the packets that were received."""
    head: memoryview | bytes
    """Start of the next packet, perhaps its whole head; nothing at the end of the stream."""
    pages: int = 0
    """Bytes of that packet's payload that are in guest memory already."""
    error: PeerError | None = None
    """What ended a wait."""


class FastLane:
    """Receives the straight packets of one channel."""

    def __init__(
        self,
        reception: Reception,
        connection: Connection,
        stream: int,
        statistics: ChannelStatistics,
    ) -> None:
        """Make a lane.

        Args:
            reception: the migration.
            connection: the channel's connection.
            stream: number of the connection, for the judge.
            statistics: of the channel; straight packets are counted here.
        """
        self._reception, self._connection, self._stream = reception, connection, stream
        self._judge, self._statistics = reception.judge, statistics
        self._packets = StraightPackets(reception.state.parameters)
        self._head = memoryview(bytearray(self._packets.size))
        self.inside: int | None = None
        """Bytes passed before the packet whose payload is awaited; None between packets."""

    def run(self) -> Leftover:
        """Receive packets, as long as they are straight and come whole."""
        passed, head = 0, self._head
        while True:
            try:
                length = self._connection.receive_into(head)
            except PeerError as error:
                return Leftover(passed, b"", error=error)
            self._reception.progress()
            blocks = self._reception.state.blocks
            found = self._packets.read(head, blocks or {}) if length == len(head) else None
            if not found:
                return Leftover(passed, head[:length])
            view = self._reception.memory.blocks[found[0]].run(found[1])
            self.inside = passed
            try:
                length = self._connection.receive_pieces([view])
            except PeerError as error:
                return Leftover(passed, head, error=error)
            self._reception.progress()
            if length < len(view):
                return Leftover(passed, head, length)
            self.inside = None
            passed += len(head) + length
            self._count(head, len(found[1]), length)

    def _count(self, head: memoryview, pages: int, length: int) -> None:
        counts = self._statistics
        counts.packets += 1
        counts.normal += pages
        counts.bytes += len(head) + length
        if self._judge:
            self._judge.feed(self._stream, head)
            self._judge.skip(self._stream, length)
