"""What is to be reached, beside what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .contestants import BASELINE

Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What was measured, by scenario, contestant and name."""

TEXT, PARQUET = "decode", "decode --format parquet"
HASH = "decode --json --hash"


@dataclass(frozen=True)
class Target:
    """A bound on one figure, or on the ratio of two."""

    scenario: str
    contestant: str
    figure: str
    bound: float
    against: str | None = None
    """The figure is divided by that of this contestant."""
    most: bool = False
    """The bound is an upper one."""

    def value(self, figures: Figures) -> float | None:
        """Return what was reached; None if it was not measured."""
        scenario = figures.get(self.scenario, {})
        own = scenario.get(self.contestant, {})
        base = scenario.get(self.against or BASELINE, {})
        # ours have to manage what the baseline does; others may be too slow for it
        if own.get("bytes") != scenario.get(BASELINE, {}).get("bytes"):
            return None
        value, divisor = own.get(self.figure), base.get(self.figure)
        if value is None or self.against is None:
            return value
        return value / divisor if divisor else None

    def met(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self) -> str:
        what = f"{self.contestant}: {self.figure}"
        return f"{what}, in {self.against}'s" if self.against else what


def _speed(scenario: str, contestant: str, bound: float, against: str = BASELINE) -> Target:
    return Target(scenario, contestant, "gib_per_s", bound, against)


TARGETS = (
    _speed("64 KiB", TEXT, 0.8),
    _speed("64 KiB", TEXT, 25, "tshark with multifd.lua"),
    _speed("64 KiB", HASH, 0.3),
    _speed("64 KiB", "check --json", 0.7, TEXT),
    _speed("1448 B", TEXT, 0.2),
    _speed("1448 B", TEXT, 50, "tshark with multifd.lua"),
    _speed("1448 B", TEXT, 40, "dpkt"),
    _speed("1448 B", TEXT, 700, "scapy TCPSession"),
    _speed("1448 B", HASH, 0.08),
    _speed("1448 B", "check --json", 0.7, TEXT),
    Target("zero pages", PARQUET, "packets_per_s", 300_000),
    Target("zero pages", "check --json", "packets_per_s", 100_000),
    *(
        Target(scenario, verb, "peak_mib", 96, most=True)
        for scenario in ("64 KiB", "1448 B", "large")
        for verb in (TEXT, PARQUET, "summary --json", "check --json", "report", "strip")
    ),
    *(
        Target(scenario, TEXT, "first_row_s", 0.2, most=True)
        for scenario in ("64 KiB", "1448 B", "large")
    ),
    _speed("64 KiB, cold", TEXT, 0.9),
    _speed("1448 B, cold", TEXT, 0.9),
)
"""The targets: ratios within one run on one file, as speeds of different machines tell nothing."""
