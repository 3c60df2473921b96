"""Chapter 7, packet numbers: a receiver leaves them alone."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import Pages, Sync
from .steps import BEGUN, MARK, PAIR, PART, PROOF, U64


def _numbered(slug: str, says: str, first: int, second: int) -> Case:
    """Give two packets with a page these numbers."""
    packets = (
        Pages(wire="0", normal=(page,), fields={"packet_num": number})
        for page, number in ((8, first), (9, second))
    )
    return Case(f"PKT-32/{slug}", says, Expect.ACCEPTS, (*BEGUN, *packets, *PROOF))


CASES: tuple[Case, ...] = (
    _numbered("repeated", "two packets with one number", 2, 2),
    _numbered("falling", "a packet with a lower number than the one before", 9, 3),
    _numbered("gap", "a packet whose number leaves out a million", 2, 1_000_002),
    _numbered("all-ones", "a packet numbered 2^64 - 1", U64, 0),
    _numbered("32-bits", "packets numbered 2^32 - 1 and 2^32", (1 << 32) - 1, 1 << 32),
    Case("PKT-32/syncs", "SYNC packets all numbered 0", Expect.ACCEPTS,
         (*BEGUN, *(Sync(wire=wire, fields={"packet_num": 0}) for wire in PAIR), PART, MARK,
          *PROOF)),
)  # fmt: skip


def test_numbers(multifd_case: Callable[[], None]) -> None:
    multifd_case()
