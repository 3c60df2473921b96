"""One multifd channel: bytes in, events out.

Theory of operation. A channel is 64 bytes of init, then packets (12-byte header, body, payload),
then the end of the stream. Every state waits for a number of bytes that is known, so the machine
is: collect that many, let the state's reader look at them, go where `transitions` says. Three
things do not fit that and are named here. A payload is counted (and decoded, if asked for) as it
comes by, never collected. `LOST` searches, because after missing bytes there is nothing to count
(`loss.py`). And while the page size is unknown, the first packet is collected until its length
shows.

The machine does not know which end it serves: a sender's own output is followed by the same
class. It never touches a socket or a clock, never raises on any input, and holds at most two
packet heads (4416 bytes each), whatever the peer claims; what is found after a loss it holds until
it is proved, half a MiB of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
)
from multifd_proto.machine.finding import Finding
from multifd_proto.machine.payload import Digest, PageSink, Payload
from multifd_proto.machine.resync import LARGEST_HEAD, START
from multifd_proto.wire.payload import PayloadMethod, method_of
from multifd_proto.wire.schema import (
    MULTIFD_PACKET_SIZE,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
)

_S = ChannelState

_HOP = MultiFDPacket.end_of("next_packet_size")
"""Leading bytes of a RAM packet that tell where the next one starts."""


class Channel(Finding):
    """The sans-I/O machine of one channel."""

    @property
    def page_size(self) -> int | None:
        """Target page size in bytes, if given or inferred."""
        return MULTIFD_PACKET_SIZE // self.page_count if self.page_count else None

    @property
    def between_packets(self) -> bool:
        """It waits for a packet, knows the length of its head, and is sure of its place."""
        waits = self.state is _S.AWAIT_HEADER and not self._buffer
        return waits and self.page_count is not None and not (self._loss or self._log.holding)

    @property
    def hands_over(self) -> bool:
        """Guest memory is handed over: every packet counts."""
        return bool(self._decoders and self._decoders.sink)

    def looks_at(self, method: PayloadMethod | None) -> bool:
        """Tell whether payload of a method is looked at, so that it has to be handed over."""
        return bool(self._decoders and method and (method.flag or self._decoders.sink))

    # ---- feeding -----------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview, time: int = 0) -> None:
        """Take the next bytes of the stream, in any cut."""
        view = memoryview(data)
        while len(view):
            self._remember(view, time)
            view = view[_TAKE[self.state](self, view, time) :]
            self._look_again()

    def receive_skipped(self, length: int, time: int = 0) -> None:
        """Take note of bytes that are there but were not handed over.

        `unwanted` allows it; or no head is in them, and whoever stripped the capture cut them off.
        """
        self._settle_page_count(time, ended=True)
        self._skip(length, time)
        self._look_again()

    def _skip(self, length: int, time: int) -> None:
        self._remember(length, time)
        if self.state is _S.LOST and self._loss:
            self.offset += self._loss.pass_over(length)
            return
        allowed = min(length, self._payload.left if self._payload else self.unwanted())
        self.offset += allowed
        if self._payload:
            self._payload.pass_over(allowed)
            self._finish_payload(time)
        length -= allowed
        if length and self.state is _S.AWAIT_HEADER and self._searched:
            self._deny()  # no packet starts here, or its header would have been kept
            self._again.append((length, time, None))
        elif length:
            self._lose(length, time, "not kept")

    def receive_packets(self, length: int, syncs: int = 0, number: int | None = None) -> None:
        """Take note of whole packets that somebody else has read.

        Args:
            length: bytes of them, payload included.
            syncs: how many of them are SYNC packets.
            number: `packet_num` of the last one, if that is known.

        Raises:
            ValueError: the channel does not stand between two packets.
        """
        if self.state is not _S.AWAIT_HEADER or self._buffer:
            raise ValueError(f"the channel stands in {self.state.value}, not between packets")
        self.offset += length
        if self.round is not None:
            self.round += syncs
        if number is not None:
            self._number = number

    def receive_gap(self, length: int, time: int = 0, reason: str = "lost") -> None:
        """Take note that the next `length` bytes of the stream are missing."""
        self._settle_page_count(time, ended=True)
        self._lose(length, time, reason)
        self._look_again()

    def _lose(self, length: int, time: int, reason: str) -> None:
        if self.state is _S.LOST and self._loss and (head := self._loss.cut_head()):
            data, size = head
            rest = data[size:]
            self.offset -= len(rest)
            self._adopt(data[:size], size, time)
            if rest:
                # the head was whole, and its length not known: what is behind it, comes first
                self._again += [(len(rest), time, rest), (length, time, reason)]
                return
        self._remember(length, time, reason)
        gap = BytesMissing(self.offset, time, length, reason, self.state)
        if self._hides_next():
            if self._is_doubtful():
                self.offset += length
                self._deny()
                return
            self._lose_place()
        if self.state is _S.LOST and self._loss:
            self._loss.gap(gap)
            self.offset += length
            return
        self._log.add(gap)
        while length and not self._hides_next():
            length -= _LOSE[self.state](self, length, time)
        if length:
            self.offset += length
            if self._is_doubtful():
                self._deny()
            else:
                self._lose_place()

    def receive_eof(self, time: int = 0, *, reset: bool = False, by_peer: bool = False) -> None:
        """Take note that the stream has ended."""
        if self.state is _S.CLOSED:
            return
        self._settle_page_count(time, ended=True)
        self.finish(time)
        self._log.add(Ended(self.offset, time, self.state, self._due(), reset, by_peer))
        self.state = _S.CLOSED

    def finish(self, time: int = 0) -> None:
        """Nothing more is known of the stream, not even whether it has ended."""
        if self._loss and self.state is _S.LOST and (head := self._loss.cut_head()):
            data, size = head
            if len(data) == size:
                self._adopt(data, size, time)
        while self._is_doubtful():
            self._deny()
            self._look_again()
        if self._log.holding:
            # what was found is followed by nothing that contradicts it
            self._confirm()
            self._loss = None
        if self._loss:
            self._loss.account(self.offset, time)

    def attach(self, sink: PageSink) -> None:
        """Hand the decoded guest memory of the packets to come to `sink`.

        For a channel that proves to be one only by its first packet; it has to decode.
        """
        assert self._decoders, "a channel that does not decode has no guest memory to hand over"
        self._decoders.sink = sink
        self._decode_proved(self._decoders)

    def events(self) -> Iterator[Event]:
        """Yield the events since the last call, in the order of the stream."""
        yield from self._log.drain()

    def wanted(self) -> int:
        """Return how many bytes the machine waits for; none of them is of the next message.

        That is what is still missing of the init message, of a packet's header, of the rest of
        its head or of its payload; `unwanted` tells whether the payload need be handed over.
        It is 1 while only the bytes to come can tell: in the first packet, as long as the page
        size is not known (it may take the start of the second one), and while looking for a
        packet after a loss. It is 0 in `FAILED` and `CLOSED`, and nowhere else.
        """
        if self.state in (_S.FAILED, _S.CLOSED):
            return 0
        if self._payload:
            return self._payload.left
        return self._need - len(self._buffer) if self._need else 1

    def unwanted(self) -> int:
        """Return how many of the next bytes need not be handed over."""
        if self.state in (_S.FAILED, _S.CLOSED):
            return 1 << 62
        if self._log.holding:
            return 0
        return self._payload.left if self._payload and not self._payload.looked_at else 0

    def begun(self) -> tuple[int, bytes]:
        """Return the place and the bytes of a message whose head is not whole; none if it is."""
        if self._payload or self.state in (_S.LOST, _S.FAILED, _S.CLOSED):
            return self.offset, b""
        return self.offset - len(self._buffer), bytes(self._buffer)

    # ---- taking bytes: one function a kind of state; each returns how many it took ---------------

    def _take_head(self, view: memoryview, time: int) -> int:
        if not self._buffer:
            self._start, self._time = self.offset, time
        taken = min(len(view), (self._need or LARGEST_HEAD + len(START)) - len(self._buffer))
        self._buffer += view[:taken]
        self.offset += taken
        if self._need is None:
            self._settle_page_count(time, ended=False)
        else:
            self._read()
        return taken

    def _take_payload(self, view: memoryview, time: int) -> int:
        assert self._payload
        taken = self._payload.take(view)
        self.offset += taken
        self._finish_payload(time)
        return taken

    def _take_search(self, view: memoryview, time: int) -> int:
        assert self._loss
        taken, head, again = self._loss.search(view)
        self.offset += taken - len(again)
        if head is not None:
            self._adopt(head, len(head), time)
            self._again.append((len(again), time, again))
        return taken

    def _take_nothing(self, view: memoryview, _time: int) -> int:
        self.offset += len(view)
        return len(view)

    # ---- losing bytes: the same --------------------------------------------------------------

    def _lose_head(self, length: int, time: int) -> int:
        assert self._need is not None
        if not self._buffer:
            self._start, self._time = self.offset, time
        self._known = min(self._known, len(self._buffer))
        length = min(length, self._need - len(self._buffer))
        self._buffer += bytes(length)
        self.offset += length
        self._read()
        return length

    def _lose_payload(self, length: int, time: int) -> int:
        assert self._payload
        length = self._payload.lose(length)
        self.offset += length
        self._finish_payload(time)
        return length

    def _lose_nothing(self, length: int, _time: int) -> int:
        self.offset += length
        return length

    def _take(self, view: memoryview, time: int) -> int:
        return _TAKE[self.state](self, view, time)

    def _hides_next(self) -> bool:
        """Tell whether missing bytes, here, hide where the next message starts."""
        if self.state is _S.AWAIT_PACKET:
            device = self._need == MultiFDPacketDeviceState.size()
            return device or min(self._known, len(self._buffer)) < _HOP
        return self.state in (_S.AWAIT_HEADER, _S.LOST)

    # ---- reading what a state has collected --------------------------------------------------

    def _due(self) -> int:
        """Return how many bytes the message that has begun still lacks."""
        if self._payload:
            return self._payload.left
        begun = (self._buffer and self.state is not _S.FAILED) or self.state is _S.AWAIT_INIT
        return (self._need or 0) - len(self._buffer) if begun else 0

    def _read(self) -> None:
        if len(self._buffer) == self._need:
            _READ[self.state](self)

    def _read_init(self) -> None:
        if self._known >= len(self._buffer):
            init = MultiFDInit.parse(self._buffer)
            self._log.add(InitReceived(self._start, self._time, init))
            self.state = _S.AWAIT_HEADER if self._buffer.startswith(START) else _S.FAILED
        else:
            self.state = _S.AWAIT_HEADER
        self._collect(MultiFDPacketHdr.size())

    def _read_header(self) -> None:
        good = self._buffer.startswith(START)
        if not good and self._searched:
            # where a search has led, a wrong start says that the search was wrong
            self._deny()
            return
        if not self._loss or self._loss.proved(self._start):
            self._confirm()
            self._loss = None
        header = MultiFDPacketHdr.parse(self._buffer)
        self._log.add(HeaderReceived(self._start, self._time, header))
        self.state = _S.AWAIT_PACKET if good else _S.FAILED
        if self._is_device_state():
            self._need = MultiFDPacketDeviceState.size()
        else:
            self._need = self.layout.size(self.page_count) if self.page_count else None

    def _read_packet(self) -> None:
        if self._is_device_state():
            device = MultiFDPacketDeviceState.parse(self._buffer)
            size = device.next_packet_size
            head = DeviceStateReceived(self._start, self._time, device, size, self.round)
            self._begin_payload(head, Payload(head, digest=self._new_digest()))
            return
        packet = self.layout.parse(self._buffer)
        method = method_of(packet.flags)
        count = len(packet.offset)
        page_size = MULTIFD_PACKET_SIZE // count
        size = packet.next_packet_size if packet.normal_pages else 0
        if method:
            size = method.payload_size(packet.normal_pages, size, page_size)
        known = min(self._known, len(self._buffer))
        ram = PacketReceived(self._start, self._time, packet, known, size, self.round)
        if self.round is not None:
            self.round += ram.sync
        if not self._log.holding and ram.knows("packet_num"):
            self._number = packet.packet_num
        if packet.normal_pages > count:
            # real receivers close here; nobody knows what would follow
            self._log.add(ram)
            self.state = _S.FAILED
            return
        # guest memory of a packet that may be none goes nowhere
        decoders = None if self._log.holding else self._decoders
        self._begin_payload(ram, Payload(ram, method, decoders, page_size, self._new_digest()))

    def _new_digest(self) -> Digest | None:
        return self.digest() if self.digest else None

    def _begin_payload(self, head: Event, payload: Payload) -> None:
        self._log.add(head)
        self._payload = payload
        self.state = _S.AWAIT_PAYLOAD
        self._start = self.offset
        self._finish_payload(head.time)

    def _finish_payload(self, time: int) -> None:
        if self._payload and not self._payload.left:
            self._log.add(self._payload.received(self._start, time))
            self._payload = None
            self.state = _S.AWAIT_HEADER
            self._collect(MultiFDPacketHdr.size())


_TAKE: dict[ChannelState, Callable[[Channel, memoryview, int], int]] = {
    _S.AWAIT_INIT: Channel._take_head,
    _S.AWAIT_HEADER: Channel._take_head,
    _S.AWAIT_PACKET: Channel._take_head,
    _S.AWAIT_PAYLOAD: Channel._take_payload,
    _S.LOST: Channel._take_search,
    _S.FAILED: Channel._take_nothing,
    _S.CLOSED: Channel._take_nothing,
}
_LOSE: dict[ChannelState, Callable[[Channel, int, int], int]] = {
    _S.AWAIT_INIT: Channel._lose_head,
    _S.AWAIT_PACKET: Channel._lose_head,
    _S.AWAIT_PAYLOAD: Channel._lose_payload,
    _S.FAILED: Channel._lose_nothing,
    _S.CLOSED: Channel._lose_nothing,
}
_READ: dict[ChannelState, Callable[[Channel], None]] = {
    _S.AWAIT_INIT: Channel._read_init,
    _S.AWAIT_HEADER: Channel._read_header,
    _S.AWAIT_PACKET: Channel._read_packet,
}
