"""The positive control: a valid migration, as small as one can be.

A refusal says something only of a receiver that accepts what is right, right before.
"""

from __future__ import annotations

from .script import Complete, Init, Main, Open, Pages, Script, Step, Sync


def control(channels: int = 2, method: str = "none", tls: bool = False) -> Script:
    """Return a migration of one page, with as many channels as the receiver waits for."""
    steps: list[Step] = [Open(wire="main"), Main(part="start")]
    for number in range(channels):
        wire = str(number)
        steps += [Open(wire=wire), Init(wire=wire), Sync(wire=wire)]
    steps += [Main(part="mark"), Pages(wire="0", normal=(0,)), Complete()]
    return Script(tuple(steps), "control", channels, method, tls)
