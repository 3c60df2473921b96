"""Sending without a copy into the kernel (Linux: `MSG_ZEROCOPY`; QEMU: `zero-copy-send`).

The kernel reads the pages when it makes segments of them, and reports on the socket's error queue
when it needs them no more.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence

from multifd_proto.errors import PeerError
from multifd_proto.peers.connection import (
    IOV_MAX,
    Connection,
    PeerClosedError,
    PeerTimeoutError,
    after,
)

_SO_ZEROCOPY = 60
_MSG_ZEROCOPY = 0x4000000
_ORIGIN = 5
_COPIED = 1
# struct sock_extended_err of linux/errqueue.h: errno, origin, type, code, pad, info, data
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_IP_RECVERR = {socket.AF_INET: (0, 11), socket.AF_INET6: (41, 25)}


class ZeroCopy:
    """Sends pages of one connection without copying them."""

    def __init__(self, connection: Connection) -> None:
        """Switch it on for a connection.

        Raises:
            PeerError: this system or the connection's transport has no such thing.
        """
        self._connection = connection
        self._sent = self._done = 0
        self.copied = 0
        """Calls whose pages the kernel has copied after all, as on the loopback device
        (QEMU: `dirty-sync-missed-zero-copy`)."""
        if connection.tls:
            raise PeerError(f"{connection.name}: zero copy: TLS copies, must be plain")
        try:
            if not sys.platform.startswith("linux"):
                raise OSError(errno.ENOPROTOOPT, "no MSG_ZEROCOPY on this system")
            connection.socket.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
        except OSError as error:
            raise PeerError(f"{connection.name}: zero copy: {error.strerror}") from None

    def send(self, pieces: Sequence[memoryview]) -> None:
        """Send all of `pieces`, which must not change their place until `settle`.

        Raises:
            PeerTimeoutError: the other end took no byte in time.
            PeerClosedError: the connection is broken.
            PeerError: the system allows too little memory to be locked.
        """
        rest = list(pieces)
        while rest:
            rest = after(rest, self._send_some(rest[:IOV_MAX]))

    def _send_some(self, pieces: Sequence[memoryview]) -> int:
        name, sock = self._connection.name, self._connection.socket
        while True:
            try:
                taken = sock.sendmsg(pieces, [], _MSG_ZEROCOPY | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                timeout = self._connection.timeout
                raise PeerTimeoutError(f"{name}: the peer took no byte for {timeout:g} s") from None
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise PeerClosedError(f"{name}: {error.strerror}") from None
            else:
                self._sent += 1
                return taken
            if self._done == self._sent:
                why = "may lock too little memory, see ulimit -l"
                raise PeerError(f"{name}: zero copy: this process {why}")
            self._wait()

    def settle(self) -> None:
        """Wait until the kernel needs none of the pages any more.

        Raises:
            PeerTimeoutError: the other end took no byte in time.
            PeerClosedError: the connection is broken.
        """
        while self._done < self._sent:
            self._wait()

    def _wait(self) -> None:
        """Wait until the kernel needs something less."""
        deadline = time.monotonic() + self._connection.timeout
        poll = select.poll()
        poll.register(self._connection, 0)  # the error queue shows as POLLERR
        while not self._reap():
            events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if self._connection.aborted or any(event & select.POLLHUP for _, event in events):
                raise PeerClosedError(f"{self._connection.name}: Connection reset by peer")
            if not events:
                silent = f"the peer took no byte for {self._connection.timeout:g} s"
                raise PeerTimeoutError(f"{self._connection.name}: {silent}")

    def _reap(self) -> bool:
        """Read what the kernel has reported; tell whether there was something."""
        before = self._done
        sock = self._connection.socket
        while True:
            try:
                flags = socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
                _, control, _, _ = sock.recvmsg(0, 256, flags)
            except BlockingIOError:
                return self._done > before
            except OSError as error:
                raise PeerClosedError(f"{self._connection.name}: {error.strerror}") from None
            for level, kind, data in control:
                if (level, kind) == _IP_RECVERR.get(sock.family):
                    self._note(data)

    def _note(self, data: bytes) -> None:
        _, origin, _, code, _, first, last = _EXTENDED_ERROR.unpack_from(data)
        if origin == _ORIGIN:
            calls = last - first + 1
            self._done += calls
            self.copied += calls if code & _COPIED else 0
