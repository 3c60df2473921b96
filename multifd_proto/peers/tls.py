"""TLS for migration connections: credentials in QEMU's directory layouts.

x509 (QEMU: `-object tls-creds-x509,dir=DIR`): `ca-cert.pem`, and `server-cert.pem` with
`server-key.pem` or `client-cert.pem` with `client-key.pem`. PSK (`tls-creds-psk`): `keys.psk`
with lines `user:hexkey`, for which Python 3.13 is needed.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from multifd_proto.errors import PeerError

PSK_FILE = "keys.psk"
PSK_USER = "qemu"
"""The user that QEMU's client names (QEMU: `tls-creds-psk`, property `username`)."""


@dataclass(frozen=True)
class TlsCredentials:
    """What one end of a migration proves itself with, and what it demands."""

    folder: Path
    """Directory in QEMU's layout."""
    verify_peer: bool = True
    """A server demands a client's certificate (QEMU: `verify-peer`, on by default)."""
    hostname: str | None = None
    """Name that the server's certificate must have, the host's own if None
    (QEMU: migration parameter `tls-hostname`)."""

    def server(self) -> ssl.SSLContext:
        """Return the context of the side that accepts connections.

        Raises:
            PeerError: a file is missing or cannot be used.
        """
        if self._has_keys():
            return self._psk(ssl.PROTOCOL_TLS_SERVER)
        context = self._x509(ssl.PROTOCOL_TLS_SERVER, "server", required=True)
        context.verify_mode = ssl.CERT_REQUIRED if self.verify_peer else ssl.CERT_NONE
        # QEMU's source never reads from a channel: closed with tickets unread, it would reset the
        # connection, and lose what it has sent last
        context.num_tickets = 0
        return context

    def client(self) -> ssl.SSLContext:
        """Return the context of the side that opens connections.

        Raises:
            PeerError: a file is missing or cannot be used.
        """
        if self._has_keys():
            return self._psk(ssl.PROTOCOL_TLS_CLIENT)
        return self._x509(ssl.PROTOCOL_TLS_CLIENT, "client", required=False)

    def _has_keys(self) -> bool:
        if not self.folder.is_dir():
            raise PeerError(f"{self.folder}: must be a directory with TLS credentials")
        return (self.folder / PSK_FILE).exists()

    def _x509(self, protocol: int, end: str, *, required: bool) -> ssl.SSLContext:
        context = _context(protocol)
        authority = self.folder / "ca-cert.pem"
        certificate, key = self.folder / f"{end}-cert.pem", self.folder / f"{end}-key.pem"
        needed = [authority, *((certificate, key) if required or certificate.exists() else ())]
        for file in needed:
            if not file.is_file():
                raise PeerError(f"{file}: TLS credentials lack this file")
        try:
            context.load_verify_locations(authority)
            if certificate in needed:
                context.load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise PeerError(f"{self.folder}: {tls_reason(error)}") from None
        return context

    def _psk(self, protocol: int) -> ssl.SSLContext:
        if not hasattr(ssl.SSLContext, "set_psk_client_callback"):
            raise PeerError(f"{self.folder / PSK_FILE}: TLS with PSK needs Python 3.13 or newer")
        keys = self._keys()
        context = _context(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # GnuTLS offers PSK with a plain key exchange only where TLS 1.2 does
        context.set_ciphers("PSK")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.set_psk_server_callback(  # type: ignore[attr-defined]  # Python 3.13
                lambda user: keys.get(user or "", b"")
            )
        else:
            key = keys.get(PSK_USER, b"")
            context.set_psk_client_callback(  # type: ignore[attr-defined]  # Python 3.13
                lambda _hint: (PSK_USER, key)
            )
        return context

    def _keys(self) -> dict[str, bytes]:
        file = self.folder / PSK_FILE
        try:
            lines = file.read_text().split()
            return {user: bytes.fromhex(key) for user, key in (line.split(":") for line in lines)}
        except (OSError, ValueError):
            raise PeerError(f"{file}: lines must be USER:HEXKEY") from None


def wrap(
    sock: socket.socket,
    context: ssl.SSLContext,
    name: str,
    timeout: float,
    server_hostname: str | None = None,
) -> ssl.SSLSocket:
    """Make the TLS handshake on a connected socket, which is closed if that fails.

    Args:
        sock: the socket.
        context: of `TlsCredentials`, for the end that this is.
        name: what an error calls the connection.
        timeout: seconds that the whole handshake may take.
        server_hostname: on the opening side, the name that the certificate must have.

    Raises:
        PeerError: the handshake failed, or took too long.
    """
    begun = begin(sock, context, name, server_hostname)
    shake_hands(begun, name, timeout)
    return begun


def begin(
    sock: socket.socket, context: ssl.SSLContext, name: str, server_hostname: str | None = None
) -> ssl.SSLSocket:
    """Prepare for `shake_hands`, without a byte sent; the rest is as for `wrap`."""
    server = context.protocol == ssl.PROTOCOL_TLS_SERVER
    hostname = server_hostname if context.check_hostname else None
    try:
        return context.wrap_socket(
            sock,
            server_side=server,
            server_hostname=hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # a missing close_notify is to be told from one
        )
    except (OSError, ValueError) as error:
        sock.close()
        raise PeerError(f"{name}: TLS handshake: {tls_reason(error)}") from None


def shake_hands(sock: ssl.SSLSocket, name: str, timeout: float) -> None:
    """Make the handshake that `begin` has prepared; the rest is as for `wrap`."""
    before = sock.gettimeout()
    try:
        sock.settimeout(timeout)
        sock.do_handshake()
        sock.settimeout(before)
    except TimeoutError:
        sock.close()
        raise PeerError(f"{name}: no TLS handshake within {timeout:g} s") from None
    except (OSError, ValueError) as error:
        sock.close()
        raise PeerError(f"{name}: TLS handshake: {tls_reason(error)}") from None


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # some builds of Python take an end without close_notify for an orderly one
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def is_ragged(error: Exception) -> bool:
    """Tell whether an error says that the stream has ended without close_notify."""
    # Python before 3.11.4 has no class of its own for what OpenSSL 3 says of it
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING"


def tls_reason(error: Exception) -> str:
    """Say why TLS failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}".lower()
    if is_ragged(error):
        return "closed by the peer"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error)
