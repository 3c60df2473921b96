"""Opening and awaiting the connections of a migration."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address
from multifd_proto.peers.owner import Owner

_RETRY = 0.05


class Listener(Owner):
    """A place where connections arrive. Use it as a context manager."""

    def __init__(self, address: Address, backlog: int) -> None:
        """Start to listen.

        Args:
            address: where; a port of 0 lets the system choose.
            backlog: connections that may wait to be accepted.

        Raises:
            PeerError: the address cannot be listened on.
        """
        self._ready: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        self._wake = -1
        if address.scheme == "fd":
            self._adopt(address)
        else:
            address = self._listen(address, backlog)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.address = address
        """The address, with the port that was chosen."""

    def accept(self, timeout: float) -> socket.socket | None:
        """Return the next connection; None if none came within `timeout` seconds, or `wake`."""
        if self._ready:
            return self._ready.pop(0)
        poll = select.poll()  # select() refuses descriptors above 1023
        poll.register(self._wake, select.POLLIN)
        if self._listener:
            poll.register(self._listener, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        if self._wake in ready:
            os.eventfd_read(self._wake)
        if self._listener and self._listener.fileno() in ready:
            try:
                return self._listener.accept()[0]
            except OSError:  # it was gone before it was accepted, or there are no descriptors left
                time.sleep(min(timeout, _RETRY))
        return None

    def wake(self) -> None:
        """End the wait of `accept`, from another thread."""
        with suppress(OSError, ValueError):  # it is closed already
            os.eventfd_write(self._wake, 1)

    def fileno(self) -> int:
        """Return the descriptor to `select` on, -1 if connections were handed over ready made."""
        return self._listener.fileno() if self._listener else -1

    def close(self) -> None:
        """Stop listening, and remove the path of a unix socket."""
        for sock in (*self._ready, self._listener):
            if sock:
                sock.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        if self._path:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _listen(self, address: Address, backlog: int) -> Address:
        family, place = address.resolve(passive=True)[0]
        try:
            if family == socket.AF_UNIX:
                _remove_stale(Path(address.host))
            self._listener = listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setblocking(False)  # a connection may be gone before it is accepted
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(backlog)
        except OSError as error:
            self.close()
            raise PeerError(f"{address}: {error.strerror or error}") from None
        if family == socket.AF_UNIX:
            self._path = Path(address.host)
            return address
        name = listener.getsockname()
        if family == socket.AF_VSOCK:
            return Address("vsock", cid=name[0], port=name[1])
        return Address("tcp", name[0], name[1])

    def _adopt(self, address: Address) -> None:
        try:
            for fd in address.fds:
                self._ready.append(_adopt(fd, address))
            accepting = [
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in self._ready
            ]
            if any(accepting) and len(accepting) > 1:
                raise PeerError(
                    f"{address}: is one socket that listens, or several that are connected"
                )
        except PeerError:
            self.close()
            raise
        if any(accepting):
            self._listener = self._ready.pop()
            self._listener.setblocking(False)


def _remove_stale(path: Path) -> None:
    """Remove a unix socket that nobody listens on any more, as QEMU does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)


def _adopt(fd: int, address: Address) -> socket.socket:
    try:
        own = os.dup(fd)
    except OSError as error:
        raise PeerError(f"{address}: descriptor {fd}: {error.strerror}") from None
    try:
        return socket.socket(fileno=own)
    except OSError as error:
        os.close(own)
        raise PeerError(f"{address}: descriptor {fd}: {error.strerror}") from None


def dial(address: Address, index: int, timeout: float) -> socket.socket:
    """Open one connection.

    Args:
        address: where to.
        index: number of the connection in the migration, the main stream's is 0; says which of
            the descriptors of `fd:` it is.
        timeout: seconds within which it has to be open.

    Raises:
        PeerError: it cannot be opened.
    """
    if address.scheme == "fd":
        if index >= len(address.fds):
            raise PeerError(f"{address}: has {len(address.fds)} descriptors, wanted is {index + 1}")
        return _adopt(address.fds[index], address)
    deadline = time.monotonic() + timeout
    reason: object = ""
    for family, place in address.resolve(passive=False):
        try:
            return _connect(family, place, deadline)
        except OSError as error:
            reason = error.strerror or error
    raise PeerError(f"{address}: {reason}")


def _connect(family: socket.AddressFamily, place: Any, deadline: float) -> socket.socket:
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(place)
        except BlockingIOError:  # the backlog of a unix socket is full
            sock.close()
            if time.monotonic() + _RETRY > deadline:
                raise
            time.sleep(_RETRY)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
