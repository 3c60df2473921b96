"""One multifd channel of a receiver: a thread that reads exactly what the machine wants next.

The machine never asks for a byte of the message after the one it stands in, so each read is the
rest of a head, into a small buffer, or of a payload. Uncompressed pages go from the socket into
guest memory, and the machine is only told how many bytes went by.

A payload may take as long as it likes, as long as bytes of it come; a head may not.
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
    block_name,
    refuse_device_state,
    refuse_end,
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
from multifd_proto.peers.fast_lane import FastLane
from multifd_proto.peers.memory import Block
from multifd_proto.peers.reception import Reception
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.wire.schema import MultiFDPacketHdr

_BUFFER = 128 << 10
_HEADER = MultiFDPacketHdr.size()
_READS = 2  # without a byte, in the time that silence may last


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
        self.stream = stream
        """Number of the connection."""
        self._reception, self._connection = reception, connection
        self._parameters = parameters
        method = parameters.compression
        # uncompressed pages never come through here: the machine only counts their bytes
        decode = method is not None and method.flag != 0
        self._machine = Channel(
            page_size=parameters.page_size,
            dialect=parameters.dialect,
            sink=_MemorySink(self) if decode else None,
        )
        self._lane = None if decode else FastLane(reception, connection, stream, self.statistics)
        self._judge = reception.judge
        if self._judge:
            self._judge.open(stream, connection.opened)
        self._id: int | None = None
        self._head = 0  # where the packet that has begun starts
        self._block: Block | None = None
        self._pieces: list[memoryview] = []
        self._over = False
        self._name_device_state = device_state
        self._device_state: Path | None = None
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begun = 0.0
        self._silences = 0
        self.unsynced = False
        """Pages have come since the last SYNC."""
        reception.unfinished.append(self._inside)

    # ---- reading ---------------------------------------------------------------------------------

    def run(self, first: bytes) -> None:
        """Receive the channel to its end.

        Args:
            first: bytes of it that have been read already, the init message if any.

        Raises:
            PeerError: the source did what a receiver refuses, or went away, or was silent.
        """
        # a read that waits for all of a payload says what came of it when its time is up: that has
        # to be well before it would count as silence
        self._connection.set_timeout(self._reception.timeout / _READS)
        self._take(first)
        while need := self._machine.wanted():
            try:
                more = self._read_some(need)
            except PeerTimeoutError:
                self._bear_silence()
            except PeerClosedError as error:
                self._end(error)
                return
            else:
                self._silences = 0
                if not more:
                    self._end(None)
                    return

    def _read_some(self, need: int) -> bool:
        """Read what comes next; return False at the end of the stream."""
        if self._lane:
            if self._pieces:
                return self._read_pages()
            # before its first SYNC a channel has no pages, after the last mark it should not
            if self._between and self.statistics.syncs and not self._over:
                return self._read_fast(self._lane)
        return self._read(need)

    def _read_fast(self, lane: FastLane) -> bool:
        """Read straight packets, and what comes of the first that is none."""
        left = lane.run()
        self._machine.receive_packets(left.passed)
        self._head = self._machine.offset
        self.unsynced |= left.passed > 0
        self._take(left.head)
        self._pass(left.pages)
        lane.inside = None
        if left.error:
            raise left.error
        return bool(left.head)

    def _read(self, need: int) -> bool:
        """Read up to `need` bytes for the machine; return False at the end of the stream."""
        view = self._buffer[:need]
        # a header comes at once or not at all; what came of it, others have to know (`_inside`)
        length = self._connection.receive_into(view, whole=need > _HEADER)
        self._reception.progress()
        if length < len(view) and self._machine.state is not ChannelState.AWAIT_PAYLOAD:
            self._bound_head()
        self._take(view[:length])
        return length > 0

    def _take(self, data: memoryview | bytes) -> None:
        """Hand bytes to the machine, none of a message before the last one is dealt with."""
        if self._judge and len(data):
            self._judge.feed(self.stream, data)
        while len(data):
            part = data[: self._machine.wanted() or len(data)]
            if self._device_state:
                with self._device_state.open("ab") as file:
                    file.write(part)
            self._machine.receive_data(part)
            self._drain()
            data = data[len(part) :]

    def write(self, memory: memoryview) -> None:
        """Write decoded guest memory into the next of the packet's pages."""
        while len(memory) and self._pieces:
            part = memory[: len(self._pieces[0])]
            self._pieces[0][: len(part)] = part
            self._pieces = after(self._pieces, len(part))
            memory = memory[len(part) :]

    def _bound_head(self) -> None:
        """Let a head that comes in drops not take for ever."""
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._begun > self._reception.timeout:
            raise PeerError(f"{self._place}: its head took longer than {self._timeout}")

    def _read_pages(self) -> bool:
        """Read a payload straight into guest memory; return False at the end of the stream."""
        length = self._connection.receive_pieces(self._pieces)
        self._reception.progress()
        self._pass(length)
        return length > 0

    def _pass(self, length: int) -> None:
        """Take note of bytes of a payload that are in guest memory."""
        if length:
            self._pieces = after(self._pieces, length)
            if self._judge:
                self._judge.skip(self.stream, length)
            self._machine.receive_skipped(length)
            self._drain()

    def _bear_silence(self) -> None:
        """Let a peer be silent between packets, as long as others are not."""
        self._reception.check()
        self._silences += 1
        inside = self._inside()
        if inside and self._silences >= _READS:
            raise PeerError(inside)
        self._reception.check_progress()

    def _inside(self) -> str | None:
        """Say what the channel stands in the middle of, and for how long; None if in nothing."""
        passed = self._lane.inside if self._lane else None
        if passed is None and self._between:
            return None
        payload = passed is not None or self._machine.state is ChannelState.AWAIT_PAYLOAD
        part = "payload" if payload else "head"
        place = f"channel {self._id}, packet @{self._head + (passed or 0):#x}"
        return f"{place}: no byte of its {part} came for {self._timeout}"

    @property
    def _between(self) -> bool:
        """The machine stands between two packets."""
        machine = self._machine
        return machine.state is ChannelState.AWAIT_HEADER and machine.wanted() == _HEADER

    @property
    def _place(self) -> str:
        return f"channel {self._id}, packet @{self._head:#x}"

    @property
    def _timeout(self) -> str:
        return f"{self._reception.timeout:g} s"

    # ---- what it comes to ------------------------------------------------------------------------

    def _drain(self) -> None:
        for event in list(self._machine.events()):
            handler = _HANDLERS.get(type(event))
            if handler:
                handler(self, event)

    def _refuse(self, refusals: Refusals, offset: int) -> None:
        self._reception.refuse(refusals, self.stream, self._id, offset)

    def _take_init(self, event: InitReceived) -> None:
        reception = self._reception
        with reception.lock:
            state = reception.state
            self._refuse(refuse_init(event, self._parameters, state.arrived), event.offset)
            self._id = self.statistics.id = event.init.id
            state.admit(self._id)
            self._head = self._machine.offset
            reception.lock.notify_all()
        self._connection.name = f"channel {self._id}"

    def _take_header(self, event: HeaderReceived) -> None:
        self._refuse(refuse_header(event), event.offset)

    def _take_packet(self, event: PacketReceived) -> None:
        self._begun = 0.0
        # before its first SYNC a channel sends no pages, whoever is faster (SYNC-1)
        blocks = self._reception.state.blocks if self.statistics.syncs else None
        self._refuse(refuse_packet(event, self._parameters, blocks), event.offset)
        if not event.pages:
            return
        if self._over:
            seen = "missing, and pages follow"
            fault = Fault("mark of the last SYNC", seen, "on the main stream")
            self._refuse(iter([("SYNC-6", fault)]), event.offset)
        self.unsynced = True
        self._block = block = self._reception.memory.blocks[block_name(event)]
        normal = event.packet.normal_pages
        if normal:
            self._pieces = block.pieces(event.packet.offset[:normal])

    def _take_device_state(self, event: DeviceStateReceived) -> None:
        self._begun = 0.0
        self._refuse(refuse_device_state(event, self._parameters), event.offset)
        if self._name_device_state:
            self._device_state = self._name_device_state(event)
            self._device_state.write_bytes(b"")

    def _take_payload(self, event: PayloadReceived) -> None:
        self._refuse(refuse_payload(event), event.offset)
        head = event.head
        self._device_state, self._pieces = None, []
        self.statistics.count(head)
        self._head = self._machine.offset
        if isinstance(head, PacketReceived):
            self._finish_packet(head)

    def _finish_packet(self, head: PacketReceived) -> None:
        packet = head.packet
        if packet.zero_pages and self._block:
            self._block.clear(head.page_offsets[packet.normal_pages :])
        if head.sync and self._id is not None:
            self.unsynced = False
            self._park(self._id)

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
        self._over = state.arrived[channel] > state.passed

    def _end(self, error: PeerClosedError | None) -> None:
        """Take the end of the stream, or the reset of the connection."""
        reception, state = self._reception, self._reception.state
        if self._connection.aborted:
            reception.stop()
        self._machine.receive_eof(reset=error is not None)
        if self._judge:
            self._judge.returned(self.stream, 0)  # we write nothing on a channel (CHAN-2)
            self._judge.end(self.stream, reset=error is not None)
        *_, ended = self._machine.events()
        assert isinstance(ended, Ended)
        self._refuse(refuse_end(ended.due), ended.offset)
        dialect = self._parameters.dialect
        if self._connection.ragged and dialect and dialect.close_notify:
            reception.warn(f"channel {self._id}: ended without close_notify")
        with reception.lock:
            over = state.over
            if self._id is not None:
                state.ended.add(self._id)
            reception.lock.notify_all()
        if error and not over:
            raise error


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
