"""`qemu-src:BINARY`: a real QEMU without a guest as a source, started anew for each migration.

    qemu-src:10.0?machine=pc-i440fx-7.2

BINARY is as for `qemu:`. Its machine has no devices, but for the scenarios that need several RAM
blocks, or memory that changes: there it is a PC. What is asked of QEMU while it migrates a thread
of ours asks, as the answer may take as long as its destination lets it wait.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, Self
from uuid import UUID

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.lab import RAM, configure, guestless, knows, reasons
from multifd_proto.peers.qemu import Qemu
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from ..sender.session import known
from ..target import MEMORY, Description, SenderPeer, Sense, SourceSetup, State
from . import check_options
from .guest_memory import PAGE, GuestMemory, content, size_of
from .qemu import SeenQemu, find_binary

_GUESTLESS, _PC = "none", "pc"
_PC_MEMORY = 16 << 20
"""Bytes that a PC with firmware has at least."""
_TLS_SINCE = "5.2"
_POLL = 0.005
_PATIENCE = 1.0
_LOG = 8 << 10
_ROUNDS = 3
_SLOW, _FAST = 1 << 20, 64 << 30
"""Bytes a second while memory changes, and afterwards."""
_CHANGING = range(0x10000 // PAGE, 0x70000 // PAGE)
"""Pages that change: of what every PC has as memory."""
_STATES = {"completed": State.COMPLETED, "failed": State.FAILED, "cancelled": State.FAILED}


def sender(rest: str, options: dict[str, str], uri: str) -> SenderPeer:
    """Return the sender of a `qemu-src:` URI; see `peers.SENDERS`.

    Raises:
        PeerError: no binary is named, or an option is unknown.
    """
    check_options(uri, options, "machine")
    if not rest:
        raise PeerError(f"peer {uri!r}: names no binary, must be BINARY or RELEASE")
    return QemuSender(uri, rest, options.get("machine"))


class QemuSender:
    """A QEMU binary as a sender."""

    def __init__(self, uri: str, name: str, machine: str | None) -> None:
        self.uri = uri
        """What the user called it."""
        self._name, self._machine = name, machine

    def describe(self) -> Description:
        """Tell what it is; the binary is started once for it.

        Raises:
            PeerError: it cannot be run, or not as this machine.
        """
        return _describe(find_binary(self._name), self._machine or _GUESTLESS)

    def known(self, setup: SourceSetup) -> MigrationParameters:
        """Return what is known of a migration: all blocks, of a machine without devices."""
        bare = self._machine_for(setup) == _GUESTLESS
        blocks = {RAM.encode(): size_of(setup)} if bare else None
        return known(setup, self.describe(), blocks)

    def send(self, setup: SourceSetup, to: Address) -> RunningQemuSender:
        """Start a migration.

        Raises:
            PeerError: QEMU cannot be run, or refuses the set-up.
        """
        machine = self._machine_for(setup)
        return RunningQemuSender(find_binary(self._name), machine, setup, to)

    def _machine_for(self, setup: SourceSetup) -> str:
        needs_pc = setup.dirty or setup.blocks > 1
        return self._machine or (_PC if needs_pc else _GUESTLESS)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


@cache
def _describe(binary: Path, machine: str) -> Description:
    size = MEMORY if machine == _GUESTLESS else _PC_MEMORY
    with (
        GuestMemory(bytes(size)) as memory,
        guestless(binary, memory.path, size=size, directory=None, machine=machine) as qemu,
    ):
        version = qemu.version()
        methods = {m.name for m in METHODS if knows(qemu, "multifd-compression", m.name)}
    dialect = dialect_of(version.split()[0])
    return Description(
        product="QEMU",
        version=version,
        dialect=dialect,
        roles=frozenset({Role.SENDER}),
        around=template_for(dialect),
        blocks={RAM.encode(): MEMORY} if machine == _GUESTLESS else {},
        methods=frozenset(methods),
        tls=dialect.index >= dialect_of(_TLS_SINCE).index,
        senses=frozenset(Sense),
    )


class RunningQemuSender(SeenQemu):
    """A QEMU that migrates."""

    def __init__(self, binary: Path, machine: str, setup: SourceSetup, to: Address) -> None:
        self._answer: Mapping[str, Any] = {}
        self._answers = 0
        self._state = State.RUNNING
        self._changed = Condition()
        self._cancel, self._cancelled, self._stopped = Event(), Event(), Event()
        self._ram = RAM
        self._dirty = setup.dirty
        # otherwise the migration may have ended before the last change
        self._settled = True
        with ExitStack() as stack:
            self._memory = stack.enter_context(GuestMemory(_content(machine, setup)))
            self._qemu = stack.enter_context(self._start(binary, machine, setup))
            _configure(self._qemu, setup)
            self._qemu.migrate(str(to))
            self._thread = Thread(target=self._attend, daemon=True)
            self._thread.start()
            stack.callback(self._stop)
            self._open = stack.pop_all()

    def _start(self, binary: Path, machine: str, setup: SourceSetup) -> Qemu:
        return guestless(
            binary, self._memory.path, size=len(self._memory.read()), directory=None,
            name="source", machine=machine, qtest=setup.dirty, ram=self._ram,
            uuid=str(UUID(bytes=setup.uuid)), tls_creds=setup.tls.folder if setup.tls else None,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _stop(self) -> None:
        self._stopped.set()
        # it may wait for an answer of a QEMU that nobody reads from any more
        if self._qemu.returncode is None:
            os.kill(self._qemu.pid, signal.SIGKILL)
        self._thread.join()

    # ---- the thread that talks to QEMU -----------------------------------------------------------

    def _attend(self) -> None:
        try:
            if self._dirty:
                self._change_memory()
            while self._state is State.RUNNING and not self._stopped.wait(_POLL):
                if self._cancel.is_set() and not self._cancelled.is_set():
                    self._qemu.execute("migrate_cancel")
                    self._cancelled.set()
                self._ask()
        except PeerError:
            with self._changed:
                dead = self._qemu.returncode is not None
                self._state = State.FAILED if dead else State.SILENT
                self._changed.notify_all()

    def _ask(self) -> None:
        answer = self._qemu.execute("query-migrate")
        with self._changed:
            self._answer = answer
            self._answers += 1
            self._state = _STATES.get(answer.get("status", ""), State.RUNNING)
            self._changed.notify_all()

    def _change_memory(self) -> None:
        """Write to memory until some rounds have begun; then let the migration come to its end."""
        self._settled = False
        step = 0
        while self._state is State.RUNNING and not self._stopped.is_set():
            if self._answer.get("ram", {}).get("dirty-sync-count", 0) > _ROUNDS:
                self._settled = True
                break
            step += 1
            for page in _CHANGING[step % 8 :: 8]:
                self._qemu.write(page * PAGE, random.Random(page + step).randbytes(PAGE))
                self._qemu.memset((page + 1) * PAGE, PAGE, step % 2)
            self._ask()
        self._qemu.set_parameters({"max-bandwidth": _FAST, "downtime-limit": 2000})

    # ---- what can be seen ------------------------------------------------------------------------

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory; None but for the block that we share with QEMU."""
        return self._memory.read(offset, length) if block == self._ram.encode() else None

    def state(self, timeout: float) -> State:
        """Return the state of the migration; see `target.Running`."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not State.RUNNING, timeout)
            return self._state

    @property
    def status(self) -> str:
        """What QEMU has called the state of the migration: `setup`, `device`, `cancelling`, ..."""
        return str(self._answer.get("status", ""))

    def answers(self, timeout: float) -> bool:
        """Tell whether its monitor answers within so many seconds, whatever became of it."""
        with self._changed:
            before = self._answers
            done = self._changed.wait_for(
                lambda: self._answers > before or self._state is not State.RUNNING, timeout
            )
            if self._state is State.RUNNING:
                return done
        self._thread.join()
        try:
            self._qemu.execute("query-migrate", timeout=timeout)
        except PeerError:
            return False
        return True

    def resident(self) -> int:
        """Return the bytes of memory that QEMU has beside the guest's; 0 if it is gone."""
        try:
            lines = Path(f"/proc/{self._qemu.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        told = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
        return int(next(told, "0")) << 10

    def reason(self) -> tuple[str, ...]:
        """Return what QEMU gave as a reason: over QMP, on standard error, and as trace events."""
        return reasons(self._qemu, self._answer)

    def log(self) -> str:
        """Return the end of what QEMU printed, and of its trace events."""
        return f"{self._qemu.trace[-_LOG // 2 :]}{self._qemu.stderr[-_LOG // 2 :]}"

    def cancel(self) -> bool:
        """Cancel the migration (`migrate_cancel`)."""
        self._cancel.set()
        return self._cancelled.wait(_PATIENCE)

    def image(self, block: bytes) -> bytes | None:
        """Return the memory, unless it was changed to the end."""
        own = block == self._ram.encode() and self._settled
        return self._memory.read() if own else None


def _content(machine: str, setup: SourceSetup) -> bytes:
    size = size_of(setup)
    data = content(setup.memory, size)
    return data if machine == _GUESTLESS else data.ljust(max(size, _PC_MEMORY), b"\0")


def _configure(qemu: Qemu, setup: SourceSetup) -> None:
    configure(
        qemu,
        channels=setup.channels,
        compression=setup.method,
        tls=setup.tls is not None,
        capabilities=["return-path"] if setup.return_path else [],
        max_bandwidth=_SLOW if setup.dirty else _FAST,
        parameters={"downtime-limit": 1} if setup.dirty else None,
    )
