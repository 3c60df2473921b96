"""One connection: every wait is bounded, and ends when another thread says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.peers.connection import (
    IOV_MAX,
    Connection,
    PeerClosedError,
    PeerTimeoutError,
    after,
)
from multifd_proto.peers.tls import TlsCredentials, wrap
from multifd_proto.tests.senders import SLACK, nothing_left

TIMEOUT = 0.1
Pair = tuple[Connection, Connection]
Connect = Callable[[], "Pair"]


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> TlsCredentials:
    return TlsCredentials(issue(tmp_path_factory.mktemp("tls") / "one"))


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


@contextmanager
def connected(kind: str, credentials: TlsCredentials) -> Iterator[Pair]:
    near, far = socket.socketpair() if kind == "unix" else tcp()
    if kind == "tls":
        ends: list[socket.socket] = []
        serve = lambda: ends.append(wrap(far, credentials.server(), "far", 5))  # noqa: E731
        thread = threading.Thread(target=serve)
        thread.start()
        near = wrap(near, credentials.client(), "near", 5, "localhost")
        thread.join()
        (far,) = ends
    one, two = Connection(near, "near", TIMEOUT), Connection(far, "far", TIMEOUT)
    try:
        yield one, two
    finally:
        one.close()
        two.close()


@pytest.fixture(params=["tcp", "unix", "tls"])
def pair(request: pytest.FixtureRequest, credentials: TlsCredentials) -> Iterator[Pair]:
    with nothing_left(), connected(request.param, credentials) as ends:
        yield ends


@pytest.fixture
def tls(credentials: TlsCredentials) -> Iterator[Pair]:
    with nothing_left(), connected("tls", credentials) as ends:
        yield ends


def room(size: int) -> memoryview:
    return memoryview(bytearray(size))


def fill(connection: Connection, data: memoryview) -> None:
    done = 0
    while done < len(data):
        taken = connection.receive_into(data[done:], whole=True)
        assert taken
        done += taken


# ---- receiving -----------------------------------------------------------------------------------


def test_what_is_there_is_received(pair: Pair) -> None:
    near, far = pair
    near.send(b"hello")
    view = room(10)
    assert far.receive_into(view) == 5
    assert bytes(view[:5]) == b"hello"


def test_the_whole_is_waited_for(pair: Pair) -> None:
    near, far = pair
    near.send(b"hel")
    later = threading.Timer(0.03, near.send, [b"lo", b" ", b"you"])
    later.start()
    view = room(9)
    assert far.receive_into(view, whole=True) == 9
    assert bytes(view) == b"hello you"
    later.join()


def test_silence_ends_a_wait(pair: Pair) -> None:
    for whole in (False, True):
        start = time.monotonic()
        with pytest.raises(PeerTimeoutError) as error:
            pair[1].receive_into(room(9), whole=whole)
        assert str(error.value) == "far: the peer sent no byte for 0.1 s"
        assert TIMEOUT <= time.monotonic() - start < TIMEOUT + SLACK


def test_half_of_the_whole_is_returned_when_time_is_up(pair: Pair) -> None:
    near, far = pair
    near.send(b"half")
    assert far.receive_into(room(9), whole=True) == 4
    with pytest.raises(PeerTimeoutError):
        far.receive_into(room(5), whole=True)


def test_drops_do_not_prolong_a_wait(pair: Pair) -> None:
    near, far = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            near.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    start = time.monotonic()
    assert 0 < far.receive_into(room(10_000), whole=True) < 1000
    assert time.monotonic() - start < TIMEOUT + SLACK
    stop.set()
    thread.join()


def test_the_end_is_received_as_nothing(pair: Pair) -> None:
    near, far = pair
    near.send(b"last")
    near.end_sending()
    assert far.receive_into(room(9), whole=True) == 4
    assert far.receive_into(room(9), whole=True) == 0
    assert far.receive_into(room(9)) == 0
    assert not far.ragged


def test_pieces_are_filled_one_after_the_other(pair: Pair) -> None:
    near, far = pair
    near.send(b"abcdefg")
    pieces = [room(2), room(1), room(4)]
    left = list(pieces)
    while left:
        left = after(left, far.receive_pieces(left))
    assert [bytes(piece) for piece in pieces] == [b"ab", b"c", b"defg"]


def test_silence_ends_a_wait_for_pieces(pair: Pair) -> None:
    with pytest.raises(PeerTimeoutError):
        pair[1].receive_pieces([room(5)])


def test_the_time_limit_can_be_changed(pair: Pair) -> None:
    far = pair[1]
    far.set_timeout(0.02)
    start = time.monotonic()
    with pytest.raises(PeerTimeoutError) as error:
        far.receive_into(room(1))
    assert str(error.value) == "far: the peer sent no byte for 0.02 s"
    assert time.monotonic() - start < 0.02 + SLACK


# ---- sending -------------------------------------------------------------------------------------


def test_much_is_sent_in_many_parts(pair: Pair) -> None:
    near, far = pair
    parts = [b"", *(bytes([number % 256]) * 700 for number in range(IOV_MAX + 99)), b""]
    thread = threading.Thread(target=near.send, args=parts)
    thread.start()
    view = room(sum(map(len, parts)))
    fill(far, view)
    thread.join()
    assert bytes(view) == b"".join(parts)


def test_a_peer_that_takes_nothing_ends_a_wait(pair: Pair) -> None:
    near = pair[0]
    with pytest.raises(PeerTimeoutError) as error:
        near.send(bytes(64 << 20))
    assert str(error.value) == "near: the peer took no byte for 0.1 s"


def test_a_peer_that_has_gone_ends_a_wait(pair: Pair) -> None:
    near, far = pair
    far.close()
    with pytest.raises(PeerClosedError) as error:
        near.send(*[bytes(100_000)] * 100)
    reason = str(error.value).removeprefix("near: ")
    assert reason in {"Broken pipe", "Connection reset by peer", "TLS: closed by the peer"}


def test_both_directions_are_used_at_once(pair: Pair) -> None:
    near, far = pair
    data = bytes(range(256)) * 8192
    seen = {near: room(len(data)), far: room(len(data))}
    threads = [threading.Thread(target=fill, args=item) for item in seen.items()]
    threads += [threading.Thread(target=end.send, args=(data,)) for end in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bytes(view) == data for view in seen.values())


# ---- ending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_another_thread_ends_a_wait(pair: Pair, whole: bool) -> None:
    far = pair[1]
    far.set_timeout(30)
    later = threading.Timer(0.05, far.abort)
    later.start()
    start = time.monotonic()
    assert far.receive_into(room(9), whole=whole) == 0
    assert time.monotonic() - start < SLACK
    assert far.aborted
    later.join()


def test_a_reset_is_an_error(credentials: TlsCredentials) -> None:
    with connected("tcp", credentials) as (near, far):
        near.reset()
        with pytest.raises(PeerClosedError) as error:
            far.receive_into(room(9))
        assert str(error.value) == "far: Connection reset by peer"
        assert far.was_reset()


def test_an_end_is_no_reset(credentials: TlsCredentials) -> None:
    with connected("tcp", credentials) as (near, far):
        near.close()
        assert far.receive_into(room(9)) == 0
        assert not far.was_reset()


def test_closing_twice_is_closing_once(pair: Pair) -> None:
    pair[0].close()
    pair[0].close()
    pair[0].abort()
    assert pair[0].fileno() == -1


def test_a_stream_in_tls_that_ends_without_notice_is_ragged(tls: Pair) -> None:
    near, far = tls
    near.send(b"last")
    near.end_sending(notify=False)
    assert far.receive_into(room(9), whole=True) == 4
    assert far.receive_into(room(9)) == 0
    assert far.ragged


@pytest.mark.parametrize("notify", [False, True])
def test_what_comes_after_the_own_end_is_received(pair: Pair, notify: bool) -> None:
    near, far = pair
    near.end_sending(notify=notify)
    assert far.receive_into(room(9)) == 0
    if notify or not far.tls:
        far.send(b"answer")
        view = room(6)
        fill(near, view)
        assert bytes(view) == b"answer"


def test_after_takes_whole_and_half_parts() -> None:
    parts: list[bytes | bytearray | memoryview] = [b"ab", bytearray(b"cd"), memoryview(b"ef")]
    rests = [b"".join(after(parts, done)) for done in range(8)]
    assert rests == [b"abcdef", b"bcdef", b"cdef", b"def", b"ef", b"f", b"", b""]
    assert after([], 0) == []
