"""QEMU without a guest: it migrates to its like, and how that went is told, whatever happened."""

from __future__ import annotations

import os
import random
import signal
from contextlib import ExitStack

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import PeerError
from multifd_proto.peers.lab import configure, guestless, knows, outcome, qemu_of

PAGE = 4096
SIZE = 1 << 20
PAGES = 200
OTHER_UUID = "3a1f7c52-0d4e-4b86-9c35-7e21d8f6a904"


@pytest.fixture
def pair(qemu, tmp_path):
    """Start a source, whose memory has content, and a destination, whose memory is zeros."""
    with ExitStack() as stack:

        def start(version, *, tls_creds=None, **of_destination):
            common = {"size": SIZE, "directory": tmp_path, "tls_creds": tls_creds}
            content = random.Random(version).randbytes(PAGES * PAGE)
            (tmp_path / "source").write_bytes(content.ljust(SIZE, b"\0"))
            source, destination = (
                stack.enter_context(guestless(qemu(version), tmp_path / name, name=name, **more))
                for name, more in (
                    ("source", common),
                    ("destination", common | of_destination | {"incoming": True}),
                )
            )
            return source, destination

        yield start


def run(source, destination, uri="tcp:127.0.0.1:0", timeout=20):
    """Migrate and return how it went at both ends."""
    source.migrate(destination.listen_uri(uri))
    return outcome(source, timeout), outcome(destination, timeout)


def demand_success(outcomes, folder):
    for end in outcomes:
        assert (end.status, end.returncode, end.errors) == ("completed", None, ())
    assert (folder / "source").read_bytes() == (folder / "destination").read_bytes()


# ---- migrations --------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
def test_the_memory_is_the_same_afterwards(version, pair, tmp_path):
    source, destination = pair(version)
    for end in (source, destination):
        configure(end, channels=3, compression="zlib", zero_page_detection="legacy")
    sent, received = run(source, destination)
    demand_success((sent, received), tmp_path)
    assert sent.ram["normal"] == PAGES
    assert sent.ram["duplicate"] == SIZE // PAGE - PAGES
    assert PAGES * PAGE < sent.ram["multifd-bytes"] < sent.ram["transferred"]
    assert sent.seconds is not None
    assert 0 <= sent.seconds < 20
    assert (received.ram, received.seconds) == ({}, None)
    assert "multifd_recv_new_channel channel 2" in destination.trace


@pytest.mark.qemu
@pytest.mark.parametrize("uri", ["tcp:[::1]:0", "unix:{}/socket"])
def test_other_transports_do_as_well(uri, pair, tmp_path):
    source, destination = pair("10.0")
    for end in (source, destination):
        configure(end)
    demand_success(run(source, destination, uri.format(tmp_path)), tmp_path)


@pytest.mark.qemu
def test_credentials_make_it_tls(pair, tmp_path):
    source, destination = pair("10.0", tls_creds=issue(tmp_path / "pki"))
    for end in (source, destination):
        configure(end, tls=True)
    ends = run(source, destination)
    # a destination of 10.0 may trace an error at the end of a TLS migration that completes
    assert [end.status for end in ends] == ["completed", "completed"]
    assert (tmp_path / "source").read_bytes() == (tmp_path / "destination").read_bytes()
    assert source.trace.count("ioctype=qio-channel-tls") == 2


@pytest.mark.qemu
def test_a_source_without_tls_gets_nowhere_with_a_destination_that_demands_it(pair, tmp_path):
    source, destination = pair("10.0", tls_creds=issue(tmp_path / "pki"))
    configure(source)
    configure(destination, tls=True)
    sent, received = run(source, destination, timeout=1)
    assert (sent.status, received.status) == ("failed", "pending")
    assert received.errors[0].startswith("TLS handshake failed: ")


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "11.1"])
def test_memory_of_a_machine_with_a_cpu_is_written_by_qtest(version, qemu, tmp_path):
    memory = tmp_path / "memory"
    settings = {"size": 4 << 20, "directory": tmp_path, "machine": "pc", "qtest": True}
    with guestless(qemu(version), memory, **settings) as source:
        source.memset(2 << 20, PAGE, 0x5A)
        assert memory.read_bytes()[2 << 20 :] == (b"\x5a" * PAGE).ljust(2 << 20, b"\0")


# ---- releases ----------------------------------------------------------------------------------


def test_a_release_that_was_not_fetched_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIFD_QEMU_DIR", str(tmp_path))
    with pytest.raises(PeerError) as caught:
        qemu_of("10.0")
    assert str(caught.value) == "no QEMU 10.0: python -m multifd_proto.peers.debian 10.0"


@pytest.mark.qemu
@pytest.mark.parametrize(("version", "zstd", "detection"), [("5.2", 0, 0), ("10.0", 1, 1)])
def test_what_a_release_knows_can_be_asked(version, zstd, detection, pair):
    source, _ = pair(version)
    assert knows(source, "multifd-compression", "zlib")
    assert knows(source, "multifd-compression", "zstd") == zstd
    assert knows(source, "zero-page-detection") == detection
    assert knows(source, "zero-page-detection", "multifd") == detection
    assert not knows(source, "multifd-flux")


@pytest.mark.qemu
def test_what_a_release_does_not_know_is_refused(pair):
    source, _ = pair("5.2")
    with pytest.raises(PeerError) as caught:
        configure(source, compression="zstd")
    assert str(caught.value) == (
        "source: 'migrate-set-parameters' is refused: Invalid parameter 'zstd'"
    )
    with pytest.raises(PeerError) as caught:
        configure(source, zero_page_detection="multifd")
    assert str(caught.value) == (
        "source: 'migrate-set-parameters' is refused: Parameter 'zero-page-detection' is unexpected"
    )


@pytest.mark.qemu
def test_an_address_that_is_not_ours_cannot_be_listened_on(pair):
    _, destination = pair("10.0")
    with pytest.raises(PeerError) as caught:
        destination.listen_uri("tcp:192.0.2.1:0")
    assert str(caught.value).startswith("destination: 'migrate-incoming' is refused: ")


# ---- outcomes ----------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "status", "code"), [("7.2", "pending", None), ("10.0", "ended", 1)]
)
def test_a_destination_that_refuses_gives_its_reason(version, status, code, pair):
    source, destination = pair(version, uuid=OTHER_UUID)
    for end in (source, destination):
        configure(end)
    _, received = run(source, destination, timeout=1)
    assert (received.status, received.returncode) == (status, code)
    assert received.errors[0].startswith("failed to receive packet via multifd channel ")
    assert f"expected uuid '{OTHER_UUID}'" in received.errors[0]
    assert received.errors[-1] == "multifd_recv_terminate_threads error 1"


@pytest.mark.qemu
def test_a_qemu_that_no_longer_answers_is_silent(pair):
    _, destination = pair("10.0")
    os.kill(destination.pid, signal.SIGSTOP)
    stopped = outcome(destination, timeout=0.1)
    assert (stopped.status, stopped.returncode, stopped.errors) == ("silent", None, ())


@pytest.mark.qemu
def test_a_source_says_why_it_failed(pair):
    source, _ = pair("10.0")
    configure(source)
    source.migrate("tcp:127.0.0.1:1")
    sent = outcome(source)
    assert sent.status == "failed"
    assert "Connection refused" in sent.errors[0]


@pytest.mark.qemu
def test_a_crash_is_an_outcome(pair):
    _, destination = pair("10.0")
    os.kill(destination.pid, signal.SIGABRT)
    crashed = outcome(destination)
    assert (crashed.status, crashed.returncode) == ("ended", -signal.SIGABRT)
    assert (crashed.ram, crashed.answer) == ({}, {})
