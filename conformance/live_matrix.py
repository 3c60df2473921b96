"""The kill matrix, live: the suite against peers that are wrong in one way each.

    python -m multifd_proto.conformance.live_matrix [--role receiver|sender] [--json]

For each requirement there is a peer that breaks it alone, `builtin:?broken=ID`: the whole suite
has to fail that requirement on it, and no other. Exit status 0 without holes, 1 with one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from multifd_proto.wire.requirements import Role, load

from .catalogue import asks
from .run import Run, Settings
from .verdict import Verdict

UNBROKEN = "none"
"""The miniature that nothing is wrong with."""
_BAD = frozenset(verdict.value for verdict in (Verdict.FAILED, Verdict.HARNESS_ERROR))


@dataclass(frozen=True)
class Killed:
    """What the suite finds on one broken peer."""

    role: str
    broken: str
    failed: tuple[str, ...]
    """Requirements with a failed case."""
    cases: int
    """Of its own requirement: those that were judged."""
    kills: int
    """Of them: those that failed."""

    @property
    def hole(self) -> str:
        """What is wrong with it, if anything."""
        wanted = () if self.broken == UNBROKEN else (self.broken,)
        return "" if self.failed == wanted else f"fails {', '.join(self.failed) or 'nothing'}"


def broken_peers(role: Role) -> list[str]:
    """Return the requirements that a peer of ours can break; first `none`."""
    shown = (r.id for r in load().values() if r.role is role and r.observable != "none")
    return [UNBROKEN, *shown]


def kill(role: Role, broken: str) -> Killed:
    """Run the whole suite of a role against one broken peer."""
    run = Run(Settings())
    try:
        rows = [run.judge(f"builtin:?broken={broken}", ask) for ask in asks(role).values()]
    finally:
        run.close()
    own = [row for row in rows if row["requirement"] == broken and row["verdict"] in _SAID]
    failed = dict.fromkeys(row["requirement"] for row in rows if row["verdict"] in _BAD)
    kills = sum(row["verdict"] in _BAD for row in own)
    return Killed(role.value, broken, tuple(failed), len(own), kills)


_SAID = _BAD | {Verdict.PASSED.value, Verdict.PASSED_WEAK.value}


def matrix(roles: list[Role], workers: int) -> Iterator[Killed]:
    """Run the suite against all broken peers, several at a time."""
    jobs = [(role, broken) for role in roles for broken in broken_peers(role)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(kill, *zip(*jobs, strict=True))


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description="The kill matrix, live.")
    parser.add_argument("--role", choices=[role.value for role in Role])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    roles = [Role(given.role)] if given.role else list(Role)
    rows = []
    for row in matrix(roles, given.workers):
        rows.append(row)
        if not given.json:
            said = row.hole or (f"{row.kills} of {row.cases} cases" if row.cases else "passes all")
            sys.stdout.write(f"{row.role:<9} {row.broken:<8} {said}\n")
            sys.stdout.flush()
    holes = [row for row in rows if row.hole]
    if given.json:
        sys.stdout.write(json.dumps([vars(row) | {"hole": row.hole or None} for row in rows]))
    else:
        sys.stdout.write(f"{len(rows)} peers, {len(holes)} holes\n")
    sys.exit(1 if holes else 0)


if __name__ == "__main__":
    main()
