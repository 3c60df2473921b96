"""The checker: every event past every rule that it concerns, and what that comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from multifd_proto.machine import rules  # registers the rules
from multifd_proto.machine.events import Event
from multifd_proto.machine.migration import (
    ChannelInfo,
    MainInfo,
    Migration,
    MigrationOver,
)
from multifd_proto.machine.parameters import Bounds, MigrationParameters
from multifd_proto.machine.rule import RULES, Fault, Rule
from multifd_proto.machine.verdict import Report, Tally, Violation, conclude
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.quirks import Quirk
from multifd_proto.wire.requirements import load

__all__ = ["RULES", "Checker", "rules"]

_BY_EVENT: dict[type[Event], list[Rule]] = {}
for _rule in RULES.values():
    _BY_EVENT.setdefault(_rule.on, []).append(_rule)

_Key = tuple[str, tuple[Quirk, ...], frozenset[Dialect]]


class Checker:
    """Judges the events of one migration.

    Connections are announced with `add_channel`, `add_main` and `add_tls`, their events handed to
    `judge` in the order of each connection, and `conclude` gives the report. It never raises on
    what a peer sent, and holds what `Bounds` allow.
    """

    def __init__(
        self, parameters: MigrationParameters | None = None, bounds: Bounds | None = None
    ) -> None:
        self.migration = Migration(parameters or MigrationParameters(), bounds or Bounds())
        self._applied: Counter[str] = Counter()
        self._tallies: dict[_Key, Tally] = {}

    def add_channel(
        self, stream: int, *, opened: int | None = None, whole: bool = True
    ) -> ChannelInfo:
        """Announce a multifd channel.

        Args:
            stream: number of its connection.
            opened: when the connection was opened, in nanoseconds, if that was seen.
            whole: it is seen from its first byte on.
        """
        return self.migration.streams.setdefault(stream, ChannelInfo(stream, opened, whole))

    def add_main(self, stream: int, *, opened: int | None = None, whole: bool = True) -> MainInfo:
        """Announce the main stream; a second one is followed, but the first one counts."""
        main = MainInfo(stream, opened, whole)
        self.migration.main = self.migration.main or main
        return main

    def add_tls(self, stream: int) -> None:
        """Announce an encrypted connection."""
        self.migration.tls.add(stream)

    def judge(self, peer: ChannelInfo | MainInfo, events: Iterable[Event]) -> None:
        """Judge the next events of a connection, and remember them."""
        for event in events:
            self._judge(peer, event)
            self.migration.note(peer, event)

    def conclude(self) -> Report:
        """Judge the migration as a whole, and report."""
        self._judge(None, MigrationOver(0, 0))
        hidden = any(not c.whole for c in self.migration.streams.values())
        return conclude(
            self.migration.parameters, list(self._tallies.values()), self._applied, hidden
        )

    def _judge(self, peer: ChannelInfo | MainInfo | None, event: Event) -> None:
        migration = self.migration
        for rule in _BY_EVENT.get(type(event), ()):
            if rule.needs is not None and getattr(migration, rule.needs) is None:
                continue
            if rule.when is None or rule.when(migration, peer, event):
                self._applied[rule.requirement] += 1
                for fault in rule.judge(migration, peer, event):
                    self._record(rule, peer, event, fault)

    def _record(
        self, rule: Rule, peer: ChannelInfo | MainInfo | None, event: Event, fault: Fault
    ) -> None:
        key: _Key = (rule.requirement, fault.quirks, fault.dialects)
        tally = self._tallies.get(key)
        if tally is None:
            requirement = load()[rule.requirement]
            tally = Tally(requirement, fault.quirks, fault.dialects, 0, [])
            self._tallies[key] = tally
        tally.count += 1
        if len(tally.examples) < self.migration.bounds.examples:
            tally.examples.append(self._violation(tally, peer, event, fault))

    def _violation(
        self, tally: Tally, peer: ChannelInfo | MainInfo | None, event: Event, fault: Fault
    ) -> Violation:
        stream = peer.stream if peer else fault.stream
        channel = self.migration.streams.get(stream) if stream is not None else None
        return Violation(
            tally.requirement,
            stream,
            channel.id if channel else None,
            event.offset if peer else None,
            event.time,
            fault,
        )
