"""Reading big-endian fields from the front of a buffer that is still being filled."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

U8 = struct.Struct(">B")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")


class NeedMore(Exception):
    """The field is not there yet: `total` bytes are needed, counted from the cursor's start."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total


class TooLong(Exception):
    """The field ends `total` bytes after the cursor's start, and `limit` is the most allowed."""

    def __init__(self, total: int, limit: int) -> None:
        super().__init__(total, limit)
        self.total, self.limit = total, limit


class Cursor:
    """Reads field after field and counts their bytes; the buffer itself is left as it is.

    So a reader is straight code: where it runs out of bytes, `NeedMore` carries it back to the
    parser, which runs it again from the start once that many bytes are there.
    """

    __slots__ = ("_data", "_start", "ended", "limit", "used")

    def __init__(self, data: bytearray, start: int, *, ended: bool) -> None:
        self._data, self._start = data, start
        self.ended = ended
        """No byte will follow those of the buffer."""
        self.limit = 1 << 62
        self.used = 0
        """Bytes read so far."""

    @property
    def position(self) -> int:
        """Index in the buffer of the next byte."""
        return self._start + self.used

    def need(self, size: int) -> None:
        """Make sure that the next `size` bytes are there.

        Raises:
            NeedMore: they are not.
            TooLong: they reach beyond `limit`.
        """
        total = self.used + size
        if total > self.limit:
            raise TooLong(total, self.limit)
        if self._start + total > len(self._data):
            raise NeedMore(total)

    def take(self, size: int) -> bytes:
        """Read `size` bytes."""
        self.need(size)
        begin = self.position
        self.used += size
        return bytes(self._data[begin : begin + size])

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        """Read fixed fields."""
        self.need(fields.size)
        begin = self.position
        self.used += fields.size
        return fields.unpack_from(self._data, begin)

    def name(self) -> bytes:
        """Read a name: u8 length, then that many bytes."""
        (length,) = self.unpack(U8)
        return self.take(length)

    def ahead(self, fields: struct.Struct, most: int) -> Iterator[tuple[Any, ...]]:
        """Yield what is there, unread, of at most `most` times the same fields."""
        begin = self.position
        count = min(most, (len(self._data) - begin) // fields.size)
        return fields.iter_unpack(self._data[begin : begin + count * fields.size])

    def peek(self, size: int = 1) -> int | None:
        """Return the next `size` bytes as an integer, unread; None if the stream ends before."""
        begin = self.position
        if self.ended and begin + size > len(self._data):
            return None
        self.need(size)
        return int.from_bytes(self._data[begin : begin + size], "big")

    def skip(self, expected: bytes) -> bool:
        """Read `expected` if that is what comes next, else nothing; tell which."""
        present = self._data[self.position : self.position + len(expected)]
        if not expected.startswith(present):
            return False
        if len(present) < len(expected):
            if self.ended:
                return False
            # not for all of it: the very next byte may be another one, and the last that comes
            raise NeedMore(self.used + len(present) + 1)
        self.take(len(expected))
        return True


def build_name(name: bytes) -> bytes:
    """Return a name as it is on the wire: u8 length, then the bytes."""
    return U8.pack(len(name)) + name
