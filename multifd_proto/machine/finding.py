"""How a channel finds its place: page size from the first packet, next packet after a loss."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable

from multifd_proto.machine.events import (
    ChannelState,
    HeaderReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.loss import Again, EventLog, Loss
from multifd_proto.machine.payload import Digest, PageSink, Payload, PayloadDecoders
from multifd_proto.machine.resync import PacketSearch, infer_page_count
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, Dialect
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket, MultiFDPacketHdr, page_count

_S = ChannelState


class Finding(ABC):
    """What a channel has collected, and how it finds its place; `Channel` says what it reads."""

    def __init__(
        self,
        *,
        page_size: int | None = None,
        dialect: Dialect | None = None,
        decode: bool = False,
        sink: PageSink | None = None,
        digest: Callable[[], Digest] | None = None,
        started: bool = True,
    ) -> None:
        """Make a machine that waits for the first byte.

        Args:
            page_size: target page size in bytes; None infers it from the first packet.
            dialect: whose packets these are; None reads them as the newest dialect's.
            decode: run payloads through their method's decoder, so that events tell how it went.
            sink: takes the decoded guest memory (implies `decode`).
            digest: makes what sums up the bytes of a payload.
            started: the first byte is that of the init message; False where a capture begins in
                mid-stream.
        """
        self.state = _S.AWAIT_INIT
        self.offset = 0
        self.page_count = page_count(page_size) if page_size else None
        self.round: int | None = 0
        self.layout = dialect.packet if dialect else MultiFDPacket
        self.device_state = dialect is None or dialect.device_state
        self._decoders = PayloadDecoders(sink) if decode or sink else None
        self.digest = digest
        self._payload: Payload | None = None
        self._log = EventLog()
        self._loss: Loss | None = None
        self._again: list[Again] = []
        self._proved: list[tuple[PayloadReceived, bytes]] = []
        self._number = -1
        self._searched = False
        self._need: int | None
        self._buffer: bytearray
        self._known: int
        self._start = self._time = 0
        self._collect(MultiFDInit.size())
        if not started:
            self._lose_place()

    @abstractmethod
    def receive_data(self, data: bytes | memoryview, time: int = 0) -> None:
        """Take the next bytes of the stream, in any cut."""

    @abstractmethod
    def _take(self, view: memoryview, time: int) -> int: ...

    @abstractmethod
    def _skip(self, length: int, time: int) -> None: ...

    @abstractmethod
    def _lose(self, length: int, time: int, reason: str) -> None: ...

    @abstractmethod
    def _read(self) -> None: ...

    def _collect(self, need: int | None) -> None:
        """Start a message of `need` bytes; None: its length is not known yet."""
        self._need = need
        self._buffer = bytearray()
        self._known = sys.maxsize  # until a byte of it is missing

    def _is_device_state(self) -> bool:
        flags = int.from_bytes(self._buffer[8:12], "big")
        return self.device_state and bool(flags & FLAG_DEVICE_STATE)

    def _lose_place(self) -> None:
        self._confirm()
        search = PacketSearch(self.page_count, self.device_state)
        self._loss = Loss(self._log, self.offset - len(self._buffer), search)
        self.state, self.round, self._searched = _S.LOST, None, True
        if self._decoders:
            self._decoders.lose()
        self._collect(0)

    def _settle_page_count(self, time: int, ended: bool) -> None:
        if self._need is not None:
            return
        self.page_count = infer_page_count(self._buffer, ended)
        if self.page_count:
            self._need = self.layout.size(self.page_count)
            rest = bytes(self._buffer[self._need :])
            del self._buffer[self._need :]
            self.offset -= len(rest)
            self._read()
            self.receive_data(rest, time)

    def _adopt(self, head: bytes, size: int, time: int) -> None:
        """Go on from a packet that the search has found; its head is whole, or cut by a loss."""
        assert self._loss
        self._start, self._time = self.offset - len(head), time
        self._loss.found(self._start, head, time)
        self._collect(size)
        self._buffer += head[: MultiFDPacketHdr.size()]
        self.state = _S.AWAIT_PACKET
        self._log.add(HeaderReceived(self._start, time, MultiFDPacketHdr.parse(self._buffer)))
        self._buffer += head[MultiFDPacketHdr.size() :]
        if not self._is_device_state():
            self.page_count = (size - self.layout.size()) // self.layout.item_size
        self._read()

    def _confirm(self) -> None:
        self._number = self._log.last_number(self._number)
        if self._loss and self._decoders:
            payloads = self._log.payloads()
            self._proved = [(e, self._loss.kept(e.offset, e.size)) for e in payloads]
            self._decode_proved(self._decoders)
        self._log.confirm()

    def _decode_proved(self, decoders: PayloadDecoders) -> None:
        """Decode the guest memory of packets that were proved when it had gone by."""
        if not decoders.sink:
            return
        for event, data in self._proved:
            if isinstance(event.head, PacketReceived):
                payload = Payload(event.head, event.method, decoders, event.head.page_size)
                if len(data) == event.size:
                    payload.take(memoryview(data))
                else:
                    payload.lose(event.size)
                payload.received(event.offset, event.time)
        self._proved = []

    def _is_doubtful(self) -> bool:
        """Tell whether a hole is not enough to believe in what is held."""
        return self._log.holding and not self._log.in_order(self._number)

    def _deny(self) -> None:
        """The packet that the search had found was none: search on, from its second byte."""
        if self._loss and self._log.holding:
            self.offset, again = self._loss.denied(self.offset)
            self._payload = None
            self._collect(0)
            self.state, self.round = _S.LOST, None
            self._again.extend(again)
            return
        rest = bytes(self._buffer)
        self.offset -= len(rest)
        self._collect(0)
        self._lose_place()
        self._again.append((len(rest), self._time, rest))

    def _remember(self, piece: memoryview | int, time: int, reason: str | None = None) -> None:
        """Keep what may have to be looked at again, as what was found is not proved yet."""
        if self._loss and self._log.holding:
            self._loss.keep(self.offset, piece, time, reason)

    def _look_again(self) -> None:
        """Take bytes that were taken before, when a packet was believed to be where none is."""
        while self._again:
            (length, time, what), *rest = self._again
            self._again = []
            if isinstance(what, bytes):
                view = memoryview(what)
                while len(view) and not self._again:
                    self._remember(view, time)
                    view = view[self._take(view, time) :]
                if len(view):
                    self._again.append((len(view), time, bytes(view)))
            elif what is None:
                self._skip(length, time)
            else:
                self._lose(length, time, what)
            self._again += rest
