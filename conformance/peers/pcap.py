"""`pcap:FILE`: a sender of which there is a capture, judged as it is."""

from __future__ import annotations

from functools import cached_property

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.session import Connection, Session
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import CaptureError, PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.address import Address
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.requirements import Role

from ..sender.scenarios import Scenario, only
from ..sender.session import Heard
from ..sender.wirelog import WireLog
from ..target import Description, RunningSender, SenderPeer, SourceSetup
from .options import Options, parse_options


def sender(rest: str, options: dict[str, str], uri: str) -> SenderPeer:
    """Return the sender of a `pcap:` URI; see `peers.SENDERS`.

    Raises:
        PeerError: an option is unknown or malformed.
    """
    if not rest:
        raise PeerError(f"peer {uri!r}: names no file, must be pcap:FILE")
    return PcapSender(uri, rest, parse_options(uri, options), frozenset(options))


class PcapSender:
    """The sender of the first migration in a capture."""

    def __init__(self, uri: str, file: str, options: Options, given: frozenset[str]) -> None:
        self.uri = uri
        """What the user called it."""
        self._file, self._options, self._given = file, options, given

    def describe(self) -> Description:
        """Tell what the capture shows of it.

        Raises:
            PeerError: the capture cannot be read, or holds no migration.
        """
        dialect, options = self._read[1].dialect, self._options
        return Description(
            product=options.product or "capture",
            version=options.version,
            dialect=dialect,
            roles=frozenset({Role.SENDER}),
            around=template_for(dialect),
            blocks=options.blocks or {},
            page_size=options.page_size,
            unsupported=only(frozenset({"plain"}), "a capture is judged as it is"),
        )

    def heard(self, scenario: Scenario) -> Heard:
        """Return what the capture shows.

        Raises:
            PeerError: as `describe` does.
        """
        session, report, log = self._read
        return Heard(scenario, report, len(session.connections), exchanges=log.exchanges)

    def send(self, setup: SourceSetup, to: Address) -> RunningSender:
        """Refuse: it has sent already; see `heard`.

        Raises:
            PeerError: always.
        """
        raise PeerError(f"peer {self.uri!r}: cannot send {setup.method} to {to}: it is a capture")

    def close(self) -> None:
        """Do nothing."""

    @cached_property
    def _read(self) -> tuple[Session, Report, WireLog]:
        follower, log = Follower(self._parameters(), decode=True), WireLog()
        try:
            for connection, event in follower.follow(CaptureReader([self._file])):
                if connection.session is follower.sessions[0]:
                    log.note_event(_name(connection), event)
        except CaptureError as error:
            raise PeerError(f"peer {self.uri!r}: {error}") from None
        if not follower.sessions:
            raise PeerError(f"peer {self.uri!r}: no migration is in it, must be one")
        session = follower.sessions[0]
        return session, session.checker.conclude(), log

    def _parameters(self) -> MigrationParameters:
        options, given = self._options, self._given
        return MigrationParameters(
            dialect=options.dialect if "dialect" in given else None,
            page_size=options.page_size if "page_size" in given else None,
            channels=options.channels,
            uuid=options.uuid if "uuid" in given else None,
        )


def _name(connection: Connection) -> str:
    return "main" if connection.kind == "main" else str(connection.channel)
