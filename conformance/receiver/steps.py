"""What the scripts of the cases begin and end with, and what several of them share.

The *hold point* is where most faults are made: the main stream has listed the RAM blocks, every
channel has sent its first SYNC, and the mark for it is on the main stream. From there on pages can
come on any channel, and no SYNC is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..observation import Observation
from ..script import MAIN, Arrive, Init, Main, Open, Pages, Step, Sync
from ..target import MEMORY, Description

PAGE_SIZE = 4096
"""Target page size in bytes that the numbers in some cases are made for."""
PAGE_COUNT = 128
"""Pages in a full packet of such pages."""
LAST = MEMORY // PAGE_SIZE - 1
"""Number of the last page of `MEMORY`."""
SENTINEL = 200
"""Number of the page that comes after a fault: no other packet has it."""
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1

PAIR = ("0", "1")
"""Wires of the channels that most receivers are started for."""
ALL = (MAIN, *PAIR)
"""Those, and the main stream's."""
START = (Open(wire=MAIN), Main(part="start"))
"""The main stream up to the list of RAM blocks."""
PART, MARK = Main(part="part"), Main(part="mark")
"""The begin and the end of a round's section."""


def channels(*wires: str) -> tuple[Step, ...]:
    """Open channels, each with its init message."""
    return tuple(step for wire in wires for step in (Open(wire=wire), Init(wire=wire)))


def syncs(*wires: str) -> tuple[Step, ...]:
    """Send a SYNC packet on each wire."""
    return tuple(Sync(wire=wire) for wire in wires)


def begun(count: int = 2) -> tuple[Step, ...]:
    """Begin a migration of so many channels, up to the hold point."""
    wires = [str(number) for number in range(count)]
    return (*START, *channels(*wires), *syncs(*wires), MARK)


BEGUN = begun()
"""A migration of two channels, up to the hold point."""


def round_end(*wires: str) -> tuple[Step, ...]:
    """End a round: a SYNC packet on each wire, and the section that holds their mark."""
    return (*syncs(*wires or PAIR), PART, MARK)


def proof(wire: str = "0") -> tuple[Step, ...]:
    """Send one more page, and wait for it: it comes only to a receiver that took what was before.

    Where memory cannot be seen, that the migration completes is the proof.
    """
    return (Pages(wire=wire, normal=(SENTINEL,)), Arrive(page=SENTINEL))


PROOF = proof()
"""The proof on channel 0."""


def pieces(step: Init | Sync | Pages | Main, cuts: Sequence[int]) -> tuple[Step, ...]:
    """Cut a message at these of its bytes, in rising order; every cut is sent by itself."""
    values = vars(step)
    ends = (*cuts, None)
    starts = (0, *cuts)
    return tuple(
        type(step)(**values | {"skip": start, "first": end})
        for start, end in zip(starts, ends, strict=True)
    )


def of_common_pages(peer: Description) -> str:
    """Tell why a case with numbers for pages of 4 KiB cannot be played; empty if it can."""
    if peer.page_size != PAGE_SIZE:
        return f"made for pages of {PAGE_SIZE} bytes, the peer's have {peer.page_size}"
    return ""


def of_common_length(peer: Description) -> str:
    """Tell why a case at the end of the first RAM block cannot be played; empty if it can."""
    length = next(iter(peer.blocks.values()))
    if length != MEMORY:
        return f"made for a RAM block of {MEMORY} bytes, the peer's first one has {length}"
    return of_common_pages(peer)


def silent_channels(seen: Observation) -> str:
    """Tell what a receiver wrote on a channel; empty if nothing."""
    wrote = {wire: data for wire, data in seen.answered.items() if wire != MAIN}
    return "; ".join(f"wrote {len(data)} bytes on wire {wire}" for wire, data in wrote.items())
