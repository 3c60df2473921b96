"""Every release's recorded session, played into every release: do they understand each other.

A session can only be loaded by the machine type that it was saved from. So for each pair the newest
machine type that both binaries have is taken, and what matters is the memory afterwards.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.debian import find_qemu
from multifd_proto.peers.lab import RAM, guestless

from .observation import Reaction
from .peers import parse_receiver, parse_sender
from .player import play
from .recorder import Recorder
from .script import Script
from .target import MEMORY, Setup, SourceSetup

_VERSIONED = re.compile(r"pc-i440fx-(\d+)\.(\d+)")
_TIMEOUT = 20.0
_LEFT_OUT = "left out"


@dataclass(frozen=True)
class Crossing:
    """One release's session in another release."""

    source: str
    destination: str
    machine: str
    method: str
    outcome: str
    """`equal`, or what is wrong, in words."""

    @property
    def equal(self) -> bool:
        """The destination completed with the source's memory."""
        return self.outcome == "equal"

    @property
    def left_out(self) -> bool:
        """There is no such session: no machine type in common, or no such compression."""
        return self.outcome.startswith(_LEFT_OUT)


def cross(binaries: Sequence[str], methods: Sequence[str] = ("none",)) -> Iterator[Crossing]:
    """Record a session of each QEMU, and play it into each QEMU.

    Args:
        binaries: releases that were fetched, such as `10.0`, or paths.
        methods: payload methods to migrate with.

    Raises:
        PeerError: a binary cannot be run, or a sender does not complete.
    """
    for source in binaries:
        for method in methods:
            recorded: dict[str, tuple[Script, bytes]] = {}
            for destination in binaries:
                machine = shared_machine(source, destination)
                if machine is None:
                    outcome = f"{_LEFT_OUT}: no machine type in common"
                elif not {method} <= _methods(source) & _methods(destination):
                    outcome = f"{_LEFT_OUT}: not built with {method}"
                else:
                    if machine not in recorded:
                        recorded[machine] = record(source, machine, method)
                    outcome = load(destination, machine, *recorded[machine])
                yield Crossing(source, destination, machine or "", method, outcome)


@cache
def _methods(binary: str) -> frozenset[str]:
    methods: frozenset[str] = parse_receiver(f"qemu:{binary}").describe().methods
    return methods


def shared_machine(one: str, other: str) -> str | None:
    """Return the newest versioned machine type that two binaries have."""
    shared = _machines(one) & _machines(other)
    return max(shared, key=_version) if shared else None


def _version(machine: str) -> tuple[int, ...]:
    match = _VERSIONED.fullmatch(machine)
    return tuple(map(int, match.groups())) if match else ()


@cache
def _machines(binary: str) -> frozenset[str]:
    path = find_qemu(binary) or Path(binary)
    with (
        tempfile.TemporaryDirectory(prefix="multifd-") as folder,
        guestless(path, Path(folder, "memory"), size=MEMORY, directory=Path(folder)) as qemu,
    ):
        names = [entry["name"] for entry in qemu.execute("query-machines")]
    return frozenset(name for name in names if _VERSIONED.fullmatch(name))


def record(binary: str, machine: str, method: str) -> tuple[Script, bytes]:
    """Record a session of a QEMU, and return it with the memory that was migrated.

    Raises:
        PeerError: it does not complete.
    """
    setup = SourceSetup(method=method)
    name = f"{binary} {machine} {method}"
    peer = parse_sender(f"qemu-src:{binary}?machine={machine}")
    with (
        Recorder(setup.channels + 1) as recorder,
        peer.send(setup, recorder.address) as running,
    ):
        script = recorder.record(name, method, _TIMEOUT)
        image = running.image(RAM.encode())
    if image is None:
        raise PeerError(f"{name}: the sender's memory is not known")
    return script, image


def load(binary: str, machine: str, script: Script, image: bytes) -> str:
    """Play a session into a QEMU, and say how that went."""
    peer = parse_receiver(f"qemu:{binary}?machine={machine}&mem={len(image) >> 10}K")
    setup = Setup(channels=script.channels, method=script.method)
    with peer.receive(setup) as running:
        seen = play(running, peer.describe(), script, setup)
        memory = running.read(RAM.encode(), 0, len(image))
    if seen.reaction is not Reaction.ACCEPTED:
        why = seen.reason[0] if seen.reason else seen.stood
        return f"{seen.reaction.value}: {why}"
    if memory != image:
        return "memory differs"
    return "equal"
