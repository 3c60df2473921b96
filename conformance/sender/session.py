"""One scenario with one sender: started, heard to its end, and everything that was seen of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.verdict import Report
from multifd_proto.peers.address import Address
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.wire.payload import METHODS

from ..observation import Exchange
from ..target import Description, RunningSender, SenderPeer, SourceSetup, State
from .destination import Budgets, Destination
from .scenarios import Scenario
from .streams import Hearing

_METHOD = {method.name: method for method in METHODS}
_SETTLING = 2.0


@dataclass(frozen=True)
class TlsSeen:
    """What was seen of the TLS sessions, from outside."""

    sessions: int = 0
    """Connections that finished a handshake."""
    clear: tuple[str, ...] = ()
    """Connections without one, each with the reason if there is any."""
    clear_inits: tuple[str, ...] = ()
    """Channels whose init came before the handshake."""
    early: bool = False
    """The main stream's handshake was not finished until channels had theirs."""
    unnotified: tuple[str, ...] = ()
    """Channels in TLS that ended without close_notify."""


@dataclass(frozen=True)
class Heard:
    """All that was seen; nothing here judges but the checker's report."""

    scenario: Scenario
    report: Report
    connections: int = 0
    broken: bool = False
    """We have broken the migration, or had it cancelled, as the scenario says."""
    waited: str = ""
    """What was awaited in vain; empty if everything came to its end."""
    image: tuple[str, ...] | None = None
    """Where memory is not what the sender says it is; None if it was not compared."""
    state: State = State.UNKNOWN
    """What the sender said at the end."""
    death: str | None = None
    crashed: bool = False
    reason: tuple[str, ...] = ()
    tls: TlsSeen | None = None
    log: str = ""
    exchanges: tuple[Exchange, ...] = field(default=(), repr=False)
    seconds: float = 0.0


@runtime_checkable
class Recording(Protocol):
    """A sender that has sent already: there is nothing to start, and nothing to do to it."""

    def heard(self, scenario: Scenario) -> Heard:
        """Return what was seen of it."""


@runtime_checkable
class Fixed(Protocol):
    """A sender that has its own place to go to."""

    @property
    def goes_to(self) -> Address:
        """Where it expects a destination; port 0 if it is told the port."""

    @property
    def patience(self) -> float:
        """Seconds that its first connection may take."""


@runtime_checkable
class Informed(Protocol):
    """A sender of whose migrations more or less is known than it is started for."""

    def known(self, setup: SourceSetup) -> MigrationParameters:
        """Return what is known of a migration."""


def hear(
    peer: SenderPeer,
    scenario: Scenario,
    description: Description,
    *,
    credentials: TlsCredentials | None = None,
    budgets: Budgets | None = None,
) -> Heard:
    """Play a scenario with a sender.

    Args:
        peer: the sender.
        scenario: one that is `applicable` to it.
        description: what the peer says of itself.
        credentials: those of both ends, for scenarios with TLS.
        budgets: how long it may take.

    Raises:
        PeerError: the sender cannot be started, or we cannot listen.
    """
    if isinstance(peer, Recording):
        return peer.heard(scenario)
    begun, budgets = time.monotonic(), budgets or Budgets()
    setup = replace(scenario.setup, tls=credentials) if scenario.tls else scenario.setup
    parameters = peer.known(setup) if isinstance(peer, Informed) else known(setup, description)
    hearing = Hearing(parameters)
    at = Address("tcp", "127.0.0.1")
    if isinstance(peer, Fixed):
        at = peer.goes_to
        budgets = replace(budgets, connect=max(budgets.connect, peer.patience))
    context = setup.tls.server() if setup.tls else None
    with (
        Destination(at, hearing, scenario.behaviour, budgets, context) as destination,
        peer.send(setup, destination.address) as sender,
    ):
        try:
            waited = destination.run(sender)
        finally:
            # whatever the sender still waits for, it is not to wait for us
            destination.close()
        heard = _gather(scenario, hearing, destination, sender, waited)
    return replace(heard, seconds=time.monotonic() - begun)


def _gather(
    scenario: Scenario,
    hearing: Hearing,
    destination: Destination,
    sender: RunningSender,
    waited: str,
) -> Heard:
    state = sender.state(_SETTLING)
    whole = not (waited or destination.broken or state is State.FAILED)
    return Heard(
        scenario=scenario,
        report=hearing.checker.conclude(),
        connections=len(destination.arrivals),
        broken=destination.broken,
        waited=waited,
        image=compare(hearing, sender) if whole else None,
        state=state,
        death=sender.death,
        crashed=sender.crashed,
        reason=sender.reason(),
        tls=_tls_seen(destination) if scenario.tls else None,
        log=sender.log(),
        exchanges=hearing.log.exchanges,
    )


def known(
    setup: SourceSetup, description: Description, blocks: Mapping[bytes, int] | None = None
) -> MigrationParameters:
    """Return what is known of a migration.

    Args:
        setup: what the sender is started for.
        description: what it is.
        blocks: names and lengths in bytes of the RAM blocks, if all are known.
    """
    return MigrationParameters(
        dialect=description.dialect,
        page_size=description.page_size,
        channels=setup.channels,
        uuid=setup.uuid,
        compression=_METHOD[setup.method],
        ramblocks=tuple(RamBlock(*block) for block in blocks.items()) if blocks else None,
    )


def compare(hearing: Hearing, sender: RunningSender) -> tuple[str, ...] | None:
    """Say where memory is not what the sender says it is; None if that cannot be told."""
    migration, memory = hearing.checker.migration, hearing.memory
    images = {block: sender.image(block) for block in migration.blocks or ()}
    told = {block: image for block, image in images.items() if image is not None}
    if not told or not memory.whole or not migration.page_size:
        return None
    return tuple(
        difference
        for block, image in told.items()
        for difference in memory.differences(block, image, migration.page_size)
    )


def _tls_seen(destination: Destination) -> TlsSeen:
    arrivals = destination.arrivals
    names = {a.number: a.stream.name for a in arrivals}
    clear = [
        names[a.number] + (f" ({a.failure})" if a.failure else "")
        for a in arrivals
        if not a.secured
    ]
    channels = [a for a in arrivals if a.stream.kind == "channel"]
    return TlsSeen(
        sessions=sum(a.secured for a in arrivals),
        clear=tuple(clear),
        clear_inits=tuple(names[a.number] for a in channels if a.clear_init or not a.secured),
        early=destination.channel_early,
        unnotified=tuple(names[a.number] for a in channels if a.secured and not a.notified),
    )
