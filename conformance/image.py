"""The guest's memory after a script, compared with what the script has made it."""

from __future__ import annotations

from dataclasses import dataclass

from .stage import Stage
from .target import RunningReceiver

SHOWN = 5
"""Differences that are told."""


@dataclass(frozen=True)
class Difference:
    """Where memory is not what it has to be; the first places, in words."""

    missing: tuple[str, ...]
    """Pages that were sent, and are not there."""
    collateral: tuple[str, ...]
    """Places that were written to although nothing was sent there."""


def compare(running: RunningReceiver, stage: Stage) -> Difference:
    """Compare all memory that can be seen."""
    missing: list[str] = []
    collateral: list[str] = []
    for block, length in stage.peer.blocks.items():
        memory = running.read(block, 0, length)
        if memory is None:
            continue
        size = stage.peer.page_size
        image = bytearray(length)
        for (name, offset), data in stage.landed.items():
            if name == block:
                image[offset : offset + size] = data
        if memory == image:
            continue
        for offset in range(0, length, size):
            seen, wanted = memory[offset : offset + size], image[offset : offset + size]
            if seen == wanted:
                continue
            place = f"{block.decode('latin-1')} at {offset:#x}"
            if (block, offset) in stage.doubtful:
                missing.append(f"{place}: {_said(seen)}, must be {_said(wanted)}")
            else:
                collateral.append(f"{place}: {_said(seen)}, nothing was to be written there")
    return Difference(tuple(missing[:SHOWN]), tuple(collateral[:SHOWN]))


def _said(data: bytes | bytearray) -> str:
    return "zero" if not any(data) else bytes(data[:8]).hex()
