"""Why it was slow: stalls, balance, memory that is dirtied as fast as it is sent."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.views.messages import clock
from multifd_proto.views.page.collect import Stall
from multifd_proto.views.page.facts import Facts, Outcome, Pass, bits, seconds
from multifd_proto.views.page.finding import Finding, Step, listed
from multifd_proto.views.summary import size

DEFAULT_BANDWIDTH = 128 << 20
"""Bytes a second of QEMU's own `max-bandwidth`."""
_UNEVEN = 8 << 20  # bytes of payload from which on balance means anything
_FEW = 64  # pages that are no sign of anything
_STUCK = 4  # passes of like size in a row


def stalls(facts: Facts) -> Iterator[Finding]:
    """Times in which channels stood still."""
    groups = stalls_together(facts)
    for group in groups[:3]:
        longest = max(group)
        names = {stall.stream: facts.channel_of(stall.stream) for stall in group}
        who = listed(list(names.values()), len(facts.channels))
        inside = sum(stall.inside for stall in group)
        what = "in the middle of a packet" if inside else "between packets"
        if 0 < inside < len(group):
            what = f"{inside} of them {what}"
        yield Finding(
            "odd",
            "stalled",
            f"{who} stalled {seconds(longest.length / 1e9)} at {clock(longest.start)}, {what}, "
            f"in round {longest.round}.",
            "stalls",
            tuple(_after_stall(inside > 0)),
        )
    if len(groups) > 3:
        yield Finding("odd", "stalled", f"{len(groups) - 3} more stalls were shorter.", "stalls")


def _after_stall(inside: bool) -> Iterator[Step]:
    if inside:
        text = "Bytes were due and not taken: see whether QEMU was starved of CPU or memory then"
        yield Step("destination", f"{text} (a stopped process, swapping, a full disk).")
        yield Step("network", "See whether segments were lost or sent again at that time.")
    else:
        text = "Nothing was begun: see whether the source was starved, waited for a SYNC of"
        yield Step("source", f"{text} another channel, or was held back by max-bandwidth.")


def stalls_together(facts: Facts) -> list[list[Stall]]:
    """Return stalls in groups of those that happened at the same time, the longest first."""
    groups: list[list[Stall]] = []
    for stall in sorted(facts.collected.stalls, key=lambda s: s.start):
        last = groups[-1] if groups else []
        if last and stall.start < max(s.end for s in last) - stall.length // 2:
            last.append(stall)
        else:
            groups.append([stall])
    return sorted(groups, key=max, reverse=True)


def balance(facts: Facts) -> Iterator[Finding]:
    """A channel that had most of the work."""
    if len(facts.channels) < 2 or facts.total.payload < _UNEVEN:
        return
    most = max(facts.channels, key=lambda c: c.share)
    fair = 1 / len(facts.channels)
    if most.share < fair + max(0.15, fair / 2):
        return
    yield Finding(
        "odd",
        "one channel had most of the work",
        f"One channel carried {most.share:.0%} of the bytes: {most.name}, one of "
        f"{len(facts.channels)}, whose fair share is {fair:.0%}.",
        "balance",
        (
            Step("destination", "See whether the threads of the other channels had CPU time."),
            Step("network", "See whether the connections take one path (bonding, ECMP)."),
        ),
    )


def convergence(facts: Facts) -> Iterator[Finding]:
    """Passes over the memory that do not get shorter."""
    stuck = stuck_passes(facts)
    if not stuck:
        return
    least, most = min(p.pages for p in stuck), max(p.pages for p in stuck)
    where = f"rounds {stuck[0].first_round} to {stuck[-1].last_round}"
    time = sum(p.seconds for p in stuck)
    moved = bits(sum(p.pages for p in stuck) * facts.page_size, time)
    did = "did" if facts.outcome is Outcome.COMPLETED else "does"
    yield Finding(
        "odd",
        f"{did} not converge",
        f"It {did} not converge: {where} are {len(stuck)} passes over the "
        f"memory, and each sent about as many pages as the one before ({least:,} to {most:,}). "
        f"The guest dirtied memory as fast as it was sent, {moved}.",
        "dirty",
        (
            Step(
                "source",
                "Raise max-bandwidth if the network has more, or multifd-channels if a core is "
                "busy; else slow the guest down (auto-converge, dirty-limit), allow a longer "
                "downtime-limit, or use postcopy.",
            ),
        ),
    )


def stuck_passes(facts: Facts) -> list[Pass]:
    """Return the longest run of passes none of which is half as long as the first of them."""
    passes, start, best = facts.passes[1:], 0, (0, 0)
    for place, one in enumerate(passes):
        if one.pages * 2 < passes[start].pages:
            start = place
        best = max(best, (start, place + 1), key=lambda run: run[1] - run[0])
    found = passes[slice(*best)]
    return found if len(found) >= _STUCK and found[0].pages >= _FEW else []


def again(facts: Facts) -> Iterator[Finding]:
    """Memory that was sent more than once."""
    count = facts.total.resent
    if facts.pages and count / facts.pages >= 0.1:
        least = "at least " if facts.collected.summary.pages_full else ""
        text = f"{least}{count / facts.pages:.0%} of the pages had been sent before"
        text += f" ({count:,} of {facts.pages:,}): the guest changed them meanwhile.{_hot(facts)}"
        yield Finding("note", "", text[0].upper() + text[1:], "memory")


def _hot(facts: Facts) -> str:
    """Say how much memory it is that the guest keeps on changing."""
    counts = [(b.total.again, name, b) for name, b in facts.collected.memory.blocks.items()]
    again, name, block = max(counts, default=(0, b"", None))
    if not again or block is None:
        return ""
    most, wanted, cells = 0, again * 9 // 10, 0
    for cell in sorted(block.cells.values(), key=lambda cell: -cell.again):
        if most >= wanted:
            break
        most, cells = most + cell.again, cells + 1
    said = name.decode("utf-8", "backslashreplace")
    return f" Nine tenths of them are in {size(cells * block.span)} of {said}."


def bandwidth(facts: Facts) -> Iterator[Finding]:
    """A rate that is nothing but the default limit."""
    if not facts.passes or facts.passes[0].seconds < 1:
        return
    rate = facts.passes[0].traffic.payload / facts.passes[0].seconds
    if 0.94 < rate / DEFAULT_BANDWIDTH < 1.03:
        text = "The first pass ran at 128 MiB a second: that is QEMU's default max-bandwidth."
        step = Step("source", "Set the migration parameter max-bandwidth to what may be used.")
        yield Finding("odd", "held by max-bandwidth", text, "throughput", (step,))


def network(facts: Facts) -> Iterator[Finding]:
    """Segments that TCP had to send again."""
    halves = [c.half for c in facts.session.connections]
    again, total = sum(h.retransmitted for h in halves), sum(h.bytes for h in halves)
    if again > total // 1000:
        text = f"TCP sent {size(again)} again ({again / total:.1%} of all)"
        step = Step("network", "Look for loss on the way: ethtool -S, ss -ti, switch counters.")
        yield Finding(
            "odd", "loss on the network", f"{text}: loss on the way.", "channels", (step,)
        )
