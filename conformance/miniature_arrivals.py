"""How a miniature receiver begins, ends, and takes in connections.

Theory of operation. Each connection has a thread, which greets it (what is it?) and serves it as
the main stream or as a channel. The threads meet in `Receiving`, under one lock. The first failure
ends every wait and every connection.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import socket
from ssl import SSLSocket
from threading import Condition, Thread
from typing import ClassVar, NoReturn, Self

from multifd_proto.errors import PeerError
from multifd_proto.machine.events import InitReceived
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.receiving import Receiving, violation
from multifd_proto.machine.refusal import Refusals, refuse_end, refuse_init
from multifd_proto.machine.rule import Fault
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.connection import Connection, PeerTimeoutError
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.tls import begin, shake_hands
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import CHANNEL_MAGIC, MULTIFD_VERSION, MultiFDInit

from .miniature_wire import LONG, InsideError, StoppedError, Wire
from .target import Description, Setup, State

_GLANCE = 0.1  # for what comes at once, or not at all
_METHOD = {method.name: method for method in METHODS}


class MiniatureArrivals(ABC):
    """The connections of one migration, up to where it is known what they are; and their end."""

    ignored: ClassVar[frozenset[str]] = frozenset()
    """Requirements whose refusals are let pass."""
    patience: ClassVar[float] = 2.0
    """Seconds that a connection has for its first bytes."""

    def __init__(self, setup: Setup, description: Description) -> None:
        """Start to listen.

        Args:
            setup: what it is started for.
            description: what it is: dialect, page size and RAM blocks are taken from here.

        Raises:
            PeerError: the credentials cannot be used.
        """
        self.parameters = MigrationParameters(
            description.dialect,
            description.page_size,
            setup.channels,
            setup.uuid,
            tuple(RamBlock(name, size) for name, size in description.blocks.items()),
            _METHOD[setup.method],
        )
        self.joint = Receiving(self.parameters)
        self.lock = Condition()
        self.death: str | None = None
        """How it ended, if it pretends to have died."""
        self.pending: set[int] = set()
        """Connections that are neither known nor given up."""
        self.main: Wire | None = None
        self._state, self._closing = State.RUNNING, False
        self._reason: tuple[str, ...] = ()
        self._wires: list[Wire] = []
        self._tls = setup.tls.server() if setup.tls else None
        self._listener = Listener(parse_address("tcp:127.0.0.1:0"), setup.channels + 16)
        self._threads: list[Thread] = []
        self._accepting = Thread(target=self._accept_all, daemon=True)

    @abstractmethod
    def serve_main(self, wire: Wire, first: bytes) -> None:
        """Receive the main stream, which begins with `first`, to its end."""

    @abstractmethod
    def serve_channel(self, wire: Wire) -> None:
        """Receive a channel, whose init is admitted, to its end."""

    # ---- what is seen of it ----------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where a source has to dial."""
        return self._listener.address

    @property
    def crashed(self) -> bool:
        """It pretends to have died by a signal."""
        return self.death is not None

    def state(self, timeout: float = 1.0) -> State:  # noqa: ARG002  # it answers at once
        """Tell what became of the migration."""
        return State.SILENT if self.death else self._state

    def reason(self) -> tuple[str, ...]:
        """Return why it failed."""
        return () if self.death else self._reason

    def log(self) -> str:
        """Return the reason as a log."""
        return "\n".join(self._reason)

    # ---- beginning and end -----------------------------------------------------------------------

    def start(self) -> Self:
        """Begin to accept connections."""
        self._accepting.start()
        return self

    def __enter__(self) -> Self:
        return self if self._accepting.ident else self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything, whatever it waits for."""
        with self.lock:
            self._closing = True
            self.lock.notify_all()
            wires = list(self._wires)
        for wire in wires:
            wire.connection.abort()
        self._listener.wake()
        if self._accepting.ident:
            self._accepting.join()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def halted(self) -> bool:
        """It does no more work."""
        return self._closing or self._state is State.FAILED

    def wait(self, ready: Callable[[], object], limit: float = LONG) -> bool:
        """Wait until `ready()`, which is called with the lock held; False if time was up before.

        Raises:
            StoppedError: the migration is over.
        """
        deadline = time.monotonic() + limit
        with self.lock:
            while not ready():
                if self.halted:
                    raise StoppedError("stopped")
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.lock.wait(left)
        return True

    def linger(self) -> NoReturn:
        """Forget about a connection: it stays open to the very end.

        Raises:
            StoppedError: the end has come.
        """
        with self.lock:
            while not self._closing:
                self.lock.wait(LONG)
        raise StoppedError("stopped")

    def refuse(self, wire: Wire, refusals: Refusals, offset: int | None = None) -> None:
        """Fail with the first refusal that is not ignored, if there is one."""
        real = [refusal for refusal in refusals if refusal[0] not in self.ignored]
        found = violation(
            real, wire.stream, wire.channel, wire.offset if offset is None else offset
        )
        if found:
            raise PeerError(str(found))

    def fail(self, wire: Wire, reason: str) -> None:
        """Fail the migration, unless it is over: end every wait and connection."""
        with self.lock:
            if self._state is State.RUNNING and not self._closing:
                self._state, self._reason = State.FAILED, (reason,)
                for doomed in self.doomed(wire):
                    doomed.connection.abort()
            self.lock.notify_all()
        self._listener.wake()

    def conclude(self) -> bytes:
        """Complete the migration; return what the source is told."""
        with self.lock:
            if self._state is State.RUNNING:
                self._state = State.COMPLETED
            self.lock.notify_all()
        return self.joint.farewell()

    def doomed(self, wire: Wire) -> Iterable[Wire]:  # noqa: ARG002  # variants look at it
        """Return the connections that end with the failure of one."""
        return self._wires

    def crash(self, wire: Wire) -> None:
        """Pretend to die."""
        self.death = "signal SIGSEGV (pretended)"
        self.fail(wire, self.death)
        raise StoppedError("died")

    # ---- connections -----------------------------------------------------------------------------

    def _accept_all(self) -> None:
        while not self.halted:
            sock = self._listener.accept(1.0)
            if sock:
                with suppress(StoppedError):
                    self.accept(sock)
        self._listener.close()

    def accept(self, sock: socket) -> None:
        """Let a thread serve a connection."""
        stream = len(self._threads)
        with self.lock:
            self.pending.add(stream)
        thread = Thread(target=self._run, args=(sock, stream), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, sock: socket, stream: int) -> None:
        """Serve a connection to its end."""
        wire, reason = None, "its thread has failed"
        try:
            wire = self._open(sock, stream)
            self.serve(wire)
            reason = ""
        except StoppedError:
            reason = ""
        except PeerError as error:
            reason = str(error)
        finally:
            with self.lock:
                self.pending.discard(stream)
            if wire:
                if reason and not wire.connection.aborted:
                    self.fail(wire, reason)
                wire.connection.close()

    def _open(self, sock: socket, stream: int) -> Wire:
        """Take in a connection."""
        name = f"connection {stream}"
        connection = begin(sock, self._tls, name) if self._tls else sock
        wire = Wire(Connection(connection, name, self.patience), stream)
        with self.lock:
            self._wires.append(wire)
            if self.halted:
                wire.connection.abort()
        return wire

    def serve(self, wire: Wire) -> None:
        """Find out what a connection is, and serve it."""
        first = b""
        try:
            wire.deadline = time.monotonic() + self.patience
            if not self.complete:
                first = self.greet(wire)
        except PeerTimeoutError:
            pass  # whoever is silent is given up
        finally:
            wire.deadline = math.inf
            with self.lock:
                self.pending.discard(wire.stream)
                self.lock.notify_all()
        if wire.main:
            self.serve_main(wire, first)
        elif wire.channel is not None:
            self.serve_channel(wire)
        elif self.complete:
            self.surplus(wire)

    def greet(self, wire: Wire) -> bytes:
        """Find out what a connection is; return what was read of it."""
        if isinstance(wire.connection.socket, SSLSocket):
            try:
                shake_hands(wire.connection.socket, wire.connection.name, self.patience)
            except PeerError:
                return b""
        try:
            first = wire.take(4)
        except InsideError:
            return b""  # whoever came has gone
        if self.is_main(wire, first):
            self.take_main(wire)
            return first
        if first != CHANNEL_MAGIC and not self.is_init(first := first + self.glance(wire)):
            demanded = f"{STREAM_MAGIC.hex(' ')} or {CHANNEL_MAGIC.hex(' ')}"
            fault = Fault("start of a connection", first[:4].hex(" "), demanded)
            self.refuse(wire, [("CHAN-6", fault)], 0)
            self.linger()
        try:
            init = MultiFDInit.parse(first + wire.take(MultiFDInit.size() - len(first)))
        except InsideError as error:
            if not self.complete:
                self.refuse(wire, refuse_end(error.due))
        else:
            self.take_init(wire, init)
        return b""

    def glance(self, wire: Wire) -> bytes:
        """Return what comes at once of a connection that begins with neither magic."""
        wire.deadline = time.monotonic() + _GLANCE
        with suppress(PeerTimeoutError):
            return wire.some(MultiFDInit.size() - 4)
        return b""

    def is_init(self, first: bytes) -> bool:
        """Tell whether bytes are an init message but for the magic."""
        size = MultiFDInit.size()
        return len(first) == size and MultiFDInit.parse(first).version == MULTIFD_VERSION

    def is_main(self, wire: Wire, first: bytes) -> bool:  # noqa: ARG002  # variants look at it
        """Tell whether a connection is the main stream, by its first bytes."""
        return first == STREAM_MAGIC

    @property
    def complete(self) -> bool:
        """The main stream and all channels are there."""
        return self.main is not None and self.joint.complete

    def take_main(self, wire: Wire) -> None:
        """Take a connection for the main stream; a second one is nothing."""
        with self.lock:
            wire.main = self.main is None
            self.main = self.main or wire
            self.close_door()

    def take_init(self, wire: Wire, init: MultiFDInit) -> None:
        """Admit a channel, or refuse it; if there are enough, it is nothing."""
        # so that of too many the last ones are too many, whichever thread is faster
        self.wait(lambda: min(self.pending) == wire.stream, _GLANCE)
        with self.lock:
            joint = self.joint
            if not joint.complete:
                event = InitReceived(0, 0, init)
                self.refuse(wire, refuse_init(event, self.parameters, joint.arrived), 0)
                wire.channel = 256 + wire.stream if init.id in joint.arrived else init.id
                joint.admit(wire.channel)
                self.pending.discard(wire.stream)
                self.close_door()
                self.lock.notify_all()

    def close_door(self) -> None:
        """Wait for nobody any more, once all are there."""
        for wire in self._wires if self.complete else ():
            if wire.stream in self.pending and not wire.main:
                wire.connection.stop_receiving()

    def surplus(self, wire: Wire) -> None:
        """End a connection that is too many."""
        wire.connection.abort()
