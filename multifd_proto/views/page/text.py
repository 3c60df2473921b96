"""The story of a migration in words, and the tables beside its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

from multifd_proto.machine.events import ChannelState
from multifd_proto.views.page.facts import ChannelFacts, Facts, Outcome, bits, plural, seconds
from multifd_proto.views.page.finding import Finding
from multifd_proto.views.page.grid import Grid
from multifd_proto.views.summary import size

_SLICES = 20
_CHANNELS = 16


def headline(facts: Facts, found: Sequence[Finding]) -> str:
    """Return how the migration ended, in a few words."""
    said = facts.outcome.value
    if facts.seconds and facts.outcome is Outcome.COMPLETED:
        said += f" in {seconds(facts.seconds)}"
    elif facts.seconds and facts.outcome is Outcome.FAILED:
        said += f", ended after {seconds(facts.seconds)}"
    short = list(dict.fromkeys(finding.short for finding in found if finding.short))
    return f"{said}: {', '.join(short[:2])}" if short else said


def ends(facts: Facts) -> str:
    """Return who migrated to whom."""
    source, destination = facts.session.source, facts.session.destination
    return f"{source.host} to {destination}" if source else "raw dumps"


def story(facts: Facts) -> Iterator[str]:
    """Yield the sentences of what happened."""
    total, migration = facts.total, facts.session.checker.migration
    when = ""
    if facts.collected.first:
        day = datetime.fromtimestamp(facts.collected.first // 10**9, UTC)
        when = f", {seconds(facts.seconds)} from {day:%Y-%m-%d %H:%M:%S} UTC on"
    main = "and the main stream" if migration.main else "(the main stream was not captured)"
    yield f"{ends(facts)}, over {plural(len(facts.channels), 'channel')} {main}{when}."
    zero = total.zero + facts.collected.main_zero.total()
    yield (
        f"{plural(facts.pages, 'page')} of {size(facts.page_size)} went in "
        f"{plural(facts.rounds, 'round')}: {total.normal:,} with content, as "
        f"{size(total.payload)} of payload (method {facts.method}), and {zero:,} of zeros."
    )
    if migration.decrypted:
        yield "Its connections are encrypted (TLS), and were decrypted to be read."
    if total.device_state:
        yield f"The channels carried {size(total.device_state)} of device state as well."
    if facts.seconds:
        yield f"That is {bits(total.payload, facts.seconds)} on average."
    yield f"The bytes fit QEMU {facts.fits}; they are judged as {facts.report.dialect.name}."
    if migration.first_init:
        yield f"The machine's UUID is {UUID(bytes=migration.first_init.init.uuid)}."


def ended(channel: ChannelFacts) -> str:
    """Return how a channel ended."""
    end = channel.info.ended
    if end is None:
        return "still open"
    if end.reset:
        return f"reset by the {'destination' if end.by_peer else 'source'}"
    return "closed" if end.state is ChannelState.AWAIT_HEADER and not end.due else "closed early"


def slices(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of throughput over time."""
    collected = facts.collected
    grid = Grid.over(collected.lanes.values(), collected.first, collected.last, _SLICES)
    few = facts.channels[:_CHANNELS] if len(facts.channels) <= _CHANNELS else []
    columns = [grid.rates(collected.lanes.get(c.info.stream)) for c in few]
    every = [grid.rates(collected.lanes.get(c.info.stream)) for c in facts.channels]
    columns.append([sum(rates) for rates in zip(*every, strict=True)])
    head = ["seconds", *(c.name for c in few), "all channels"]
    return head, [
        [f"{middle:.2f}", *(f"{rate:,.1f}" for rate in rates)]
        for middle, *rates in zip(grid.middles(collected.first), *columns, strict=True)
    ]
