"""Chapter 6, SYNC and rounds: who waits for whom."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import (
    MAIN,
    Absent,
    Arrive,
    Complete,
    Ended,
    Fin,
    Main,
    Open,
    Pages,
    Pause,
    Reset,
    Step,
)
from ..target import Sense
from .steps import (
    ALL,
    BEGUN,
    MARK,
    PAIR,
    PART,
    PROOF,
    SENTINEL,
    START,
    begun,
    channels,
    proof,
    round_end,
    syncs,
)

ACCEPTS, REFUSES, REFUSES_ALL = Expect.ACCEPTS, Expect.REFUSES, Expect.REFUSES_ALL
_SEEN = frozenset({Sense.MEMORY})
_HEADER = (Open(wire=MAIN), Main(part="header"))
_SENTINEL = Pages(wire="0", normal=(SENTINEL,))
_ARRIVE, _ABSENT = Arrive(page=SENTINEL), Absent(page=SENTINEL)


def _pages(wire: str, *normal: int, salt: int = 0) -> Pages:
    return Pages(wire=wire, normal=normal, salt=salt)


def _waits(case: str, says: str, *steps: Step) -> Case:
    """Show that nothing behind a SYNC is loaded before its time, and that it is then."""
    return Case(case, says, ACCEPTS, steps, needs=_SEEN)


def _late(slug: str, says: str, count: int) -> Case:
    """Let a page of the last channel arrive after what the main stream has behind the mark.

    That are zeros for the same page: loaded before their time, they would be overwritten.
    """
    *others, last = wires = tuple(map(str, range(count)))
    steps = (*begun(count), *syncs(*others), Pages(wire=last, normal=(8,), first=2000), PART, MARK,
             PART, Main(part="zeros", pages=(8,)), MARK, Pause(seconds=0.3),
             Pages(wire=last, normal=(8,), skip=2000, lands=False), *syncs(last),
             *syncs(*wires), *PROOF)  # fmt: skip
    return Case(f"SYNC-10/{slug}", says, ACCEPTS, steps, channels=count, needs=_SEEN)


_ROUNDS = (
    *BEGUN,
    _pages("0", 8, 9, 10), _pages("1", 11), *round_end(),
    _pages("1", 8, 9, salt=1), _pages("0", 12), *round_end(),
    *round_end(),
    _pages("0", 8, salt=2), _pages("1", 11, salt=2), _pages("1", 13), *round_end(),
)  # fmt: skip

_SYNC_10 = (
    _late("page-on-its-way", "a page, whose end comes later than a mark and zeros behind it", 2),
    _late("last-of-16", "the same for the last of 16 channels", 16),
    _waits("SYNC-10/one-sync-missing", "a mark without the SYNC of channel 1, then that SYNC",
           *BEGUN, *syncs("0"), _SENTINEL, PART, MARK, _ABSENT, *syncs("1"), _ARRIVE),
    _waits("SYNC-10/first-sync-missing", "the first mark without the SYNC of channel 1, then it",
           *START, *channels(*PAIR), *syncs("0"), _SENTINEL, MARK, _ABSENT, *syncs("1"), _ARRIVE),
    Case("SYNC-10/end-on-its-way", "the whole main stream, before the last page and its SYNC",
         ACCEPTS,
         (*BEGUN, _pages("0", 9), *syncs("0"), Pages(wire="1", normal=(8,), first=2000),
          Main(part="end"), MARK, Main(part="finish"), Pause(seconds=0.3),
          Pages(wire="1", normal=(8,), skip=2000), *syncs("1"),
          Complete(sync=False, finish=False))),
    Case("SYNC-10/surplus-on-one-channel", "one SYNC more on channel 0 than there are marks",
         ACCEPTS, (*BEGUN, *syncs("0"), *proof("1")),
         reported="the channel stays parked; the other one goes on"),
    Case("SYNC-10/surplus-on-all-channels", "one SYNC more on all channels than there are marks",
         ACCEPTS, (*BEGUN, _SENTINEL, Main(part="end"), *syncs(*PAIR), MARK, *syncs(*PAIR),
                   Complete(sync=False)),
         reported="senders of 9.1 and 9.2 end like that"),
)  # fmt: skip

_SYNC_11 = (
    Case("SYNC-11/rounds", "pages again and again on other channels, a round each", ACCEPTS,
         (*_ROUNDS, Complete())),
    _waits("SYNC-11/before-the-mark", "SYNC on all channels, a page, and the mark later",
           *BEGUN, *syncs(*PAIR), _SENTINEL, _ABSENT, PART, MARK, _ARRIVE),
    _waits("SYNC-11/before-the-list-of-blocks", "the first SYNC, a page, and the blocks later",
           *_HEADER, *channels(*PAIR), *syncs(*PAIR), _SENTINEL, _ABSENT,
           Main(part="start"), MARK, _ARRIVE),
    _waits("SYNC-11/before-the-first-mark", "the list of blocks, a page, and the first mark later",
           *START, *channels(*PAIR), *syncs(*PAIR), _SENTINEL, _ABSENT, MARK, _ARRIVE),
    _waits("SYNC-11/two-rounds-ahead", "two rounds on the channels, and the marks later",
           *BEGUN, *syncs(*PAIR), _pages("0", 8), *syncs(*PAIR), _SENTINEL, PART, MARK, _ABSENT,
           PART, MARK, _ARRIVE),
    _waits("SYNC-11/newer-page", "a page, its newer content behind a SYNC, and the mark later",
           *BEGUN, _pages("0", 8), *syncs(*PAIR), _pages("1", 8, salt=1), *proof("1")[:1],
           Absent(page=8, salt=1), PART, MARK, _ARRIVE),
)  # fmt: skip


def _carried(slug: str, says: str, *steps: Step, method: str = "none", since: str = "") -> Case:
    return Case(f"SYNC-12/{slug}", says, ACCEPTS, (*BEGUN, *steps), method=method, since=since)


def _sync_with(wire: str, *normal: int, zero: tuple[int, ...] = (), flags: int = 1) -> Pages:
    return Pages(wire=wire, normal=normal, zero=zero, fields={"flags": flags})


_SYNC_12 = (
    _carried("one-page", "a SYNC packet with a page", _sync_with("0", SENTINEL), *syncs("1"),
             PART, MARK, _ARRIVE),
    _carried("then-more", "SYNC packets with pages on all channels, and a page in the next round",
             _sync_with("0", 8), _sync_with("1", 9, 10), PART, MARK, *PROOF),
    _carried("empty-packet", "a SYNC packet with a page, and an empty packet behind it",
             _sync_with("0", 8), Pages(wire="0"), *syncs("1"),
             PART, MARK, *PROOF),
    _carried("newer-page", "a page, its newer content in the SYNC packet of the next round",
             _pages("0", 8), *round_end(),
             Pages(wire="0", normal=(8,), salt=1, fields={"flags": 1}), *syncs("1"), PART, MARK,
             *PROOF),
    _carried("zlib", "a SYNC packet with a page in a zlib migration",
             _sync_with("0", 8, flags=0x03), *syncs("1"), PART, MARK, *PROOF, method="zlib"),
    _carried("zstd", "a SYNC packet with a page in a zstd migration",
             _sync_with("0", 8, flags=0x05), *syncs("1"), PART, MARK, *PROOF, method="zstd"),
    _carried("zero-page", "content, then a SYNC packet with a zero page for it", _pages("0", 8),
             *round_end(), _sync_with("0", zero=(8,)), *syncs("1"), PART, MARK, *PROOF,
             since="9.0"),
)  # fmt: skip


def _missing(slug: str, says: str, *steps: Step) -> Case:
    return Case(f"SYNC-13/{slug}", says, REFUSES_ALL, (*BEGUN, *steps, Ended(wires=ALL)))


_SYNC_13 = (
    _missing("end-then-mark", "the end of channel 1 before its SYNC, and then the mark",
             *syncs("0"), Fin(wire="1"), Pause(seconds=0.05), PART, MARK),
    _missing("mark-then-end", "a mark, and then the end of channel 1 before its SYNC",
             *syncs("0"), PART, MARK, Pause(seconds=0.05), Fin(wire="1")),
    Case("SYNC-13/reset", "a mark, and then the reset of channel 1 before its SYNC", REFUSES,
         (*BEGUN, *syncs("0"), PART, MARK, Pause(seconds=0.05), Reset(wire="1"),
          Ended(wires=(MAIN, "0")))),
    _missing("all-channels", "the end of all channels, and then a mark",
             Fin(wire="0"), Fin(wire="1"), PART, MARK),
)  # fmt: skip


def _before_blocks(slug: str, says: str, early: Pages, since: str = "") -> Case:
    """Send a page when the main stream has got no further than its header."""
    steps = (*_HEADER, *channels(*PAIR), early, Pause(seconds=0.3), *syncs(*PAIR),
             Main(part="start"), MARK, *PROOF)  # fmt: skip
    return Case(f"SYNC-14/{slug}", says, Expect.SURVIVES, steps, since=since)


_SYNC_14 = (
    _before_blocks("page", "a page before the list of blocks", Pages(wire="0", normal=(8,))),
    _before_blocks("zero-page", "a zero page before the list of blocks",
                   Pages(wire="0", zero=(8,)), since="9.0"),
    _before_blocks("full-packet", "128 pages before the list of blocks",
                   Pages(wire="1", normal=tuple(range(128)))),
    Case("SYNC-14/race", "pages without a SYNC before them, while it reads the list of blocks",
         Expect.SURVIVES,
         (*START, *channels(*PAIR), Pages(wire="0", normal=(8,)), Pages(wire="1", normal=(9,)),
          *syncs(*PAIR), MARK, *PROOF), reported="which of them is first is left to chance"),
)  # fmt: skip

CASES: tuple[Case, ...] = (*_SYNC_10, *_SYNC_11, *_SYNC_12, *_SYNC_13, *_SYNC_14)


def test_sync(multifd_case: Callable[[], None]) -> None:
    multifd_case()
