"""One direction of a TLS connection: out of the bytes of the stream, records; out of these, text.

A record is authentic or it is nothing: what is given out as plaintext was verified with its number.
Behind a hole that hides where records begin, a header is looked for, and numbers are tried until
the record proves authentic; the number then tells how many records the hole has swallowed, and
with it how much plaintext.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from multifd_proto.capture.events import Data, End, Gap, Half, Skipped, StreamEvent
from multifd_proto.capture.tls.hello import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HEADER,
)
from multifd_proto.capture.tls.messages import FINISHED, KEY_UPDATE, Messages
from multifd_proto.capture.tls.plaintext import Plaintext

if TYPE_CHECKING:
    from multifd_proto.capture.tls.protection import Content, Protection

_MOST = 1 << 14  # bytes of plaintext in a record (RFC 8446, section 5.1)
_EXPANSION = 2048  # bytes that a record of TLS 1.2 may be longer
_HEADER = re.compile(rb"[\x15\x17]\x03\x03", re.DOTALL)
_TRIES = 2048  # numbers tried for a record at least, and
_EFFORT = 64 << 20  # bytes deciphered for it
_FAILURES = 64  # records in a row for which none fits, until the rest is given up
_CLOSE_NOTIFY = 0


class Direction:
    """One direction of a connection; its plaintext has a `Half` of its own.

    Args:
        half: that of the plaintext.
        keys: what protects the direction, in their order: of TLS 1.3 handshake, then data.
        modern: TLS 1.3.

    Attributes:
        half: that of the plaintext.
        verified: A record was authentic.
        refused: The first record that ought to have been is not.
    """

    def __init__(self, half: Half, keys: Sequence[Protection], *, modern: bool) -> None:
        self.half = half
        self.verified = self.refused = False
        self._text = Plaintext(half)
        self._modern = modern
        self._coming = list(keys)
        self._keys: Protection | None = None  # nothing is protected yet
        self._number = 0  # of the next record
        self._buffer = bytearray()
        self._need = HEADER  # bytes in the buffer with which something can be done
        self._spoiled = 0  # bytes that are left of a record which is not whole
        self._hidden: int | None = None  # bytes since the place of the next record got lost
        self._failures = 0
        self._reason = "lost"
        self._padded = False
        self._records = self._bytes = 0  # of application data, for what is typical
        self._messages = Messages()

    def feed(self, event: Data | Skipped | Gap | End) -> list[StreamEvent]:
        """Take the next event of the direction, and return those of the plaintext."""
        if self._text.ended:
            return []
        self._text.time = event.time
        if isinstance(event, Data):
            self._take(event.data)
        elif isinstance(event, End):
            self._report_rest()
            self._text.end(reset=event.reset, by_peer=event.by_peer)
        else:
            self._lose(event.length, event.reason if isinstance(event, Gap) else "lost")
        return self._text.take()

    def finish(self) -> list[StreamEvent]:
        """Nothing more is known of the direction, not even whether it has ended."""
        if not self._text.ended:
            self._report_rest()
        return self._text.take()

    # ---- where records begin and end -------------------------------------------------------------

    def _take(self, data: memoryview) -> None:
        spoiled = min(self._spoiled, len(data))
        self._spoiled -= spoiled
        self._buffer += data[spoiled:]
        if len(self._buffer) < self._need:
            return
        content, place = memoryview(bytes(self._buffer)), 0
        self._need = 0
        while not self._need and not self._text.ended:
            place += self._step(content[place:])
        self._buffer = bytearray(content[place:])

    def _step(self, content: memoryview) -> int:
        """Use up the next bytes; return their count, or set what is needed."""
        if len(content) < HEADER:
            self._need = HEADER
            return 0
        if self._hidden is not None:
            return self._seek(content, self._hidden)
        size = _size(content)
        if size and len(content) < size:
            self._need = size
        elif not size or not self._read(content[:size]):
            self.refused = not self.verified
            self._hidden = 0
        else:
            return size
        return 0

    def _seek(self, content: memoryview, hidden: int) -> int:
        """Look for a record, as its place and its number are not known."""
        if self._failures > _FAILURES:
            used = len(content)
        elif match := _HEADER.search(content):
            used = match.start()
        else:
            used = len(content) - HEADER + 1
        if not used:
            size = _size(content)
            if len(content) < size:
                self._need = size
                return 0
            if size and self._recognise(content[:size], hidden):
                return size
            self._failures += bool(size)
            used = 1
        self._hidden = hidden + used
        return used

    def _lose(self, length: int, reason: str) -> None:
        """Take note that bytes are missing."""
        if self._spoiled:
            known = min(self._spoiled, length)
            self._spoiled -= known
            length -= known
        elif self._hidden is None and len(self._buffer) >= HEADER:
            size = _size(self._buffer)
            missing = size - len(self._buffer)
            self._spoil(self._buffer[0], size, reason)
            self._spoiled = max(0, missing - length)
            length = max(0, length - missing)
            self._buffer.clear()
        if length:
            self._hidden = (self._hidden or 0) + len(self._buffer) + length
            self._reason = reason
            self._buffer.clear()
        self._need = HEADER

    # ---- what is in them -------------------------------------------------------------------------

    def _read(self, record: memoryview) -> bool:
        """Read a record that is next; tell whether it can be."""
        if self._enters(record[0]):
            self._advance()
        if not self._keys or (self._modern and record[0] != APPLICATION_DATA):
            if record[0] == CHANGE_CIPHER_SPEC and not self._modern:
                self._advance()
            return record[0] != APPLICATION_DATA
        content = self._keys.open(self._number, record)
        if content is None:
            return False
        self._accept(content, len(record))
        return True

    def _enters(self, kind: int) -> bool:
        """Tell whether protection begins with a record of this type."""
        return self._modern and not self._keys and kind == APPLICATION_DATA

    def _accept(self, content: Content, size: int) -> None:
        kind, plain = content
        self.verified, self.refused = True, False
        self._number += 1
        self._failures = 0
        if kind == APPLICATION_DATA:
            assert self._keys
            self._records, self._bytes = self._records + 1, self._bytes + size
            self._padded |= size > HEADER + len(plain) + self._keys.overhead
            self._text.add(plain)
        elif kind == ALERT and len(plain) == 2 and plain[1] == _CLOSE_NOTIFY:
            self._text.end()
        elif kind == HANDSHAKE and self._modern:
            for message in self._messages.feed(plain):
                if message == KEY_UPDATE or (message == FINISHED and self._coming):
                    self._advance()

    def _advance(self) -> None:
        """Go on with the next keys."""
        following = next(self._following(), None)
        if following:
            self._keys, self._number = following, 0
            if self._coming:
                self._coming.pop(0)

    def _following(self) -> Iterator[Protection]:
        """Yield the keys that come after those of now."""
        yield from self._coming
        last = self._coming[-1] if self._coming else self._keys
        if last and (updated := last.update()):
            yield updated

    @property
    def _is_data(self) -> bool:
        """The keys of now are those of application data."""
        return self._keys is not None and not self._coming

    def _spoil(self, kind: int, size: int, reason: str) -> None:
        """Count a record of which the header was seen, but not all of the rest."""
        if self._enters(kind) or (kind == CHANGE_CIPHER_SPEC and not self._modern):
            self._advance()
        if kind == CHANGE_CIPHER_SPEC or not self._keys:
            return
        self._number += 1
        length = size - HEADER - self._keys.overhead
        # no sender of a migration writes two bytes: these are an alert
        if self._is_data and kind == APPLICATION_DATA and length > 2:
            self._text.gap(length, reason, sure=self._sure)

    # ---- behind a hole ---------------------------------------------------------------------------

    def _recognise(self, record: memoryview, hidden: int) -> bool:
        """Find keys and number for a record behind hidden bytes, and accept it with them."""
        if self._keys:
            tries = max(_TRIES, _EFFORT // len(record))
            for number in islice(self._numbers(hidden), tries):
                if content := self._keys.open(number, record):
                    lost = number - self._number
                    if self._is_data:
                        plain = hidden - lost * (HEADER + self._keys.overhead)
                        self._text.gap(plain, self._reason, sure=self._sure)
                    return self._resume(content, number, len(record))
        least = HEADER + (self._keys or self._coming[0]).overhead
        for ahead, keys in enumerate(self._following(), 1):
            for number in range(min(hidden // least + 1, _TRIES)):
                if content := keys.open(number, record):
                    began = self._is_data
                    for _ in range(ahead):
                        self._advance()
                    if self._is_data and (began or number > (not self._modern)):
                        # with TLS 1.2, the first record is the end of the handshake
                        guess = min(hidden, number * self._typical)
                        self._text.gap(guess, self._reason, sure=not hidden)
                    return self._resume(content, number, len(record))
        return False

    def _resume(self, content: Content, number: int, size: int) -> bool:
        self._hidden, self._number = None, number
        self._messages = Messages()
        self._accept(content, size)
        return True

    def _numbers(self, hidden: int) -> Iterator[int]:
        """Yield the numbers that a record behind hidden bytes can have, the likeliest first."""
        assert self._keys
        least = -(-hidden // (HEADER + _MOST + _EXPANSION))
        most = hidden // (HEADER + self._keys.overhead)
        guess = min(max(hidden // self._typical, least), most)
        for distance in range(max(guess - least, most - guess) + 1):
            if guess - distance >= least:
                yield self._number + guess - distance
            if distance and guess + distance <= most:
                yield self._number + guess + distance

    @property
    def _typical(self) -> int:
        """Bytes of a record, headers included, as far as is known."""
        return self._bytes // self._records if self._records else HEADER + _MOST

    @property
    def _sure(self) -> bool:
        """The length of a record tells that of its plaintext."""
        return self._keys is not None and self._keys.constant and not self._padded

    def _report_rest(self) -> None:
        """Report what was hidden and is followed by no record."""
        if self._hidden and self._is_data and self._keys:
            records = -(-self._hidden // self._typical)
            plain = self._hidden - records * (HEADER + self._keys.overhead)
            self._text.gap(plain, self._reason, sure=True)
            self._hidden = None


def _size(content: memoryview | bytearray) -> int:
    """Return the bytes of the record that a header begins; 0 if it is none."""
    length = int.from_bytes(content[3:5], "big")
    plausible = CHANGE_CIPHER_SPEC <= content[0] <= APPLICATION_DATA and content[1] == 3
    return HEADER + length if plausible and 0 < length <= _MOST + _EXPANSION else 0
