"""The miniature receivers: the whole one takes what is right, each broken one is wrong in its way.

That no broken one is wrong in any other way is for the kill matrix to show.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from multifd_proto.conformance.broken_receiver import BROKEN
from multifd_proto.conformance.credentials import issue
from multifd_proto.conformance.miniature_receiver import MiniatureReceiver
from multifd_proto.conformance.target import MACHINE, Description, Setup, State
from multifd_proto.machine.sending import SourceParameters
from multifd_proto.peers.lab import configure, guestless, knows, outcome
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.peers.send.sent import Sent
from multifd_proto.peers.templates import template_for
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.senders import BLOCK, Script, nothing_left
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.main_records import Command
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.ram_records import RamZero
from multifd_proto.wire.requirements import Role, load

PAGE = 4096
SIZE = 1 << 20
RAM = b"ram0"
TINY = {BLOCK: 64 * PAGE, b"rom": 2 * PAGE}
METHOD = {method.name: method for method in METHODS}
OPEN_RETURN_PATH, PING = Command(1), Command(2, b"\0\0\0\1")


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def description(dialect: str, blocks: dict[bytes, int]) -> Description:
    known = dialect_of(dialect)
    roles = frozenset({Role.RECEIVER})
    return Description("miniature", "", known, roles, template_for(known), blocks, tls=True)


@contextmanager
def playing(
    kind: type[MiniatureReceiver] = MiniatureReceiver, *, method: str = "none", channels: int = 2
) -> Iterator[tuple[MiniatureReceiver, Script]]:
    """Run a miniature, and hand out a script for it."""
    setup = Setup(channels=channels, method=method, uuid=bytes(16))
    with kind(setup, description("10.0", TINY)) as receiver:
        script = Script(receiver.address, method=method, blocks=TINY)
        try:
            yield receiver, script
        finally:
            script.close()


def settled(receiver: MiniatureReceiver, seconds: float = 5.0) -> State:
    """Wait until a miniature has completed or failed."""
    deadline = time.monotonic() + seconds
    while receiver.state() is State.RUNNING and time.monotonic() < deadline:
        time.sleep(0.005)
    return receiver.state()


def failed_of(receiver: MiniatureReceiver, script: Script) -> str:
    """Return the reason, after all connections were closed by the receiver."""
    assert settled(receiver) is State.FAILED
    for wire in script.wires:
        with suppress(OSError):
            wire.receive()  # it would time out where the connection is left open
    return "\n".join(receiver.reason())


def memory(seed: str) -> bytes:
    chooser = random.Random(seed)
    text = b"all work and no play " * 200
    kinds = [lambda: chooser.randbytes(PAGE), lambda: bytes(PAGE), lambda: text[:PAGE]]
    return b"".join(chooser.choice(kinds)() for _ in range(SIZE // PAGE))


# ---- the whole one, and good sources -------------------------------------------------------------


def migrate(
    receiver: MiniatureReceiver, images: list[Path], dialect: str, method: str, **options: object
) -> Sent:
    parameters = SourceParameters(dialect_of(dialect), 3, MACHINE, PAGE, METHOD[method])
    with RamImages({RAM: images}) as ram:
        chosen = Options(timeout=10, **options)  # type: ignore[arg-type]
        return Sender(receiver.address, parameters, ram, options=chosen).run()


@pytest.mark.parametrize("method", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("dialect", ["5.2", "7.2", "9.0", "10.0", "11.1"])
def test_rounds_of_our_sender_are_received(dialect: str, method: str, tmp_path: Path) -> None:
    images = [tmp_path / str(number) for number in range(3)]
    for image in images:
        image.write_bytes(memory(f"{dialect} {image.name}"))
    setup = Setup(channels=3, method=method)
    with MiniatureReceiver(setup, description(dialect, {RAM: SIZE})) as receiver:
        sent = migrate(receiver, images, dialect, method)
        assert (sent.error, sent.pong, sent.shut) == (None, True, 0)
        assert (receiver.state(), receiver.reason()) == (State.COMPLETED, ())
        assert receiver.read(RAM, 0, SIZE) == images[-1].read_bytes()


@pytest.mark.parametrize("dialect", ["7.2", "11.1"])
def test_our_sender_is_received_in_tls(dialect: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(memory(dialect))
    credentials = TlsCredentials(issue(tmp_path / "pki"), hostname="localhost")
    setup = Setup(channels=3, tls=credentials)
    with MiniatureReceiver(setup, description(dialect, {RAM: SIZE})) as receiver:
        assert migrate(receiver, [image], dialect, "none", tls=credentials).error is None
        assert settled(receiver) is State.COMPLETED
        assert receiver.read(RAM, 0, SIZE) == image.read_bytes()


@pytest.mark.qemu
@pytest.mark.parametrize("method", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
def test_a_real_source_is_received(
    version: str, method: str, qemu: Callable[[str], Path], tmp_path: Path
) -> None:
    image = memory(version)
    (tmp_path / "ram").write_bytes(image)
    setup = Setup(channels=3, method=method)
    with guestless(qemu(version), tmp_path / "ram", size=SIZE, directory=tmp_path) as source:
        if not knows(source, "multifd-compression", method):
            pytest.skip(f"this QEMU {version} was built without {method}")
        configure(source, channels=3, compression=method)
        with MiniatureReceiver(setup, description(version, {RAM: SIZE})) as receiver:
            source.migrate(str(receiver.address))
            assert outcome(source).status == "completed"
            assert (settled(receiver), receiver.reason()) == (State.COMPLETED, ())
            assert receiver.read(RAM, 0, SIZE) == image


def test_zero_pages_clear_what_was_there() -> None:
    with playing() as (receiver, script):
        main, (first, second) = script.setup()
        main.part()
        first.pages([1, 2, 3, 4])
        script.mark()
        main.part()
        second.pages([5], zero=[1, 2])
        main.records(RamZero(BLOCK, (3 * PAGE,)))
        script.mark()
        script.finish()
        assert settled(receiver) is State.COMPLETED
        empty = [n for n in range(1, 6) if receiver.read(BLOCK, n * PAGE, PAGE) == bytes(PAGE)]
        assert empty == [1, 2, 3]


def test_the_source_is_answered() -> None:
    with playing() as (receiver, script):
        main, _ = script.setup(2, OPEN_RETURN_PATH, PING)
        main.end()
        script.mark()
        main.finish()
        main.socket.shutdown(socket.SHUT_WR)
        answers = main.receive()
        assert answers == bytes.fromhex("0007 0000  0002 0004 00000001  0001 0004 00000000")
        assert receiver.state() is State.COMPLETED


def test_memory_outside_of_the_blocks_is_none() -> None:
    with playing() as (receiver, _):
        assert receiver.read(BLOCK, 0, PAGE) == bytes(PAGE)
        assert receiver.read(BLOCK, 64 * PAGE - 1, 2) is None
        assert receiver.read(b"no-such", 0, 1) is None


# ---- the whole one, and bad sources --------------------------------------------------------------


def test_a_bad_packet_ends_every_connection() -> None:
    with playing() as (receiver, script):
        _, (_, second) = script.setup()
        second.pages([64])
        assert failed_of(receiver, script) == (
            "channel 1 @0xac0 PKT-27: offset is 0x40000, must be at most 0x3f000"
        )


def test_a_bad_init_ends_every_connection() -> None:
    with playing() as (receiver, script):
        script.main().start()
        script.channel(0)
        script.channel(1, version=2)
        assert failed_of(receiver, script) == "stream 2 @0x0 INIT-10: version is 2, must be 1"


def test_a_channel_that_ends_before_its_sync_is_not_waited_for() -> None:
    with playing() as (receiver, script):
        main, (first, second) = script.setup()
        main.part()
        first.sync()
        second.close()
        main.mark()
        begun = time.monotonic()
        assert "SYNC-13: channel 1 is ended after 1 of them" in failed_of(receiver, script)
        assert time.monotonic() - begun < 2


def test_a_sync_that_does_not_come_is_waited_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MiniatureReceiver, "sync_limit", 0.2)
    with playing() as (receiver, script):
        main, (first, _) = script.setup()
        main.part()
        first.sync()
        main.mark()
        assert failed_of(receiver, script) == (
            "main stream: SYNC 2 of channel 1 is awaited for 0.2 s"
        )


def test_a_connection_that_says_nothing_keeps_nobody_out() -> None:
    with playing() as (receiver, script):
        silent = script.open()
        script.setup()
        assert silent.receive() == b""
        script.finish()
        assert settled(receiver) is State.COMPLETED


def test_connections_that_are_too_many_are_closed() -> None:
    with playing() as (receiver, script):
        script.setup()
        surplus = [script.open(), script.open().send(b"QEVM")]
        assert [wire.receive() for wire in surplus] == [b"", b""]
        script.finish()
        assert settled(receiver) is State.COMPLETED


@pytest.mark.parametrize("held", ["nothing", "a silent one", "a round", "a packet"])
def test_whatever_it_waits_for_it_stops_at_once(held: str) -> None:
    with playing() as (receiver, script):
        if held == "a silent one":
            script.open()
        elif held != "nothing":
            main, (first, _) = script.setup()
            main.part()
            first.send(first.sync().head()[:20]) if held == "a round" else first.send(b"\x11")
            main.mark()
        begun = time.monotonic()
        receiver.close()
        assert time.monotonic() - begun < 1


# ---- the broken ones -----------------------------------------------------------------------------


def test_each_requirement_on_live_receivers_has_its_broken_one() -> None:
    demanded = {
        requirement.id
        for requirement in load().values()
        if requirement.role is Role.RECEIVER and requirement.observable in ("live", "wire")
    }
    assert set(BROKEN) == demanded


@pytest.mark.parametrize("requirement", BROKEN)
def test_a_broken_one_says_what_it_breaks(requirement: str) -> None:
    assert (BROKEN[requirement].__doc__ or "").startswith(f"{requirement}: ")


@pytest.mark.parametrize("requirement", BROKEN)
def test_a_broken_one_takes_a_whole_migration(requirement: str) -> None:
    with playing(BROKEN[requirement]) as (receiver, script):
        main, (first, second) = script.setup()
        for salt in range(2):
            main.part()
            first.pages([1, 2], salt=salt)
            second.pages([3], zero=[4])
            script.mark()
        main.end()
        script.mark()
        main.finish()
        assert (settled(receiver), receiver.reason()) == (State.COMPLETED, ())


def test_one_that_pretends_to_die_says_how() -> None:
    with playing(BROKEN["SYNC-14"]) as (receiver, script):
        script.main()
        script.channel(0).pages([1])
        assert [wire.receive() for wire in script.wires] == [b"", b""]
        assert receiver.crashed
        assert receiver.death == "signal SIGSEGV (pretended)"
        assert receiver.state() is State.SILENT


@pytest.mark.parametrize("requirement", ["CHAN-7", "CHAN-9", "CHAN-12", "CHAN-13", "SYNC-13"])
def test_one_that_hangs_on_purpose_can_be_stopped(requirement: str) -> None:
    with playing(BROKEN[requirement]) as (receiver, script):
        main, (first, second) = script.setup()
        script.open()
        main.part()
        second.sync()
        main.mark()
        time.sleep(0.05)
        first.send(bytes(12))
        time.sleep(0.05)
        begun = time.monotonic()
        receiver.close()
        assert time.monotonic() - begun < 1
