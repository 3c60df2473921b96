"""All findings on one migration.

Each finder looks at the facts for one thing. What it says is derived from bytes that were seen: a
finding names place, time and numbers, and its advice names which end to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from multifd_proto.views.page import slow, wrong
from multifd_proto.views.page.facts import Facts
from multifd_proto.views.page.finding import Finding

_FINDERS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    wrong.outcome,
    wrong.ends,
    wrong.violations,
    slow.convergence,
    slow.bandwidth,
    slow.stalls,
    slow.balance,
    slow.network,
    wrong.losses,
    slow.again,
)


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, the gravest first."""
    found = [finding for finder in _FINDERS for finding in finder(facts)]
    return sorted(found, key=lambda f: ("bad", "odd", "note").index(f.weight))
