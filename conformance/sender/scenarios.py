"""The scenarios: what a sender is started for, and what its destination does to it.

Most of them are migrations that succeed, each with something that others lack. In some the
destination is difficult, but takes everything; in the last ones it breaks the migration, or it is
cancelled, and what was sent until then is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from multifd_proto.wire.payload import METHODS

from ..target import MEMORY, Description, SourceSetup


@dataclass(frozen=True)
class Behaviour:
    """How the destination goes about it; by default it reads whatever comes, at once."""

    window: int | None = None
    """Bytes of the receive buffers; the system's choice if None."""
    piece: int = 1 << 18
    """Bytes that are read from a connection at a time."""
    pause: float = 0.0
    """Seconds between two pieces of one connection."""
    stall: float = 0.0
    """Seconds that the channel which connected first is not read from, after its init."""
    drop: int | None = None
    """Bytes after which the channel that connected first is closed."""
    cancel: bool = False
    """At the first packet with pages nothing is read any more, and the migration is cancelled."""

    @property
    def breaks(self) -> bool:
        """The migration is not to complete."""
        return self.drop is not None or self.cancel


@dataclass(frozen=True)
class Scenario:
    """One row."""

    name: str
    says: str
    """What is special about it."""
    setup: SourceSetup = field(default_factory=SourceSetup)
    behaviour: Behaviour = field(default_factory=Behaviour)
    tls: bool = False

    def demands(self) -> Iterator[str]:
        """Yield the fields of `SourceSetup` that a sender has to be told.

        They are those that are not at their defaults. Where the migration is broken, other memory
        than it has will do: it may be over before that.
        """
        will_do = {"memory", "size"} if self.behaviour.breaks else set()
        for item in fields(SourceSetup):
            default = getattr(SourceSetup(), item.name)
            if getattr(self.setup, item.name) != default and item.name not in will_do:
                yield item.name


_SLOW = Behaviour(piece=16 << 10, pause=0.002)
_STUBBORN = SourceSetup(method="zlib", memory="random")
_LARGE = SourceSetup(memory="random", size=16 * MEMORY)

_ROWS = (
    Scenario("plain", "two channels, memory of all kinds"),
    Scenario("one-channel", "one channel", SourceSetup(channels=1)),
    Scenario("sixteen-channels", "16 channels", SourceSetup(channels=16)),
    Scenario("most-channels", "255 channels, as many as there can be", SourceSetup(channels=255)),
    *(
        Scenario(method.name, f"compression {method.name}", SourceSetup(method=method.name))
        for method in METHODS
        if method.flag
    ),
    Scenario("zlib-random", "compression zlib of memory that does not shrink", _STUBBORN),
    Scenario("zero-memory", "memory of zeros alone", SourceSetup(memory="zero")),
    Scenario("partial-packet", "a last packet that is not full", SourceSetup(memory="partial")),
    Scenario("several-blocks", "several RAM blocks", SourceSetup(blocks=2)),
    Scenario("dirty-memory", "memory that changes meanwhile", SourceSetup(dirty=True)),
    Scenario("return-path", "the destination answers", SourceSetup(return_path=True)),
    Scenario("tls", "all connections in TLS", tls=True),
    Scenario("slow-reader", "a destination that reads slowly", behaviour=_SLOW),
    Scenario("tiny-window", "receive buffers of 4 KiB", behaviour=Behaviour(window=4096)),
    Scenario("stalled-channel", "a channel that is not read for a while",
             behaviour=Behaviour(window=4096, stall=0.2)),
    Scenario("dropped-channel", "a channel that is closed in the middle of a payload",
             _LARGE, Behaviour(window=4096, drop=20000)),
    Scenario("closed-before-init", "a channel that is closed before its init is read",
             behaviour=Behaviour(drop=0)),
    Scenario("cancel", "a migration that is cancelled when pages are on their way",
             _LARGE, Behaviour(window=4096, cancel=True)),
)  # fmt: skip
SCENARIOS = {row.name: row for row in _ROWS}
"""All scenarios by name; a name is never used for something else."""


def applicable(scenario: Scenario, peer: Description, *, credentials: bool = True) -> str:
    """Return why a scenario cannot be played with a peer; empty if it can.

    Args:
        scenario: the scenario.
        peer: what the peer says of itself; `unsupported` may name scenarios as well.
        credentials: whether there are any for TLS.
    """
    setup = scenario.setup
    if scenario.name in peer.unsupported:
        return peer.unsupported[scenario.name]
    if setup.method not in peer.methods:
        return f"the peer has no {setup.method}"
    if setup.channels > peer.max_channels:
        return f"the peer has at most {peer.max_channels} channels"
    if setup.return_path and not peer.return_path:
        return "the peer has no return path"
    if scenario.tls and not peer.tls:
        return "the peer has no TLS"
    if scenario.tls and not credentials:
        return "there are no credentials for TLS"
    return ""


def only(names: frozenset[str], why: str) -> dict[str, str]:
    """Return the scenarios but for some, each with the reason why a peer does not play it."""
    return {name: why for name in SCENARIOS if name not in names}


def untold(told: frozenset[str], why: str) -> dict[str, str]:
    """Return the scenarios that ask for more than a peer is told, each with the reason.

    Args:
        told: names of fields of `SourceSetup`.
        why: the reason, before the name of the first field that it is not told.
    """
    lacking = {name: sorted(set(row.demands()) - told) for name, row in SCENARIOS.items()}
    return {name: f"{why} {asked[0]}" for name, asked in lacking.items() if asked}
