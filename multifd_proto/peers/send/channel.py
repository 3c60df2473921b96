"""One multifd channel of a sender: a thread that takes packets of pages and sends them."""

from __future__ import annotations

from collections.abc import Callable

from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import PacketWriter, ZeroPages
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.send.crew import Bandwidth, Crew, Stopped
from multifd_proto.peers.send.ram_image import Batch
from multifd_proto.peers.send.zero_copy import ZeroCopy
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.wire.payload import Encoder


class SendChannel:
    """A channel; `run` is for a thread of its own."""

    def __init__(
        self,
        number: int,
        connect: Callable[[int], Connection],
        crew: Crew,
        writer: PacketWriter,
        *,
        encoder: Encoder | None,
        zero_copy: bool,
        bandwidth: Bandwidth | None,
    ) -> None:
        """Make a channel.

        Args:
            number: its id, from 0.
            connect: opens the connection of a channel.
            crew: the threads it belongs to.
            writer: makes the packets of all channels.
            encoder: of the channel's payloads; None sends pages as they are.
            zero_copy: send pages without a copy into the kernel.
            bandwidth: the limit of all channels together, if any.
        """
        self.statistics = ChannelStatistics(number)
        self.connection: Connection | None = None
        """Open once the channel has arrived at its first sync point."""
        self._number, self._connect = number, connect
        self._crew, self._writer = crew, writer
        self._encoder, self._bandwidth = encoder, bandwidth
        self._wants_zero_copy = zero_copy
        self._zero_copy: ZeroCopy | None = None
        self._detection = writer.parameters.zero_pages
        self._point = -1

    @property
    def copied(self) -> int:
        """With zero copy, packets whose pages the kernel has copied after all."""
        return self._zero_copy.copied if self._zero_copy else 0

    def run(self, points: int) -> None:
        """Connect, and send what is handed out at each of `points` sync points.

        A failure is reported to the crew.
        """
        try:
            self._open()
            for point in range(points):
                self._point = point
                for batch in self._crew.enter(point):
                    self._send_batch(batch)
                self._sync()
                self._crew.arrive()
        except Stopped:
            return
        except PeerError as error:
            self._crew.fail(type(error)(f"{error}{self._place()}"))
        except Exception as error:  # the others would wait for ever
            name = type(error).__name__
            self._crew.fail(PeerError(f"channel {self._number}: {name}: {error}{self._place()}"))

    def _open(self) -> None:
        connection = self.connection = self._connect(self._number)
        self._crew.when_stopped(connection.abort)
        if self._wants_zero_copy:
            self._zero_copy = ZeroCopy(connection)
        connection.send(self._writer.init(self._number))
        self._crew.arrive()

    def _place(self) -> str:
        if self._point < 0:
            return ""
        return f", at sync point {self._point}, after {self.statistics.packets} packets"

    def _send_batch(self, batch: Batch) -> None:
        normal, zero, pieces = batch.split(detect=self._detection is not ZeroPages.NONE)
        if zero and self._detection is ZeroPages.LEGACY:
            self._crew.hand_over(batch.image.name, zero)
            zero = ()
        if not normal and not zero:
            return
        if self._encoder:
            if self._encoder.pagewise:
                pieces = _cut(pieces, self._writer.parameters.page_size)
            pieces = [memoryview(self._encoder.encode(pieces))]
        size = sum(map(len, pieces))
        if self._bandwidth:
            self._bandwidth.take(size)
        head = self._writer.pages(batch.image.name, normal, zero, size)
        self._send(head, pieces)
        self.statistics.normal += len(normal)
        self.statistics.zero += len(zero)
        self.statistics.bytes += len(head) + size
        self.statistics.packets += 1

    def _sync(self) -> None:
        assert self.connection
        if self._zero_copy:
            self._zero_copy.settle()
        packet = self._writer.sync()
        self.connection.send(packet)
        self.statistics.bytes += len(packet)
        self.statistics.packets += 1
        self.statistics.syncs += 1

    def _send(self, head: bytes, pieces: list[memoryview]) -> None:
        assert self.connection
        if self._zero_copy:
            self.connection.send(head)
            self._zero_copy.send(pieces)
        else:
            self.connection.send(head, *pieces)


def _cut(pieces: list[memoryview], size: int) -> list[memoryview]:
    return [piece[at : at + size] for piece in pieces for at in range(0, len(piece), size)]
