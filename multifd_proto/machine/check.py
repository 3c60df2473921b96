"""The checker: every event past every rule that it concerns, and what that comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from multifd_proto.machine import rules  # registers the rules
from multifd_proto.machine.events import Event
from multifd_proto.machine.migration import (
    ChannelInfo,
    MainInfo,
    Migration,
    MigrationOver,
)
from multifd_proto.machine.parameters import Bounds, MigrationParameters
from multifd_proto.machine.rule import IN_BATCHES, RULES, Fault, Rule
from multifd_proto.machine.verdict import Report, Tally, Violation, conclude
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.quirks import Quirk
from multifd_proto.wire.requirements import load

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene

__all__ = ["RULES", "Checker", "rules"]

FEW = 16
"""Packets that are judged faster one by one than in columns."""

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

    def add_tls(self, stream: int, *, decrypted: bool = False) -> None:
        """Announce an encrypted connection; or say so of one that was announced as what it is."""
        (self.migration.decrypted if decrypted else self.migration.tls).add(stream)

    def judge(self, peer: ChannelInfo | MainInfo, events: Iterable[Event]) -> None:
        """Judge the next events of a connection, and remember them."""
        for event in events:
            self._judge(peer, event)
            self.migration.note(peer, event)

    def judge_batch(self, batch: PacketBatch) -> None:
        """Judge packets of channels that were announced, and remember them.

        It comes to the same as to judge their events, in the order of the batch.
        """
        from multifd_proto.machine.bulk import Scene  # only where there are many
        from multifd_proto.machine.bulk_note import note, where_to_cut

        if len(batch) <= FEW:
            for place, stream in enumerate(batch.stream.tolist()):
                Checker.judge(self, self.migration.streams[stream], batch.events(place))
            return
        scene = Scene(self.migration, batch)
        cut = where_to_cut(scene)
        if cut is not None:
            Checker.judge_batch(self, batch[:cut])
            Checker.judge_batch(self, batch[cut:])
            return
        for rule in (rule for event in IN_BATCHES for rule in _BY_EVENT[event]):
            if rule.needs is None or getattr(self.migration, rule.needs) is not None:
                self._judge_columns(rule, scene)
        note(scene)

    def conclude(self) -> Report:
        """Judge the migration as a whole, and report."""
        self._judge(None, MigrationOver(0, 0))
        return self.report()

    def report(self) -> Report:
        """Report what was found so far; requirements on the whole migration are still open."""
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

    def _judge_columns(self, rule: Rule, scene: Scene) -> None:
        assert rule.bulk is not None
        found = rule.bulk(scene.batch, scene)
        applied = scene.count(found.applies)
        if not applied:
            return
        self._applied[rule.requirement] += applied
        kept = self.migration.bounds.examples
        for places in scene.alike(found):
            for looked_at, place in enumerate(places, start=1):
                tally = self._judge_place(rule, scene, place)
                if tally and not found.each and len(tally.examples) >= kept:
                    # the others' faults are of the same tally, and would only be counted
                    tally.count += len(places) - looked_at
                    break

    def _judge_place(self, rule: Rule, scene: Scene, place: int) -> Tally | None:
        peer, event, tally = scene.peer(place), scene.event(place, rule.on), None
        for fault in rule.judge(self.migration, peer, event):
            tally = self._record(rule, peer, event, fault)
        return tally

    def _record(
        self, rule: Rule, peer: ChannelInfo | MainInfo | None, event: Event, fault: Fault
    ) -> Tally:
        key: _Key = (rule.requirement, fault.quirks, fault.dialects)
        tally = self._tallies.get(key)
        if tally is None:
            requirement = load()[rule.requirement]
            tally = Tally(requirement, fault.quirks, fault.dialects, 0, [])
            self._tallies[key] = tally
        tally.count += 1
        if len(tally.examples) < self.migration.bounds.examples:
            tally.examples.append(self._violation(tally, peer, event, fault))
        return tally

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
