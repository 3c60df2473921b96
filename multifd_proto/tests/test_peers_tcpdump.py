"""Capturing with tcpdump: everything, or an error."""

from __future__ import annotations

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from multifd_proto.capture.events import Endpoint
from multifd_proto.errors import PeerError
from multifd_proto.peers.tcpdump import _demand_nothing_lost, capturing
from multifd_proto.tests import captures


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_that_passes_the_port_is_captured_and_nothing_else(host, tcpdump, tmp_path):
    data = bytes(range(256)) * 8000  # fills loopback's greatest frames, of more than 65535 bytes
    with server(host) as end, server(host) as other:
        number = end.getsockname()[1]
        with capturing(number, tmp_path / "pcap"):
            exchange(end, data)
            exchange(other, b"of another connection")
    (forward, backward), _ = captures.read(tmp_path / "pcap")
    assert forward.half.destination == Endpoint(host, number)
    assert forward.data == data
    assert backward.data == b""
    for half in (forward, backward):
        assert half.end is not None
        assert not half.end.reset


def server(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family)


def exchange(end, data):
    """Send `data` over a connection, while a thread reads it."""
    with (
        ThreadPoolExecutor(1) as pool,
        socket.create_connection(end.getsockname()[:2], timeout=10) as client,
    ):
        connection, _ = end.accept()
        reading = pool.submit(read, connection)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert reading.result(10) == len(data)


def read(connection):
    total = 0
    with connection:
        connection.settimeout(10)
        while got := connection.recv(1 << 20):
            total += len(got)
    return total


def test_a_missing_tcpdump_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(PeerError, match=r"^tcpdump is not installed, but is needed to capture$"),
        capturing(1, tmp_path / "pcap"),
    ):
        pass


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")
def test_a_tcpdump_that_cannot_capture_says_why(tmp_path):
    with (
        pytest.raises(PeerError, match=r"^tcpdump cannot capture: "),
        capturing(99999, tmp_path / "pcap"),
    ):
        pass


def test_an_error_inside_the_context_is_the_one_that_is_raised(tcpdump, tmp_path):
    with (
        pytest.raises(RuntimeError, match="of the caller"),
        capturing(1, tmp_path / "pcap"),
    ):
        raise RuntimeError("of the caller")


def test_lost_packets_are_an_error():
    _demand_nothing_lost("9 packets captured\n18 packets received\n0 packets dropped by kernel\n")
    _demand_nothing_lost("1 packet captured\n2 packets received\n0 packets dropped by kernel\n")
    for summary in ("5 packets captured\n1 packet dropped by kernel", "no summary"):
        with pytest.raises(PeerError) as caught:
            _demand_nothing_lost(summary)
        assert str(caught.value) == f"tcpdump has lost packets: {summary!r}"
