"""The facts of one migration, as they stand when all of a capture has been read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from multifd_proto.capture.info import CaptureInfo
from multifd_proto.capture.session import Connection, Session
from multifd_proto.machine.migration import ChannelInfo
from multifd_proto.machine.verdict import Report
from multifd_proto.views.page.collect import Collector
from multifd_proto.views.summary import Traffic
from multifd_proto.wire.dialect import describe

MAX_CHANNELS = 255


class Outcome(Enum):
    """How a migration ended, as far as the source's bytes show it."""

    COMPLETED = "Completed"
    POSTCOPY = "Switched to postcopy"
    FAILED = "Did not complete"
    CUT = "Not seen to its end"
    UNKNOWN = "Outcome unknown"


@dataclass
class Pass:
    """Rounds in which a page is sent at most once: one walk over the memory that is dirty."""

    first_round: int
    last_round: int
    traffic: Traffic
    main_zero: int
    """Pages of zeros in the main stream."""
    until: int = 0
    """When the next one began; 0 for the last."""

    @property
    def pages(self) -> int:
        """Pages sent in it."""
        return self.traffic.normal + self.traffic.zero + self.main_zero

    @property
    def seconds(self) -> float:
        """Seconds until the next pass began, or until its own last byte."""
        return (max(self.until, self.traffic.last) - self.traffic.first) / 1e9

    @property
    def label(self) -> str:
        """Its rounds."""
        first, last = self.first_round, self.last_round
        return str(first) if first == last else f"{first} to {last}"


@dataclass
class ChannelFacts:
    """One channel."""

    name: str
    info: ChannelInfo
    connection: Connection
    traffic: Traffic
    share: float
    """Part of all channels' payload."""


@dataclass
class Facts:
    """What is known of one migration."""

    name: str
    """How the page calls it."""
    files: tuple[str, ...]
    info: CaptureInfo
    session: Session
    collected: Collector
    report: Report
    encrypted: int = 0
    """Connections of the capture that are encrypted."""
    options: str = ""
    """What the commands that the page names have to be told as well."""
    channels: list[ChannelFacts] = field(init=False)
    passes: list[Pass] = field(init=False)

    def __post_init__(self) -> None:
        """Derive what is asked for more than once."""
        self.channels = sorted(self._channels(), key=lambda c: (c.info.id is None, c.info.id or 0))
        self.passes = [p for p in self._passes() if p.pages]
        for one, following in zip(self.passes, self.passes[1:], strict=False):
            one.until = following.traffic.first

    @property
    def shown(self) -> list[ChannelFacts]:
        """Channels that have a row of their own: as many as QEMU can have, and no more."""
        return self.channels[:MAX_CHANNELS]

    @property
    def total(self) -> Traffic:
        """What all channels carried."""
        return self.collected.summary.total

    @property
    def seconds(self) -> float:
        """Seconds from the first to the last byte of all connections."""
        return (self.collected.last - self.collected.first) / 1e9

    @property
    def pages(self) -> int:
        """Pages sent, those of zeros in the main stream included."""
        total = self.total
        return total.normal + total.zero + self.collected.main_zero.total()

    @property
    def page_size(self) -> int:
        """Target page size in bytes; the smallest of most targets where unknown."""
        return self.session.checker.migration.page_size or 4096

    @property
    def method(self) -> str:
        """Payload method."""
        method = self.session.checker.migration.method
        return method.name if method else "unknown"

    @property
    def fits(self) -> str:
        """QEMU releases that fit."""
        return describe(frozenset(self.report.candidates))

    @property
    def rounds(self) -> int:
        """Rounds that carried pages."""
        return sum(1 for t in self.collected.summary.rounds.values() if t.normal + t.zero)

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        main = self.session.checker.migration.main
        if main is None:
            return Outcome.UNKNOWN
        if main.postcopy:
            return Outcome.POSTCOPY
        if self.collected.ended:
            return Outcome.COMPLETED
        if self.collected.main_gap:
            return Outcome.UNKNOWN
        own = [c for c in self.session.connections if c.half.stream == main.stream]
        return Outcome.CUT if own and not own[0].ends else Outcome.FAILED

    def channel_of(self, stream: int) -> str:
        """Return what a connection is called."""
        for channel in self.channels:
            if channel.info.stream == stream:
                return channel.name
        main = self.session.checker.migration.main
        return "main stream" if main and main.stream == stream else f"stream {stream}"

    def _channels(self) -> Iterator[ChannelFacts]:
        summary = self.collected.summary
        for connection in self.session.connections:
            peer = connection.peer
            if not isinstance(peer, ChannelInfo):
                continue
            traffic = summary.channels.get(peer.stream, Traffic())
            share = traffic.payload / summary.total.payload if summary.total.payload else 0.0
            name = f"stream {peer.stream}" if peer.id is None else f"channel {peer.id}"
            yield ChannelFacts(name, peer, connection, traffic, share)

    def _passes(self) -> Iterator[Pass]:
        """Cut the rounds into passes: where the main stream marks them, each round is one."""
        main, collected = self.session.checker.migration.main, self.collected
        starts = set(collected.passes)
        current: Pass | None = None
        for number, traffic in sorted(collected.summary.rounds.items()):
            zero = collected.main_zero.get(number, 0)
            if current is None or number in starts or (main and main.flushes):
                if current:
                    yield current
                current = Pass(number, number, merged([traffic]), zero)
            else:
                current.last_round = number
                current.traffic = merged([current.traffic, traffic])
                current.main_zero += zero
        if current:
            yield current


_COUNTS = ("packets", "syncs", "normal", "zero", "resent", "payload", "device_state", "missing")


def merged(parts: Sequence[Traffic]) -> Traffic:
    """Return the sum of what was sent in several parts."""
    whole = Traffic(**{name: sum(getattr(p, name) for p in parts) for name in _COUNTS})
    for part in parts:
        whole.gaps += part.gaps
        whole.at(part.first)
        whole.at(part.last)
    return whole


def grouped(passes: Sequence[Pass], limit: int) -> list[Pass]:
    """Return at most `limit` passes, neighbours taken together where there are more."""
    step = -(-len(passes) // limit) or 1
    out = []
    for start in range(0, len(passes), step):
        group = passes[start : start + step]
        out.append(
            Pass(
                group[0].first_round,
                group[-1].last_round,
                merged([p.traffic for p in group]),
                sum(p.main_zero for p in group),
                group[-1].until,
            )
        )
    return out


def plural(count: int, noun: str) -> str:
    """Say a number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds(count: float) -> str:
    """Say a length of time."""
    if count >= 120:
        return f"{count // 60:.0f} min {count % 60:.0f} s"
    if count >= 10:
        return f"{count:.1f} s"
    if count >= 1:
        return f"{count:.2f} s"
    return f"{count * 1e3:.0f} ms" if count >= 0.001 else f"{count * 1e6:.0f} µs"


def bits(count: float, over: float) -> str:
    """Say a rate, of bytes over seconds, in bits a second."""
    if over <= 0:
        return "-"
    rate = count * 8 / over
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if rate < 1000:
            return f"{rate:.0f} {unit}"
        rate /= 1000
    return f"{rate:.2f} Gbit/s"
