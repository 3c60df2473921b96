"""Between the streams of a capture and those who follow them: TLS goes in, plaintext comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from multifd_proto.capture.connections import Taker
from multifd_proto.capture.events import Opened, StreamEvent
from multifd_proto.capture.info import TlsFate
from multifd_proto.capture.streams import CaptureReader, Taken
from multifd_proto.capture.tls.connection import Fed, Held, Plain
from multifd_proto.errors import CaptureError

HOLD = 256 << 10
"""Bytes of one connection that are held back at most."""
HOLD_ALL = 16 << 20
"""Bytes of all of them."""


class Decrypted:
    """A capture with the plaintext of its TLS connections in their place, as far as possible.

    The secrets are those of `info.secrets`: what was put there before, and what the capture holds
    of them; they have to come before the records that they are for, as pcapng demands, or soon
    after. A connection is held back until its first record was decrypted, which is before it says
    anything. One that is not TLS, that begins before the capture or whose secrets are not known or
    do not fit passes as it is: see `info.tls`.

    The plaintext of each direction has a `Half` of its own. Its times are those of the last byte
    of each record. What is missing is a `Gap` of the length that the plaintext has; where that
    cannot be known (CBC, padding, keys that change in a hole) one that is larger by
    `plaintext.UNSURE`. It ends with close_notify, or else with the connection.

    Args:
        reader: the capture.

    Attributes:
        info: What was seen so far.
    """

    def __init__(self, reader: CaptureReader) -> None:
        self.info = reader.info
        self._reader = reader
        self._held: dict[int, Held] = {}
        self._plain: dict[int, Plain] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield the events, once.

        Raises:
            CaptureError: As the reader does; or there are secrets, but not what decrypts.
        """
        # a reader that is iterated gives no columns
        yield from cast("Iterator[StreamEvent]", self._events(self._reader))

    def columns(self, taker: Taker) -> Iterator[StreamEvent | Taken]:
        """Yield the events, once; what is not decrypted as `CaptureReader.columns` does.

        Raises:
            CaptureError: As for iterating.
        """
        yield from self._events(self._reader.columns(taker))

    def _events(self, events: Iterable[StreamEvent | Taken]) -> Iterator[StreamEvent | Taken]:
        failure = None
        try:
            for event in events:
                if isinstance(event, list):
                    yield event
                elif isinstance(event, Opened):
                    yield from self._open(event)
                else:
                    yield from self._take(event)
        except CaptureError as error:
            failure = error
        for held in list(self._held.values()):
            yield from self._release(held)
        for plain in self._plain.values():
            yield from plain.finish()
        if failure:
            raise failure

    def _take(self, event: Fed) -> Iterator[StreamEvent]:
        stream = event.half.stream
        if plain := self._plain.get(stream):
            yield from plain.feed(event)
            if plain.over:
                del self._plain[stream]
        elif held := self._held.get(stream):
            yield from self._hold(held, event)
        else:
            yield event

    def _open(self, event: Opened) -> Iterator[StreamEvent]:
        held = self._held[event.half.stream] = Held(event)
        self._bytes += held.bytes
        while self._bytes > HOLD_ALL:
            yield from self._release(next(iter(self._held.values())))

    def _hold(self, held: Held, event: Fed) -> Iterator[StreamEvent]:
        """Take an event of a connection that has not shown what it is."""
        before = held.bytes
        held.feed(event, self.info.secrets)
        self._bytes += held.bytes - before
        if held.plain and held.plain.verified:
            self._forget(held)
            self._plain[held.stream] = held.plain
            self.info.tls[TlsFate.DECRYPTED] += 1
            yield held.plain.opened
            yield from held.decrypted
        elif held.hopeless or held.bytes > HOLD:
            yield from self._release(held)
        while self._bytes > HOLD_ALL:
            yield from self._release(next(iter(self._held.values())))

    def _release(self, held: Held) -> Iterator[StreamEvent]:
        """Let a connection pass as it is."""
        self._forget(held)
        if held.is_tls:
            self.info.tls[held.fate] += 1
        yield held.opened
        yield from held.past

    def _forget(self, held: Held) -> None:
        del self._held[held.stream]
        self._bytes -= held.bytes
