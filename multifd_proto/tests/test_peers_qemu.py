"""Driving QEMU: answers, refusals, silence, death; no process outlives its context."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from multifd_proto.errors import PeerError
from multifd_proto.peers.qemu import Qemu

RAM = 4 << 20


def script(folder, text):
    path = folder / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def memory(path, content=b""):
    """Return the arguments of a guest whose memory is the file `path`."""
    path.write_bytes(content.ljust(RAM, b"\0"))
    backend = f"memory-backend-file,id=ram0,size={RAM},share=on,mem-path={path}"
    display = ("-S", "-nodefaults", "-display", "none", "-m", f"{RAM >> 20}")
    return ("-object", backend, *display)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- without QEMU ------------------------------------------------------------------------------


def test_a_binary_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(PeerError) as caught:
        Qemu(tmp_path / "qemu", directory=tmp_path)
    assert str(caught.value) == f"{tmp_path}/qemu cannot be run: No such file or directory"


def test_a_process_that_never_greets_is_killed(tmp_path):
    binary = script(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(PeerError) as caught:
        Qemu(binary, directory=tmp_path, timeout=0.5)
    assert str(caught.value) == "qemu: no answer to the greeting within 0.5 s"
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_process_that_ends_at_once_is_told_with_what_it_said(tmp_path):
    binary = script(tmp_path, "echo something is wrong >&2; exit 3")
    with pytest.raises(PeerError) as caught:
        Qemu(binary, directory=tmp_path, name="source")
    assert str(caught.value) == "source: ended with status 3: something is wrong"


def test_a_missing_library_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    binary = script(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(PeerError) as caught:
        Qemu(binary, directory=tmp_path)
    assert str(caught.value) == (
        "driving QEMU needs the qemu.qmp library: pip install 'multifd-proto[qemu]'"
    )


# ---- with QEMU ---------------------------------------------------------------------------------


@pytest.mark.qemu
def test_a_machine_that_qemu_does_not_have_is_told(qemu, tmp_path):
    with pytest.raises(PeerError) as caught:
        Qemu(qemu("10.0"), "-machine", "abacus", directory=tmp_path)
    assert str(caught.value).startswith("qemu: ended with status 1: qemu-system-x86_64: ")
    assert "abacus" in str(caught.value)


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
def test_a_migration_brings_the_memory_over(version, qemu, tmp_path):
    content = b"".join(b"page %5d\n" % page * 409 for page in range(300))
    machine = ("-machine", "none,memory-backend=ram0")
    paths = tmp_path / "source.ram", tmp_path / "destination.ram"
    with (
        Qemu(
            qemu(version), *machine, *memory(paths[0], content), directory=tmp_path, name="source"
        ) as source,
        Qemu(
            *(qemu(version), *machine, *memory(paths[1]), "-incoming", "defer"),
            directory=tmp_path,
            name="destination",
        ) as destination,
    ):
        for end in (source, destination):
            end.set_capabilities("multifd")
            end.set_parameters({"multifd-channels": 3})
        source.migrate(f"tcp:127.0.0.1:{destination.listen()}")
        assert source.wait_migrated(20)["status"] == "completed"
        assert destination.wait_migrated(20)["status"] == "completed"
    assert paths[0].read_bytes().startswith(content)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert "multifd_send_thread_start" in source.trace
    assert "multifd_recv_new_channel channel 2" in destination.trace


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "11.1"])
def test_qtest_writes_the_memory_of_the_guest(version, qemu, tmp_path):
    machine = ("-machine", "pc,memory-backend=ram0", "-accel", "tcg")
    arguments = (*machine, *memory(tmp_path / "ram"))
    with Qemu(qemu(version), *arguments, directory=tmp_path, qtest=True) as peer:
        peer.memset(0x200000, 4096, 0x5A)
        peer.write(0x200010, bytes(range(256)) * 64)
        seen = (tmp_path / "ram").read_bytes()[0x200000:]
        assert seen[:0x10] == b"\x5a" * 16
        assert seen[0x10 : 0x10 + 16384] == bytes(range(256)) * 64
        with pytest.raises(PeerError) as caught:
            peer.write(0x200000, b"")
        assert str(caught.value).startswith("qemu: ")
    assert peer.stderr == ""


@pytest.mark.qemu
def test_a_migration_that_never_settles_is_given_up(qemu, tmp_path):
    with Qemu(qemu("10.0"), "-machine", "none", directory=tmp_path) as peer:
        with pytest.raises(PeerError) as caught:
            peer.wait_migrated(0.05)
        assert str(caught.value) == (
            "qemu: migration is None after 0.05 s, must be one of completed, failed, cancelled"
        )


@pytest.mark.qemu
def test_a_migration_to_nowhere_fails(qemu, tmp_path):
    with Qemu(qemu("10.0"), "-machine", "none", directory=tmp_path) as peer:
        peer.migrate("tcp:127.0.0.1:1")
        assert peer.wait_migrated(20)["status"] == "failed"


@pytest.mark.qemu
def test_a_refused_command_says_why(qemu, tmp_path):
    with Qemu(qemu("10.0"), "-machine", "none", directory=tmp_path) as peer:
        with pytest.raises(PeerError) as caught:
            peer.set_parameters({"multifd-channels": 0})
        assert str(caught.value) == (
            "qemu: 'migrate-set-parameters' is refused: Parameter 'multifd_channels'"
            " expects a value between 1 and 255"
        )
        assert peer.version().startswith("10.0.")


@pytest.mark.qemu
def test_a_qemu_that_no_longer_answers_is_told_and_still_killed(qemu, tmp_path):
    with Qemu(qemu("10.0"), "-machine", "none", directory=tmp_path) as peer:
        os.kill(peer.pid, signal.SIGSTOP)
        with pytest.raises(PeerError) as caught:
            peer.execute("query-status", timeout=0.2)
        assert str(caught.value) == "qemu: no answer to 'query-status' within 0.2 s"
        assert peer.returncode is None
    assert not is_running(peer.pid)


@pytest.mark.qemu
def test_a_qemu_that_dies_is_told_with_its_signal(qemu, tmp_path):
    arguments = ("-machine", "none", "-display", "none")
    with Qemu(qemu("10.0"), *arguments, directory=tmp_path) as peer:
        os.kill(peer.pid, signal.SIGSEGV)
        with pytest.raises(PeerError) as caught:
            peer.execute("query-status")
        assert str(caught.value) == "qemu: ended with status -11: no message"
        with pytest.raises(PeerError):
            peer.execute("query-status")


@pytest.mark.qemu
def test_an_error_inside_the_context_ends_qemu_too(qemu, tmp_path):
    with (
        pytest.raises(RuntimeError, match="of the caller"),
        Qemu(qemu("10.0"), "-machine", "none", directory=tmp_path) as peer,
    ):
        raise RuntimeError("of the caller")
    assert not is_running(peer.pid)
    assert peer.returncode == -signal.SIGKILL
