"""The three lines that say how a migration stands."""

from __future__ import annotations

from rich.text import Text

from multifd_proto.views.live_history import History
from multifd_proto.views.live_values import Judged, State
from multifd_proto.views.summary import size

_SYMBOLS = {
    State.WAITING: ("○", "yellow"),
    State.RUNNING: ("●", "cyan"),
    State.THROUGH: ("✓", "green"),
    State.BROKEN: ("✗", "bold red"),
}
_BARS = 24
_LATE = 2.0


def header(ends: str, history: History, width: int, *, paused: bool) -> Text:
    """Return who migrates to whom, how it goes, and the verdict so far: three lines.

    Args:
        ends: who to whom.
        history: its last snapshot is shown.
        width: characters of a line.
        paused: the view is.
    """
    lines = [_title(ends, history.now.state, paused), _traffic(history, width), _verdict(history)]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _title(ends: str, state: State, paused: bool) -> Text:
    symbol, style = _SYMBOLS[state]
    text = Text.assemble((f"{symbol} {state.value}", style), "  ", (ends, "bold"))
    if paused:
        text.append("  ‖ paused", "bold reverse")
    return text


def _traffic(history: History, width: int) -> Text:
    now = history.now
    if not now.connections:
        return Text("nobody has connected yet", "dim")
    normal, zero = (sum(getattr(c, of) for c in now.connections) for of in ("normal", "zero"))
    rounds = max(c.syncs for c in now.connections)
    mean = " on the whole" if now.state.over else ""
    speed_ = f"{speed(history.rate())}{mean}"
    rest = f"  {size(history.sent)}  {normal:,} normal {zero:,} zero  round {rounds}"
    text = Text.assemble(f"{clock(history.elapsed)}  ", (speed_, "bold"))
    room = min(width - len(text) - len(rest) - 1, _BARS)
    if room > 0 and not now.state.over:
        text.append(f" {history.bars(None, room)}", "cyan")
    return text.append(rest)


def _verdict(history: History) -> Text:
    now, judged, text = history.now, history.now.judged, Text()
    if now.problems:
        text.append(f"✗ {now.problems[0]}  ", "bold red")
    if any(c.kind == "tls" for c in now.connections):
        return text.append("encrypted (TLS): nothing of it can be judged", "yellow")
    if judged is None or not judged.passed:
        return text.append(
            "nothing was judged" if now.state.over else "nothing is judged yet", "dim"
        )
    text.append(_found(judged, "" if now.state.over else " so far"))
    if now.behind > _LATE:
        text.append(f"  judge {now.behind:.0f} s behind", "yellow")
    text.append(f"  fits QEMU {judged.fits}  {judged.passed} hold", "dim")
    if judged.resent:
        text.append(f"  {'>' if judged.at_least else ''}{judged.resent:,} pages again", "dim")
    return text


def _found(judged: Judged, so_far: str) -> Text:
    violated = [f for f in judged.findings if not f.known and f.level == "MUST"]
    odd = [f for f in judged.findings if not f.known and f.level != "MUST"]
    known = [f for f in judged.findings if f.known]
    text = Text()
    if violated:
        ids = ", ".join(f"{f.id} {f.count}x" for f in violated)
        text.append(f"✗ VIOLATED{so_far}: {ids}", "bold red")
    else:
        text.append(f"✓ nothing is violated{so_far}", "green")
    for findings, mark, style in ((odd, "!", "yellow"), (known, "~", "")):
        if findings:
            ids = ", ".join(f"{f.id} {f.count}x" for f in findings)
            text.append(f"  {mark} {ids}", style)
    return text


def clock(seconds: float) -> str:
    """Say how long it takes, as minutes and seconds."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def speed(rate: float) -> str:
    """Say how many bits a second."""
    return f"{rate / 1e9:,.2f} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:,.1f} Mbit/s"
