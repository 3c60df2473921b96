"""`run:CMD`: a command that is run anew for each migration, and awaits it.

    run:./my-vmm --listen {host}:{port} --channels {channels} --ram {memory}?blocks=ram0:1M

The command is split into words; no shell is involved. Filled in are

- `{port}` and `{host}`: a free TCP port, and the address 127.0.0.1; or `{socket}`: the path of a
  unix socket, to be made. One of the two is where it has to listen, within ten seconds.
- `{channels}`, `{uuid}`, `{method}`: the number of channels, the machine's UUID as text, the
  payload method. What the command does not mention, it is taken to have fixed: see `options.py`.
- `{page_size}`, `{dialect}`: those of the options.
- `{memory}`: path of a file of the size of the first RAM block, all zero. An implementation that
  maps it shared, as its guest's memory, lets the suite see what arrives where.

It ends with status 0 when the migration has completed, with another one when it has failed, and
says why on standard error. One that goes on running after a migration is asked on the return path.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address
from multifd_proto.peers.owner import Owner

from ..target import Description, ReceiverPeer, RunningReceiver, Sense, Setup, State
from .command import Command, parse_command, values_of
from .listening import FreePort, is_listening
from .options import Options, parse_options
from .process import describe_death, kill_group, spawn
from .tail import Tail, crashed

PLACES = (
    "port", "host", "socket", "channels", "uuid", "page_size", "method", "memory", "dialect",
)  # fmt: skip
"""Names of what is filled into the command."""
_HOST = "127.0.0.1"
_READY = 10.0
_POLL = 0.002
_LAST_WORDS = 0.2


def receiver(rest: str, options: dict[str, str], uri: str) -> ReceiverPeer:
    """Return the receiver that a URI names."""
    command = parse_command(uri, rest, *PLACES)
    if len(command.places & {"port", "socket"}) != 1:
        raise PeerError(f"peer {uri!r}: command must have either {{port}} or {{socket}}")
    return RunReceiver(uri, command, parse_options(uri, options))


class RunReceiver(Owner):
    """An implementation that can be started by a command, for one migration each time."""

    def __init__(self, uri: str, command: Command, options: Options) -> None:
        self._uri, self._command, self._options = uri, command, options

    @property
    def uri(self) -> str:
        """What the user called it."""
        return self._uri

    def describe(self) -> Description:
        """Tell what the user said of it; its product is the name of the program."""
        senses = {Sense.PROCESS, Sense.STATE, Sense.REASON}
        if "memory" in self._command.places:
            senses.add(Sense.MEMORY)
        return self._options.describe(
            Path(self._command.words[0]).name,
            senses=frozenset(senses),
            fixed="channels" not in self._command.places,
        )

    def receive(self, setup: Setup) -> RunningReceiver:
        """Start the command, and return when it listens.

        Raises:
            PeerError: it is not there for such a setup, cannot be run, ends, or does not listen.
        """
        self._options.demand(self._uri, setup, told=self._command.places)
        return RunningCommand(self._uri, self._command, self._options, setup)

    def close(self) -> None:
        """Let go of nothing: there is nothing but single runs."""


class RunningCommand(Owner):
    """A command that awaits a migration, or takes part in one."""

    def __init__(self, uri: str, command: Command, options: Options, setup: Setup) -> None:
        """Start it, and wait until it listens.

        Raises:
            PeerError: as `RunReceiver.receive`.
        """
        self._uri = uri
        with ExitStack() as stack:
            values: dict[str, object] = values_of(setup)
            values |= {"page_size": options.page_size, "dialect": options.dialect.name}
            self._block, size = next(iter(options.memory.items()))
            self._memory = _memory(stack, size) if "memory" in command.places else None
            values["memory"] = f"/proc/{os.getpid()}/fd/{self._memory}"
            self._address = _address(stack, command)
            values |= {"host": _HOST, "port": self._address.port, "socket": self._address.host}
            self._tail = stack.enter_context(Tail())
            self._process = self._start(stack, command.fill(values))
            self._await_listener()
            self._open = stack.pop_all()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
        process = spawn(command, stdout=self._tail.writer, stderr=self._tail.writer)
        stack.callback(kill_group, process)
        self._tail.release()
        return process

    def _await_listener(self) -> None:
        deadline = time.monotonic() + _READY
        while not is_listening(self._address):
            if self.death:
                raise PeerError(f"peer {self._uri!r}: {self.death} before it listened{self._end()}")
            if time.monotonic() > deadline:
                where = f"does not listen on {self._address} within {_READY:g} s"
                raise PeerError(f"peer {self._uri!r}: {where}{self._end()}")
            time.sleep(_POLL)

    def _end(self) -> str:
        lines = self.reason()
        return f": {' | '.join(reversed(lines))}" if lines else ""

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._address

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory; None if it is not of the first block, or was not asked for."""
        if self._memory is None or block != self._block:
            return None
        return os.pread(self._memory, length, offset)

    @property
    def death(self) -> str | None:
        """How the process ended, or None."""
        return None if self._status is None else describe_death(self._status)

    @property
    def crashed(self) -> bool:
        """It ended by a signal, or what it printed says that it crashed."""
        return crashed(self._status, self.log())

    def state(self, timeout: float) -> State:  # noqa: ARG002
        """Tell what the process makes plain: it runs, or has ended with a status."""
        if self._status is None:
            return State.RUNNING
        return State.COMPLETED if self._status == 0 else State.FAILED

    def reason(self) -> tuple[str, ...]:
        """Return the last lines that it printed, the last one first."""
        return self._tail.lines(self._patience)

    def log(self) -> str:
        """Return the end of what it printed."""
        return self._tail.text(self._patience)

    @property
    def _status(self) -> int | None:
        return self._process.poll()

    @property
    def _patience(self) -> float:
        return 0.0 if self._status is None else _LAST_WORDS

    def close(self) -> None:
        """Kill it, and let go of its memory."""
        self._open.close()
        self._memory = None


def _memory(stack: ExitStack, size: int) -> int:
    """Return a file without a name, which vanishes with us."""
    descriptor = os.memfd_create("guest")
    stack.callback(os.close, descriptor)
    os.ftruncate(descriptor, size)
    return descriptor


def _address(stack: ExitStack, command: Command) -> Address:
    if "port" in command.places:
        return Address("tcp", _HOST, stack.enter_context(FreePort()).number)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="multifd-"))
    return Address("unix", str(Path(folder, "migrate.sock")))
