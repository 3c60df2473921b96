"""A migration in a capture, and its connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from multifd_proto.capture.events import Endpoint, Half
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event
from multifd_proto.machine.migration import ChannelInfo, MainInfo
from multifd_proto.wire.main_stream import MainStream


@dataclass
class Session:
    """One migration: its checker and its connections."""

    number: int
    source: Endpoint | None
    destination: Endpoint | None
    checker: Checker
    connections: list[Connection] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """All of its connections have ended."""
        return all(c.ended for c in self.connections)

    def reaches(self, time: int) -> bool:
        """Tell whether a connection that was opened at a time may belong to it."""
        return not self.over or time < max(c.last for c in self.connections)


@dataclass(eq=False)
class Connection:
    """One connection of a capture, and what follows it once it is known what it is."""

    half: Half
    """The direction that carries the migration; the one that was opened until that is known."""
    reverse: Half
    kind: str = "unknown"
    """`multifd`, `main`, `tls`, `other`, or `unknown` as long as nothing tells."""
    session: Session | None = None
    machine: Channel | MainStream | None = None
    peer: ChannelInfo | MainInfo | None = None
    ends: set[bool] = field(default_factory=set)
    """Directions that have ended: `True` is that of the end that opened the connection."""
    last: int = 0
    """When the last one of them has, in nanoseconds since the epoch."""
    heads: dict[bool, bytes] = field(default_factory=dict)
    """First bytes of each direction, until they tell what it is."""
    early: list[Event] = field(default_factory=list)
    """What a machine told before a packet proved it right."""

    @property
    def ended(self) -> bool:
        """Both directions have ended, as far as they were captured.

        One is not enough: a source may have ended the main stream before a proxy, or a slow
        destination, has accepted its channels.
        """
        silent = self.reverse.forward in self.ends or not self.reverse.segments
        return self.half.forward in self.ends and silent

    @property
    def channel(self) -> int | None:
        """The channel's id, if it is one and its init was seen."""
        return self.peer.id if isinstance(self.peer, ChannelInfo) else None
