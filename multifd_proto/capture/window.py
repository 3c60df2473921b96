"""A moving window over an input that can only be read forwards."""

from __future__ import annotations

import os
from collections.abc import Callable

from multifd_proto.errors import CaptureError

READ = 1 << 20
"""Bytes asked for in one read."""


class Window:
    """The bytes of an input around the place that is being decoded.

    Every read makes a new buffer, so a view into an old one stays true for as long as it is kept.

    Attributes:
        name: Name of the input, for messages.
        view: The bytes in memory; those from `start` to `end` are not decoded yet.
        start: Place in `view`; the decoder moves it forwards.
        end: Length of `view`.
        truncated: Messages on where the input ended too early.
        file: Descriptor of a regular file that is read as it is; None for any other input.
        size: Bytes of that file.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        truncated: list[str],
        file: int | None = None,
        seek: Callable[[int], object] | None = None,
    ) -> None:
        self.name = name
        self.truncated = truncated
        self.file = file
        self.size = 0 if file is None else os.fstat(file).st_size
        self._read = read
        self._seek = seek
        self._base = 0
        self._show(b"")

    def _show(self, data: bytes) -> None:
        self.view = memoryview(data)
        self.start = 0
        self.end = len(data)

    @property
    def offset(self) -> int:
        """Place of `start` in the input, in bytes."""
        return self._base + self.start

    @property
    def left(self) -> int:
        """Bytes in memory that are not decoded yet."""
        return self.end - self.start

    def fill(self, count: int) -> bool:
        """Have at least `count` bytes from `start` on in memory, unless the input ends before.

        What is there already is copied only if it is cut; then no more than `count` is read, so
        that the copies stay small. Memory follows what arrives, not what is asked for.
        """
        left = self.end - self.start
        if left >= count:
            return True
        parts = [bytes(self.view[self.start :])]
        while left < count and (part := self._read(min(count - left, READ) if left else READ)):
            parts.append(part)
            left += len(part)
        self._base += self.start
        self._show(b"".join(filter(None, parts)))
        return left >= count

    def move(self, place: int) -> None:
        """Go to a place in the input, which is in memory or in a `file`."""
        start = self.start + place - self.offset
        if 0 <= start <= self.end:
            self.start = start
            return
        assert self._seek, "what is not in memory is nowhere else"
        self._seek(place)
        self._base = place
        self._show(b"")

    def demand(self, count: int, what: str) -> bool:
        """Do as `fill`, and note an input that ends in the middle of `what`."""
        if self.fill(count):
            return True
        if self.left:
            self.truncated.append(
                f"{self.name}: truncated at byte {self.offset}: {what} of {count} bytes was "
                f"demanded, {self.left} bytes are left"
            )
        return False

    def note_fault(self, fault: str) -> None:
        """Note that the input cannot be read from here on."""
        self.truncated.append(f"{self.name}: unreadable from about byte {self.offset} on: {fault}")

    def take(self, count: int) -> bytes:
        """Return the next bytes and move past them: `count`, or fewer if the input ends before."""
        self.fill(count)
        data = bytes(self.view[self.start : self.start + count])
        self.start += len(data)
        return data

    def believe(self, count: int, limit: int, what: str) -> None:
        """Refuse `what` if it claims more bytes than anything of its kind has.

        Raises:
            CaptureError: It does.
        """
        if count > limit:
            raise CaptureError(
                f"{self.name}: {what} at byte {self.offset} claims {count} bytes, "
                f"at most {limit} are believed"
            )
