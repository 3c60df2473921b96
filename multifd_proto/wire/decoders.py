"""What every payload decoder does: payload bytes back into guest memory, faults into values.

A decoder does no input or output and holds little: at most one page, one zstd block or one
`CHUNK` beyond what it has handed out. What a packet claims allocates nothing, and a
decompression bomb is left alone as soon as it exceeds the pages that its packet announced.
Bytes of a peer never raise: what is wrong with them is a `PayloadFault`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

Bytes = bytes | memoryview
CHUNK = 64 * 1024
"""Bytes that a decoder decompresses at a time, of input and of output."""


class PayloadFaultKind(Enum):
    """What can be wrong with a payload."""

    CORRUPT = "corrupt"
    """The format that the method compresses to is violated."""
    ENDED = "ended"
    """A stream that has to last as long as its channel ends in this payload."""
    UNFLUSHED = "unflushed"
    """A zlib payload does not end with a sync flush, though it holds all of its pages."""
    UNFINISHED = "unfinished"
    """A stream that has to end within the payload does not."""
    SHORT = "short"
    """The payload decodes to less than the packet's normal pages."""
    SURPLUS = "surplus"
    """The payload decodes to more than the packet's normal pages."""
    LENGTHS = "lengths"
    """A page's length is none, or the lengths and their table do not make up the payload."""
    TRAILING = "trailing"
    """A page's length covers bytes after the end of its stream."""
    OVERSIZE = "oversize"
    """`next_packet_size` is more than the method's `limit`."""


@dataclass(frozen=True)
class PayloadFault:
    """A payload that breaks its method's rules: which one, the value seen, the value demanded."""

    kind: PayloadFaultKind
    seen: str
    demanded: str


class Undecodable(Exception):
    """Raised by a decoder's own methods to stop at a fault; `Decoder` turns it into the value."""

    def __init__(self, kind: PayloadFaultKind, seen: str, demanded: str) -> None:
        self.fault = PayloadFault(kind, seen, demanded)


class Decoder(ABC):
    """Decodes the payloads of one channel, packet by packet: `start`, `feed` ..., `finish`.

    Args:
        limit: Largest payload in bytes that is decoded at all; None for no limit.
    """

    streaming: ClassVar[bool] = False
    """Whether one compressed stream runs through all payloads of a channel."""

    def __init__(self, limit: int | None = None) -> None:
        self.broken = False
        """Whether what follows in the channel cannot be decoded: its stream has a fault or loss."""
        self._limit = limit
        self.start(0, 0, 0)

    def start(self, normal_pages: int, page_size: int, size: int) -> None:
        """Begin the payload of a packet.

        Args:
            normal_pages: Pages that the payload stands for.
            page_size: Target page size in bytes.
            size: Bytes of payload that follow: `PayloadMethod.payload_size`.
        """
        self._pages, self._page_size, self._size = normal_pages, page_size, size
        self._demanded = self._room = normal_pages * page_size
        self._taken = 0
        self._fault: PayloadFault | None = None
        self._idle = self.broken
        try:
            if not self._idle:
                self._begin()
        except Undecodable as stop:
            self._stop(stop.fault)

    def feed(self, data: Bytes) -> Iterator[Bytes]:
        """Yield the guest memory that the next bytes of the payload complete, in page order.

        The chunks have any size. Exhaust the iterator before the next call. After a fault and
        in a broken channel nothing is yielded. Neither what is yielded nor the fault depends on
        how the payload is cut.
        """
        view = memoryview(data)
        try:
            if not self._idle:
                yield from self._fitting(view)
        except Undecodable as stop:
            self._stop(stop.fault)
        self._taken += len(view)

    def finish(self) -> PayloadFault | None:
        """End the payload and return what is wrong with it.

        None also for what could not be judged: a payload with a loss, or of a broken channel.
        """
        try:
            if not self._idle:
                self._end()
        except Undecodable as stop:
            self._stop(stop.fault)
        if not self._idle:
            return self._overlooked()
        self.broken |= self.streaming
        return self._fault

    def lose(self) -> None:
        """Give this payload up, since a part of it is missing. A stream is broken by that."""
        self._idle = True
        self.broken |= self.streaming

    def _begin(self) -> None:
        """Prepare for a payload."""
        if self._limit is not None and self._size > self._limit:
            seen = f"next_packet_size {self._size}"
            raise Undecodable(PayloadFaultKind.OVERSIZE, seen, f"at most {self._limit}")

    @abstractmethod
    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        """Yield what `data` decodes to; `_room` is up to date whenever it goes on."""

    def _end(self) -> None:
        """Judge a payload that is over and has had no fault."""
        if self._room:
            seen = f"{self._demanded - self._room} bytes of guest memory"
            raise Undecodable(PayloadFaultKind.SHORT, seen, self._demand)

    def _overlooked(self) -> PayloadFault | None:
        """Return what is wrong with a payload that decodes and does not break its stream."""
        return None

    def _fitting(self, data: memoryview) -> Iterator[Bytes]:
        for chunk in self._decode(data):
            room = self._room
            self._room -= min(len(chunk), room)
            if room and chunk:
                yield chunk[:room]
            if len(chunk) > room:
                seen = f"more than {self._demand}"
                raise Undecodable(PayloadFaultKind.SURPLUS, seen, self._demand)

    def _stop(self, fault: PayloadFault) -> None:
        self._fault, self._idle = fault, True

    @property
    def _demand(self) -> str:
        return f"{self._demanded} bytes of guest memory"


class RawDecoder(Decoder):
    """`none`: the pages themselves; views are passed through, nothing is copied."""

    def _decode(self, data: memoryview) -> Iterator[Bytes]:
        yield data


LASTING = "one that lasts as long as its channel"
"""What is demanded of a stream that has ended."""


def reason(error: Exception) -> str:
    """Return a compression library's own words, without what its Python binding puts before."""
    return str(error).rpartition(": ")[2]
