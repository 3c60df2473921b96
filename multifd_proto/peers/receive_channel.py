"""One multifd channel of a receiver: a thread that reads exactly what the machine wants next.

The machine never asks for a byte of the message after the one it stands in, so each read is the
rest of a head, into a small buffer, or of a payload. Uncompressed pages go from the socket into
guest memory, and the machine is only told how many bytes went by.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from multifd_proto.errors import PeerError
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
    refuse_device_state,
    refuse_header,
    refuse_init,
    refuse_packet,
    refuse_payload,
)
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.connection import (
    Connection,
    PeerClosedError,
    PeerTimeoutError,
    after,
)
from multifd_proto.peers.reception import Reception
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.wire.schema import MultiFDPacketHdr

_BUFFER = 128 << 10
_HEADER = MultiFDPacketHdr.size()


class ChannelReader:
    """Receives one channel into the guest's memory."""

    def __init__(
        self,
        reception: Reception,
        connection: Connection,
        stream: int,
        device_state: Callable[[DeviceStateReceived], Path] | None = None,
    ) -> None:
        """Make a reader for a connection whose first bytes are still to come.

        Args:
            reception: the migration.
            connection: the channel's connection.
            stream: number of the connection, in the order of acceptance.
            device_state: names a file for the data of a device-state packet; None drops them.
        """
        parameters = reception.state.parameters
        self.statistics = ChannelStatistics()
        self._reception, self._connection, self._stream = reception, connection, stream
        self._parameters = parameters
        method = parameters.compression
        # uncompressed pages never come through here: the machine only counts their bytes
        decode = method is not None and method.flag != 0
        self._machine = Channel(
            page_size=parameters.page_size,
            dialect=parameters.dialect,
            sink=_MemorySink(self) if decode else None,
        )
        self._direct = not decode
        self._peer = reception.add_channel(stream)
        self._id: int | None = None
        self._pieces: list[memoryview] = []
        self._name_device_state = device_state
        self._device_state: Path | None = None
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begun = 0.0

    # ---- reading ---------------------------------------------------------------------------------

    def run(self, first: bytes) -> None:
        """Receive the channel to its end.

        Args:
            first: bytes of it that have been read already.

        Raises:
            PeerError: the source did what a receiver refuses, or went away, or was silent.
        """
        self._machine.receive_data(first)
        while need := self._machine.wanted():
            try:
                more = self._read_pages() if self._straight else self._read(need)
            except PeerTimeoutError:
                if not self._may_wait(need):
                    return
                continue
            except PeerClosedError as error:
                self._end(error)
                return
            if not more:
                self._end(None)
                return
            self._drain()

    def _read(self, need: int) -> bool:
        """Read up to `need` bytes for the machine; return False at the end of the stream."""
        view = self._buffer[:need]
        length = self._connection.receive_into(view, whole=True)
        self._reception.progress()
        if length == need:
            self._begun = 0.0
        elif length and self._machine.state is not ChannelState.AWAIT_PAYLOAD:
            self._bound_head(need - length)
        if self._device_state:
            with self._device_state.open("ab") as file:
                file.write(view[:length])
        self._machine.receive_data(view[:length])
        return length > 0

    @property
    def _straight(self) -> bool:
        """The next bytes go into guest memory as they are."""
        return self._direct and bool(self._pieces)

    def write(self, memory: memoryview) -> None:
        """Write decoded guest memory into the next of the packet's pages."""
        while len(memory) and self._pieces:
            part = memory[: len(self._pieces[0])]
            self._pieces[0][: len(part)] = part
            self._pieces = after(self._pieces, len(part))
            memory = memory[len(part) :]

    def _bound_head(self, lacking: int) -> None:
        """Let a head that comes in drops not take for ever."""
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._begun > self._reception.timeout:
            raise self._incomplete(lacking)

    def _read_pages(self) -> bool:
        """Read a payload straight into guest memory; return False at the end of the stream."""
        length = self._connection.receive_pieces(self._pieces)
        self._reception.progress()
        self._pieces = after(self._pieces, length)
        self._machine.receive_skipped(length)
        return length > 0

    def _may_wait(self, need: int) -> bool:
        """Decide on a silent peer: between packets it may be, as long as others are not."""
        reception = self._reception
        reception.check()
        between = self._machine.state is ChannelState.AWAIT_HEADER and need == _HEADER
        if not between:
            raise self._incomplete(need)
        with reception.lock:
            over = reception.state.over
        if over:
            reception.warn(f"channel {self._id}: the source did not close it")
            return False
        if reception.silent:
            raise PeerError(
                f"no byte came for {reception.timeout:g} s: channel {self._id} waits for a packet"
            )
        return True

    def _incomplete(self, lacking: int) -> PeerError:
        what = {
            ChannelState.AWAIT_INIT: "an init message",
            ChannelState.AWAIT_PAYLOAD: "a payload",
        }.get(self._machine.state, "a packet's head")
        return PeerError(
            f"{self._place} @{self._machine.offset:#x}: the peer sent no byte for"
            f" {self._reception.timeout:g} s, {lacking} bytes of {what} are lacking"
        )

    @property
    def _place(self) -> str:
        return self._connection.name if self._id is None else f"channel {self._id}"

    # ---- what it comes to ------------------------------------------------------------------------

    def _drain(self) -> None:
        events = list(self._machine.events())
        self._reception.judge(self._peer, events)
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler:
                handler(self, event)

    def _refuse(self, refusals: Refusals, offset: int) -> None:
        self._reception.refuse(refusals, self._stream, self._id, offset)

    def _take_init(self, event: InitReceived) -> None:
        reception = self._reception
        with reception.lock:
            state = reception.state
            self._refuse(refuse_init(event, self._parameters, state.arrived), event.offset)
            self._id = self.statistics.id = event.init.id
            state.admit(self._id)
            reception.lock.notify_all()
        self._connection.name = f"channel {self._id}"

    def _take_header(self, event: HeaderReceived) -> None:
        self._refuse(refuse_header(event), event.offset)

    def _take_packet(self, event: PacketReceived) -> None:
        blocks = self._reception.state.blocks
        self._refuse(refuse_packet(event, self._parameters, blocks), event.offset)
        normal = event.packet.normal_pages
        if normal:
            block = self._reception.memory.blocks[event.ramblock]
            self._pieces = block.pieces(event.packet.offset[:normal])

    def _take_device_state(self, event: DeviceStateReceived) -> None:
        self._refuse(refuse_device_state(event, self._parameters), event.offset)
        if self._name_device_state:
            self._device_state = self._name_device_state(event)

    def _take_payload(self, event: PayloadReceived) -> None:
        self._refuse(refuse_payload(event), event.offset)
        head = event.head
        self._device_state, self._pieces = None, []
        self.statistics.count(head)
        if isinstance(head, PacketReceived):
            self._finish_packet(head)

    def _finish_packet(self, head: PacketReceived) -> None:
        reception, packet = self._reception, head.packet
        if packet.zero_pages:
            zeros = head.page_offsets[packet.normal_pages :]
            reception.memory.blocks[head.ramblock].clear(zeros)
        if head.sync and self._id is not None:
            self._park(self._id)

    def _park(self, channel: int) -> None:
        """Wait, after a SYNC, for the mark of its round; the kernel holds the source back."""
        reception = self._reception
        with reception.lock:
            state = reception.state
            state.arrive(channel)
            reception.lock.notify_all()
        reception.wait(
            lambda: not state.parked(channel),
            lambda: (
                f"mark {state.passed + 1} of the main stream is awaited, as channel {channel} is"
            ),
        )

    def _end(self, error: PeerClosedError | None) -> None:
        """Take the end of the stream, or the reset of the connection."""
        reception = self._reception
        if self._connection.aborted:
            reception.stop()
        machine = self._machine
        machine.receive_eof(reset=error is not None)
        events = list(machine.events())
        reception.judge(self._peer, events)
        ended = events[-1]
        assert isinstance(ended, Ended)
        self._refuse(_refuse_end(ended), ended.offset)
        with reception.lock:
            over = reception.state.over
            if self._id is not None:
                reception.state.ended.add(self._id)
            reception.lock.notify_all()
        if error and not over:
            raise error


def _refuse_end(event: Ended) -> Refusals:
    if event.due:
        fault = Fault("end of the stream", f"{event.due} bytes early", "between two packets")
        yield "CHAN-11", fault


class _MemorySink:
    """Writes what a decoder gives into the pages of the packet."""

    def __init__(self, reader: ChannelReader) -> None:
        self._reader = reader

    def begin(self, packet: PacketReceived) -> None:
        """Do nothing: the packet is not admitted yet."""

    def write(self, data: bytes | memoryview) -> None:
        """Write guest memory into the next pages."""
        self._reader.write(memoryview(data))

    def end(self, payload: PayloadReceived) -> None:
        """Do nothing: the event says it all."""


_HANDLERS: dict[type[Event], Callable[..., None]] = {
    InitReceived: ChannelReader._take_init,
    HeaderReceived: ChannelReader._take_header,
    PacketReceived: ChannelReader._take_packet,
    DeviceStateReceived: ChannelReader._take_device_state,
    PayloadReceived: ChannelReader._take_payload,
}
