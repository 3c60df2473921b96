"""A TLS connection: held back until it is known whether it can be decrypted, and decrypted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from multifd_proto.capture.events import Data, End, Gap, Half, Opened, Skipped, StreamEvent
from multifd_proto.capture.info import TlsFate
from multifd_proto.capture.tls.direction import Direction
from multifd_proto.capture.tls.hello import TLS12, TLS13, Opening
from multifd_proto.capture.tls.keylog import KeyLog
from multifd_proto.capture.tls.suites import SUITES
from multifd_proto.errors import CaptureError

if TYPE_CHECKING:
    from multifd_proto.capture.tls.protection import Protection

Fed = Data | Skipped | Gap | End
"""What a connection is made of, once it is opened."""

_EVENT = 256  # bytes that an event takes, about
_CONNECTION = 2048


class Plain:
    """A connection that is decrypted.

    Args:
        raw: its announcement.
        client: whether the end that opened it is TLS's client.
        keys: what the client and what the server protects with.
        modern: TLS 1.3.

    Attributes:
        opened: Announcement of the plaintext.
    """

    def __init__(
        self,
        raw: Opened,
        keys: tuple[Sequence[Protection], Sequence[Protection]],
        *,
        client: bool,
        modern: bool,
    ) -> None:
        halves = [_plaintext_of(half) for half in (raw.half, raw.reverse)]
        self.opened = Opened(raw.time, *halves)
        self._ended: set[bool] = set()
        self._directions = {
            half.forward: Direction(half, keys[half.forward is not client], modern=modern)
            for half in halves
        }

    @property
    def verified(self) -> bool:
        """A record was authentic: the secrets are the right ones."""
        return any(direction.verified for direction in self._directions.values())

    @property
    def refused(self) -> bool:
        """The first record of a direction was not authentic."""
        return any(direction.refused for direction in self._directions.values())

    @property
    def over(self) -> bool:
        """Both directions have ended."""
        return len(self._ended) == len(self._directions)

    def feed(self, event: Fed) -> list[StreamEvent]:
        """Take the next event of the connection, and return those of the plaintext."""
        raw, direction = event.half, self._directions[event.half.forward]
        if isinstance(event, End):
            self._ended.add(raw.forward)
        half = direction.half
        half.segments = raw.segments
        half.retransmitted, half.reordered = raw.retransmitted, raw.reordered
        half.conflicts = raw.conflicts
        return direction.feed(event)

    def finish(self) -> Iterator[StreamEvent]:
        """Nothing more is known of the connection."""
        for direction in self._directions.values():
            yield from direction.finish()


class Held:
    """A connection that has not shown what it is.

    Attributes:
        stream: Its number.
        opened: Its announcement.
        past: What came after that, so that it can still pass as it is.
        bytes: Memory that this takes.
        plain: What decrypts it, as soon as the hellos were seen and the secrets are known.
        decrypted: What that has given so far.
        fate: What becomes of it if it is TLS and passes as it is.
    """

    def __init__(self, opened: Opened) -> None:
        self.stream = opened.half.stream
        self.opened = opened
        self.past: list[Fed] = []
        self.bytes = _CONNECTION
        self.plain: Plain | None = None
        self.decrypted: list[StreamEvent] = []
        self.fate = TlsFate.NO_HANDSHAKE
        self._openings = {True: Opening(), False: Opening()}
        self._whole = True  # nothing is missing, and neither direction has ended

    @property
    def is_tls(self) -> bool:
        """It began with a TLS record."""
        return any(opening.begun for opening in self._openings.values())

    @property
    def hopeless(self) -> bool:
        """It will never be decrypted."""
        if self.plain:
            return self.plain.refused or self.plain.over
        openings = self._openings.values()
        awaited = not all(opening.hello for opening in openings)
        return awaited and (not self._whole or any(o.over and not o.hello for o in openings))

    def feed(self, event: Fed, secrets: KeyLog) -> None:
        """Take the next event."""
        self.bytes += _EVENT
        if isinstance(event, Data):
            # the copy lets go of the read buffer
            event = replace(event, data=memoryview(bytes(event.data)))
            self.bytes += 2 * len(event.data)
            self._openings[event.half.forward].feed(event.data)
        elif not self._openings[event.half.forward].hello:
            self._whole = False
        self.past.append(event)
        if self.plain:
            self.decrypted += self.plain.feed(event)
        else:
            self._try(secrets)

    def _try(self, known: KeyLog) -> None:
        """Decrypt what there is, if it is known by now with what."""
        hellos = {o.hello.client: o.hello for o in self._openings.values() if o.hello}
        if len(hellos) < 2:
            return
        client, server = hellos[True], hellos[False]
        suite, secrets = SUITES.get(server.suite), known.of(client.random)
        self.fate = TlsFate.NO_SECRETS
        if not suite or server.version not in (TLS12, TLS13):
            self.fate = TlsFate.UNSUPPORTED
        elif secrets and (keys := _library().protections(suite, client, server, secrets)):
            self.fate = TlsFate.UNFIT
            opener = self._openings[True].hello is client
            modern = server.version == TLS13
            self.plain = Plain(self.opened, keys, client=opener, modern=modern)
            for event in self.past:
                self.decrypted += self.plain.feed(event)


def _plaintext_of(raw: Half) -> Half:
    return replace(
        raw, unwanted_until=0, bytes=0, missing=0, retransmitted=0, reordered=0, tls=True
    )


def _library() -> ModuleType:
    """Return what derives keys.

    Raises:
        CaptureError: The library for it is not installed.
    """
    try:
        from multifd_proto.capture.tls import protection
    except ImportError:
        message = "TLS secrets need cryptography: pip install 'multifd-proto[tls]'"
        raise CaptureError(message) from None
    return protection
