"""What went wrong: how connections ended, what was violated, what is not there."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.events import ChannelState, Ended
from multifd_proto.machine.verdict import Result, Verdict
from multifd_proto.views.messages import clock
from multifd_proto.views.page.facts import ChannelFacts, Facts, Outcome, plural, seconds
from multifd_proto.views.page.finding import Finding, Step, command, listed
from multifd_proto.views.summary import size
from multifd_proto.wire.requirements import Level

_TOLD = 2  # violations whose message is named as a command line


# ---- how it ended --------------------------------------------------------------------------------


def ends(facts: Facts) -> Iterator[Finding]:
    """Connections that ended where they may not."""
    broken: dict[str, list[ChannelFacts]] = {}
    for channel in facts.channels:
        end = channel.info.ended
        if end and (end.reset or (end.due and end.state is not ChannelState.LOST)):
            broken.setdefault(_how(end), []).append(channel)
    for how, channels in broken.items():
        syncs = {c.traffic.syncs for c in channels}
        after = f" after SYNC {min(syncs)}" if len(syncs) == 1 else ""
        due = sum(c.info.ended.due for c in channels if c.info.ended)
        inside = f", in the middle of a message: {size(due)} were still due" if due else ""
        first = min(channels, key=lambda c: c.info.ended.time if c.info.ended else 0)
        at = first.info.ended.time if first.info.ended else 0
        yield Finding(
            "bad",
            how,
            f"{_names(facts, channels)} {how}{after} at {clock(at)}{inside}.",
            "channels",
            tuple(_after_end(facts, first, how)),
        )


def _how(end: Ended) -> str:
    if end.reset:
        return "reset by the destination" if end.by_peer else "reset by the source"
    return "ended by the source too early"


def _after_end(facts: Facts, channel: ChannelFacts, how: str) -> Iterator[Step]:
    which = "destination" if "destination" in how else "source"
    why = "what QEMU printed when it ended, and whether it was killed (out of memory, timeout)"
    yield Step(which, f"Read QEMU's log: {why}. On the source: query-migrate's error-desc.")
    id_ = channel.info.id
    where = f"tcp {channel.info.stream}" if id_ is None else f"ch {id_}"
    last = command(facts, "decode", f" | grep '{where} ' | tail -5")
    yield Step("here", f"See the last messages of {channel.name}.", last)


def outcome(facts: Facts) -> Iterator[Finding]:
    """Whether the guest can run at the destination."""
    main = facts.session.checker.migration.main
    match facts.outcome:
        case Outcome.FAILED:
            lacks = "the device state" if main and main.ram_ended else "the end of the guest's RAM"
            yield Finding(
                "bad", "", f"The main stream ends without {lacks}: no guest can run on it."
            )
        case Outcome.CUT:
            yield Finding(
                "odd",
                "",
                "The capture ends before the main stream does: how it went on is not known.",
                steps=(Step("capture", "Capture until both QEMUs say how the migration ended."),),
            )
        case Outcome.UNKNOWN:
            lacks = "The main stream is not" if main is None else "Part of the main stream is not"
            yield Finding(
                "odd",
                "main stream not captured" if main is None else "",
                f"{lacks} in the capture, so nothing says whether it completed.",
                steps=(
                    Step("capture", "Start before the migration; the main stream comes first."),
                ),
            )
        case _:
            pass
    silence = (facts.info.last or 0) - facts.collected.last
    if facts.outcome is not Outcome.COMPLETED and silence > 5e9 and facts.collected.last:
        text = f"Nothing came for the last {seconds(silence / 1e9)} of the capture."
        yield Finding("odd", "silent", text)


# ---- what the requirements say -------------------------------------------------------------------


def violations(facts: Facts) -> Iterator[Finding]:
    """Requirements that the sender did not keep."""
    failed = sorted(facts.report.of(Verdict.FAILED), key=lambda r: r.requirement.level.value)
    own = [result for result in failed if not _follows(facts, result)]
    for result in failed:
        requirement, first = result.requirement, result.violations[0]
        must = requirement.level is Level.MUST
        follows = "" if result in own else " It follows from the reset, which came first."
        yield Finding(
            "bad" if must else "odd",
            "with violations" if must and result in own else "",
            f"{requirement.id} {requirement.slug} is violated {plural(result.count, 'time')}, "
            f"first at {first.place}: {first.message}.{follows}",
            "violations",
            tuple(_after_violations(facts, own)) if own and result is own[0] else (),
        )
    known = facts.report.of(Verdict.DEVIATION)
    if known:
        ids = ", ".join(r.requirement.id for r in known)
        text = f"{plural(len(known), 'known deviation')} of these releases ({ids}): no harm."
        yield Finding("note", "", text, "violations")


def _follows(facts: Facts, result: Result) -> bool:
    """Tell whether a stream is violated only because the destination has reset the channels."""
    resets = [c.info.ended.time for c in facts.channels if c.info.ended and c.info.ended.by_peer]
    return bool(resets) and all(v.time >= min(resets) for v in result.violations)


def _after_violations(facts: Facts, failed: list[Result]) -> Iterator[Step]:
    text = "What it sends must be changed; here is what is demanded:"
    yield Step("source", text, requirements=tuple(r.requirement.id for r in failed))
    yield Step("here", "See every violation, and the chapter to read.", command(facts, "check"))
    for result in failed[:_TOLD]:
        first = result.violations[0]
        if first.offset is not None:
            tail = f" | grep -F '@{first.offset:#011x}'"
            id_, text = result.requirement.id, f"that violates {result.requirement.id} first"
            yield Step("here", f"See the message {text}.", command(facts, "decode", tail), (id_,))


# ---- what is not there ---------------------------------------------------------------------------


def losses(facts: Facts) -> Iterator[Finding]:
    """Bytes that the capture lacks."""
    migration = facts.session.checker.migration
    better = "Capture again: tcpdump -s 0 -B 65536, on a host that is not busy with the capture."
    if migration.missing:
        text = f"{size(migration.missing)} in {plural(migration.gaps, 'gap')} were not captured"
        why = "what they hide is not judged and not counted"
        yield Finding(
            "odd", "bytes not captured", f"{text}: {why}.", "gaps", (Step("capture", better),)
        )
    if facts.info.drops:
        text = f"The capturing kernel dropped {plural(facts.info.drops, 'packet')}."
        yield Finding("odd", "bytes not captured", text, "", (Step("capture", better),))
    for message in facts.info.truncated:
        yield Finding("odd", "capture cut", f"The capture is cut: {message}.")
    holes = migration.numbers.missing_count()
    if holes and not migration.missing:
        yield Finding("note", "", f"{plural(holes, 'packet number')} never came.", "channels")
    ids = {c.info.id for c in facts.channels if c.info.id is not None}
    absent = sorted(set(range(max(ids, default=-1) + 1)) - ids)
    if absent:
        said = ", ".join(map(str, absent[:8]))
        text = f"No channel with id {said} is in the capture."
        yield Finding("odd", "a channel is missing", text, "channels")
    if facts.encrypted:
        text = f"{plural(facts.encrypted, 'connection')} of the capture are encrypted (TLS)"
        step = Step("capture", "Give the secrets of the connections: --keylog FILE.")
        yield Finding("odd", "encrypted", f"{text}: their bytes tell nothing.", "", (step,))


def _names(facts: Facts, channels: list[ChannelFacts]) -> str:
    said = listed([c.name for c in channels], len(facts.channels))
    return f"{said} {'was' if len(channels) == 1 else 'were'}"
