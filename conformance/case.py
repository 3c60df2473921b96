"""A receiver's case: one requirement, what is played, and which reactions keep it.

    Case("INIT-12/id-equals-channels", "an id that equals the number of channels", REFUSES,
         (*BEGUN, *channel("1", id=2), Ended(wires=("1",))))

An id is a requirement's with a slug; neither is ever used for something else. The rows stand in
`conformance/receiver/`, one file a chapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.requirements import Requirement, load

from .observation import Observation
from .script import Script, Step
from .target import Description, Sense


class Expect(Enum):
    """What keeps the requirement."""

    ACCEPTS = "is accepted, and memory is what was sent"
    REFUSES = "is refused, and nothing of it is written to memory"
    REFUSES_ALL = "is refused, and every connection is ended"
    SURVIVES = "is accepted or refused, but the receiver neither dies nor hangs"


@dataclass(frozen=True)
class Case:
    """One row."""

    id: str
    says: str
    """What is sent, in words that complete "the receiver is sent ...\"."""
    expect: Expect
    steps: tuple[Step, ...]
    channels: int = 2
    method: str = "none"
    tls: bool = False
    since: str = ""
    """First dialect in which the script makes sense."""
    until: str = ""
    """Last dialect in which it does."""
    reported: str = ""
    """Why nothing is demanded, where it is only looked at; empty where it is judged."""
    needs: frozenset[Sense] = frozenset()
    """What has to be seen of the peer, or it stays inconclusive."""
    applies: Callable[[Description], str] = lambda _: ""
    """Tells why a peer cannot be asked; empty if it can."""
    also: Callable[[Observation], str] = lambda _: ""
    """Tells what else is wrong with the observation; empty if nothing is."""
    repeat: int = 1
    """How often it is played, where chance decides: the worst observation counts."""

    @property
    def requirement(self) -> Requirement:
        """The one requirement that it is a case of."""
        return load()[self.id.partition("/")[0]]

    @property
    def script(self) -> Script:
        """What is played."""
        expect = "" if self.reported else self.expect.name
        return Script(self.steps, self.id, self.channels, self.method, self.tls, expect)

    def not_applicable(self, peer: Description) -> str:
        """Return why a peer cannot be asked; empty if it can."""
        index = peer.dialect.index
        if self.since and index < dialect_of(self.since).index:
            return f"makes sense since {self.since}, the peer is of {peer.dialect.name}"
        if self.until and index > dialect_of(self.until).index:
            return f"makes sense up to {self.until}, the peer is of {peer.dialect.name}"
        if self.method not in peer.methods:
            return f"the peer has no {self.method}"
        if self.tls and not peer.tls:
            return "the peer has no TLS"
        if self.channels > peer.max_channels:
            return f"the peer has at most {peer.max_channels} channels"
        if self.channels < peer.min_channels:
            return f"the peer has {peer.min_channels} channels, and cannot be told otherwise"
        return peer.unsupported.get(self.requirement.id, "") or self.applies(peer)

    def binds(self, dialect: Dialect) -> bool:
        """Tell whether something is demanded in a dialect; if not, what is seen is reported."""
        return not self.reported and dialect in self.requirement.dialects
