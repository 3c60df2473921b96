"""What real senders are known to do against a requirement, as data.

A quirk is judged as its dialects' own behaviour (a known deviation), and as a violation where
another dialect is demanded. A quirk that loses guest data is a *defect*: it is named and
explained, but stays a violation.
"""

from __future__ import annotations

from dataclasses import dataclass

from multifd_proto.wire.dialect import Dialect, span


@dataclass(frozen=True)
class Quirk:
    """A known deviation of real senders from a requirement."""

    name: str
    requirements: tuple[str, ...]
    dialects: frozenset[Dialect]
    reason: str
    source: str
    defect: bool = False
    """It loses guest data: named and explained, but never excused."""


RESERVED_INIT = Quirk(
    "reserved-init-bytes",
    ("INIT-7",),
    span("4.0", "4.0"),
    "the reserved bytes of the init are not initialised: bytes of the stack leak",
    "d069bcca6c (5.0)",
)
STALE_SIZE = Quirk(
    "stale-next-packet-size",
    ("PKT-17",),
    span("5.0", "8.1"),
    "a packet without pages repeats the next_packet_size of the packet before it",
    "1618f55221 (8.2)",
)
STALE_OFFSETS = Quirk(
    "stale-offsets",
    ("PKT-18",),
    span("4.0", "9.1"),
    "the packet's buffer is used again without clearing it",
    "87bb9e953e (9.2)",
)
EMPTY_TRAILER = Quirk(
    "empty-trailer",
    ("PKT-19",),
    span("4.0", "8.2"),
    "after a SYNC that took pages along, an empty packet with the same packet_num follows",
    "f5f48a7891 (9.0)",
)
SYNC_WITH_PAGES = Quirk(
    "sync-with-pages",
    ("SYNC-2", "SYNC-3"),
    span("4.0", "8.2"),
    "a SYNC that meets a page job in its channel travels in the same packet",
    "f5f48a7891 (9.0)",
)
SHARED_NUMBERS = Quirk(
    "shared-packet-numbers",
    ("PKT-20", "PKT-21", "PKT-22"),
    span("4.0", "8.2"),
    "one slot a channel holds the number: a SYNC overwrites that of a waiting page job",
    "98ea497d8b (9.0)",
)
LOST_ZERO_PACKETS = Quirk(
    "lost-zero-packets",
    ("PKT-22",),
    span("9.0", "9.2"),
    "under compression a packet of zero pages alone is counted but never sent, so that the "
    "receiver keeps old content (9.0.0 to 9.1.2 and 9.2.0)",
    "cdc3970f85 (10.0, 9.2.1, 9.1.3)",
    defect=True,
)
UNMARKED_SYNC = Quirk(
    "unmarked-last-sync",
    ("SYNC-6",),
    span("9.1", "9.2"),
    "the last SYNC of each channel has no mark on the main stream",
    "637280aeb2, 1d457daf86 (10.0)",
)
PAGE_TWICE = Quirk(
    "page-twice-in-a-round",
    ("SYNC-7",),
    span("4.0", "7.0"),
    "a race sends one page twice in a row (before 8.0)",
    "ddbe628c97 (8.0)",
)

QUIRKS = (
    RESERVED_INIT, STALE_SIZE, STALE_OFFSETS, EMPTY_TRAILER, SYNC_WITH_PAGES, SHARED_NUMBERS,
    LOST_ZERO_PACKETS, UNMARKED_SYNC, PAGE_TWICE,
)  # fmt: skip
"""All known deviations of real senders."""
