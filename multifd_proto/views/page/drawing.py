"""What all figures share: they are plain data for Plotly.

Colours are names of the style sheet's custom properties (`var(--s0)`), which the page's script
replaces by what they are in the scheme that is shown, each time that it changes. Times are seconds
since the migration's first byte, rates Mbit/s. The number of marks is bounded, whatever was
captured.
"""

from __future__ import annotations

from typing import Any

from multifd_proto.views.page.facts import Facts, Pass, seconds
from multifd_proto.views.page.grid import Grid
from multifd_proto.views.summary import size

Figure = dict[str, Any]

COLUMNS = 160
LINES = 8
"""Channels that are drawn on their own; the rest is one line."""
MAX_PASSES = 120
FROM_START = "seconds since the first byte"
_BURST = 0.1


def figure(data: list[Figure], height: int, **layout: Any) -> Figure:
    """Return a figure of some traces; `height` is in CSS pixels."""
    return {"data": data, "layout": {"height": height, **layout}}


def axis(title: str, **more: Any) -> Figure:
    """Return an axis."""
    return {"title": {"text": title}, **more}


def grid(facts: Facts, columns: int = COLUMNS) -> Grid:
    """Return the columns of time of a migration."""
    collected = facts.collected
    return Grid.over(collected.lanes.values(), collected.first, collected.last, columns)


def calm_grid(facts: Facts) -> Grid:
    """Return columns of a tenth of a second and more, where there are enough of them.

    QEMU's limit of bandwidth lets it send in bursts, one each tenth of a second.
    """
    return grid(facts, min(COLUMNS, max(20, int(facts.seconds / _BURST))))


def pass_text(one: Pass) -> str:
    """Return what is said where a pass is pointed at."""
    what = "round" if one.first_round == one.last_round else "rounds"
    traffic = one.traffic
    said = [f"<b>{what} {one.label}</b>, {seconds(one.seconds)}"]
    said.append(f"{one.pages:,} pages, {traffic.resent:,} of them again")
    said.append(f"{traffic.zero + one.main_zero:,} of zeros, {size(traffic.payload)} of payload")
    return "<br>".join(said)
