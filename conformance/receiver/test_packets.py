"""Chapter 4, packets: the head of a packet, and what a receiver checks in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case, Expect
from ..script import Ended, Pages, Sync
from ..target import MEMORY, Description
from .steps import (
    BEGUN,
    LAST,
    MARK,
    PAGE_COUNT,
    PAGE_SIZE,
    PART,
    PROOF,
    U32,
    U64,
    of_common_length,
    of_common_pages,
    syncs,
)

ACCEPTS, REFUSES = Expect.ACCEPTS, Expect.REFUSES
_PAGE = 8
_AT = _PAGE * PAGE_SIZE
_ZERO_SINCE = "9.0"
_FULL = tuple(range(PAGE_COUNT))


def _refused(case: str, says: str, fault: Pages | Sync, **options: Any) -> Case:
    """Make a fault at the hold point."""
    return Case(case, says, REFUSES, (*BEGUN, fault, *PROOF), **options)


def _taken(case: str, says: str, *steps: Pages | Sync, **options: Any) -> Case:
    return Case(case, says, ACCEPTS, (*BEGUN, *steps, *PROOF), **options)


def _pages(*normal: int, zero: tuple[int, ...] = (), **fields: Any) -> Pages:
    """Return a packet with a fault in its head: none of its pages may land."""
    return Pages(wire="0", normal=normal, zero=zero, fields=fields, lands=False)


def _good(*normal: int, zero: tuple[int, ...] = (), **fields: Any) -> Pages:
    return Pages(wire="0", normal=normal, zero=zero, fields=fields)


def _name(text: str) -> str:
    """Return the field `ramblock` with a name, as hex."""
    return text.encode().ljust(256, b"\0").hex()


# ---- magic and version ---------------------------------------------------------------------------

_MAGICS = (("zero", 0), ("turned-round", 0x44332211), ("plus-one", 0x11223345), ("all-ones", U32))
_VERSIONS = (("zero", 0), ("two", 2), ("seven", 7), ("turned-round", 0x01000000), ("all-ones", U32))
_PKT_24 = (
    *(_refused(f"PKT-24/magic-{slug}", f"a packet with the magic {magic:#010x}",
               _pages(_PAGE, magic=magic)) for slug, magic in _MAGICS),
    *(_refused(f"PKT-24/version-{slug}", f"a packet of version {version:#x}",
               _pages(_PAGE, version=version)) for slug, version in _VERSIONS),
    _refused("PKT-24/magic-without-pages", "a packet without pages, and without the magic",
             _pages(magic=0)),
    _refused("PKT-24/version-of-a-sync", "a SYNC packet of version 2",
             Sync(wire="0", fields={"version": 2})),
    Case("PKT-24/twelve-bytes", "twelve bytes of a packet with a wrong magic", REFUSES,
         (*BEGUN, Pages(wire="0", normal=(_PAGE,), fields={"magic": 0}, first=12, lands=False),
          Ended(wires=("0",))),
         since="10.0", reported="a receiver may read the whole head before it looks"),
)  # fmt: skip

# ---- how many pages ------------------------------------------------------------------------------

_COUNTS: dict[str, Any] = {"applies": of_common_pages}
_PKT_25 = (
    _taken("PKT-25/full", "a packet with as many pages as it has room for", _good(*_FULL),
           **_COUNTS),
    _taken("PKT-25/alloc-one-less", "a packet with a page, and room for one page less than usual",
           _good(_PAGE, pages_alloc=PAGE_COUNT - 1), **_COUNTS),
    _taken("PKT-25/alloc-equals-pages", "a packet with a page, and room for one",
           _good(_PAGE, pages_alloc=1)),
    _taken("PKT-25/alloc-zero", "a packet without pages, and without room for any",
           _good(pages_alloc=0)),
    _refused("PKT-25/alloc-one-more", "a packet with room for one page more than it can have",
             _pages(_PAGE, pages_alloc=PAGE_COUNT + 1), **_COUNTS),
    _refused("PKT-25/alloc-one-more-without-pages",
             "a packet without pages, with room for one page more than it can have",
             _pages(pages_alloc=PAGE_COUNT + 1), **_COUNTS),
    _refused("PKT-25/alloc-100-times", "a packet with room for 12800 pages",
             _pages(_PAGE, pages_alloc=100 * PAGE_COUNT), **_COUNTS),
    _refused("PKT-25/alloc-12801", "a packet with room for 12801 pages",
             _pages(_PAGE, pages_alloc=100 * PAGE_COUNT + 1), **_COUNTS),
    _refused("PKT-25/alloc-all-ones", "a packet whose pages_alloc is 2^32 - 1",
             _pages(_PAGE, pages_alloc=U32)),
    _refused("PKT-25/alloc-of-a-sync", "a SYNC packet whose pages_alloc is 2^32 - 1",
             Sync(wire="0", fields={"pages_alloc": U32})),
    _refused("PKT-25/normal-above-alloc", "a packet with two pages, and room for one",
             _pages(_PAGE, _PAGE + 1, pages_alloc=1)),
    _refused("PKT-25/normal-without-room", "a packet with a page, and room for none",
             _pages(_PAGE, pages_alloc=0)),
    _refused("PKT-25/normal-one-more", "a packet with one page more than it can have",
             _pages(*_FULL, normal_pages=PAGE_COUNT + 1), **_COUNTS),
    _refused("PKT-25/normal-all-ones", "a packet with 2^32 - 1 pages",
             _pages(_PAGE, normal_pages=U32)),
    _taken("PKT-25/zero-fills", "a packet whose last place is a zero page",
           _good(*_FULL[:-1], zero=(PAGE_COUNT - 1,)), since=_ZERO_SINCE, **_COUNTS),
    _taken("PKT-25/zero-full", "a packet with as many zero pages as it has room for",
           _good(zero=_FULL), since=_ZERO_SINCE, **_COUNTS),
    _refused("PKT-25/zero-one-more", "a packet with one zero page more than it can have",
             _pages(zero=_FULL, zero_pages=PAGE_COUNT + 1), since=_ZERO_SINCE, **_COUNTS),
    _refused("PKT-25/zero-above-the-rest", "a packet with a page, and zero pages for all places",
             _pages(_PAGE, zero_pages=PAGE_COUNT), since=_ZERO_SINCE, **_COUNTS),
    _refused("PKT-25/zero-without-room", "a packet with a zero page, and room for none",
             _pages(zero=(_PAGE,), pages_alloc=0), since=_ZERO_SINCE),
    _refused("PKT-25/zero-wraps", "a packet whose pages and zero pages add up to 2^32",
             _pages(_PAGE, zero_pages=U32), since=_ZERO_SINCE),
)  # fmt: skip

# ---- which block ---------------------------------------------------------------------------------


def _of_block(slug: str, says: str, block: str, **options: Any) -> Case:
    return _refused(f"PKT-26/{slug}", says, Pages(wire="0", normal=(_PAGE,), block=block,
                                                  lands=False), **options)  # fmt: skip


_PKT_26 = (
    _of_block("unknown", "a page of a RAM block that there is not", "no-such-block"),
    _of_block("empty", "a page of a RAM block without a name", ""),
    _of_block("control-characters", "a page of a RAM block with an odd name", "\n\x1b[31m%s%n"),
    _of_block("longest", "a page of a RAM block whose name has 255 bytes", "r" * 255),
    _of_block("without-nul", "a page of a RAM block whose name has 256 bytes and no NUL",
              "r" * 256),
    _refused("PKT-26/zero-page", "a zero page of a RAM block that there is not",
             Pages(wire="0", zero=(_PAGE,), block="no-such-block", lands=False),
             since=_ZERO_SINCE),
    _refused("PKT-26/pages-of-a-sync", "a SYNC packet with a page of a RAM block that there is not",
             Pages(wire="0", normal=(_PAGE,), block="no-such-block", fields={"flags": 1},
                   lands=False)),
)  # fmt: skip

# ---- where in the block --------------------------------------------------------------------------

_OUTSIDE = (
    ("at-the-end", "at the used length", MEMORY),
    ("half-outside", "one byte above the last place", MEMORY - PAGE_SIZE + 1),
    ("last-byte", "at the last byte of the block", MEMORY - 1),
    ("far", "at 2^40", 1 << 40),
    ("sign-bit", "at 2^63", 1 << 63),
    ("wraps-to-zero", "at 2^64 - 4096", U64 - PAGE_SIZE + 1),
    ("all-ones", "at 2^64 - 1", U64),
)
_PKT_27 = (
    Case("PKT-27/last-page", "the last page of a RAM block", ACCEPTS,
         (*BEGUN, _good(LAST), *PROOF), applies=of_common_length),
    *(_refused(f"PKT-27/{slug}", f"a page {where}", _pages(_PAGE, offset=(offset,)),
               applies=of_common_length) for slug, where, offset in _OUTSIDE),
    Case("PKT-27/last-zero-page", "content, and a round later zeros, for the last page", ACCEPTS,
         (*BEGUN, _good(LAST), *syncs("0", "1"), PART, MARK, _good(zero=(LAST,)), *PROOF),
         since=_ZERO_SINCE, applies=of_common_length),
    *(_refused(f"PKT-27/zero-{slug}", f"a zero page {where}",
               _pages(zero=(_PAGE,), offset=(offset,)), since=_ZERO_SINCE,
               applies=of_common_length)
      for slug, where, offset in (_OUTSIDE[0], _OUTSIDE[1], _OUTSIDE[5], _OUTSIDE[6])),
)  # fmt: skip


def _has_small_block(peer: Description) -> str:
    length = peer.blocks.get(_SMALL.encode())
    if length is None or length >= peer.page_size:
        return f"the peer has no RAM block {_SMALL!r} that is smaller than a page"
    return ""


_SMALL = "small"
_PKT_28 = (
    _refused("PKT-28/first-byte", "a page of a RAM block that is smaller than a page",
             Pages(wire="0", normal=(0,), block=_SMALL, lands=False), applies=_has_small_block),
    _refused("PKT-28/wraps", "a page whose end is that of a RAM block smaller than a page",
             Pages(wire="0", normal=(0,), block=_SMALL, fields={"offset": (U64 - 4095,)},
                   lands=False), applies=_has_small_block),
)  # fmt: skip

# ---- what has no meaning -------------------------------------------------------------------------

_JUNK: dict[str, Any] = {"ramblock": "ff" * 256, "offset": (U64,) * PAGE_COUNT}
_PKT_29 = (
    _taken("PKT-29/unused32", "a packet whose unused32 is all ones",
           _good(_PAGE, unused32="ff" * 4)),
    _taken("PKT-29/unused64", "a packet whose unused64 is all ones",
           _good(_PAGE, unused64="ff" * 24)),
    _taken("PKT-29/place-of-zero-pages", "a packet with all ones where zero_pages came to be later",
           _good(_PAGE, zero_pages=U32), until="seed"),
    _taken("PKT-29/block-of-no-pages", "a packet without pages that names no block there is",
           _good(ramblock=_name("no-such-block"))),
    _taken("PKT-29/junk-of-no-pages", "a packet without pages, with junk for block and offsets",
           _good(**_JUNK), **_COUNTS),
    Case("PKT-29/junk-of-a-sync", "SYNC packets with junk for block and offsets", ACCEPTS,
         (*BEGUN, Sync(wire="0", fields=_JUNK), Sync(wire="1", fields=_JUNK), PART, MARK, *PROOF),
         **_COUNTS),
    _taken("PKT-29/offsets-behind", "a packet with junk behind the offset of its only page",
           _good(_PAGE, offset=(_AT, *(U64,) * (PAGE_COUNT - 1))), **_COUNTS),
    _taken("PKT-29/unknown-flag", "a packet with a flag that has no meaning",
           _good(_PAGE, flags=0x8000), reported="real receivers ignore unknown flags"),
    _taken("PKT-29/highest-flag", "a packet with the highest flag",
           _good(_PAGE, flags=0x80000000), reported="real receivers ignore unknown flags"),
    _taken("PKT-29/device-state-flag", "a packet with pages, and the flag of device state",
           _good(_PAGE, flags=0x40), until="9.2",
           reported="the flag had no meaning before 10.0"),
)  # fmt: skip

# ---- in which order ------------------------------------------------------------------------------

_PKT_30 = (
    _refused("PKT-30/second-offset", "a good page, and one that lies outside the block",
             _pages(_PAGE, _PAGE + 1, offset=(_AT, MEMORY)), applies=of_common_length),
    _refused("PKT-30/last-offset", "127 good pages, and one that lies outside the block",
             _pages(*_FULL, offset=(*(n * PAGE_SIZE for n in _FULL[:-1]), MEMORY)),
             applies=of_common_length),
    _refused("PKT-30/zero-page-outside", "a good page, and a zero page outside the block",
             _pages(_PAGE, zero=(_PAGE + 1,), offset=(_AT, MEMORY)), since=_ZERO_SINCE,
             applies=of_common_length),
    Case("PKT-30/head-alone", "a page outside the block, without its payload", REFUSES,
         (*BEGUN, Pages(wire="0", normal=(_PAGE,), fields={"offset": (MEMORY,)}, first=1344,
                        lands=False), Ended(wires=("0",))),
         applies=of_common_length, reported="a receiver may read the payload before it looks"),
)  # fmt: skip

_PKT_31 = (
    *(_refused(f"PKT-31/unaligned-{more}", f"a page {more} bytes behind the start of one",
               _pages(_PAGE, offset=(_AT + more,)), **_COUNTS) for more in (1, 512, 4095)),
    _refused("PKT-31/twice", "a packet that lists a page twice", _pages(_PAGE, _PAGE)),
    _refused("PKT-31/twice-apart", "a packet that lists its first page again as its last",
             _pages(*_FULL[:-1], 0), **_COUNTS),
    _refused("PKT-31/zero-unaligned", "a zero page one byte behind the start of one",
             _pages(zero=(_PAGE,), offset=(_AT + 1,)), since=_ZERO_SINCE),
    _refused("PKT-31/normal-and-zero", "a packet that lists a page with content, and as zero",
             _pages(_PAGE, zero=(_PAGE,)), since=_ZERO_SINCE),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *_PKT_24, *_PKT_25, *_PKT_26, *_PKT_27, *_PKT_28, *_PKT_29, *_PKT_30, *_PKT_31,
)  # fmt: skip


def test_packets(multifd_case: Callable[[], None]) -> None:
    multifd_case()
