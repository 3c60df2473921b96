"""A small, complete receiver, the base of those that are wrong in one way (`broken_receiver`).

What it refuses, `machine.refusal` and `machine.receiving` say; a variant names in `ignored` what it
lets pass, or overrides one of the small methods. After what it has let pass it goes on like a
careless program, but one in Python: what lies outside of memory goes nowhere.

It shares the rules with the reference receiver, but none of the code that does the work.
"""

from __future__ import annotations

import select
from dataclasses import replace
from typing import ClassVar

from multifd_proto.errors import PeerError
from multifd_proto.machine.events import (
    DeviceStateReceived,
    HeaderReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.receiving import refuse_record
from multifd_proto.machine.refusal import (
    block_name,
    refuse_device_state,
    refuse_end,
    refuse_header,
    refuse_packet,
    refuse_payload,
)
from multifd_proto.machine.rule import Fault
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE
from multifd_proto.wire.main_records import MainRecord, StreamEnd
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.ram_records import RamSetup, RamZero
from multifd_proto.wire.schema import (
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    RamPacket,
    page_count,
)

from .miniature_arrivals import MiniatureArrivals
from .miniature_wire import InsideError, Wire
from .target import Description, Setup

_GONE = 0.25  # seconds without a new connection, when the main stream has ended
_METHOD = {method.name: method for method in METHODS}
_HEADER = MultiFDPacketHdr.size()


class MiniatureReceiver(MiniatureArrivals):
    """A destination for one migration. It is a context manager: at its end nothing is left."""

    sync_limit: ClassVar[float] = 10.0
    """Seconds that the main stream waits at a mark."""

    def __init__(self, setup: Setup, description: Description) -> None:
        """Start to listen; the rest is as for the base."""
        super().__init__(setup, description)
        self.dialect, self.page_size = description.dialect, description.page_size
        self.method = _METHOD[setup.method]
        self.blocks = {block.name: block for block in self.parameters.ramblocks or ()}
        self.memory = {name: bytearray(size) for name, size in description.blocks.items()}

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory; None if there is none."""
        memory = self.memory.get(block)
        if memory is None or not 0 <= offset <= len(memory) - length:
            return None
        return bytes(memory[offset : offset + length])

    # ---- a channel -------------------------------------------------------------------------------

    def serve_channel(self, wire: Wire) -> None:
        """Receive a channel to its end."""
        try:
            while (head := wire.take(_HEADER, last=True)) and not self.halted:
                header = MultiFDPacketHdr.parse(head)
                self.refuse(wire, refuse_header(HeaderReceived(wire.offset, 0, header)))
                if self.dialect.device_state and header.flags & FLAG_DEVICE_STATE:
                    self.take_device_state(wire, head)
                else:
                    self.take_packet(wire, head)
        except InsideError as error:
            if not wire.connection.aborted:
                self.refuse(wire, refuse_end(error.due))
        if not wire.connection.aborted:
            self.end_channel(wire)

    def take_packet(self, wire: Wire, head: bytes) -> None:
        """Receive the rest of a packet, and its pages."""
        layout, count = self.dialect.packet, page_count(self.page_size)
        packet = layout.parse(head + wire.take(layout.size(count) - len(head)))
        size = self.payload_size(packet)
        event = PacketReceived(wire.offset, 0, packet, layout.size(count), size, None)
        self.check(wire, event)
        self.place(event, self.unpack(wire, event))
        if event.sync:
            self.park(wire)

    def payload_size(self, packet: RamPacket) -> int:
        """Return how many bytes of payload follow a packet."""
        pages = min(packet.normal_pages, len(packet.offset))
        return self.method.payload_size(pages, packet.next_packet_size, self.page_size)

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Refuse a packet before its payload is read."""
        self.refuse(wire, refuse_packet(event, self.parameters, self.joint.blocks))

    def unpack(self, wire: Wire, event: PacketReceived) -> bytes:
        """Read a packet's payload, and return the memory of its normal pages."""
        payload = wire.take(event.payload)
        if not event.packet.normal_pages:
            return b""
        if wire.decoder is None:
            # what is too large was refused by its head
            wire.decoder = replace(self.method, limit=None).decoder()
        pages = min(event.packet.normal_pages, len(event.packet.offset))
        wire.decoder.start(pages, self.page_size, len(payload))
        memory = bytearray()
        for part in wire.decoder.feed(payload):
            memory += part
        fault = wire.decoder.finish()
        done = PayloadReceived(wire.offset, 0, event, len(payload), 0, self.method, True, fault)
        self.refuse(wire, refuse_payload(done))
        return bytes(memory)

    def place(self, event: PacketReceived, memory: bytes) -> None:
        """Write a packet's pages."""
        block, size, normal = block_name(event), self.page_size, event.packet.normal_pages
        for number, offset in enumerate(event.page_offsets[:normal]):
            self.write(block, offset, memory[number * size : (number + 1) * size])
        for offset in event.page_offsets[normal:]:
            self.write(block, offset, bytes(size))

    def write(self, block: bytes, offset: int, page: bytes) -> None:
        """Write a page; what is not wholly inside of a block goes nowhere."""
        memory = self.memory.get(block)
        if memory is not None and offset <= len(memory) - len(page):
            memory[offset : offset + len(page)] = page

    def park(self, wire: Wire) -> None:
        """Arrive with a SYNC, and wait for the mark of its round."""
        assert wire.channel is not None
        with self.lock:
            self.joint.arrive(wire.channel)
            self.lock.notify_all()
        self.stay(wire.channel)

    def stay(self, channel: int) -> None:
        """Wait until a channel may go on."""
        self.wait(lambda: not self.joint.parked(channel))

    def take_device_state(self, wire: Wire, head: bytes) -> None:
        """Receive the rest of a device-state packet, and the data, which nobody wants."""
        size = MultiFDPacketDeviceState.size() - len(head)
        packet = MultiFDPacketDeviceState.parse(head + wire.take(size))
        event = DeviceStateReceived(wire.offset, 0, packet, packet.next_packet_size, None)
        self.refuse(wire, refuse_device_state(event, self.parameters))
        self.find_device(wire, event)
        wire.take(event.payload)

    def find_device(self, wire: Wire, event: DeviceStateReceived) -> None:
        """Refuse the state of a device: there is none."""
        fault = Fault("idstr", repr(event.idstr)[1:], "that of a device that takes state")
        self.refuse(wire, [("DEV-5", fault)])

    def end_channel(self, wire: Wire) -> None:
        """Take the end of a channel between two packets."""
        assert wire.channel is not None
        if wire.connection.ragged and self.dialect.close_notify:
            self.refuse(wire, [("TLS-5", Fault("end of the stream", "bare", "a close_notify"))])
        with self.lock:
            self.joint.ended.add(wire.channel)
            self.lock.notify_all()

    # ---- the main stream -------------------------------------------------------------------------

    def serve_main(self, wire: Wire, first: bytes) -> None:
        """Receive the main stream to its end."""
        self.await_channels(wire)
        parser, data = MainStream(page_size=self.page_size), first
        while data:
            parser.receive_data(data)
            self.take_records(wire, parser)
            data = wire.some()
        if wire.connection.aborted:
            return
        parser.receive_eof()
        self.take_records(wire, parser)
        if not self.joint.over:
            fault = Fault("end of the stream", f"after {wire.offset} bytes", "after StreamEnd")
            self.refuse(wire, [("MAIN-11", fault)])

    def await_channels(self, wire: Wire) -> None:
        """Wait until all channels are set up, or the source is gone."""
        threads = 0
        while not self.wait(lambda: self.joint.complete, _GONE):
            poll = select.poll()
            poll.register(wire.connection, select.POLLRDHUP)
            threads, before = len(self._threads), threads
            if poll.poll(0) and threads == before:
                raise PeerError(f"main stream: ended with {len(self.joint.arrived)} channels there")

    def take_records(self, wire: Wire, parser: MainStream) -> None:
        """Load what has come."""
        for offset, _, record in parser.records():
            self.refuse(wire, refuse_record(record, self.joint, self.page_size), offset)
            with self.lock:
                answer, mark = self.joint.take(record), self.joint.is_mark(record)
                if isinstance(record, RamSetup):
                    self.joint.blocks = self.blocks
                self.lock.notify_all()
            self.load(record)
            if mark:
                self.meet(wire, offset)
            if isinstance(record, StreamEnd):
                answer = self.conclude()
            if answer:
                wire.connection.send(answer)

    def load(self, record: MainRecord) -> None:
        """Load zero pages."""
        if isinstance(record, RamZero):
            for offset in record.offsets:
                self.write(record.block or b"", offset, bytes(self.page_size))

    def meet(self, wire: Wire, offset: int) -> None:
        """Wait, at a mark, until every channel has arrived; then let them go on."""
        joint = self.joint

        def arrived() -> bool:
            self.refuse_absence(wire, offset)
            return not joint.missing()

        joint.meeting = True
        if not self.wait(arrived, self.sync_limit):
            self.miss_sync()
        with self.lock:
            joint.pass_mark()
            self.lock.notify_all()

    def miss_sync(self) -> None:
        """Fail, as a channel has not arrived in time."""
        raise PeerError(f"main stream: {self.joint.awaited} for {self.sync_limit:g} s")

    def refuse_absence(self, wire: Wire, offset: int) -> None:
        """Refuse a mark that a channel will never arrive at."""
        for channel in self.joint.never():
            seen = f"ended after {self.joint.arrived[channel]} of them"
            fault = Fault(f"channel {channel}", seen, f"open for SYNC {self.joint.passed + 1}")
            self.refuse(wire, [("SYNC-13", fault)], offset)
