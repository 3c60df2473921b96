"""X.509 credentials for the cases of a run, and for each its own."""

from __future__ import annotations

from pathlib import Path

from multifd_proto.peers.credentials import issue
from multifd_proto.peers.tls import TlsCredentials

__all__ = ["credentials", "issue"]


def credentials(folder: Path) -> TlsCredentials:
    """Return credentials in a new folder.

    Raises:
        PeerError: as `issue` does.
    """
    return TlsCredentials(issue(folder), hostname="localhost")
