"""Which handshake messages pass, over any cuts into records."""

from __future__ import annotations

from collections.abc import Iterator

FINISHED, KEY_UPDATE = 20, 24
"""Types of messages after which the keys change."""

_HEADER = 4  # type, length (3 bytes)


class Messages:
    """Follows the messages of one direction without keeping them."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def feed(self, data: memoryview) -> Iterator[int]:
        """Yield the type of each message that is whole with these bytes."""
        place = 0
        while place < len(data):
            if len(self._header) < _HEADER:
                more = bytes(data[place : place + _HEADER - len(self._header)])
                self._header += more
                self._left = int.from_bytes(self._header[1:], "big")
                place += len(more)
            else:
                taken = min(self._left, len(data) - place)
                self._left -= taken
                place += taken
            if len(self._header) == _HEADER and not self._left:
                yield self._header[0]
                self._header = b""
