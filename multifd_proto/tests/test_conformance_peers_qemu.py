"""`qemu:` as a receiver: migrated into, crashed, frozen and orphaned; nothing of it is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multifd_proto.conformance.credentials import credentials
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.peers.qemu import RunningQemu, receiver
from multifd_proto.conformance.player import play
from multifd_proto.conformance.script import Complete, Init, Main, Open, Pages, Script, Sync
from multifd_proto.conformance.target import MEMORY, Description, Sense, Setup, State
from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import SourceParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.tests.test_conformance_peers_process import is_running, wait
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import MultiFDInit

VERSIONS = ("5.2", "7.2", "10.0", "11.1")
METHOD = {method.name: method for method in METHODS}
RAM = b"ram0"


@pytest.fixture
def start(qemu: Callable[[str], Path]) -> Callable[..., RunningQemu]:
    def start(version: str, setup: Setup | None = None) -> RunningQemu:
        return receiver(str(qemu(version)), {}, "qemu:").receive(setup or Setup())

    return start


def send(
    address: Address, description: Description, setup: Setup, ram: Path, size: int = MEMORY
) -> bytes:
    """Migrate to a receiver, and return what its memory has to be."""
    content = bytes(8192) + random.Random(4).randbytes(size - 8192)
    ram.write_bytes(content)
    parameters = SourceParameters(
        description.dialect, setup.channels, setup.uuid, method=METHOD[setup.method]
    )
    with RamImages({RAM: [ram]}) as images:
        sent = Sender(address, parameters, images, options=Options(tls=setup.tls)).run()
    assert sent.error is None
    return content


def refuses(address: Address) -> bool:
    """Tell whether nobody listens there."""
    try:
        dial(address, 0, 5.0).close()
    except PeerError as error:
        return str(error) == f"{address}: Connection refused"
    return False


# ---- the URI -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("qemu:", "names no binary, must be qemu:BINARY or qemu:RELEASE"),
        ("qemu:10.0?memory=1M", "option is 'memory', must be one of machine, mem"),
        ("qemu:10.0?mem=1T", "mem is '1T', must be pages, such as 64K, 1M or 2G"),
        ("qemu:10.0?mem=1K", "mem is '1K', must be pages, such as 64K, 1M or 2G"),
        ("qemu:10.0?mem=0K", "mem is '0K', must be pages, such as 64K, 1M or 2G"),
    ],
)
def test_a_wrong_uri_is_told(uri: str, said: str) -> None:
    with pytest.raises(PeerError) as caught:
        parse_receiver(uri)
    assert str(caught.value) == f"peer {uri!r}: {said}"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("qemu:no-such-qemu", "no QEMU 'no-such-qemu': must be a command, or a release such as"),
        ("qemu:1.0", "no QEMU 1.0: python -m multifd_proto.peers.debian 1.0"),
        ("qemu:/etc/passwd", "no QEMU '/etc/passwd': must be a command, or a release such as"),
    ],
)
def test_a_qemu_that_is_not_there_is_told(uri: str, said: str) -> None:
    peer = parse_receiver(uri)
    for ask in (peer.describe, lambda: peer.receive(Setup())):
        with pytest.raises(PeerError) as caught:
            ask()
        assert str(caught.value).startswith(said)


def test_a_program_that_is_no_qemu_is_told() -> None:
    with pytest.raises(PeerError) as caught:
        parse_receiver("qemu:false").describe()
    assert str(caught.value) == "qemu: ended with status 1: no message"


# ---- what it is --------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "dialect", "methods"),
    [
        ("5.2", "5.0", {"none", "zlib"}),  # as Debian built it
        ("7.2", "7.0", {"none", "zlib", "zstd"}),
        ("10.0", "10.0", {"none", "zlib", "zstd"}),
        ("11.1", "11.1", {"none", "zlib", "zstd"}),
    ],
)
def test_a_qemu_describes_itself(
    version: str, dialect: str, methods: set[str], qemu: Callable[[str], Path]
) -> None:
    peer = receiver(str(qemu(version)), {}, "qemu:")
    seen = peer.describe()
    assert (seen.product, seen.dialect.name, seen.methods) == ("QEMU", dialect, methods)
    assert seen.version.startswith(f"{version}.")
    assert seen.blocks == {RAM: MEMORY}
    assert seen.tls
    assert seen.senses == frozenset(Sense)
    assert peer.describe() is seen


@pytest.mark.qemu
def test_a_machine_with_devices_has_more_blocks(qemu: Callable[[str], Path]) -> None:
    options = {"machine": "pc", "mem": "2M"}
    peer = receiver(str(qemu("10.0")), options, "qemu:")
    seen = peer.describe()
    assert next(iter(seen.blocks.items())) == (RAM, 2 << 20)
    assert seen.blocks[b"pc.bios"] == 256 << 10
    assert b"pc-i440fx-10.0" in seen.around.prefix
    with peer.receive(Setup()) as running:
        assert running.read(RAM, (2 << 20) - 16, 16) == bytes(16)
        assert running.read(b"pc.bios", 0, 1) is None


@pytest.mark.qemu
@pytest.mark.parametrize(("version", "machine"), [("5.2", "pc"), ("11.1", "q35")])
def test_a_machine_with_devices_is_migrated_into(
    version: str, machine: str, qemu: Callable[[str], Path]
) -> None:
    peer = receiver(str(qemu(version)), {"machine": machine}, "qemu:")
    rounds = (Main(part="start"), Sync(wire="0"), Main(part="mark"), Main(part="part"),
              Pages(wire="0", normal=(1, 255)), Sync(wire="0"), Main(part="mark"))  # fmt: skip
    steps = (Open(wire="main"), Open(wire="0"), Init(wire="0"), *rounds, Complete())
    with peer.receive(Setup(channels=1)) as running:
        seen = play(running, peer.describe(), Script(steps, channels=1), Setup(channels=1))
    assert (seen.reaction.name, seen.image, seen.reason) == ("ACCEPTED", (), ())
    assert seen.stood == "the completion"


@pytest.mark.qemu
def test_a_machine_that_qemu_does_not_have_is_told(qemu: Callable[[str], Path]) -> None:
    with pytest.raises(PeerError) as caught:
        receiver(str(qemu("10.0")), {"machine": "abacus"}, "qemu:").describe()
    assert "abacus" in str(caught.value)


# ---- migrations --------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_whole_migration_arrives(
    version: str, tls: bool, qemu: Callable[[str], Path], tmp_path: Path
) -> None:
    setup = Setup(channels=3, method="zlib", tls=credentials(tmp_path / "pki") if tls else None)
    peer = receiver(str(qemu(version)), {}, "qemu:")
    with peer.receive(setup) as running:
        assert running.state(1.0) is State.RUNNING
        content = send(running.address, peer.describe(), setup, tmp_path / "ram")
        wait(lambda: running.state(1.0) is State.COMPLETED)
        assert running.read(RAM, 0, MEMORY) == content
        assert running.death is None
        assert not running.crashed
        assert "multifd_recv_new_channel channel 2" in running.log()


@pytest.mark.qemu
def test_a_setup_that_qemu_refuses_leaves_nothing(qemu: Callable[[str], Path]) -> None:
    peer = receiver(str(qemu("5.2")), {}, "qemu:")
    peer.describe()
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(PeerError) as caught:
        peer.receive(Setup(method="zstd"))
    assert str(caught.value).startswith("destination: 'migrate-set-parameters' is refused: ")
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "ended"),
    [("5.2", "exit status 1"), ("7.2", "exit status 1"), ("10.0", None), ("11.1", None)],
)
def test_a_migration_that_fails_is_told_with_its_reason(
    version: str, ended: str | None, start: Callable[..., RunningQemu]
) -> None:
    with start(version, Setup(channels=1)) as running:
        with dial(running.address, 0, 5.0) as main:
            main.sendall(b"QEVM\0\0\0\3" + b"\7\0\0\0\4pork" + b"\1")
            with dial(running.address, 1, 5.0) as channel:
                channel.sendall(MultiFDInit(uuid=Setup.uuid).build())
                wait(lambda: running.state(1.0) is State.FAILED)
        assert running.death == ended
        assert not running.crashed
        assert any("Machine type received is 'pork'" in text for text in running.reason())


@pytest.mark.qemu
def test_the_uuid_is_that_of_the_setup(start: Callable[..., RunningQemu]) -> None:
    with start("11.1", Setup(uuid=bytes(range(16)))) as running:
        with dial(running.address, 0, 5.0) as main, dial(running.address, 1, 5.0) as channel:
            main.sendall(b"QEVM\0\0\0\3")
            channel.sendall(MultiFDInit(uuid=bytes(16)).build())
            wait(lambda: running.state(1.0) is State.FAILED)
        expected = "expected uuid '00010203-0405-0607-0809-0a0b0c0d0e0f'"
        assert expected in running.reason()[0]


@pytest.mark.qemu
def test_a_crash_is_told_from_an_exit(start: Callable[..., RunningQemu]) -> None:
    with start("11.1") as running:
        os.kill(running.pid, signal.SIGSEGV)
        wait(lambda: running.death)
        assert running.death == "signal SIGSEGV"
        assert running.crashed
        assert running.state(1.0) is State.UNKNOWN
        assert running.reason() == ()


@pytest.mark.qemu
def test_a_frozen_monitor_is_silent_and_holds_nobody_up(start: Callable[..., RunningQemu]) -> None:
    with start("10.0") as running:
        os.kill(running.pid, signal.SIGSTOP)
        begun = time.monotonic()
        assert running.state(0.2) is State.SILENT
        assert running.reason() == ()
        assert 0.2 <= time.monotonic() - begun < 1.0
        os.kill(running.pid, signal.SIGCONT)
        wait(lambda: running.state(0.2) is State.RUNNING)
        os.kill(running.pid, signal.SIGSTOP)
        assert running.state(0.2) is State.SILENT
        pid, begun = running.pid, time.monotonic()
    assert time.monotonic() - begun < 0.5
    assert not is_running(pid)


@pytest.mark.qemu
@pytest.mark.parametrize("version", VERSIONS)
def test_half_an_init_freezes_the_monitor(version: str, start: Callable[..., RunningQemu]) -> None:
    with start(version) as running:
        with dial(running.address, 0, 5.0) as main, dial(running.address, 1, 5.0) as channel:
            main.sendall(b"QEVM\0\0\0\3")
            channel.sendall(MultiFDInit().build()[:32])
            wait(lambda: running.state(0.3) is State.SILENT)
            begun = time.monotonic()
        running.__exit__()
        assert time.monotonic() - begun < 0.5
        assert not is_running(running.pid)


@pytest.mark.qemu
def test_qemu_and_its_memory_go_with_a_killed_parent(qemu: Callable[[str], Path]) -> None:
    text = (
        "import sys, time; from multifd_proto.conformance.peers.qemu import receiver;"
        "from multifd_proto.conformance.target import Setup;"
        "running = receiver(sys.argv[1], {}, 'qemu:').receive(Setup());"
        "print(running.pid, running.address.port, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", text, str(qemu("10.0"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid, port = map(int, parent.stdout.readline().split())
        assert not refuses(Address("tcp", "127.0.0.1", port))
        os.kill(parent.pid, signal.SIGKILL)
    wait(lambda: not is_running(pid), 2.0)
    wait(lambda: refuses(Address("tcp", "127.0.0.1", port)), 2.0)


@pytest.mark.qemu
def test_the_end_leaves_no_file(start: Callable[..., RunningQemu], tmp_path: Path) -> None:
    with start("10.0") as running:
        opened = {path.readlink() for path in Path(f"/proc/{running.pid}/fd").iterdir()}
        files = {path for path in opened if path.is_absolute() and path.parts[1] in ("tmp", "var")}
        assert files == set()
