"""A payload on its way through a channel: counted, decoded if asked for, never collected."""

from __future__ import annotations

from typing import Protocol

from multifd_proto.machine.events import DeviceStateReceived, PacketReceived, PayloadReceived
from multifd_proto.wire.payload import Decoder, PayloadMethod


class PageSink(Protocol):
    """Takes the guest memory of a channel's packets, as it is decoded."""

    def begin(self, packet: PacketReceived) -> None:
        """A packet with pages begins: memory of the normal ones comes next, in that order."""

    def write(self, data: bytes | memoryview) -> None:
        """Take decoded guest memory; `data` is valid during the call alone."""

    def end(self, payload: PayloadReceived) -> None:
        """The packet's payload is over: whole, or not (`missing`, `fault`)."""


class Digest(Protocol):
    """Sums up bytes in one number."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""

    def intdigest(self) -> int:
        """Return the number for the bytes so far."""


class PayloadDecoders:
    """The decoders of one channel, one a method, as some methods keep one stream a channel."""

    def __init__(self, sink: PageSink | None) -> None:
        self.sink = sink
        self._decoders: dict[PayloadMethod, Decoder] = {}
        self._hidden = False

    def lose(self) -> None:
        """Bytes are missing, perhaps of payloads: a stream cannot go on after that."""
        self._hidden = True
        for decoder in self._decoders.values():
            decoder.lose()

    def start(self, head: PacketReceived, method: PayloadMethod, page_size: int) -> Decoder | None:
        """Return the decoder for a packet's payload; None where its stream is broken."""
        decoder = self._decoders.get(method)
        if decoder is None:
            decoder = self._decoders[method] = method.decoder()
            if self._hidden:
                decoder.lose()
        decoder.start(head.packet.normal_pages, page_size, head.payload)
        return None if decoder.broken else decoder


class Payload:
    """One payload: how much of it is still to come, and what became of it."""

    def __init__(
        self,
        head: PacketReceived | DeviceStateReceived,
        method: PayloadMethod | None = None,
        decoders: PayloadDecoders | None = None,
        page_size: int = 0,
        digest: Digest | None = None,
    ) -> None:
        self.left = head.payload
        self._digest = digest
        self._head = head
        self._method = method
        self._missing = 0
        self._decoder: Decoder | None = None
        self._sink: PageSink | None = None
        if decoders and method and isinstance(head, PacketReceived) and head.pages:
            # pages as they are can only be right: they are looked at for the sink alone
            if head.packet.normal_pages and (method.flag or decoders.sink):
                self._decoder = decoders.start(head, method, page_size)
            self._sink = decoders.sink
            if self._sink:
                self._sink.begin(head)

    @property
    def looked_at(self) -> bool:
        """Its bytes are looked at; otherwise counting them is enough."""
        return self._decoder is not None or self._digest is not None

    def take(self, view: memoryview) -> int:
        """Take bytes of the payload from the start of `view`; return how many."""
        chunk = view[: self.left]
        if self._digest:
            self._digest.update(chunk)
        if self._decoder:
            for memory in self._decoder.feed(chunk):
                if self._sink:
                    self._sink.write(memory)
        return self.skip(len(chunk))

    def skip(self, length: int) -> int:
        """Pass over bytes that are there but not looked at; return how many are of the payload."""
        length = min(length, self.left)
        self.left -= length
        return length

    def pass_over(self, length: int) -> None:
        """Pass over bytes that are there but cannot be looked at."""
        self.skip(length)
        self._give_up(length)

    def lose(self, length: int) -> int:
        """Bytes are missing; return how many of them are of the payload."""
        length = self.skip(length)
        self._missing += length
        self._give_up(length)
        return length

    def _give_up(self, length: int) -> None:
        """Look no further, as this many bytes are not there."""
        if length:
            self._digest = None
        if self._decoder and length:
            self._decoder.lose()
            self._decoder = None

    def received(self, offset: int, time: int) -> PayloadReceived:
        """Return the event of its end."""
        fault = self._decoder.finish() if self._decoder else None
        event = PayloadReceived(
            offset=offset,
            time=time,
            head=self._head,
            size=self._head.payload,
            missing=self._missing,
            method=self._method,
            decoded=self._decoder is not None,
            fault=fault,
            digest=self._digest.intdigest() if self._digest else None,
        )
        if self._sink:
            self._sink.end(event)
        return event
