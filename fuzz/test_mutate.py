from __future__ import annotations

from .mutate import MEMORY, bases, campaign, mutant


def test_mutants_are_reproducible():
    assert mutant(7) == mutant(7)
    assert mutant(7) != mutant(8)
    assert len(bases()) >= 19


def test_mutated_captures_come_to_events_or_one_clear_error():
    outcomes, findings, _, peak = campaign(count=1500, seed=1_000_000, workers=2)
    assert findings == {}
    assert peak < MEMORY
    # the mutants reach every way a capture can end
    assert {"failed", "passed", "unreadable"} <= set(outcomes)
