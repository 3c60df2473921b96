"""Opening and awaiting the connections of a migration."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address

_RETRY = 0.05


class Listener:
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
        if address.scheme == "fd":
            self._adopt(address)
        else:
            address = self._listen(address, backlog)
        self.address = address
        """The address, with the port that was chosen."""

    def accept(self, timeout: float) -> socket.socket | None:
        """Return the next connection; None if none came within `timeout` seconds."""
        if self._ready:
            return self._ready.pop(0)
        if self._listener is None:
            time.sleep(timeout)
            return None
        poll = select.poll()  # select() refuses descriptors above 1023
        poll.register(self._listener, select.POLLIN)
        if poll.poll(timeout * 1000):
            with suppress(OSError):  # it was gone before it was accepted
                return self._listener.accept()[0]
        return None

    def fileno(self) -> int:
        """Return the descriptor to `select` on, -1 if connections were handed over ready made."""
        return self._listener.fileno() if self._listener else -1

    def close(self) -> None:
        """Stop listening, and remove the path of a unix socket."""
        for sock in (*self._ready, self._listener):
            if sock:
                sock.close()
        if self._path:
            self._path.unlink(missing_ok=True)
            self._path = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self, address: Address, backlog: int) -> Address:
        family, place = address.resolve(passive=True)
        if family == socket.AF_UNIX:
            _remove_stale(Path(address.host))
        self._listener = listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise PeerError(f"{address}: {error.strerror}") from None
        if family == socket.AF_UNIX:
            self._path = Path(address.host)
            return address
        name = listener.getsockname()
        if family == socket.AF_VSOCK:
            return Address("vsock", cid=name[0], port=name[1])
        return Address("tcp", name[0], name[1])

    def _adopt(self, address: Address) -> None:
        sockets = [_adopt(fd, address) for fd in address.fds]
        accepting = [
            bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) for sock in sockets
        ]
        if accepting == [True]:
            self._listener = sockets[0]
            return
        self._ready = sockets
        if any(accepting):
            self.close()
            raise PeerError(f"{address}: is one socket that listens, or several that are connected")


def _remove_stale(path: Path) -> None:
    """Remove a unix socket that nobody listens on any more, as QEMU does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)):
            path.unlink(missing_ok=True)


def _adopt(fd: int, address: Address) -> socket.socket:
    try:
        return socket.socket(fileno=os.dup(fd))
    except OSError as error:
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
    family, place = address.resolve(passive=False)
    deadline = time.monotonic() + timeout
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(place)
        except BlockingIOError as error:  # the backlog of a unix socket is full
            sock.close()
            if time.monotonic() + _RETRY > deadline:
                raise PeerError(f"{address}: {error.strerror}") from None
            time.sleep(_RETRY)
        except OSError as error:
            sock.close()
            raise PeerError(f"{address}: {error.strerror or 'timed out'}") from None
        else:
            return sock
