"""The kill matrix: what keeps each requirement, what violates it, and that it violates no other.

    python -m multifd_proto.conformance.matrix [--json]

Exit status 0 without holes, 1 with one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from multifd_proto.machine.verdict import Verdict
from multifd_proto.wire.requirements import load

from .judge import judge
from .miniatures import BASES
from .violations import VIOLATIONS


@dataclass(frozen=True)
class Cell:
    """One requirement's row of the matrix."""

    requirement: str
    kept_by: str
    """Valid migration in which it was judged and passed."""
    applied: int
    """Events of it that it was judged on."""
    killed: tuple[str, ...]
    """What its miniature was found to violate: itself alone, if all is well."""

    @property
    def hole(self) -> str:
        """What is wrong with it, if anything."""
        if not self.kept_by:
            return "no valid migration exercises it"
        if self.killed != (self.requirement,):
            return f"its miniature violates {', '.join(self.killed) or 'nothing'}"
        return ""


def matrix() -> Iterator[Cell]:
    """Judge all that there is, and yield a row for each requirement that shows on the wire."""
    kept: dict[str, tuple[str, int]] = {}
    for name, make in BASES.items():
        report = judge(make())
        broken = [
            r.requirement.id for r in report.of(Verdict.FAILED) + report.of(Verdict.DEVIATION)
        ]
        assert not broken, f"the valid migration {name} violates {broken}"
        for result in report.of(Verdict.PASSED):
            kept.setdefault(result.requirement.id, (name, result.applied))
    for requirement in load().values():
        if requirement.observable == "wire":
            yield Cell(requirement.id, *kept.get(requirement.id, ("", 0)), killed(requirement.id))


def killed(requirement: str, cut: int = 1 << 30) -> tuple[str, ...]:
    """Return what the miniature of a requirement violates, fed in pieces of `cut` bytes."""
    if requirement not in VIOLATIONS:
        return ()
    report = judge(VIOLATIONS[requirement](), cut)
    return tuple(r.requirement.id for r in report.of(Verdict.FAILED) + report.of(Verdict.DEVIATION))


def main() -> None:
    """Print the matrix."""
    cells = list(matrix())
    holes = [cell for cell in cells if cell.hole]
    if "--json" in sys.argv[1:]:
        rows = [vars(cell) | {"hole": cell.hole or None} for cell in cells]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(
            f"{'requirement':<12}{'kept by':<14}{'judged':>6}  violated by its miniature\n"
        )
        for cell in cells:
            said = cell.hole or f"{', '.join(cell.killed)} alone"
            sys.stdout.write(
                f"{cell.requirement:<12}{cell.kept_by or '-':<14}{cell.applied:>6}  {said}\n"
            )
        sys.stdout.write(f"\n{len(cells)} requirements, {len(holes)} holes\n")
    sys.exit(1 if holes else 0)


if __name__ == "__main__":
    main()
