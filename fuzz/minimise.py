"""Confirms findings on fresh peers, and makes their inputs small while the signature stays."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from .target import Target

T = TypeVar("T")
TRIES = 3
"""How often a finding is confirmed, unless something else is wanted."""
_FLAKY_TRIES = 8


@dataclass(frozen=True)
class Minimised(Generic[T]):
    """What became of an input."""

    value: T
    """The smallest one that was found."""
    runs: int
    """How many inputs were run for it."""
    complete: bool
    """Nothing smaller has the signature; if not, time or runs were up."""


def confirm(target: Target[T], value: T, signature: str, n: int = TRIES) -> int:
    """Return how many times of n an input has a signature, each time with a fresh peer.

    Raises:
        PeerError: the peer could not be started.
    """
    return sum(_has(target, value, signature, patient=True) for _ in range(n))


def minimise(
    target: Target[T],
    value: T,
    signature: str,
    *,
    seconds: float = 60.0,
    runs: int = 2000,
) -> Minimised[T]:
    """Make an input smaller, step by step, until nothing smaller has the signature.

    A candidate is taken once it has shown the signature twice, the second time to a patient
    observer: one that does so by chance would lead astray. Where the input itself does not show it
    every time, each candidate gets several tries.

    Args:
        target: what it is run against.
        value: the input, which has the signature.
        signature: of the finding that is kept.
        seconds: how long it may take; a run that has begun is not cut off.
        runs: how many inputs may be run.

    Raises:
        PeerError: the peer could not be started.
    """
    reducer = _Reducer(target, signature, time.monotonic() + seconds, runs)
    value = reducer.reduce(value)
    return Minimised(value, reducer.runs, not reducer.over)


class _Reducer(Generic[T]):
    def __init__(self, target: Target[T], signature: str, deadline: float, most: int) -> None:
        self._target, self._signature = target, signature
        self._deadline, self._most = deadline, most
        self._tries = 1
        self._tried: set[str] = set()
        self.runs = 0

    @property
    def over(self) -> bool:
        """Time or runs are up."""
        return time.monotonic() >= self._deadline or self.runs >= self._most

    def reduce(self, value: T) -> T:
        """Go through what is smaller, again and again, until nothing of it is taken."""
        if not all(self._shows(value, patient=False) for _ in range(TRIES)):
            self._tries = _FLAKY_TRIES
        begun = None
        while begun != value and not self.over:
            begun, place = value, 0
            while (found := self._next(value, place)) is not None:
                place, value = found
        return value

    def _next(self, value: T, begin: int) -> tuple[int, T] | None:
        """Return the next candidate that is taken, and its place among all of them."""
        candidates = islice(enumerate(self._target.smaller(value)), begin, None)
        for place, candidate in candidates:
            if self.over:
                return None
            if self._keeps(candidate):
                return place, candidate
        return None

    def _keeps(self, candidate: T) -> bool:
        key = repr(candidate)
        if key in self._tried:
            return False
        self._tried.add(key)
        return self._shows(candidate, patient=False) and self._shows(candidate, patient=True)

    def _shows(self, candidate: T, *, patient: bool) -> bool:
        for _ in range(self._tries):
            if self.over:
                return False
            self.runs += 1
            if _has(self._target, candidate, self._signature, patient=patient):
                return True
        return False


def _has(target: Target[T], value: T, signature: str, *, patient: bool) -> bool:
    finding = target.run(value, patient=patient).finding
    return finding is not None and finding.signature == signature
