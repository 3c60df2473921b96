"""Ports to listen at, and whether somebody does: without connecting, which a peer would see."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address
from multifd_proto.peers.owner import Owner

_LEAST = 10000
_TRIES = 1000
_LISTEN = "0A"
_ACCEPTS = 0x10000


class FreePort(Owner):
    """A TCP port of 127.0.0.1 that nobody uses; nobody else will be given it until it is closed.

    It is not yet listened at, so that others could still take it: the system, which gives ports of
    `ip_local_port_range` to whoever asks for any, and other processes of ours. Hence it is outside
    of that range, and claimed by an abstract unix socket of its number.
    """

    def __init__(self) -> None:
        """Choose one.

        Raises:
            PeerError: none was found.
        """
        ports = _ports()
        for _ in range(_TRIES):
            self.number = secrets.choice(ports)
            claim = _claim(self.number)
            if claim:
                self._claim = claim
                return
        raise PeerError(f"no free TCP port was found from {ports[0]} to {ports[-1]}")

    def close(self) -> None:
        """Let others have it."""
        self._claim.close()


def _ports() -> range:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return range(_LEAST, first if first >= 2 * _LEAST else 65536)


def _claim(port: int) -> socket.socket | None:
    """Return what keeps a port for us; None if it is in use."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0multifd-proto port {port}")
        # without SO_REUSEADDR, so that old connections are in the way here and not in the peer
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return None
    return claim


def is_listening(address: Address) -> bool:
    """Tell whether a socket of this machine listens at a TCP port or a unix path.

    Linux lists them in `/proc/net`; see proc_net_tcp.rst of the kernel's documentation.
    """
    if address.scheme == "unix":
        rows = (row.split(maxsplit=7) for row in _rows("unix"))
        accepting = (row[7] for row in rows if len(row) > 7 and int(row[3], 16) & _ACCEPTS)
        return any(path.rstrip("\n") == address.host for path in accepting)
    port = f":{address.port:04X}"
    return any(row.endswith(port) for table in ("tcp", "tcp6") for row in _listeners(table))


def _listeners(table: str) -> Iterator[str]:
    """Return the local addresses that are listened at; they precede all connections."""
    for row in _rows(table):
        _, local, _, state, *_ = row.split(maxsplit=4)
        if state != _LISTEN:
            return
        yield local


def _rows(table: str) -> Iterator[str]:
    """Return the rows of a table, read as far as they are asked for."""
    try:
        with Path("/proc/net", table).open(errors="replace") as rows:
            next(rows)
            yield from rows
    except FileNotFoundError:  # a kernel without IPv6
        return
