"""Opening and awaiting connections."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.endpoint import Listener, dial
from multifd_proto.tests.senders import nothing_left


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def refusal(uri: str) -> str:
    with pytest.raises(PeerError) as error:
        Listener(parse_address(uri), 1)
    return str(error.value)


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:0", "tcp:[::1]:0", "unix:{}/sock"])
def test_connections_are_accepted(uri: str, tmp_path: Path) -> None:
    with Listener(parse_address(uri.format(tmp_path)), 2) as listener:
        if uri.startswith("tcp"):
            assert listener.address.port > 0
        with dial(listener.address, 0, 5) as near:
            far = listener.accept(5)
            assert far
            with far:
                assert far.getblocking()
                near.sendall(b"hello")
                assert far.recv(9) == b"hello"


def test_nobody_comes_within_the_time() -> None:
    with Listener(parse_address("tcp:127.0.0.1:0"), 1) as listener:
        start = time.monotonic()
        assert listener.accept(0.1) is None
        assert 0.1 <= time.monotonic() - start < 2


def test_the_path_of_a_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with Listener(Address("unix", str(path)), 1) as listener:
        assert path.is_socket()
        listener.close()
        assert not path.exists()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Listener(Address("unix", str(path)), 1) as listener, dial(listener.address, 0, 5):
        assert path.is_socket()


@pytest.mark.parametrize("full", [False, True])
def test_a_socket_that_somebody_listens_on_stays(full: bool, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with Listener(Address("unix", str(path)), 0) as listener:
        waiting = [dial(listener.address, 0, 5)] if full else []
        assert refusal(f"unix:{path}") == f"unix:{path}: Address already in use"
        for sock in waiting:
            sock.close()
        assert path.is_socket()


def test_a_file_is_no_socket_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert refusal(f"unix:{path}") == f"unix:{path}: Address already in use"
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    assert refusal(f"unix:{path}") == f"unix:{path}: AF_UNIX path too long"
    with pytest.raises(PeerError) as error:
        dial(Address("unix", str(path)), 0, 5)
    assert str(error.value) == f"unix:{path}: AF_UNIX path too long"


def test_a_port_in_use_is_said_so() -> None:
    with Listener(parse_address("tcp:127.0.0.1:0"), 1) as listener:
        assert refusal(str(listener.address)) == f"{listener.address}: Address already in use"


def test_nobody_listens() -> None:
    with Listener(parse_address("tcp:127.0.0.1:0"), 1) as listener:
        address = listener.address
    with pytest.raises(PeerError) as error:
        dial(address, 0, 5)
    assert str(error.value) == f"{address}: Connection refused"


def test_every_address_of_a_name_is_tried() -> None:
    with Listener(parse_address("tcp:127.0.0.1:0"), 1) as listener:
        name = Address("tcp", "localhost", listener.address.port)
        with dial(name, 0, 5) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    with Listener(Address("unix", str(tmp_path / "sock")), 0) as listener:
        first = dial(listener.address, 0, 5)
        with closing(first), pytest.raises(PeerError) as error:
            dial(listener.address, 1, 0.2)
    assert str(error.value) == f"{listener.address}: Resource temporarily unavailable"


# ---- descriptors --------------------------------------------------------------------------------


def test_a_socket_that_listens_is_taken_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with Listener(Address("fd", fds=(server.fileno(),)), 1) as listener:
            assert listener.fileno() != server.fileno()
            with dial(Address("tcp", "127.0.0.1", port), 0, 5):
                sock = listener.accept(5)
                assert sock
                sock.close()


def test_connected_sockets_are_handed_out_in_their_order() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    fds = tuple(one.fileno() for one, _ in pairs)
    with Listener(Address("fd", fds=fds), 1) as listener:
        assert listener.fileno() == -1
        for _, other in pairs:
            sock = listener.accept(0)
            assert sock
            other.sendall(b"x")
            assert sock.recv(1) == b"x"
            sock.close()
        assert listener.accept(0.01) is None
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_sockets_that_nobody_took_are_closed() -> None:
    one, other = socket.socketpair()
    with one, other:
        with Listener(Address("fd", fds=(one.fileno(),)), 1):
            pass
        one.close()
        assert other.recv(1) == b""


def test_descriptors_of_no_use_are_said_so() -> None:
    one, other = socket.socketpair()
    with one, other, socket.create_server(("127.0.0.1", 0)) as server:
        file = os.memfd_create("file")
        good, bad = one.fileno(), 1 << 19
        try:
            both = f"fd:{good},{server.fileno()}"
            said = f"{both}: is one socket that listens, or several that are connected"
            assert refusal(both) == said
            said = f"fd:{good},{bad}: descriptor {bad}: Bad file descriptor"
            assert refusal(f"fd:{good},{bad}") == said
            said = f"fd:{good},{file}: descriptor {file}: Socket operation on non-socket"
            assert refusal(f"fd:{good},{file}") == said
        finally:
            os.close(file)


def test_a_descriptor_is_dialled_by_its_place() -> None:
    one, other = socket.socketpair()
    address = Address("fd", fds=(one.fileno(),))
    with one, other:
        with dial(address, 0, 5) as sock:
            sock.sendall(b"x")
            assert other.recv(1) == b"x"
        with pytest.raises(PeerError) as error:
            dial(address, 1, 5)
    assert str(error.value) == f"{address}: has 1 descriptors, wanted is 2"
