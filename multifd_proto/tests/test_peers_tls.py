"""Credentials in QEMU's layouts, and handshakes."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import PeerError
from multifd_proto.peers.tls import PSK_FILE, TlsCredentials, wrap
from multifd_proto.tests.senders import SLACK, nothing_left


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(issue(tmp_path_factory.mktemp("tls") / "one"))


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> tuple[str, str]:
    """Make a handshake; return the errors of server and client, empty for none."""
    near, far = socket.socketpair()
    errors = {"server": "", "client": ""}

    def end(sock: socket.socket, context: ssl.SSLContext, role: str) -> None:
        try:
            with wrap(sock, context, role, 5, name if role == "client" else None) as done:
                done.settimeout(1)
                if role == "client":  # in TLS 1.3 only reading shows if one was taken for good
                    done.sendall(b"x")
                    done.recv(1)
                else:
                    done.sendall(done.recv(1))
        except (PeerError, OSError) as error:
            errors[role] = str(error)

    thread = threading.Thread(target=end, args=(far, server, "server"))
    thread.start()
    end(near, client, "client")
    thread.join()
    return errors["server"], errors["client"]


def refusal(credentials: TlsCredentials, role: str) -> str:
    with pytest.raises(PeerError) as error:
        credentials.server() if role == "server" else credentials.client()
    return str(error.value)


def test_both_ends_prove_themselves(folder: Path) -> None:
    both = TlsCredentials(folder)
    assert shake(both.server(), both.client(), "localhost") == ("", "")


def test_another_name_is_refused(folder: Path) -> None:
    both = TlsCredentials(folder)
    _, client = shake(both.server(), both.client(), "elsewhere.example")
    assert client.startswith("client: TLS handshake: certificate: hostname mismatch")


def test_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    other = TlsCredentials(issue(tmp_path / "other"))
    server, client = shake(TlsCredentials(folder).server(), other.client(), "localhost")
    assert client.startswith("client: TLS handshake: certificate: ")
    assert server.startswith("server: TLS handshake: ")


@pytest.mark.parametrize("verify", [False, True])
def test_a_client_without_certificate(folder: Path, tmp_path: Path, verify: bool) -> None:
    (tmp_path / "ca-cert.pem").write_bytes((folder / "ca-cert.pem").read_bytes())
    strict = TlsCredentials(folder, verify_peer=verify)
    server, _ = shake(strict.server(), TlsCredentials(tmp_path).client(), "localhost")
    demanded = "server: TLS handshake: peer did not return a certificate"
    assert server == (demanded if verify else "")


def test_no_tickets_are_sent(folder: Path) -> None:
    """A source closes with them unread, which would lose what it has sent last."""
    assert TlsCredentials(folder).server().num_tickets == 0


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_handshake_that_stalls_ends(folder: Path, role: str) -> None:
    both = TlsCredentials(folder)
    context = both.server() if role == "server" else both.client()
    near, far = socket.socketpair()
    with far:
        start = time.monotonic()
        with pytest.raises(PeerError) as error:
            wrap(near, context, "peer", 0.1, "localhost")
        assert str(error.value) == "peer: no TLS handshake within 0.1 s"
        assert time.monotonic() - start < 0.1 + SLACK


def test_a_handshake_in_drops_ends(folder: Path) -> None:
    near, far = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60):
            if stop.wait(0.02):
                break
            far.send(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    start = time.monotonic()
    with pytest.raises(PeerError) as error:
        wrap(near, TlsCredentials(folder).server(), "peer", 0.2)
    assert str(error.value) == "peer: no TLS handshake within 0.2 s"
    assert time.monotonic() - start < 0.2 + SLACK
    stop.set()
    thread.join()
    far.close()


def test_a_peer_that_goes_during_the_handshake_is_said_so(folder: Path) -> None:
    near, far = socket.socketpair()
    far.close()
    with pytest.raises(PeerError) as error:
        wrap(near, TlsCredentials(folder).server(), "peer", 5)
    assert str(error.value) == "peer: TLS handshake: closed by the peer"


def test_garbage_is_no_handshake(folder: Path) -> None:
    near, far = socket.socketpair()
    with far:
        far.sendall(b"\x11\x22\x33\x44" * 16)
        with pytest.raises(PeerError) as error:
            wrap(near, TlsCredentials(folder).server(), "peer", 5)
    assert str(error.value) == "peer: TLS handshake: wrong version number"


# ---- files ---------------------------------------------------------------------------------------


def test_a_folder_that_is_none_is_said_so(tmp_path: Path) -> None:
    said = f"{tmp_path}/none: must be a directory with TLS credentials"
    assert refusal(TlsCredentials(tmp_path / "none"), "server") == said


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("server", "ca-cert.pem"),
        ("server", "server-cert.pem"),
        ("server", "server-key.pem"),
        ("client", "ca-cert.pem"),
        ("client", "client-key.pem"),
    ],
)
def test_a_file_that_is_missing_is_named(role: str, missing: str, tmp_path: Path) -> None:
    folder = issue(tmp_path / "tls")
    (folder / missing).unlink()
    said = f"{folder}/{missing}: TLS credentials lack this file"
    assert refusal(TlsCredentials(folder), role) == said


def test_a_client_needs_no_certificate(tmp_path: Path) -> None:
    folder = issue(tmp_path / "tls")
    (folder / "client-cert.pem").unlink()
    TlsCredentials(folder).client()


@pytest.mark.parametrize("file", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_file_of_garbage_is_refused(file: str, tmp_path: Path) -> None:
    folder = issue(tmp_path / "tls")
    (folder / file).write_text("garbage")
    assert refusal(TlsCredentials(folder), "server").startswith(f"{folder}: ")


@pytest.mark.parametrize("role", ["server", "client"])
def test_psk_is_used_or_said_to_need_a_newer_python(role: str, tmp_path: Path) -> None:
    (tmp_path / PSK_FILE).write_text("qemu:00112233445566778899aabbccddeeff\n")
    credentials = TlsCredentials(tmp_path)
    if sys.version_info >= (3, 13):
        both = credentials.server(), credentials.client()
        assert shake(*both, None) == ("", "")
        return
    said = f"{tmp_path}/{PSK_FILE}: TLS with PSK needs Python 3.13 or newer"
    assert refusal(credentials, role) == said
