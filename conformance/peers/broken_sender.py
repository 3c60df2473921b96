"""`builtin:?broken=ID`: a sender that violates one requirement, and keeps all others.

What it sends is the miniature of `violations`, in the one scenario that has its payload method;
those of TLS are made here. `?broken=none` is the valid migration that the miniatures are made of.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Thread
from typing import Self

from multifd_proto import __version__
from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.templates import template_for
from multifd_proto.peers.tls import wrap
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.payload import method_of
from multifd_proto.wire.requirements import Role
from multifd_proto.wire.schema import MultiFDInit

from ..miniatures import (
    BLOCK,
    LENGTH,
    PAGE_SIZE,
    UUID,
    Sender,
    Session,
    base,
    pages,
    sync,
)
from ..sender.scenarios import only
from ..sender.session import known
from ..target import Description, Sense, SourceSetup, State
from ..violations import VIOLATIONS

_TIMEOUT = 10.0
_TLS_RECORD = b"\x16\x03\x01\x00\x05"


@dataclass(frozen=True)
class Manner:
    """How a session goes over its connections; the defaults are right."""

    main_first: bool = True
    """The main stream's TLS handshake comes before the channels'."""
    init_inside: bool = True
    """Init messages are sent inside TLS."""
    notify: bool = True
    """Channels end with close_notify."""


MANNERS = {
    "TLS-2": Manner(main_first=False),
    "TLS-3": Manner(init_inside=False),
    "TLS-4": Manner(notify=False),
}
"""What is wrong with the connections, not with the bytes."""


def _one_channel_of_two() -> Session:
    """Return a migration by one channel; the suite has all its miniatures started for two."""
    packets = (sync(0), pages(1, (0, 1), (2,)), sync(2), pages(3, (1,)), sync(4))
    return replace(base(), channels=(Sender(MultiFDInit(uuid=UUID, id=0), packets),))


_LIVE: dict[str, Callable[[], Session]] = {"none": base, "CHAN-3": _one_channel_of_two}
BROKEN = tuple(sorted({*VIOLATIONS, *MANNERS, *_LIVE} - {"CHAN-2"}))
"""What can be broken. CHAN-2 binds receivers."""


class BrokenSender:
    """A sender that is wrong in one way."""

    def __init__(self, uri: str, broken: str) -> None:
        """Choose what is wrong.

        Raises:
            PeerError: there is no such sender.
        """
        if broken not in BROKEN:
            must = f"one of {', '.join(BROKEN)}"
            raise PeerError(f"peer {uri!r}: broken is {broken!r}, must be {must}")
        self.uri = uri
        """What the user called it."""
        self._manner = MANNERS.get(broken)
        make = _LIVE.get(broken) or VIOLATIONS.get(broken, base)
        self._session = make()

    def describe(self) -> Description:
        """Tell what it is."""
        dialect = self._session.parameters.dialect or dialect_of("10.0")
        method = _method(self._session)
        scenario = "tls" if self._manner else "plain" if method == "none" else method
        return Description(
            product="miniature",
            version=__version__,
            dialect=dialect,
            roles=frozenset({Role.SENDER}),
            around=template_for(dialect),
            blocks={BLOCK: LENGTH},
            page_size=PAGE_SIZE,
            methods=frozenset({"none", method}),
            tls=self._manner is not None,
            max_channels=2,
            return_path=False,
            senses=frozenset({Sense.STATE, Sense.REASON}),
            unsupported=only(frozenset({scenario}), f"it is for scenario {scenario} alone"),
        )

    def known(self, setup: SourceSetup) -> MigrationParameters:
        """Return what is known of a migration, blocks that do not migrate among it."""
        blocks = self._session.parameters.ramblocks
        return replace(known(setup, self.describe()), ramblocks=blocks)

    def send(self, setup: SourceSetup, to: Address) -> RunningBrokenSender:
        """Start a migration.

        Raises:
            PeerError: the credentials cannot be used.
        """
        return RunningBrokenSender(_of_machine(self._session, setup.uuid), setup, to, self._manner)

    def close(self) -> None:
        """Do nothing: nothing outlives a migration."""


def _method(session: Session) -> str:
    """Return the method of the first packet with pages."""
    heads = (packet.head for sender in session.channels for packet in sender.packets)
    flags = next((h.flags for h in heads if getattr(h, "normal_pages", 0)), 0)
    method = method_of(flags)
    return method.name if method else "none"


def _of_machine(session: Session, uuid: bytes) -> Session:
    """Return the session of the machine that is to migrate, where it is that of a miniature."""
    for number, channel in enumerate(session.channels):
        if channel.init.uuid == UUID:
            session = session.with_init(number, uuid=uuid)
    return session


class RunningBrokenSender:
    """A broken sender at work, in a thread."""

    def __init__(
        self, session: Session, setup: SourceSetup, to: Address, manner: Manner | None
    ) -> None:
        self._session, self._to, self._manner = session, to, manner or Manner()
        self._tls = setup.tls
        self._context = setup.tls.client() if setup.tls else None
        self._connections = ExitStack()
        self._state, self._reason = State.RUNNING, ""
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._connections:
                self._send()
            self._state = State.COMPLETED
        except (PeerError, OSError) as error:
            self._state, self._reason = State.FAILED, str(error)

    def _send(self) -> None:
        session = self._session
        count = len(session.channels)
        late = session.main_opened > count
        sockets = {
            n: self._dial(n) for n in ([*range(1, count + 1), 0] if late else range(count + 1))
        }
        for number in range(session.tls):
            self._dial(count + 1 + number).sendall(_TLS_RECORD)
        streams = {0: _main_bytes(session)}
        streams |= {n: channel.build() for n, channel in enumerate(session.channels, 1)}
        connections = {}
        for number in sorted(sockets, key=lambda n: (n == 0) != self._manner.main_first):
            if number and not self._manner.init_inside:
                sockets[number].sendall(_cut(streams, number, MultiFDInit.size()))
            connections[number] = self._secure(sockets[number], number)
        for number in sorted(connections, key=lambda n: (n == 0, n)):
            # as from a real sender, the main stream begins when all channels are there
            connections[number].send(_cut(streams, number, MultiFDInit.size()))
        for number in sorted(connections):
            connections[number].send(streams[number])
        for number in sorted(connections):
            connections[number].end_sending(notify=self._manner.notify and number > 0)

    def _dial(self, number: int) -> socket.socket:
        return self._connections.enter_context(dial(self._to, number, _TIMEOUT))

    def _secure(self, sock: socket.socket, number: int) -> Connection:
        name = f"channel {number - 1}" if number else "main stream"
        if self._context and self._tls:
            hostname = self._tls.hostname or self._to.host
            sock = wrap(sock, self._context, name, _TIMEOUT, hostname)
        connection = Connection(sock, name, _TIMEOUT)
        self._connections.callback(connection.close)
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # by now the destination reads on, or has closed everything
        self._thread.join(_TIMEOUT)

    def read(self, _block: bytes, _offset: int, _length: int) -> bytes | None:
        """Return None: it has no memory."""
        return None

    @property
    def death(self) -> str | None:
        """Always None: it is no process."""
        return None

    @property
    def crashed(self) -> bool:
        """Always False."""
        return False

    def state(self, timeout: float) -> State:
        """Return the state of the migration, at the end of the time."""
        self._thread.join(timeout)
        return self._state

    def reason(self) -> tuple[str, ...]:
        """Return why it failed."""
        return (self._reason,) if self._reason else ()

    def log(self) -> str:
        """Return the same, as it prints nothing."""
        return self._reason

    def cancel(self) -> bool:
        """Return False: it cannot."""
        return False

    def image(self, _block: bytes) -> bytes | None:
        """Return None: it has no memory."""
        return None


def _cut(streams: dict[int, bytes], number: int, size: int) -> bytes:
    """Take bytes off the start of a stream."""
    head, streams[number] = streams[number][:size], streams[number][size:]
    return head


def _main_bytes(session: Session) -> bytes:
    if session.main_tail is not None:
        return session.main_tail
    return b"".join(record.build() for record in session.main)
