"""`qemu:BINARY`: a real QEMU without a guest, started anew for each migration.

    qemu:10.0?machine=none&mem=1M

BINARY is a command, or a release that `multifd_proto.peers.debian` has fetched. Nothing of it is
on disk: guest memory and what QEMU prints are memory of this process, which QEMU opens.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.lab import (
    RAM,
    arguments_of,
    configure,
    guestless,
    knows,
    qemu_of,
    reasons,
)
from multifd_proto.peers.qemu import Qemu
from multifd_proto.peers.templates import Template, record_from, template_for, template_of
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from ..target import MEMORY, Description, Sense, Setup, State
from . import check_options
from .process import describe_death, reports_crash

_BLOCK = RAM.encode()
_GUESTLESS = "none"
_RELEASE = re.compile(r"\d+\.\d+")
_SIZE = re.compile(r"([1-9]\d{0,9})([KMG])")
_UNITS = {"K": 10, "M": 20, "G": 30}
_TLS_SINCE = "5.2"
_GRACE = 1.0
_LOG = 8 << 10
_STATES = {"completed": State.COMPLETED, "failed": State.FAILED, "cancelled": State.FAILED}


def receiver(rest: str, options: dict[str, str], uri: str) -> QemuPeer:
    """Return the receiver of a `qemu:` URI; see `peers.RECEIVERS`.

    Raises:
        PeerError: no binary is named, or an option is unknown or malformed.
    """
    check_options(uri, options, "machine", "mem")
    if not rest:
        raise PeerError(f"peer {uri!r}: names no binary, must be qemu:BINARY or qemu:RELEASE")
    return QemuPeer(uri, rest, options.get("machine", _GUESTLESS), memory_size(uri, options))


def memory_size(uri: str, options: Mapping[str, str]) -> int:
    """Return the option `mem` in bytes: `64K`, `1M`, `2G`; `MEMORY` if it is not given.

    Raises:
        PeerError: it is no such size, or no multiple of a page.
    """
    text = options.get("mem")
    if text is None:
        return MEMORY
    match = _SIZE.fullmatch(text)
    size = int(match[1]) << _UNITS[match[2]] if match else 0
    if not size or size % mmap.PAGESIZE:
        raise PeerError(f"peer {uri!r}: mem is {text!r}, must be pages, such as 64K, 1M or 2G")
    return size


def find_binary(name: str) -> Path:
    """Return the command of a QEMU: a path, a command of `$PATH`, or a release (`10.0`).

    Raises:
        PeerError: there is none.
    """
    if _RELEASE.fullmatch(name):
        return qemu_of(name)
    found = shutil.which(name)
    if not found:
        raise PeerError(f"no QEMU {name!r}: must be a command, or a release such as 10.0")
    return Path(found)


class QemuPeer:
    """A QEMU binary as a receiver."""

    def __init__(self, uri: str, name: str, machine: str, size: int) -> None:
        self.uri = uri
        """What the user called it."""
        self._name, self._machine, self._size = name, machine, size

    def describe(self) -> Description:
        """Tell what it is; the binary is started once for it, whatever number of peers use it.

        Raises:
            PeerError: it cannot be run, or not as this machine.
        """
        return _describe(find_binary(self._name), self._machine, self._size)[0]

    def receive(self, setup: Setup) -> RunningQemu:
        """Start a destination.

        Raises:
            PeerError: QEMU cannot be run, or refuses the set-up.
        """
        binary = find_binary(self._name)
        _, survives = _describe(binary, self._machine, self._size)
        return RunningQemu(binary, self._machine, self._size, setup, survives=survives)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


@cache
def _describe(binary: Path, machine: str, size: int) -> tuple[Description, bool]:
    """Return what a QEMU is, and whether it can be told to survive a migration that fails."""
    with ExitStack() as stack:
        path, _ = _memory(size, stack)
        qemu = guestless(binary, path, size=size, directory=None, machine=machine)
        stack.enter_context(qemu)
        version = qemu.version()
        dialect = dialect_of(version.split()[0])
        methods = {m.name for m in METHODS if knows(qemu, "multifd-compression", m.name)}
        survives = "exit-on-error" in arguments_of(qemu, "migrate-incoming")
    around = _around(binary, machine, size, dialect)
    description = Description(
        product="QEMU",
        version=version,
        dialect=dialect,
        roles=frozenset({Role.RECEIVER}),
        around=around,
        blocks=_blocks(around, size),
        methods=frozenset(methods),
        tls=dialect.index >= dialect_of(_TLS_SINCE).index,
        senses=frozenset(Sense),
    )
    return description, survives


def _around(binary: Path, machine: str, size: int, dialect: Dialect) -> Template:
    """Return what this machine's main stream is: of one without devices it is known."""
    if machine == _GUESTLESS:
        return template_for(dialect)
    return template_of(record_from(binary, machine=machine, size=size)[1])


def _blocks(around: Template, size: int) -> dict[bytes, int]:
    """Return the RAM blocks, that which we see first."""
    lengths = {block.name: block.used_length for block in around.blocks}
    return {_BLOCK: size} | {name: lengths[name] for name in lengths if name != _BLOCK}


def _memory(size: int, stack: ExitStack) -> tuple[Path, mmap.mmap]:
    """Return memory of this process, and the path by which another one can open it."""
    file = os.memfd_create(RAM)
    stack.callback(os.close, file)
    os.ftruncate(file, size)
    return Path(f"/proc/{os.getpid()}/fd/{file}"), stack.enter_context(mmap.mmap(file, size))


class SeenQemu:
    """What is seen of a QEMU's process, whichever end of a migration it is."""

    _qemu: Qemu

    @property
    def death(self) -> str | None:
        """How QEMU ended; None while it lives."""
        status = self._qemu.returncode
        return None if status is None else describe_death(status)

    @property
    def crashed(self) -> bool:
        """It ended by a signal, which we do not send before the end, or a sanitizer says so."""
        status = self._qemu.returncode
        return status is not None and (status < 0 or reports_crash(self._qemu.stderr))


class RunningQemu(SeenQemu):
    """A QEMU that waits for a migration, or takes one in."""

    def __init__(
        self, binary: Path, machine: str, size: int, setup: Setup, *, survives: bool
    ) -> None:
        """Start it.

        Args:
            binary: the command that runs QEMU.
            machine: machine type.
            size: bytes of memory.
            setup: what it is started for.
            survives: whether it knows how to outlive a migration that fails.
        """
        self._answer: Mapping[str, Any] = {}  # the last one to `query-migrate`
        self._silent = False
        with ExitStack() as stack:
            path, self._memory = _memory(size, stack)
            self._qemu = stack.enter_context(_start(binary, path, machine, size, setup))
            configure(
                self._qemu,
                channels=setup.channels,
                compression=setup.method,
                tls=setup.tls is not None,
            )
            uri = self._qemu.listen_uri("tcp:127.0.0.1:0", survive=survives)
            self._open = stack.pop_all()
        self.address: Address = parse_address(uri)
        """Where a source has to dial."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._qemu.pid

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory; None but for the block that we share with QEMU."""
        return self._memory[offset : offset + length] if block == _BLOCK else None

    def state(self, timeout: float) -> State:
        """Ask for the state of the migration (`query-migrate`); see `target.Running`."""
        if self._qemu.returncode is None:
            try:
                self._answer = self._qemu.execute("query-migrate", timeout=timeout)
            except PeerError:
                self._silent = True
            else:
                self._silent = False
                return _STATES.get(self._answer.get("status", ""), State.RUNNING)
        status = self._qemu.returncode
        if status is None:
            return State.SILENT
        # by its exit status, a destination says that the migration failed; by a signal nothing
        return State.FAILED if status > 0 else State.UNKNOWN

    def reason(self) -> tuple[str, ...]:
        """Return what QEMU gave as a reason: over QMP, on standard error, and as trace events."""
        if not self._silent:
            self.state(_GRACE)
        return reasons(self._qemu, self._answer)

    def log(self) -> str:
        """Return the end of what QEMU printed, and of its trace events."""
        return f"{self._qemu.trace[-_LOG // 2 :]}{self._qemu.stderr[-_LOG // 2 :]}"


def _start(binary: Path, memory: Path, machine: str, size: int, setup: Setup) -> Qemu:
    return guestless(
        binary,
        memory,
        size=size,
        directory=None,
        name="destination",
        incoming=True,
        machine=machine,
        uuid=str(UUID(bytes=setup.uuid)),
        tls_creds=setup.tls.folder if setup.tls else None,
    )
