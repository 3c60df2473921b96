"""`builtin:` as a receiver: migrated into, interrupted, broken on purpose; no thread is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from multifd_proto.conformance.credentials import credentials
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.peers.builtin import BLOCKS
from multifd_proto.conformance.player import play
from multifd_proto.conformance.script import (
    Arrive,
    Complete,
    DeviceState,
    Ended,
    Init,
    Main,
    Open,
    Pages,
    Script,
    Step,
    Sync,
)
from multifd_proto.conformance.target import MEMORY, Sense, Setup, State
from multifd_proto.errors import PeerError
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.receive.channel import ChannelReader
from multifd_proto.peers.receive.receiver import Receiver
from multifd_proto.tests.senders import nothing_left
from multifd_proto.tests.test_conformance_peers_process import wait
from multifd_proto.tests.test_conformance_peers_qemu import RAM, send

CHANNEL: tuple[Step, ...] = (Open(wire="main"), Open(wire="0"), Init(wire="0"))
BEGUN: tuple[Step, ...] = (
    *CHANNEL,
    Main(part="start"), Sync(wire="0"), Main(part="mark"), Main(part="part"),
)  # fmt: skip

END: tuple[Step, ...] = (Sync(wire="0"), Main(part="mark"), Complete())


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def played(*steps: Step, uri: str = "builtin:") -> Any:
    peer, setup = parse_receiver(uri), Setup(channels=1)
    with peer.receive(setup) as running:
        script = Script(steps, channels=1)
        return play(running, peer.describe(), script, setup)


# ---- the URI -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("builtin:10.0", "'10.0' follows the scheme, must be options"),
        ("builtin:?dialect=3.1", "dialect: '3.1' is no QEMU release from 4.0 on, nor 'seed'"),
        ("builtin:?timeout=soon", "timeout is 'soon', must be seconds above 0"),
        ("builtin:?timeout=0", "timeout is '0', must be seconds above 0"),
        ("builtin:?timeout=inf", "timeout is 'inf', must be seconds above 0"),
        ("builtin:?color=red", "option is 'color', must be one of dialect, timeout, broken"),
    ],
)
def test_a_wrong_uri_is_told(uri: str, said: str) -> None:
    with pytest.raises(PeerError) as caught:
        parse_receiver(uri)
    assert str(caught.value) == f"peer {uri!r}: {said}"


def test_it_describes_itself() -> None:
    seen = parse_receiver("builtin:?dialect=7.2").describe()
    assert seen.dialect.name == "7.0"
    assert seen.methods == {"none", "zlib", "zstd"}
    assert "qatzip" in parse_receiver("builtin:").describe().methods
    assert seen.blocks == {RAM: MEMORY, b"tiny": 1000, b"small": 3096}
    assert seen.senses == {Sense.MEMORY, Sense.STATE, Sense.REASON}


# ---- migrations --------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["5.2", "7.2", "10.0", "11.1"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_whole_migration_arrives(dialect: str, tls: bool, tmp_path: Path) -> None:
    setup = Setup(channels=3, method="zlib", tls=credentials(tmp_path / "pki") if tls else None)
    peer = parse_receiver(f"builtin:?dialect={dialect}")
    with peer.receive(setup) as running:
        assert running.state(1.0) is State.RUNNING
        assert running.read(RAM, MEMORY - 2, 10) == bytes(2)
        content = send(running.address, peer.describe(), setup, tmp_path / "ram")
        wait(lambda: running.state(1.0) is State.COMPLETED)
        assert running.read(RAM, 0, MEMORY) == content
        assert running.read(b"pc.bios", 0, 1) is None
        assert running.death is None
        assert not running.crashed
        assert running.reason() == ()
        assert running.log() == ""


def test_it_is_a_machine_with_small_blocks() -> None:
    seen = played(*BEGUN, Pages(wire="0", normal=(1,), zero=(2,)), Arrive(page=1), *END)
    assert (seen.reaction.name, seen.image, seen.reason) == ("ACCEPTED", (), ())


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (
            (*BEGUN, Pages(wire="0", normal=(0,), block="tiny"), Ended(wires=("0", "main"))),
            "PKT-28: block is 1000 bytes long, must be at least 4096",
        ),
        (
            (*CHANNEL, Main(part="start", blocks={"vga": 4096}), Ended(wires=("main",))),
            "MAIN-12: block b'vga' is 4096 bytes long, must be none of the list",
        ),
        (
            (*CHANNEL, Main(part="start", blocks={"ram0": 4096}), Ended(wires=("main",))),
            "MAIN-12: block b'ram0' is 4096 bytes long, must be 1048576 bytes long",
        ),
        (
            (*BEGUN, DeviceState(wire="0"), Ended(wires=("0", "main"))),
            "DEV-5: device is 'vfio', instance 0, must be one that takes state from channels",
        ),
    ],
)
def test_what_the_machine_has_not_is_refused(steps: tuple[Step, ...], reason: str) -> None:
    seen = played(*steps)
    assert seen.reaction.name == "REJECTED"
    assert seen.aftermath.name == "CLEAN"
    assert [text.partition("0 ")[2] or text for text in seen.reason]
    assert seen.reason[0].endswith(reason)


def test_the_timeout_is_that_of_the_uri() -> None:
    with parse_receiver("builtin:?timeout=0.1").receive(Setup()) as running:
        with dial(running.address, 0, 5.0):
            wait(lambda: running.state(1.0) is State.FAILED, 2.0)
        assert running.reason()[0].startswith("set-up is incomplete after 0.1 s: ")


def test_an_end_in_the_middle_takes_no_time() -> None:
    peer = parse_receiver("builtin:?timeout=30")
    with peer.receive(Setup()) as running, dial(running.address, 0, 5.0) as sock:
        sock.sendall(b"QE")
        begun = time.monotonic()
        running.__exit__()
        assert time.monotonic() - begun < 1.0
        assert running.state(1.0) is State.FAILED


# ---- defects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [ChannelReader, Receiver], ids=["channel", "receiver"])
def test_an_exception_of_the_receiver_is_a_crash(
    owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(owner, "run", fail)
    seen = played(*BEGUN, Arrive(page=1))
    assert seen.reaction.name == "CRASHED"
    assert seen.log.splitlines()[-1] == "ZeroDivisionError: of ours"


def test_the_names_of_its_blocks_are_those_that_are_described() -> None:
    assert parse_receiver("builtin:").describe().blocks is BLOCKS


# ---- wrong on purpose --------------------------------------------------------------------------


def test_the_unbroken_miniature_does_as_the_reference() -> None:
    steps = (*BEGUN, Pages(wire="0", normal=(1,), zero=(2,)), Arrive(page=1), *END)
    peer = parse_receiver("builtin:?broken=none")
    assert peer.describe().product == "miniature"
    seen = played(*steps, uri="builtin:?broken=none")
    assert (seen.reaction.name, seen.image, seen.reason) == ("ACCEPTED", (), ())


def test_what_is_broken_shows() -> None:
    steps = (*BEGUN, Pages(wire="0", normal=(0,), block="tiny"), Ended(wires=("0", "main")))
    assert played(*steps, uri="builtin:?broken=none").reaction.name == "REJECTED"
    assert played(*steps, uri="builtin:?broken=PKT-28").reaction.name == "HUNG"


def test_an_unknown_miniature_is_told_with_the_known_ones() -> None:
    with pytest.raises(PeerError) as caught:
        parse_receiver("builtin:?broken=INIT-99")
    said = "peer 'builtin:?broken=INIT-99': broken is 'INIT-99', must be one of "
    assert str(caught.value).startswith(said)
    assert "INIT-12" in str(caught.value)[len(said) :].split(", ")
