"""A round of Hypothesis: inputs are drawn, run, and drawn again near what scored well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase
from hypothesis.strategies import DrawFn

from .target import Target

_NEAR = 24
_MOST_CHANGES = 3


@dataclass(frozen=True)
class Rounds:
    """How a round is drawn."""

    seed: int
    examples: int
    """Inputs; of these about a tenth comes from the database, and up to half from near the best."""
    database: ExampleDatabase | None = None


class Stop(BaseException):
    """The time is over: ends a round from within, whatever Hypothesis is at."""


@st.composite
def inputs(draw: DrawFn, subject: Target[Any], bases: Sequence[Any]) -> Any:
    """Return what a round draws: mostly new inputs, and some near known ones."""
    # drawn also where there are no bases: what is remembered means the same to all workers
    fresh = draw(st.integers(0, 2))
    if fresh < 2 or not bases:
        return draw(subject.strategy())
    value = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(0, _MOST_CHANGES))):
        near = list(islice(subject.smaller(value), _NEAR))
        if not near:
            break
        value = draw(st.sampled_from(near))
    return value


def draw(
    subject: Target[Any],
    bases: Sequence[Any],
    examine: Callable[[Any], Mapping[str, float]],
    plan: Rounds,
) -> None:
    """Draw one round of inputs.

    Args:
        subject: what is fuzzed.
        bases: inputs that are known to reach something, to draw others near them.
        examine: runs an input, and returns its scores; what it raises ends the round.
        plan: seed, size and memory of the round.
    """
    failed: list[Exception] = []

    # the settings come last: a seed takes the database away
    @settings(
        max_examples=plan.examples,
        phases=(Phase.reuse, Phase.generate, Phase.target),
        database=plan.database,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @seed(plan.seed)
    @given(inputs(subject, bases))
    def examples(value: Any) -> None:
        # nothing fails here: a finding is kept, and the round goes on. What does fail is ours, or
        # the peer is gone: Hypothesis is not to look into it
        try:
            scores = examine(value)
        except Exception as error:
            failed.append(error)
            raise Stop from None
        for label, score in scores.items():
            target(score, label=label)

    try:
        examples()
    except Stop:
        if failed:
            raise failed[0] from None
        raise
