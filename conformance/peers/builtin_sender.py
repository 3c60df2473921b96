"""`builtin:` as a sender is the reference, in a thread of ours; or one that is wrong on purpose.

builtin:?dialect=7.2
builtin:?broken=PKT-14
"""

from __future__ import annotations

from contextlib import ExitStack
from threading import Event, Thread
from typing import Self

from multifd_proto import __version__
from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.sending import SourceParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.peers.send.sent import Sent
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from ..sender.session import known
from ..target import MEMORY, Description, SenderPeer, Sense, SourceSetup, State
from . import check_options
from .guest_memory import GuestMemory, content, size_of

_ROUNDS = 4
_TIMEOUT = 10.0
_METHODS = {method.name: method for method in METHODS}


def sender(rest: str, options: dict[str, str], uri: str) -> SenderPeer:
    """Return the sender of a `builtin:` URI; see `peers.SENDERS`.

    Raises:
        PeerError: an option is unknown or malformed.
    """
    check_options(uri, options, "dialect", "broken")
    if rest:
        raise PeerError(f"peer {uri!r}: {rest!r} follows the scheme, must be options")
    # a writer of files is broken elsewhere: `builtin_files`
    if "broken" in options and not options["broken"].startswith("MAPR-"):
        from .broken_sender import BrokenSender  # needed for it alone

        if "dialect" in options:
            raise PeerError(f"peer {uri!r}: dialect is that of the broken sender, must be absent")
        return BrokenSender(uri, options["broken"])
    return BuiltinSender(uri, _dialect(uri, options))


def _dialect(uri: str, options: dict[str, str]) -> Dialect:
    text = options.get("dialect")
    try:
        return dialect_of(text) if text is not None else DIALECTS[-1]
    except ValueError as error:
        raise PeerError(f"peer {uri!r}: dialect: {error}") from None


class BuiltinSender:
    """The reference sender."""

    def __init__(self, uri: str, dialect: Dialect) -> None:
        self.uri = uri
        """What the user called it."""
        self._dialect = dialect

    def describe(self) -> Description:
        """Tell what it is."""
        since = {name: dialect_of(method.since).index for name, method in _METHODS.items()}
        return Description(
            product="multifd-proto",
            version=__version__,
            dialect=self._dialect,
            roles=frozenset({Role.SENDER}),
            around=template_for(self._dialect),
            blocks={b"ram0": MEMORY},
            methods=frozenset(n for n, index in since.items() if index <= self._dialect.index),
            tls=True,
            senses=frozenset({Sense.MEMORY, Sense.STATE, Sense.REASON}),
        )

    def known(self, setup: SourceSetup) -> MigrationParameters:
        """Return what is known of a migration."""
        return known(setup, self.describe(), dict.fromkeys(_names(setup), size_of(setup)))

    def send(self, setup: SourceSetup, to: Address) -> RunningBuiltinSender:
        """Start a migration.

        Raises:
            PeerError: the credentials cannot be used.
        """
        return RunningBuiltinSender(self._dialect, setup, to)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


def _names(setup: SourceSetup) -> list[bytes]:
    return [b"ram%d" % number for number in range(setup.blocks)]


class RunningBuiltinSender:
    """A reference sender at work."""

    def __init__(self, dialect: Dialect, setup: SourceSetup, to: Address) -> None:
        self._cancelled = Event()
        self._sent: Sent | None = None
        with ExitStack() as stack:
            data = content(setup.memory, size_of(setup))
            self._memory = {n: stack.enter_context(GuestMemory(data)) for n in _names(setup)}
            images = {name: [memory.path] for name, memory in self._memory.items()}
            ram = stack.enter_context(RamImages(images, rounds=_ROUNDS if setup.dirty else 1))
            method = _METHODS[setup.method]
            parameters = SourceParameters(dialect, setup.channels, setup.uuid, method=method)
            options = Options(_TIMEOUT, return_path=setup.return_path, tls=setup.tls)
            self._sender = Sender(to, parameters, ram, options=options, progress=self._check)
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()
            stack.callback(self._stop)
            self._open = stack.pop_all()

    def _run(self) -> None:
        self._sent = self._sender.run()

    def _check(self, _done: int, _all: int | None) -> None:
        if self._cancelled.is_set():
            raise PeerError("the migration is cancelled")

    def _stop(self) -> None:
        self._cancelled.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory."""
        memory = self._memory.get(block)
        return memory.read(offset, length) if memory else None

    @property
    def death(self) -> str | None:
        """Always None: it is no process."""
        return None

    @property
    def crashed(self) -> bool:
        """The thread has ended without a result."""
        return self._sent is None and not self._thread.is_alive()

    def state(self, timeout: float) -> State:
        """Return the state of the migration, at the end of the time."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            return State.RUNNING
        return State.COMPLETED if self._sent and self._sent.completed else State.FAILED

    def reason(self) -> tuple[str, ...]:
        """Return why it failed."""
        return (str(self._sent.error),) if self._sent and self._sent.error else ()

    def log(self) -> str:
        """Return the same, as it prints nothing."""
        return "\n".join(self.reason())

    def cancel(self) -> bool:
        """Cancel the migration."""
        self._cancelled.set()
        return True

    def image(self, block: bytes) -> bytes | None:
        """Return the memory, which never changes but for what is sent of it meanwhile."""
        memory = self._memory.get(block)
        return memory.read() if memory else None
