"""The figures of one migration."""

from __future__ import annotations

from multifd_proto.views.page.drawing import Figure
from multifd_proto.views.page.facts import Facts
from multifd_proto.views.page.in_sum import balance, dirty, rates
from multifd_proto.views.page.over_time import throughput, timeline


def figures(facts: Facts) -> dict[str, Figure]:
    """Return the figures of one migration by name, those that there is anything to draw of."""
    out: dict[str, Figure] = {}
    if facts.channels and facts.seconds:
        out |= {"timeline": timeline(facts), "throughput": throughput(facts)}
    if len(facts.channels) > 1 and facts.total.payload:
        out["balance"] = balance(facts)
    if facts.passes:
        out["dirty"] = dirty(facts)
    if len(facts.passes) > 1 and facts.seconds:
        out["rates"] = rates(facts)
    return out
