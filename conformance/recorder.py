"""Records what a sender puts on its connections, as a script of bytes that can be played anew."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import ExitStack

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.owner import Owner
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import MultiFDInit

from .script import MAIN, Complete, Open, Raw, Script, Step

MAX_SESSION = 256 << 20
"""Bytes that are recorded of a session, at most."""
_READ = 1 << 20
_INIT = len(MultiFDInit().build())


class Recorder(Owner):
    """A destination that keeps all it is sent, piece by piece in the order of arrival."""

    def __init__(self, connections: int) -> None:
        """Listen for so many connections.

        Raises:
            PeerError: there is nothing to listen on.
        """
        self._connections = connections
        self._open = ExitStack()
        self._listener = self._open.enter_context(
            Listener(parse_address("tcp:127.0.0.1:0"), connections)
        )
        self._selector = self._open.enter_context(selectors.DefaultSelector())
        self._streams: dict[socket.socket, bytearray] = {}
        self._pieces: list[tuple[socket.socket, int]] = []
        self._size = 0

    @property
    def address(self) -> Address:
        """Where the sender has to dial."""
        return self._listener.address

    def close(self) -> None:
        """Close everything."""
        self._open.close()

    def record(self, name: str, method: str, timeout: float) -> Script:
        """Record a session to the end of all its connections.

        Args:
            name: of the script.
            method: payload method that the sender was started for.
            timeout: seconds without a byte after which it has failed.

        Raises:
            PeerError: a connection is missing, none of multifd, does not end, or sends too much.
        """
        self._accept(timeout)
        while self._selector.get_map():
            ready = self._selector.select(timeout)
            if not ready:
                raise PeerError(f"{name}: the sender is silent for {timeout:g} s, must end")
            for key, _ in ready:
                self._read(key.fileobj, name)  # type: ignore[arg-type]
        names = {sock: _name(bytes(data[:64]), name) for sock, data in self._streams.items()}
        # a receiver that does not look takes the first connection for the main stream
        order = sorted(names, key=lambda sock: names[sock] != MAIN)
        steps: list[Step] = [Open(wire=names[sock]) for sock in order]
        places = dict.fromkeys(names, 0)
        for sock, length in self._pieces:
            begin = places[sock]
            places[sock] += length
            piece = self._streams[sock][begin : begin + length]
            steps.append(Raw(wire=names[sock], hex=piece.hex()))
        steps.append(Complete(sync=False, finish=False))
        return Script(tuple(steps), name, self._connections - 1, method)

    def _accept(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while len(self._streams) < self._connections:
            sock = self._listener.accept(max(deadline - time.monotonic(), 0.0))
            if sock is None:
                seen = len(self._streams)
                raise PeerError(
                    f"{seen} connections within {timeout:g} s, must be {self._connections}"
                )
            sock = self._open.enter_context(sock)
            self._streams[sock] = bytearray()
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket, name: str) -> None:
        try:
            data = sock.recv(_READ)
        except OSError as error:
            raise PeerError(f"{name}: a connection broke: {error.strerror}") from None
        if not data:
            self._selector.unregister(sock)
            return
        self._size += len(data)
        if self._size > MAX_SESSION:
            raise PeerError(f"{name}: the session is longer than {MAX_SESSION} bytes")
        self._streams[sock] += data
        self._pieces.append((sock, len(data)))


def _name(head: bytes, session: str) -> str:
    """Return the wire's name that the first bytes of a connection tell."""
    if head.startswith(STREAM_MAGIC):
        return MAIN
    if len(head) == _INIT:
        return str(MultiFDInit.parse(head).id)
    raise PeerError(f"{session}: a connection starts with {head[:8].hex()}, must be of a migration")
