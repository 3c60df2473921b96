"""TLS secrets as SSLKEYLOGFILE holds them: a label, the client's random and the secret on a line.

GnuTLS, OpenSSL and others write such files; a pcapng can hold them in a block of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from multifd_proto.errors import CaptureError

MASTER_SECRET = "CLIENT_RANDOM"
"""Label of the master secret of TLS 1.2 and older."""
HANDSHAKE_SECRETS = ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET")
"""Labels of TLS 1.3 until the handshake is finished: the client's, the server's."""
TRAFFIC_SECRETS = ("CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")
"""Labels of TLS 1.3 after that."""
RANDOM = 32
"""Bytes of a client's random."""

_SIZES = {MASTER_SECRET: (48,), **dict.fromkeys((*HANDSHAKE_SECRETS, *TRAFFIC_SECRETS), (32, 48))}
_LINE = 1024  # bytes; the longest that holds a secret are of 225
_MOST = 1 << 16


class KeyLog:
    """The secrets of TLS connections; of very many, the latest.

    Attributes:
        faults: One line for each input with lines that cannot be read.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._secrets: dict[bytes, dict[str, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def of(self, client_random: bytes) -> Mapping[str, bytes]:
        """Return the secrets of a connection by their labels."""
        return self._secrets.get(client_random, {})

    def read(self, path: str | Path) -> None:
        """Add what a file holds.

        Raises:
            CaptureError: The file cannot be read.
        """
        try:
            with Path(path).open("rb") as file:
                self.add(_lines(file), str(path))
        except OSError as error:
            raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error

    def add(self, lines: Iterable[bytes], name: str) -> None:
        """Add secrets; of lines that are none, the first is told in `faults`."""
        bad = [n for n, line in enumerate(lines, 1) if not self._take(line)]
        if bad:
            more = f" (the first of {len(bad)})" if bad[1:] else ""
            self.faults.append(
                f"{name}: line {bad[0]}{more} holds no TLS secret, "
                "label, client random and secret in hex were demanded"
            )

    def _take(self, line: bytes) -> bool:
        label, _, rest = line.decode("latin-1").strip().partition(" ")
        if not label or label.startswith("#"):
            return True
        try:
            random, secret = map(bytes.fromhex, rest.split())
        except ValueError:
            return False
        sizes = _SIZES.get(label)
        if sizes is None:
            return label.isidentifier()  # such as EXPORTER_SECRET: of no use here
        if len(random) != RANDOM or len(secret) not in sizes:
            return False
        self._secrets.setdefault(random, {})[label] = secret
        if len(self._secrets) > _MOST:
            del self._secrets[next(iter(self._secrets))]
        return True


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.readline(_LINE), b"")
