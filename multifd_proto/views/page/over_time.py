"""Figures over time: when, and how fast."""

from __future__ import annotations

from collections.abc import Sequence

from multifd_proto.views.page.drawing import (
    FROM_START,
    LINES,
    MAX_PASSES,
    Figure,
    axis,
    calm_grid,
    figure,
    grid,
    pass_text,
)
from multifd_proto.views.page.facts import Facts, grouped, seconds
from multifd_proto.views.summary import Timeline

MAX_STALLS = 40


def timeline(facts: Facts) -> Figure:
    """Return when each connection carried bytes, with rounds above, SYNCs and stalls in it."""
    collected, columns = facts.collected, grid(facts)
    rows = _rows(facts)
    names = [name for name, _ in rows]
    heat = {
        "type": "heatmap",
        "x": columns.middles(collected.first),
        "y": names,
        "z": [[rate or None for rate in columns.rates(lane)] for _, lane in rows],
        "colorscale": [[0, "var(--h0)"], [0.5, "var(--h1)"], [1, "var(--h2)"]],
        "colorbar": {"title": {"text": "Mbit/s"}, "thickness": 10, "len": 0.7, "y": 0.4},
        "hovertemplate": "<b>%{y}</b>, %{x:.2f} s<br>%{z:.4~r} Mbit/s<extra></extra>",
        "hoverongaps": False,
        "ygap": 2,
        "yaxis": "y",
    }
    height = min(680, 190 + 26 * len(rows))
    return figure(
        [heat, *_bands(facts), _syncs(facts), *_stalls(facts)],
        height,
        xaxis=axis(FROM_START, range=[0, facts.seconds]),
        margin={"l": 10, "r": 10, "t": 10, "b": 40},
        yaxis={"type": "category", "autorange": "reversed", "domain": [0, 0.84], "showgrid": False},
        yaxis2={"domain": [0.88, 1], "showgrid": False, "fixedrange": True},
        barmode="overlay",
        showlegend=False,
        hovermode="closest",
    )


def _rows(facts: Facts) -> list[tuple[str, Timeline | None]]:
    """Return the name and the bytes of each connection, the main stream first."""
    lanes = facts.collected.lanes
    rows = [(c.name, lanes.get(c.info.stream)) for c in facts.shown]
    main = facts.session.checker.migration.main
    return [("main stream", lanes.get(main.stream)), *rows] if main else rows


def _bands(facts: Facts) -> list[Figure]:
    """Return the passes over the memory as bands, in two shades by turns."""
    passes = grouped(facts.passes, MAX_PASSES)
    zero = facts.collected.first
    return [
        {
            "type": "bar",
            "orientation": "h",
            "yaxis": "y2",
            "y": ["rounds"] * len(passes[shade::2]),
            "base": [round((p.traffic.first - zero) / 1e9, 4) for p in passes[shade::2]],
            "x": [round(p.seconds, 4) for p in passes[shade::2]],
            "text": [pass_text(p) for p in passes[shade::2]],
            "textposition": "none",
            "marker": {"color": f"var(--band{shade})"},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for shade in (0, 1)
    ]


def _syncs(facts: Facts) -> Figure:
    """Return a mark for each column of time in which a channel sent a SYNC."""
    columns, x, y, text = grid(facts), [], [], []
    middles = columns.middles(facts.collected.first)
    for channel in facts.shown:
        for place, count in enumerate(
            columns.counts(facts.collected.syncs.get(channel.info.stream))
        ):
            if count:
                x.append(middles[place])
                y.append(channel.name)
                text.append("SYNC" if count == 1 else f"{count} SYNCs")
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "text": text,
        "marker": {
            "symbol": "line-ns-open",
            "size": 9,
            "line": {"width": 1.5},
            "color": "var(--ink)",
        },
        "hovertemplate": "<b>%{y}</b>: %{text} at %{x:.2f} s<extra></extra>",
    }


def _stalls(facts: Facts) -> list[Figure]:
    zero = facts.collected.first
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [round((s.start - zero) / 1e9, 4), round((s.end - zero) / 1e9, 4)],
            "y": [facts.channel_of(s.stream)] * 2,
            "line": {"color": "var(--bad)", "width": 5, "dash": "dot"},
            "hovertemplate": f"stalled {seconds(s.length / 1e9)}<extra></extra>",
        }
        for s in sorted(facts.collected.stalls, reverse=True)[:MAX_STALLS]
    ]


def throughput(facts: Facts) -> Figure:
    """Return how fast each channel was, one on top of the other: the top is the sum."""
    columns, lanes = calm_grid(facts), facts.collected.lanes
    x = columns.middles(facts.collected.first)
    ranked = sorted(facts.channels, key=lambda c: -c.share)
    alone = [c for c in facts.channels if c in ranked[:LINES]]
    series = [(c.name, columns.rates(lanes.get(c.info.stream))) for c in alone]
    if rest := ranked[LINES:]:
        parts = [columns.rates(lanes.get(c.info.stream)) for c in rest]
        series.append((f"{len(rest)} others", [round(sum(p), 3) for p in zip(*parts, strict=True)]))
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": x,
            "y": values,
            "stackgroup": "all",
            "line": {"width": 0.5, "shape": "hvh", "color": f"var(--s{n})"},
            "fillcolor": f"var(--s{n})",
            "hovertemplate": "%{y:.4~r} Mbit/s",
        }
        for n, (name, values) in enumerate(series)
    ]
    return figure(
        data, 320, xaxis=axis(FROM_START), yaxis=axis("Mbit/s", rangemode="tozero"),
        hovermode="x unified",
    )  # fmt: skip


def compared(all_facts: Sequence[Facts]) -> Figure:
    """Return the throughput of several migrations, each from its own first byte on."""
    data = []
    for n, facts in enumerate(all_facts):
        columns = calm_grid(facts)
        lanes = [columns.rates(lane) for lane in facts.collected.lanes.values()]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": facts.name,
                "x": columns.middles(facts.collected.first),
                "y": [round(sum(column), 3) for column in zip(*lanes, strict=True)],
                "line": {"width": 2, "shape": "hvh", "color": f"var(--s{n % (LINES + 1)})"},
                "hovertemplate": "%{y:.4~r} Mbit/s",
            }
        )
    return figure(
        data, 320, xaxis=axis(FROM_START), yaxis=axis("Mbit/s", rangemode="tozero"),
        hovermode="x unified",
    )  # fmt: skip
