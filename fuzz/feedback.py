"""What a campaign has reached: counted in every worker, added up by the campaign, shared again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .target import Result


class Feedback:
    """How often each label was reached, by this worker and by all others."""

    def __init__(self, shared: Mapping[str, int] | None = None) -> None:
        self.shared: dict[str, int] = dict(shared or {})
        """Counts of the whole campaign, as last heard."""
        self._own: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def take(self, labels: Iterable[str]) -> bool:
        """Count labels; tell whether one of them was never reached before."""
        labels = set(labels)
        new = any(not self._count(label) for label in labels)
        self._own.update(labels)
        return new

    def news(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        news = self._own - self._told
        self._told.update(news)
        return dict(news)

    def novelty(self, labels: Iterable[str]) -> float:
        """Return how rare the rarest of some labels is: 1 if nobody ever reached it, down to 0."""
        return 1 / (1 + min(map(self._count, labels), default=0))

    def scores(self, result: Result) -> dict[str, float]:
        """Return what is to be made large in an input: the target's scores, and novelty."""
        return {**result.scores, "novelty": self.novelty(result.reached)}

    def _count(self, label: str) -> int:
        # what is shared holds what we told; whichever is larger is the better news
        return max(self.shared.get(label, 0), self._own[label])
