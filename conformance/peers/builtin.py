"""`builtin:` is the reference receiver, in a thread of this process.

`builtin:?dialect=7.2` is that of an older release. `builtin:?broken=INIT-12` is a miniature that
violates this requirement alone; `broken=none` is the miniature that violates none.
"""

from __future__ import annotations

import math
import traceback
from threading import Thread
from typing import TYPE_CHECKING, Self

from multifd_proto import __version__
from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.peers.address import Address
from multifd_proto.peers.receive.receiver import Received, Receiver
from multifd_proto.peers.receive.reception import Failure
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from ..target import MEMORY, Description, ReceiverPeer, RunningReceiver, Sense, Setup, State
from . import check_options

if TYPE_CHECKING:
    from ..miniature_receiver import MiniatureReceiver

BLOCKS = {b"ram0": MEMORY, b"tiny": 1000, b"small": 3096}
"""RAM blocks of the machine: two are smaller than a page, for PKT-28, and are whole pages together,
as the main stream cannot tell another sum."""
_UNBROKEN = "none"
_TIMEOUT = 5.0
_METHODS = {method.name: method for method in METHODS}


def receiver(rest: str, options: dict[str, str], uri: str) -> ReceiverPeer:
    """Return the receiver of a `builtin:` URI; see `peers.RECEIVERS`.

    Raises:
        PeerError: an option is unknown or malformed.
    """
    check_options(uri, options, "dialect", "timeout", "broken")
    if rest:
        raise PeerError(f"peer {uri!r}: {rest!r} follows the scheme, must be options")
    dialect, timeout = _dialect(uri, options), _timeout(uri, options)
    return BuiltinPeer(uri, dialect, timeout, _miniature(uri, options))


def _miniature(uri: str, options: dict[str, str]) -> type[MiniatureReceiver] | None:
    """Return the receiver that the option `broken` names; None for the reference."""
    name = options.get("broken")
    if name is None or name.startswith("MAPR-"):  # a reader of files: `builtin_files`
        return None
    from ..broken_receiver import BROKEN
    from ..miniature_receiver import MiniatureReceiver

    known: dict[str, type[MiniatureReceiver]] = {_UNBROKEN: MiniatureReceiver, **BROKEN}
    if name not in known:
        raise PeerError(f"peer {uri!r}: broken is {name!r}, must be one of {', '.join(known)}")
    return known[name]


def _dialect(uri: str, options: dict[str, str]) -> Dialect:
    text = options.get("dialect")
    try:
        return dialect_of(text) if text is not None else DIALECTS[-1]
    except ValueError as error:
        raise PeerError(f"peer {uri!r}: dialect: {error}") from None


def _timeout(uri: str, options: dict[str, str]) -> float:
    text = options.get("timeout", str(_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise PeerError(f"peer {uri!r}: timeout is {text!r}, must be seconds above 0")
    return seconds


class BuiltinPeer:
    """A receiver of this package."""

    def __init__(
        self,
        uri: str,
        dialect: Dialect,
        timeout: float,
        miniature: type[MiniatureReceiver] | None,
    ) -> None:
        self.uri = uri
        """What the user called it."""
        self._timeout, self._miniature = timeout, miniature
        self._description = Description(
            product="miniature" if miniature else "multifd-proto",
            version=__version__,
            dialect=dialect,
            roles=frozenset({Role.RECEIVER}),
            around=template_for(dialect),
            blocks=BLOCKS,
            methods=frozenset(
                name for name, m in _METHODS.items() if dialect_of(m.since).index <= dialect.index
            ),
            tls=True,
            senses=frozenset({Sense.MEMORY, Sense.STATE, Sense.REASON}),
        )

    def describe(self) -> Description:
        """Tell what it is."""
        return self._description

    def receive(self, setup: Setup) -> RunningReceiver:
        """Start a destination.

        Raises:
            PeerError: it cannot listen, or the credentials cannot be used.
        """
        if self._miniature:
            return self._miniature(setup, self._description).start()
        return RunningBuiltin(setup, self._description, self._timeout)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


class RunningBuiltin:
    """The reference receiver at work."""

    def __init__(self, setup: Setup, description: Description, timeout: float) -> None:
        self._blocks = description.blocks
        parameters = MigrationParameters(
            dialect=description.dialect,
            page_size=description.page_size,
            channels=setup.channels,
            uuid=setup.uuid,
            ramblocks=tuple(RamBlock(*block) for block in description.blocks.items()),
            compression=_METHODS[setup.method],
        )
        self._received: Received | None = None
        self._escaped: BaseException | None = None
        loopback = Address("tcp", "127.0.0.1")
        self._receiver = Receiver(
            loopback, parameters, tls=setup.tls, timeout=timeout, device_state=False
        )
        self.address = self._receiver.address
        """Where a source has to dial."""
        # a daemon, as are all threads below it: Ctrl-C may come before anybody can stop it
        self._thread = Thread(target=self._run, name="builtin receiver", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._received = self._receiver.run()
        except BaseException as error:  # a defect of ours, which `crashed` tells
            self._escaped = error

    @property
    def _failure(self) -> Failure | None:
        return self._received.failure if self._received else self._receiver.failure

    @property
    def _defect(self) -> BaseException | None:
        """What has left one of the receiver's threads."""
        return self._escaped or (self._failure.defect if self._failure else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._receiver.interrupt()
        self._thread.join()
        self._receiver.close()

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Return guest memory, which is zero before the source has announced it."""
        if block not in self._blocks:
            return None
        memory = self._receiver.memory.blocks.get(block)
        if memory is None:
            return bytes(max(min(length, self._blocks[block] - offset), 0))
        return bytes(memory.view[offset : offset + length])

    @property
    def death(self) -> str | None:
        """Return None: it has no process of its own."""
        return None

    @property
    def crashed(self) -> bool:
        """An exception has left the receiver, which is a defect of it."""
        return self._defect is not None

    def state(self, timeout: float) -> State:  # noqa: ARG002  it answers at once
        """Tell whether it runs, or how it ended."""
        if self._failure or self._escaped:
            return State.FAILED
        return State.COMPLETED if self._received else State.RUNNING

    def reason(self) -> tuple[str, ...]:
        """Return why the migration failed, if it has."""
        return (self._failure.message,) if self._failure else ()

    def log(self) -> str:
        """Return the warnings, or the traceback of a defect."""
        if self._defect:
            return "".join(traceback.format_exception(self._defect))
        return "\n".join(self._received.warnings if self._received else ())
