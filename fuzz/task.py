"""What a campaign tells a worker to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """What a worker has to do."""

    target: str
    """Who makes the target: `module:name`."""
    arguments: Mapping[str, Any]
    number: int
    seed: int
    seconds: float
    """Until the campaign ends."""
    minimising: float
    """Seconds that making one finding smaller may take."""
    first: list[dict[str, Any]] = field(default_factory=list)
    """Inputs of the corpus that this worker runs before all else."""
    corpus: list[dict[str, Any]] = field(default_factory=list)
    """All of the corpus: what inputs are varied from."""
    unsettled: list[dict[str, Any]] = field(default_factory=list)
    """Findings that nobody has confirmed yet."""
    known: list[str] = field(default_factory=list)
    reached: Mapping[str, int] = field(default_factory=dict)
    database: str = ""
    """Folder for what Hypothesis remembers; nowhere if empty."""
    redis: str = ""
    """Where Hypothesis shares it with other machines, with the campaign's name as fragment."""
    dialect: str = ""
    """That it remembers them for."""
    examples: int = 300
    """Inputs that are drawn in one round."""
