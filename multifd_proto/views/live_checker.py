"""A checker that tells what it has found while it still judges. It runs in the judge's process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event
from multifd_proto.machine.migration import ChannelInfo, MainInfo
from multifd_proto.machine.parameters import Bounds, MigrationParameters
from multifd_proto.machine.verdict import Report, Result, Verdict
from multifd_proto.views.live_values import Finding, Judged, LiveRound
from multifd_proto.views.summary import Summary
from multifd_proto.wire.dialect import describe

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch

_ROUNDS = 60
_EXAMPLES = 5
_E = TypeVar("_E", bound=Event)


class LiveChecker(Checker):
    """Judges as `Checker` does, and sums up what it judges."""

    def __init__(
        self, parameters: MigrationParameters | None = None, bounds: Bounds | None = None
    ) -> None:
        super().__init__(parameters, bounds)
        self._summary = Summary()

    def judge(self, peer: ChannelInfo | MainInfo, events: Iterable[Event]) -> None:
        """Judge the next events of a connection, and count them."""
        if isinstance(peer, ChannelInfo):
            events = self._counted(peer.stream, events)
        super().judge(peer, events)

    def judge_batch(self, batch: PacketBatch) -> None:
        """Judge packets of channels, and count them."""
        super().judge_batch(batch)
        self._summary.add_batch(batch)

    def _counted(self, stream: int, events: Iterable[_E]) -> Iterator[_E]:
        for event in events:
            yield event
            self._summary.add(stream, event)

    def so_far(self) -> Judged:
        """Return what is known so far; requirements on the whole migration are still open."""
        migration, report = self.migration, self.report()
        summary = self._summary
        rounds = sorted(summary.rounds.items())[-_ROUNDS:]
        return Judged(
            packets=summary.total.packets,
            passed=len(report.of(Verdict.PASSED)),
            findings=findings(report),
            fits=describe(frozenset(report.candidates)),
            rounds=tuple(
                LiveRound(
                    number, part.seconds, part.packets, part.normal, part.zero, part.resent,
                    part.payload,
                )
                for number, part in rounds
            ),
            seconds=summary.total.seconds,
            resent=summary.total.resent,
            at_least=summary.pages_full,
            marks=migration.main.marks if migration.main else 0,
        )  # fmt: skip


def concluded(judged: Judged, report: Report) -> Judged:
    """Return what was judged, with the verdict on the whole migration."""
    passed = len(report.of(Verdict.PASSED))
    return replace(judged, findings=findings(report), passed=passed)


def findings(report: Report) -> tuple[Finding, ...]:
    """Return what does not hold, violations of a MUST first, known deviations last."""
    failed, known = report.of(Verdict.FAILED), report.of(Verdict.DEVIATION)
    failed.sort(key=lambda result: result.requirement.level.value != "MUST")
    return tuple(_finding(result, known=False) for result in failed) + tuple(
        _finding(result, known=True) for result in known
    )


def _finding(result: Result, *, known: bool) -> Finding:
    return Finding(
        id=result.requirement.id,
        level=result.requirement.level.value,
        known=result.quirk.reason if known and result.quirk else "",
        count=result.count,
        examples=tuple(f"{v.place}: {v.message}" for v in result.violations[:_EXAMPLES]),
    )
