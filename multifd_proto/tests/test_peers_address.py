"""Migration URIs."""

from __future__ import annotations

import socket

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import VSOCK_CID_ANY, Address, parse_address

FORMS = "tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N[,N...]"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("tcp:127.0.0.1:4444", Address("tcp", "127.0.0.1", 4444)),
        ("tcp:host.example:0", Address("tcp", "host.example", 0)),
        ("tcp:[::1]:4444", Address("tcp", "::1", 4444)),
        ("tcp::4444", Address("tcp", "", 4444)),
        ("unix:/run/x:y", Address("unix", "/run/x:y")),
        ("vsock:2:1234", Address("vsock", cid=2, port=1234)),
        (f"vsock:{VSOCK_CID_ANY}:1", Address("vsock", cid=VSOCK_CID_ANY, port=1)),
        ("fd:3", Address("fd", fds=(3,))),
        ("fd:3,5,4", Address("fd", fds=(3, 5, 4))),
    ],
)
def test_a_uri_is_read_and_written(uri: str, address: Address) -> None:
    assert parse_address(uri) == address
    assert str(address) == uri


def test_host_0_is_any_as_in_qemu() -> None:
    assert parse_address("tcp:0:4444") == Address("tcp", "", 4444)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tcp",
        "tcp:",
        "tcp:host",
        "tcp:host:",
        "tcp:host:port",
        "tcp:host:65536",
        "tcp:host:-1",
        "tcp:host:²",
        "tcp:host:" + "9" * 5000,
        "unix:",
        "vsock:2",
        "vsock:4294967296:1",
        "vsock::1",
        "fd:",
        "fd:3,",
        "fd:name",
        "udp:host:1",
    ],
)
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(PeerError) as error:
        parse_address(uri)
    assert str(error.value) == f"{uri!r} is no migration URI, must be {FORMS}"


@pytest.mark.parametrize("uri", ["exec:cat", "rdma:host:1", "file:/tmp/x"])
def test_transports_of_one_connection_are_refused(uri: str) -> None:
    scheme = uri.partition(":")[0]
    with pytest.raises(PeerError) as error:
        parse_address(uri)
    message = f"{uri!r}: {scheme}: cannot carry multifd channels, must be {FORMS}"
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("address", "family", "place"),
    [
        (Address("tcp", "127.0.0.1", 5), socket.AF_INET, ("127.0.0.1", 5)),
        (Address("tcp", "::1", 5), socket.AF_INET6, ("::1", 5, 0, 0)),
        (Address("unix", "/x"), socket.AF_UNIX, "/x"),
        (Address("vsock", cid=3, port=5), socket.AF_VSOCK, (3, 5)),
    ],
)
def test_an_address_is_resolved(address: Address, family: int, place: object) -> None:
    assert address.resolve(passive=False) == [(family, place)]


def test_an_empty_host_is_any_to_listen_on_and_this_one_to_connect_to() -> None:
    address = Address("tcp", "", 5)
    assert {place[0] for _, place in address.resolve(passive=True)} <= {"0.0.0.0", "::"}
    assert {place[0] for _, place in address.resolve(passive=False)} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "a..b"])
def test_a_name_that_is_unknown_is_said_so(host: str) -> None:
    address = Address("tcp", host, 5)
    with pytest.raises(PeerError) as error:
        address.resolve(passive=False)
    assert str(error.value).startswith(f"tcp:{host}:5: ")


def test_descriptors_are_not_resolved() -> None:
    with pytest.raises(PeerError) as error:
        Address("fd", fds=(3,)).resolve(passive=False)
    assert str(error.value) == "fd:3: this system has no fd sockets"
