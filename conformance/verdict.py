"""Verdicts: what an observation comes to, against what is demanded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What became of a case, the worst first."""

    HARNESS_ERROR = "harness error"
    """The peer could not be used, or the suite itself failed."""
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    """Nothing can be said: the fault was not reached, or what would show it cannot be seen."""
    PASSED_WEAK = "passed, weakly"
    """The right effect, but for a wrong reason, or with a peer that is wedged afterwards."""
    PASSED = "passed"
    DEVIATION = "known deviation"
    """It fails as the list of known deviations says."""
    REPORTED = "reported"
    """It was looked at, but nothing is demanded of this peer."""
    NOT_EXERCISED = "not exercised"
    NOT_APPLICABLE = "not applicable"


class Failure(Enum):
    """In which way a peer fails."""

    ACCEPTS_BAD = "accepts-bad"
    REJECTS_GOOD = "rejects-good"
    CRASHES = "crashes"
    HANGS = "hangs"
    WRONG_IMAGE = "wrong-image"
    WRONG_BYTES = "wrong-bytes"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one case, and what it rests on."""

    verdict: Verdict
    text: str
    """What was seen, in a line."""
    failure: Failure | None = None
    """Of FAILED, and of the DEVIATION that it would be without the list: its class."""
