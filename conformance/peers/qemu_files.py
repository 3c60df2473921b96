"""`qemu:BINARY` and `qemu-src:BINARY` as readers and writers of mapped-ram files.

The machine has neither devices nor, mostly, a CPU, whatever the URI's options say of it: what is
of interest in such a file is its memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from multifd_proto.errors import PeerError
from multifd_proto.peers.lab import UNBOUNDED, Outcome, arguments_of, guestless, outcome
from multifd_proto.peers.qemu import Qemu
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.mapped_ram import CAPABILITY

from ..file_target import PAGE_SIZE, Loaded, Saved, SaveSetup
from ..observation import Reaction
from ..target import MEMORY
from .guest_memory import GuestMemory, content
from .process import describe_death, reports_crash
from .qemu import find_binary

_TIMEOUT = 3.0
"""Seconds for a load or save, which take milliseconds: what waits longer hangs."""
_REACTIONS = {"completed": Reaction.ACCEPTED, "failed": Reaction.REJECTED}
_DIRTY_SIZE = 4 << 20
_SLOW = 1 << 20
_POLL = 0.005


def reader(rest: str, options: dict[str, str], uri: str) -> QemuFiles:  # noqa: ARG001
    """Return the reader of a `qemu:` URI, or the writer of a `qemu-src:` one.

    Raises:
        PeerError: there is no such binary.
    """
    return QemuFiles(find_binary(rest))


writer = reader


class QemuFiles:
    """A QEMU binary, run anew for each file."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    @cached_property
    def dialect(self) -> Dialect:
        """The dialect of its release. Raises PeerError if it cannot be run."""
        return _dialect(self._binary)

    def load(self, path: Path, *, multifd: bool, offset: int) -> Loaded:
        """Load a file; see `file_target.FileReader`."""
        with (
            GuestMemory(bytes(MEMORY)) as memory,
            guestless(
                self._binary, memory.path, size=MEMORY, directory=None, incoming=True
            ) as qemu,
        ):
            _configure(qemu, channels=2 if multifd else 0)
            stays = "exit-on-error" in arguments_of(qemu, "migrate-incoming")
            survive: dict[str, object] = {"exit-on-error": False} if stays else {}
            with _unless_gone(qemu):
                qemu.execute("migrate-incoming", {"uri": _uri(path, offset), **survive})
            seen = outcome(qemu, _TIMEOUT)
            return Loaded(_reaction(qemu, seen), memory.read(), _reason(seen), _death(qemu))

    def save(self, path: Path, setup: SaveSetup) -> Saved:
        """Save a machine; see `file_target.FileWriter`."""
        size = _DIRTY_SIZE if setup.dirty else MEMORY
        with (
            GuestMemory(content(setup.memory, size)) as memory,
            self._source(memory.path, size, dirty=setup.dirty) as qemu,
        ):
            _configure(qemu, channels=setup.channels)
            if setup.dirty:
                qemu.set_parameters({"max-bandwidth": _SLOW})
            known = True
            with _unless_gone(qemu):
                qemu.migrate(_uri(path, setup.offset))
                known = not setup.dirty or _change(qemu, size)
            seen = outcome(qemu, _TIMEOUT)
            after = memory.read() if known else None
            return Saved(_reaction(qemu, seen), after, _reason(seen), _death(qemu))

    def _source(self, memory: Path, size: int, *, dirty: bool) -> Qemu:
        """Start a machine; with a CPU, which it takes to change its memory, if that is wanted."""
        machine = "pc" if dirty else "none"
        return guestless(
            self._binary, memory, size=size, directory=None, machine=machine, qtest=dirty
        )


@cache
def _dialect(binary: Path) -> Dialect:
    with (
        GuestMemory(bytes(MEMORY)) as memory,
        guestless(binary, memory.path, size=MEMORY, directory=None) as qemu,
    ):
        return dialect_of(qemu.version().split()[0])


def _configure(qemu: Qemu, channels: int) -> None:
    qemu.set_capabilities(CAPABILITY, *(["multifd"] if channels else []))
    qemu.set_parameters({"max-bandwidth": UNBOUNDED, "multifd-channels": channels or 2})


def _uri(path: Path, offset: int) -> str:
    return f"file:{path}" + (f",offset={offset:#x}" if offset else "")


@contextmanager
def _unless_gone(qemu: Qemu) -> Iterator[None]:
    """Take a QEMU that ends for an answer; what else it does not answer is an error."""
    try:
        yield
    except PeerError:
        if qemu.returncode is None:
            raise


def _change(qemu: Qemu, size: int) -> bool:
    """Change pages of a machine while it is saved slowly, then let it go on at full speed.

    Returns:
        Whether it was still being saved after the last change, so that all of them are saved.
    """
    deadline = time.monotonic() + _TIMEOUT
    while not _transferred(qemu.execute("query-migrate")) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for place in range(0, size // 4, 3 * PAGE_SIZE):
        qemu.memset(place, PAGE_SIZE, 0)
        qemu.memset(place + PAGE_SIZE, PAGE_SIZE, 0x5A)
    in_time: bool = qemu.execute("query-migrate")["status"] == "active"
    qemu.set_parameters({"max-bandwidth": UNBOUNDED})
    return in_time


def _transferred(answer: Mapping[str, Any]) -> bool:
    return answer.get("status") != "setup" and bool(answer.get("ram", {}).get("transferred", 0))


def _reaction(qemu: Qemu, seen: Outcome) -> Reaction:
    if (seen.returncode or 0) < 0 or reports_crash(qemu.stderr):
        return Reaction.CRASHED
    if seen.status == "ended":
        return Reaction.REJECTED
    return _REACTIONS.get(seen.status, Reaction.HUNG)


def _reason(seen: Outcome) -> tuple[str, ...]:
    """Return why it failed, the best first: what QEMU prints says more than QMP."""
    hung = {"silent": "does not answer over QMP", "pending": "goes on"}.get(seen.status)
    printed = [text for text in seen.errors if text != seen.answer.get("error-desc")]
    first = [f"{hung} after {_TIMEOUT:g} s"] if hung else []
    return tuple(dict.fromkeys([*first, *printed, *seen.errors]))


def _death(qemu: Qemu) -> str | None:
    return None if qemu.returncode is None else describe_death(qemu.returncode)
