"""Known deviations: what products are known to do against requirements, as data with reasons.

    [[qemu]]
    case = "INIT-12/*"
    releases = "<11.0"
    expect = ["crashes", "accepts-bad", "passed-weak"]
    reason = "the bound was >, and an array was read past its end"
    link = "https://..."

    [[qemu-reason]]
    case = "INIT-1/*"
    releases = ">=9.1"
    text = "received packet magic .* expected"

An entry of `[[PRODUCT]]` excuses the listed ways to fail; one of `[[PRODUCT-reason]]` says what
the product gives as its reason for the right refusal. `quirk = "NAME"` takes reason, link and
releases from `wire/quirks.py`. An entry that excuses nothing any more is stale, and fails the run.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations

from multifd_proto.errors import MultiFDError
from multifd_proto.wire.requirements import Role

from .releases import Releases, Version

WEAK = "passed-weak"
"""In `expect`: the right effect for a wrong reason, or with a wedged peer."""


class DeviationError(MultiFDError):
    """A file of deviations is not to be used: says file, entry, value seen and demanded."""


@dataclass(frozen=True)
class Deviation:
    """One entry: how a product fails, where, and why."""

    product: str
    """In lower case."""
    case: str
    """Case ids, as a glob."""
    expect: frozenset[str]
    """Values of `Failure`, or `passed-weak`."""
    releases: Releases
    reason: str
    link: str = ""
    role: Role | None = None
    flaky: bool = False
    """It does not always show: never stale."""
    place: str = ""
    """Where it stands, for messages."""

    def covers(self, product: str, version: Version, role: Role, case: str) -> bool:
        """Tell whether it speaks of a case of a peer."""
        return (
            self.product == product.lower()
            and self.role in (None, role)
            and fnmatchcase(case, self.case)
            and self.releases.covers(version)
        )


@dataclass(frozen=True)
class ReasonText:
    """One entry: what a product gives as its reason."""

    product: str
    case: str
    releases: Releases
    text: re.Pattern[str]
    place: str = ""


@dataclass(frozen=True)
class Deviations:
    """All entries that a run knows."""

    entries: tuple[Deviation, ...] = ()
    reasons: tuple[ReasonText, ...] = ()

    def excuse(
        self, product: str, version: Version, role: Role, case: str, how: str
    ) -> Deviation | None:
        """Return the entry that says that a peer fails a case in that way; None without one."""
        found = (e for e in self.entries if e.covers(product, version, role, case))
        return next((entry for entry in found if how in entry.expect), None)

    def texts(self, product: str, version: Version, case: str) -> tuple[re.Pattern[str], ...]:
        """Return what a peer gives as its reason in a case, if it refuses it for the right one."""
        return tuple(
            entry.text
            for entry in self.reasons
            if entry.product == product.lower()
            and fnmatchcase(case, entry.case)
            and entry.releases.covers(version)
        )

    def check(self, cases: Collection[str]) -> None:
        """Refuse entries that speak of no case, and such as contradict each other.

        Args:
            cases: the ids of all cases of the suite, of both roles.

        Raises:
            DeviationError: naming the first such entry.
        """
        globs = [(entry.case, entry.place) for entry in self.entries]
        globs += [(entry.case, entry.place) for entry in self.reasons]
        for glob, place in globs:
            if not any(fnmatchcase(case, glob) for case in cases):
                raise DeviationError(f"{place}: case is {glob!r}, which no case matches")
        for one, other in combinations(self.entries, 2):
            if _contradict(one, other):
                both = [c for c in cases if fnmatchcase(c, one.case) and fnmatchcase(c, other.case)]
                if both:
                    raise DeviationError(
                        f"{other.place}: {both[0]} is expected otherwise by {one.place}"
                    )


def _contradict(one: Deviation, other: Deviation) -> bool:
    """Tell whether two entries expect different things of one release, if they share a case."""
    return (
        one.product == other.product
        and one.expect != other.expect
        and (one.role is None or other.role in (None, one.role))
        and one.releases.meets(other.releases)
    )
