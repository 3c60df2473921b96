"""Where a migration goes to or comes from, written as QEMU writes it.

`tcp:HOST:PORT`, `tcp:[::1]:PORT`, `unix:PATH`, `vsock:CID:PORT`, and `fd:N`. A migration with
multifd needs several connections, so `fd:` takes all of them, the main stream's first
(`fd:3,4,5`), or, on the receiving side, one socket that listens.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from multifd_proto.errors import PeerError

VSOCK_CID_ANY = 0xFFFFFFFF
_FORMS = "tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N[,N...]"


@dataclass(frozen=True)
class Address:
    """An address of one of QEMU's transports; `str()` gives the URI."""

    scheme: str
    """`tcp`, `unix`, `vsock` or `fd`."""
    host: str = ""
    """Host of `tcp`, without brackets; path of `unix`."""
    port: int = 0
    """Port of `tcp` and `vsock`; 0 lets the system choose one to listen on."""
    cid: int = VSOCK_CID_ANY
    fds: tuple[int, ...] = ()

    def __str__(self) -> str:
        match self.scheme:
            case "tcp":
                host = f"[{self.host}]" if ":" in self.host else self.host
                return f"tcp:{host}:{self.port}"
            case "unix":
                return f"unix:{self.host}"
            case "vsock":
                return f"vsock:{self.cid}:{self.port}"
        return f"fd:{','.join(map(str, self.fds))}"

    def resolve(self, *, passive: bool) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the address family and the address as `socket` wants them, the best ones first.

        Args:
            passive: the address is to be listened on, so that an empty host means any.

        Raises:
            PeerError: the name is unknown, or this machine lacks the transport.
        """
        match self.scheme:
            case "tcp":
                return self._resolve_tcp(passive)
            case "unix":
                return [(socket.AF_UNIX, self.host)]
            case "vsock" if hasattr(socket, "AF_VSOCK"):
                return [(socket.AF_VSOCK, (self.cid, self.port))]
        raise PeerError(f"{self}: this system has no {self.scheme} sockets")

    def _resolve_tcp(self, passive: bool) -> list[tuple[socket.AddressFamily, Any]]:
        flags = socket.AI_PASSIVE if passive else 0
        try:
            found = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=flags
            )
        except (OSError, ValueError) as error:  # the latter for what is no host name at all
            raise PeerError(f"{self}: {getattr(error, 'strerror', None) or error}") from None
        return [(family, place) for family, _, _, _, place in found]


def parse_address(uri: str) -> Address:
    """Read a URI as QEMU's `migrate` and `-incoming` take it.

    Raises:
        PeerError: it is none, or of a transport that cannot carry several connections.
    """
    scheme, _, rest = uri.partition(":")
    match scheme:
        case "tcp":
            host, colon, port = rest.rpartition(":")
            if colon and host != "[" and _is_number(port, 65535):
                return Address("tcp", "" if host == "0" else host.strip("[]"), int(port))
        case "unix" if rest:
            return Address("unix", rest)
        case "vsock":
            cid, _, port = rest.partition(":")
            if _is_number(cid, VSOCK_CID_ANY) and _is_number(port, 0xFFFFFFFF):
                return Address("vsock", cid=int(cid), port=int(port))
        case "fd":
            numbers = rest.split(",")
            if all(_is_number(number, 1 << 20) for number in numbers):
                return Address("fd", fds=tuple(map(int, numbers)))
        case "exec" | "rdma" | "file":
            raise PeerError(f"{uri!r}: {scheme}: cannot carry multifd channels, must be {_FORMS}")
    raise PeerError(f"{uri!r} is no migration URI, must be {_FORMS}")


def _is_number(text: str, largest: int) -> bool:
    return len(text) <= 10 and text.isascii() and text.isdigit() and int(text) <= largest
