"""Ranges of releases, as text: `<11.0`, `>=9.0 <11.1`, `5.2, 7.2`; empty is all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt

from multifd_proto.wire.dialect import Dialect, dialect_of

_BOUND = re.compile(r"(<=|>=|<|>|)(\d+(?:\.\d+)*)")
_OPERATORS = {"<": lt, "<=": le, ">": gt, ">=": ge, "": eq}
Version = tuple[int, ...]
_OLDEST: Version = (4, 0)
"""Of the first dialect."""
_SEED: Version = (8, 2, 50)
"""Of the commit that the specification began with, on the way to 9.0."""


def version_of(text: str, dialect: Dialect) -> Version:
    """Return the numbers that a version text begins with; the dialect's if there are none."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text) or re.match(r"(\d+(?:\.\d+)*)", dialect.name)
    return _numbers(match[1]) if match else _SEED


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


@dataclass(frozen=True)
class Releases:
    """A range: alternatives of bounds that all have to hold, or a set of dialects.

    A bound looks at as many numbers as it has itself: `5.2` holds for 5.2.14, `>10.0` does not
    hold for 10.0.13.
    """

    text: str = ""
    dialects: frozenset[Dialect] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no range.

        Raises:
            ValueError: naming the first part that is none.
        """
        for part in self.text.replace(",", " ").split():
            if _BOUND.fullmatch(part) is None:
                raise ValueError(f"{part!r} is no bound on a release, such as '<11.0' or '5.2'")

    def covers(self, version: Version) -> bool:
        """Tell whether a release is in the range."""
        if self.dialects is not None:
            known = version >= _OLDEST
            return known and dialect_of(".".join(map(str, version))) in self.dialects
        ways = [way.split() for way in self.text.split(",")]
        return any(all(_holds(bound, version) for bound in way) for way in ways)

    def meets(self, other: Releases) -> bool:
        """Tell whether a release is in both."""
        probes = {*self._edges(), *other._edges(), (0,)}
        return any(self.covers(probe) and other.covers(probe) for probe in probes)

    def _edges(self) -> Iterator[Version]:
        """Yield releases such that each range of bounds holds at least one of them."""
        if self.dialects is not None:
            yield from (version_of(d.name, d) for d in self.dialects)
        for _, text in _BOUND.findall(self.text):
            *head, last = _numbers(text)
            yield from ((*head, n) for n in (last - 1, last, last + 1))
            yield (*head, last, 1)


def _holds(bound: str, version: Version) -> bool:
    match = _BOUND.fullmatch(bound)
    assert match is not None
    wanted = _numbers(match[2])
    seen = (*version, *(0 for _ in wanted))[: len(wanted)]
    return bool(_OPERATORS[match[1]](seen, wanted))
