"""What the bytes of one channel do to a receiver: admitted or refused, into memory, and parked.

The channel machine turns them into events. An uncompressed payload does not come through here:
`pieces` says where in guest memory it goes, and `passed` that it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.refusal import (
    Refusals,
    block_name,
    refuse_device_state,
    refuse_end,
    refuse_header,
    refuse_init,
    refuse_packet,
    refuse_payload,
)
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.connection import after
from multifd_proto.peers.receive.memory import Block
from multifd_proto.peers.receive.reception import Reception
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.wire.schema import MultiFDPacketHdr

_HEADER = MultiFDPacketHdr.size()


class ChannelIntake:
    """Takes one channel in."""

    def __init__(
        self,
        reception: Reception,
        stream: int,
        opened: int,
        device_state: Callable[[DeviceStateReceived], Path] | None = None,
    ) -> None:
        """Make the intake of a channel whose first bytes are still to come.

        Args:
            reception: the migration.
            stream: number of the connection, in the order of acceptance.
            opened: when it was accepted, in ns since the epoch.
            device_state: names a file for the data of a device-state packet; None drops them.
        """
        self.statistics = ChannelStatistics()
        self.stream = stream
        """Number of the connection."""
        self.pieces: list[memoryview] = []
        """Guest memory that the rest of an uncompressed payload goes to."""
        self.unsynced = False
        """Pages have come since the last SYNC."""
        self.over = False
        """The main stream has passed its last mark, and the channel a SYNC after it."""
        self.head = 0
        """Where the packet that has begun starts, in bytes."""
        parameters = reception.state.parameters
        self._reception, self._parameters = reception, parameters
        method = parameters.compression
        self.compressed = method is not None and method.flag != 0
        self.machine = Channel(
            page_size=parameters.page_size,
            dialect=parameters.dialect,
            sink=_MemorySink(self) if self.compressed else None,
        )
        self._judge = reception.judge
        if self._judge:
            self._judge.open(stream, opened)
        self._block: Block | None = None
        self._name_device_state = device_state
        self._device_state: Path | None = None

    @property
    def between(self) -> bool:
        """The channel stands between two packets."""
        machine = self.machine
        return machine.state is ChannelState.AWAIT_HEADER and machine.wanted() == _HEADER

    # ---- bytes -----------------------------------------------------------------------------------

    def take(self, data: memoryview | bytes) -> None:
        """Take the next bytes; none of a message before the last one is dealt with.

        Raises:
            PeerError: the source did what a receiver refuses, or the migration has failed.
        """
        if self._judge and len(data):
            self._judge.feed(self.stream, data)
        while len(data):
            part = data[: self.machine.wanted() or len(data)]
            if self._device_state:
                with self._device_state.open("ab") as file:
                    file.write(part)
            self.machine.receive_data(part)
            self._drain()
            data = data[len(part) :]

    def passed(self, length: int) -> None:
        """Take note of bytes of `pieces` that are in guest memory.

        Raises:
            PeerError: as `take` does.
        """
        if length:
            self.pieces = after(self.pieces, length)
            if self._judge:
                self._judge.skip(self.stream, length)
            self.machine.receive_skipped(length)
            self._drain()

    def passed_packets(self, length: int) -> None:
        """Take note of whole packets with pages, of so many bytes, that are dealt with already."""
        self.machine.receive_packets(length)
        self.head = self.machine.offset
        self.unsynced |= length > 0

    def end(self, *, reset: bool, ragged: bool) -> None:
        """Take the end of the stream.

        Args:
            reset: the connection was broken off.
            ragged: inside TLS, it ended without close_notify.

        Raises:
            PeerError: it ended inside a message, or TLS did not end where the dialect demands it.
        """
        reception, state, channel = self._reception, self._reception.state, self.statistics.id
        if self._judge:
            self._judge.returned(self.stream, 0)  # we write nothing on a channel (CHAN-2)
            self._judge.end(self.stream, reset=reset)
        self.machine.receive_eof(reset=reset)
        *_, ended = self.machine.events()
        assert isinstance(ended, Ended)
        dialect = self._parameters.dialect
        self._refuse(refuse_end(ended.due, ragged=ragged, dialect=dialect), ended.offset)
        with reception.lock:
            if channel is not None:
                state.ended.add(channel)
            reception.lock.notify_all()

    def write(self, memory: memoryview) -> None:
        """Write decoded guest memory into the next of the packet's pages."""
        while len(memory) and self.pieces:
            part = memory[: len(self.pieces[0])]
            self.pieces[0][: len(part)] = part
            self.pieces = after(self.pieces, len(part))
            memory = memory[len(part) :]

    # ---- events ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        for event in list(self.machine.events()):
            handler = _HANDLERS.get(type(event))
            if handler:
                handler(self, event)

    def _refuse(self, refusals: Refusals, offset: int) -> None:
        self._reception.refuse(refusals, self.stream, self.statistics.id, offset)

    def _take_init(self, event: InitReceived) -> None:
        reception = self._reception
        with reception.lock:
            state = reception.state
            self._refuse(refuse_init(event, self._parameters, state.arrived), event.offset)
            self.statistics.id = event.init.id
            state.admit(event.init.id)
            self.head = self.machine.offset
            reception.lock.notify_all()

    def _take_header(self, event: HeaderReceived) -> None:
        self._refuse(refuse_header(event), event.offset)

    def _take_packet(self, event: PacketReceived) -> None:
        # before its first SYNC a channel sends no pages, whoever is faster (SYNC-1)
        blocks = self._reception.state.blocks if self.statistics.syncs else None
        self._refuse(refuse_packet(event, self._parameters, blocks), event.offset)
        if not event.pages:
            return
        if self.over:
            seen = "missing, and pages follow"
            fault = Fault("mark of the last SYNC", seen, "on the main stream")
            self._refuse([("SYNC-6", fault)], event.offset)
        self.unsynced = True
        self._block = block = self._reception.memory.blocks[block_name(event)]
        self.pieces = block.pieces(event.packet.offset[: event.packet.normal_pages])

    def _take_device_state(self, event: DeviceStateReceived) -> None:
        devices = self._reception.devices
        self._refuse(refuse_device_state(event, self._parameters, devices=devices), event.offset)
        if self._name_device_state:
            self._device_state = self._name_device_state(event)
            self._device_state.write_bytes(b"")

    def _take_payload(self, event: PayloadReceived) -> None:
        self._refuse(refuse_payload(event), event.offset)
        head = event.head
        self._device_state, self.pieces = None, []
        self.statistics.count(head)
        self.head = self.machine.offset
        if isinstance(head, PacketReceived):
            self._finish_packet(head)

    def _finish_packet(self, head: PacketReceived) -> None:
        packet = head.packet
        if packet.zero_pages and self._block:
            self._block.clear(head.page_offsets[packet.normal_pages :])
        if head.sync and self.statistics.id is not None:
            self.unsynced = False
            self._park(self.statistics.id)

    def _park(self, channel: int) -> None:
        """Wait, after a SYNC, for the mark of its round; the kernel holds the source back."""
        reception = self._reception
        if self._judge:
            self._judge.flush(self.stream)
        with reception.lock:
            state = reception.state
            state.arrive(channel)
            reception.lock.notify_all()
        reception.wait(lambda: not state.parked(channel))
        self.over = state.arrived[channel] > state.passed


class _MemorySink:
    """Writes what a decoder gives into the pages of the packet."""

    def __init__(self, intake: ChannelIntake) -> None:
        self._intake = intake

    def begin(self, packet: PacketReceived) -> None:
        """Do nothing: the packet is not admitted yet."""

    def write(self, data: bytes | memoryview) -> None:
        """Write guest memory into the next pages."""
        self._intake.write(memoryview(data))

    def end(self, payload: PayloadReceived) -> None:
        """Do nothing: the event says it all."""


_HANDLERS: dict[type[Event], Callable[..., None]] = {
    InitReceived: ChannelIntake._take_init,
    HeaderReceived: ChannelIntake._take_header,
    PacketReceived: ChannelIntake._take_packet,
    DeviceStateReceived: ChannelIntake._take_device_state,
    PayloadReceived: ChannelIntake._take_payload,
}
