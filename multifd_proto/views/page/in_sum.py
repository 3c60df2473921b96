"""Figures in sum: by channel, and by pass over the memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from multifd_proto.views.page.drawing import LINES, MAX_PASSES, Figure, axis, figure, pass_text
from multifd_proto.views.page.facts import ChannelFacts, Facts, grouped

MAX_BARS = 64
_BRIEF = 0.05  # seconds of a pass that are too few to tell a rate of dirtying from


def balance(facts: Facts) -> Figure:
    """Return the payload of each channel, beside what an even share would be."""
    bars: list[ChannelFacts] = facts.channels
    if len(bars) > MAX_BARS:
        bars = sorted(bars, key=lambda c: -c.share)[:MAX_BARS]
    mib = [round(c.traffic.payload / 2**20, 3) for c in bars]
    fair = facts.total.payload / len(facts.channels) / 2**20
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [c.name for c in bars],
        "x": mib,
        "customdata": [[f"{c.share:.1%}", c.traffic.packets] for c in bars],
        "marker": {"color": "var(--s0)"},
        "hovertemplate": "<b>%{y}</b><br>%{x:,.1f} MiB, %{customdata[0]} of all"
        "<br>%{customdata[1]:,} packets<extra></extra>",
    }
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": fair, "x1": fair}
    return figure(
        [bar],
        min(680, 110 + 28 * len(bars)),
        xaxis=axis("MiB of payload", rangemode="tozero"),
        yaxis={"type": "category", "autorange": "reversed"},
        shapes=[{**line, "line": {"color": "var(--ink)", "dash": "dash", "width": 1.5}}],
        annotations=[
            {
                "x": fair,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "text": "even share",
                "showarrow": False,
            }
        ],
        showlegend=False,
    )


def dirty(facts: Facts) -> Figure:
    """Return the pages of each pass: for the first time, or again because the guest wrote them."""
    passes = grouped(facts.passes, MAX_PASSES)
    parts = [
        ("for the first time", "var(--s0)", [p.traffic.normal + p.traffic.zero for p in passes]),
        ("again", "var(--s1)", [p.traffic.resent for p in passes]),
        ("zeros, in the main stream", "var(--s2)", [p.main_zero for p in passes]),
    ]
    again = parts[1][2]
    parts[0][2][:] = [count - sent for count, sent in zip(parts[0][2], again, strict=True)]
    data = [
        {
            "type": "bar",
            "name": name,
            "x": [p.label for p in passes],
            "y": counts,
            "text": [pass_text(p) for p in passes],
            "textposition": "none",
            "marker": {"color": colour},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for name, colour, counts in parts
        if any(counts)
    ]
    return figure(
        data, 320, barmode="stack", xaxis=axis("round", type="category"), yaxis=axis("pages")
    )


def rates(facts: Facts) -> Figure:
    """Return how fast memory was sent in each pass, and how fast the guest dirtied it meanwhile."""
    passes, unit = grouped(facts.passes, MAX_PASSES), facts.page_size * 8 / 1e6
    sent = [(p.label, round(p.pages * unit / p.seconds, 3)) for p in passes if p.seconds]
    dirtied = [
        (p.label, round(following.pages * unit / p.seconds, 3))
        for p, following in pairwise(passes)
        if p.seconds > _BRIEF
    ]
    values = [value for _, value in sent + dirtied if value]
    wide = bool(values) and max(values) > 30 * min(values)
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [label for label, _ in points],
            "y": [value for _, value in points],
            "line": {"color": colour, "width": 2, "dash": dash},
            "marker": {"symbol": symbol, "size": 8},
            "hovertemplate": "%{y:,.4~r} Mbit/s",
        }
        for name, points, colour, dash, symbol in (
            ("sent", sent, "var(--s0)", "solid", "circle"),
            ("dirtied meanwhile", dirtied, "var(--s1)", "dash", "diamond"),
        )
    ]
    return figure(
        data,
        300,
        xaxis=axis("round", type="category"),
        yaxis=axis("Mbit/s", **({"type": "log", "dtick": 1} if wide else {"rangemode": "tozero"})),
        hovermode="x unified",
    )


def compared_passes(all_facts: Sequence[Facts]) -> Figure:
    """Return the pages of each pass of several migrations: those that converge go down."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": facts.name,
            "x": list(range(1, len(facts.passes) + 1))[:MAX_PASSES],
            "y": [p.pages for p in facts.passes][:MAX_PASSES],
            "line": {"width": 2, "color": f"var(--s{n % (LINES + 1)})"},
            "hovertemplate": "%{y:,} pages",
        }
        for n, facts in enumerate(all_facts)
    ]
    return figure(
        data, 300, xaxis=axis("pass over the memory"), yaxis=axis("pages", type="log", dtick="D2"),
        hovermode="x unified",
    )  # fmt: skip
