"""Bytes from one socket to another without a copy in this process (Linux: `splice`)."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

_CAPACITY = 1 << 20
_UNABLE = (errno.EINVAL, errno.EMFILE, errno.ENFILE, errno.ENOSYS)


class UnableToSpliceError(Exception):
    """The kernel cannot splice from such a socket, or gives no pipe; nothing was moved."""


class ReceiveError(Exception):
    """The socket that bytes come from is broken."""


class SendError(Exception):
    """The socket that bytes go to is broken."""


class Splicer:
    """A pipe in the kernel, through which bytes go from socket to socket."""

    def __init__(self) -> None:
        """Make the pipe.

        Raises:
            UnableToSpliceError: there is none to be had.
        """
        try:
            self._out, self._in = os.pipe()
        except OSError:
            raise UnableToSpliceError from None
        with suppress(OSError):  # the system limits what a user's pipes may hold
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _CAPACITY)

    def move(self, source: int, target: int, count: int) -> int:
        """Move up to `count` bytes, at least one; return how many, 0 at the end of the stream.

        Args:
            source: descriptor of a socket that blocks, as `target`.
            target: where they go; when this returns, all of them went.
            count: bytes to move at most.

        Raises:
            UnableToSpliceError: as its name says.
            ReceiveError: the source is broken.
            SendError: the target is broken.
        """
        try:
            moved = left = os.splice(source, self._in, min(count, _CAPACITY))
        except OSError as error:
            raise (UnableToSpliceError if error.errno in _UNABLE else ReceiveError) from None
        while left:
            try:
                left -= os.splice(self._out, target, left)
            except OSError:
                raise SendError from None
        return moved

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._in)
        os.close(self._out)
