"""One connection of a migration: bytes in, bytes out, every wait bounded.

Plain sockets block, with the kernel's own time limits (`SO_RCVTIMEO`, `SO_SNDTIMEO`): a wait costs
no further system call, and `MSG_WAITALL` fills a whole packet's pages by one. Sockets in TLS do not
block: the library would not see these limits, and must not read and write at the same time, so
that each step is taken under a lock and each wait is a `poll` outside of it. Another thread ends a
wait by `abort`.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import TypeVar

from multifd_proto.errors import PeerError
from multifd_proto.peers.tls import is_ragged, tls_reason

_TIMEVAL = struct.Struct("ll")
_TCP_CLOSE = 7  # linux/tcp_states.h
IOV_MAX = 1024
"""Pieces that one system call takes (Linux: `UIO_MAXIOV`)."""

Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")


class PeerTimeoutError(PeerError):
    """The other end neither sent nor took a byte for as long as it may."""


class PeerClosedError(PeerError):
    """The connection is broken: reset, or closed by the other end while it was written to."""


class Connection:
    """A connected stream socket, plain or inside TLS.

    One thread may receive while another one sends. `name` says in every error which one it is.
    """

    def __init__(self, sock: socket.socket, name: str, timeout: float) -> None:
        """Take over a connected socket.

        Args:
            sock: the socket, an `ssl.SSLSocket` once its handshake is done.
            name: what errors call it.
            timeout: seconds without a byte after which a wait fails.
        """
        self.name, self.timeout = name, timeout
        self.aborted = False
        """`abort` was called: whatever a wait returns after that means nothing."""
        self.ragged = False
        """Inside TLS: the stream has ended without close_notify."""
        self.opened = time.time_ns()
        """When it was opened or accepted, in nanoseconds since the epoch."""
        self._socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._step, self._closing = Lock(), Lock()
        sock.settimeout(0 if self._tls else None)
        self.set_timeout(timeout)
        with suppress(OSError):  # only TCP has it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def tls(self) -> bool:
        """The connection is encrypted."""
        return self._tls

    @property
    def socket(self) -> socket.socket:
        """The socket, for `select` and for splicing; it stays the connection's own."""
        return self._socket

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def set_timeout(self, timeout: float) -> None:
        """Bound the waits to come."""
        seconds = max(timeout, 1e-6)
        limit = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
        self.timeout = timeout
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    # ---- receiving -----------------------------------------------------------------------------

    def receive_into(self, view: memoryview, *, whole: bool = False) -> int:
        """Receive into `view`; return how many bytes came, 0 at the end of the stream.

        Args:
            view: where the bytes go.
            whole: wait until `view` is full, the stream ends or time is up.

        Raises:
            PeerTimeoutError: no byte came in time.
            PeerClosedError: the connection was reset, or TLS failed.
        """
        try:
            if self._tls:
                return self._receive_tls(view, whole=whole)
            return self._socket.recv_into(view, 0, socket.MSG_WAITALL if whole else 0)
        except BlockingIOError:
            raise self._silent("sent") from None
        except OSError as error:
            raise self._broken(error) from None

    def _receive_tls(self, view: memoryview, *, whole: bool) -> int:
        done, deadline = 0, time.monotonic() + self.timeout
        while done < len(view):
            room = view[done:]
            try:
                taken = self._take_step(partial(self._socket.recv_into, room), deadline)
            except ssl.SSLError as error:
                if not is_ragged(error):
                    raise
                self.ragged = True
                break
            except BlockingIOError:
                if done:
                    break
                raise
            done += taken
            if not taken or not whole:
                break
        return done

    def receive_pieces(self, views: Sequence[memoryview]) -> int:
        """Receive into `views`, one after the other; return how many bytes came.

        Fewer than there is room for when the stream ends, time is up, or one call took no more;
        0 at the end of the stream.

        Raises:
            PeerTimeoutError: no byte came in time.
            PeerClosedError: the connection was reset, or TLS failed.
        """
        if self._tls:
            return self.receive_into(views[0], whole=True)
        try:
            return self._socket.recvmsg_into(views[:IOV_MAX], 0, socket.MSG_WAITALL)[0]
        except BlockingIOError:
            raise self._silent("sent") from None
        except OSError as error:
            raise self._broken(error) from None

    # ---- sending -------------------------------------------------------------------------------

    def send(self, *parts: Buffer) -> None:
        """Send all of `parts`, one after the other.

        Raises:
            PeerTimeoutError: the other end took no byte in time.
            PeerClosedError: the connection is broken.
        """
        try:
            if self._tls:
                for part in parts:
                    self._send_tls(memoryview(part))
                return
            rest = [memoryview(part) for part in parts if len(part)]
            while rest:
                rest = after(rest, self._send_some(rest[:IOV_MAX], 0))
        except BlockingIOError:
            raise self._silent("took") from None
        except OSError as error:
            raise self._broken(error) from None

    def _send_some(self, parts: Sequence[Buffer], flags: int) -> int:
        return self._socket.sendmsg(parts, [], flags | socket.MSG_NOSIGNAL)

    def _send_tls(self, view: memoryview) -> None:
        while len(view):
            deadline = time.monotonic() + self.timeout
            view = view[self._take_step(partial(self._socket.send, view), deadline) :]

    def _take_step(self, step: Callable[[], _T], deadline: float) -> _T:
        """Let TLS read or write something.

        Raises:
            BlockingIOError: it could not until the deadline.
            OSError: TLS or the connection failed.
        """
        while True:
            try:
                with self._step:
                    return step()
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            poll = select.poll()
            poll.register(self._socket, events)
            if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise BlockingIOError

    # ---- ending --------------------------------------------------------------------------------

    def end_sending(self, *, notify: bool = True) -> None:
        """Tell the other end that nothing more comes; what it sends can still be received.

        Args:
            notify: inside TLS, by a close_notify before the end of the stream.
        """
        if self._tls:
            # to close with something unread, such as tickets, resets and loses what was sent
            with suppress(OSError, ValueError), self._step:
                while self._socket.recv(4096):
                    pass
            if notify:
                # it would then wait for the other end's own, if the socket were to block
                with suppress(OSError, ValueError), self._step:
                    self._socket.unwrap()  # type: ignore[attr-defined]  # it is one of TLS
        self._shut_down(socket.SHUT_WR)

    def stop_receiving(self) -> None:
        """End every wait for bytes to come, without a word to the other end of a TCP connection."""
        self._shut_down(socket.SHUT_RD)

    def stop_sending(self) -> None:
        """End every wait to send; what comes can still be received."""
        self._shut_down(socket.SHUT_WR)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):
            # that of SSLSocket would go on in plain text, in the direction that is still open
            socket.socket.shutdown(self._socket, how)

    def was_reset(self) -> bool:
        """Tell whether the other end has reset the connection, though a wait saw but its end.

        A reset is reported once, to whoever sends or receives first. Only TCP tells, and only as
        long as nobody has called `end_sending`.
        """
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return False
        return info[0] == _TCP_CLOSE

    def abort(self) -> None:
        """End every wait on this connection, in whatever thread, at once."""
        self.aborted = True
        self._shut_down(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket; may be called more than once."""
        with self._closing, suppress(OSError):
            self._socket.close()

    def reset(self) -> None:
        """Close by a TCP reset: the other end learns that something is wrong."""
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def _silent(self, did: str) -> PeerTimeoutError:
        return PeerTimeoutError(f"{self.name}: the peer {did} no byte for {self.timeout:g} s")

    def _broken(self, error: OSError) -> PeerClosedError:
        tls = "TLS: " if isinstance(error, ssl.SSLError) else ""
        return PeerClosedError(f"{self.name}: {tls}{tls_reason(error)}")


def after(parts: Sequence[Buffer], done: int) -> list[memoryview]:
    """Return what is left of `parts` after their first `done` bytes."""
    for index, part in enumerate(parts):
        if done < len(part):
            return [memoryview(part)[done:], *(memoryview(later) for later in parts[index + 1 :])]
        done -= len(part)
    return []
