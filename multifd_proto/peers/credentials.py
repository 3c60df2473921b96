"""X.509 credentials for both ends of a migration over TLS, made anew for each run."""

from __future__ import annotations

from pathlib import Path

from multifd_proto.errors import PeerError


def issue(folder: Path, *names: str) -> Path:
    """Write credentials in QEMU's layout into `folder`, which is returned.

    They are those of a certificate authority of its own, `ca-cert.pem`, and of one server and one
    client, `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem`.

    Args:
        folder: it is made; both ends can share it.
        names: host names and addresses that the server's certificate is for.

    Raises:
        PeerError: the library that makes certificates is not installed.
    """
    try:
        import trustme
    except ImportError:
        raise PeerError(
            "TLS cases need the trustme library: pip install 'multifd-proto[conformance]'"
        ) from None
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    server = authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")))
    for role, leaf in (("server", server), ("client", authority.issue_cert("client"))):
        leaf.private_key_pem.write_to_path(folder / f"{role}-key.pem")
        (chain,) = leaf.cert_chain_pems
        chain.write_to_path(folder / f"{role}-cert.pem")
    return folder
