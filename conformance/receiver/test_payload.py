"""Chapter 5, payload methods: what follows a head, and how much of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from multifd_proto.wire.payload import METHODS

from ..case import Case, Expect
from ..script import Complete, Ended, Main, Pages, Step, Sync
from ..stage import content
from .steps import (
    BEGUN,
    MARK,
    PAGE_COUNT,
    PAGE_SIZE,
    PAIR,
    PART,
    PROOF,
    SENTINEL,
    U32,
    of_common_pages,
    proof,
    round_end,
    syncs,
)

ACCEPTS, REFUSES = Expect.ACCEPTS, Expect.REFUSES
_STREAMS = [method for method in METHODS if method.name in ("zlib", "zstd")]
_LIMIT = 1 << 20
_ZERO_SINCE = "9.0"
_ENDED = Ended(wires=("0",))


def _case(
    case: str, says: str, expect: Expect, *steps: Step, method: str = "none", **options: Any
) -> Case:
    """Play these steps at the hold point."""
    return Case(case, says, expect, (*BEGUN, *steps), method=method, **options)


def _pages(*normal: int, zero: tuple[int, ...] = (), lands: bool = True, **fields: Any) -> Pages:
    return Pages(wire="0", normal=normal, zero=zero, fields=fields, lands=lands)


# ---- method --------------------------------------------------------------------------------------


def _flags(slug: str, says: str, flags: int, method: str = "none", since: str = "5.0") -> Case:
    return _case(f"PAY-12/{slug}", f"a page {says}", REFUSES,
                 _pages(8, lands=False, flags=flags), *PROOF, method=method,
                 since=since)  # fmt: skip


_PAY_12 = (
    _flags("zlib", "with the flag of zlib, to a receiver without compression", 0x02),
    _flags("zstd", "with the flag of zstd, to a receiver without compression", 0x04),
    _flags("two-methods", "with the flags of zlib and zstd", 0x06),
    _flags("qpl", "with the flag of qpl, to a receiver without compression", 0x08),
    _flags("uadk", "with the flag of uadk, to a receiver without compression", 0x10, since="9.1"),
    _flags("qatzip", "with the flag of qatzip, to a receiver without compression", 0x20,
           since="9.2"),
    _flags("zlib-expected", "without a flag, to a receiver of zlib", 0, "zlib"),
    _flags("zstd-for-zlib", "with the flag of zstd, to a receiver of zlib", 0x04, "zlib"),
    _flags("zlib-for-zstd", "with the flag of zlib, to a receiver of zstd", 0x02, "zstd"),
    _case("PAY-12/zero-page", "a zero page with the flag of zlib", REFUSES,
          _pages(zero=(8,), lands=False, flags=0x02), *PROOF, since=_ZERO_SINCE),
    _case("PAY-12/without-pages", "a packet without pages with the flag of zlib", ACCEPTS,
          _pages(flags=0x02), *PROOF, since="5.0", reported="it has no pages"),
)  # fmt: skip

# ---- bounds --------------------------------------------------------------------------------------


def _zlib_block(data: bytes) -> bytes:
    return struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data


def _zstd_block(data: bytes) -> bytes:
    return (len(data) << 3).to_bytes(3, "little") + data


_BLOCKS = {
    "zlib": (b"\x78\x01", _zlib_block),
    "zstd": (bytes.fromhex("28b52ffd 00 48"), _zstd_block),
}
"""How a compressed stream begins, and how a block of it is written that is not compressed."""


def _padded(slug: str, says: str, method: str, pages: int, size: int) -> Case:
    """Fill up a payload with empty blocks, and go on in the same compressed stream.

    A block has 5 or 3 bytes and its content: not every number of pages can have every size.
    """
    begin, block = _BLOCKS[method]
    blocks = b"".join(block(content(8 + n, 0, PAGE_SIZE)) for n in range(pages))
    empty, rest = divmod(size - len(begin) - len(blocks), len(block(b"")))
    assert rest == 0
    payload = begin + block(b"") * (empty - 1) + blocks + block(b"")
    fits = size <= _LIMIT
    fault = Pages(wire="0", normal=tuple(range(8, 8 + pages)), payload=payload.hex(), lands=fits)
    good = block(content(SENTINEL, 0, PAGE_SIZE)) + block(b"")
    return _case(f"PAY-13/{method}-{slug}", f"a {method} payload {says}",
                 ACCEPTS if fits else REFUSES, fault,
                 Pages(wire="0", normal=(SENTINEL,), payload=good.hex()), PROOF[-1],
                 method=method, applies=of_common_pages)  # fmt: skip


_PAY_13 = (
    _padded("limit", "as long as it may be", "zlib", 4, _LIMIT),
    _padded("one-more", "one byte longer than it may be", "zlib", 5, _LIMIT + 1),
    _padded("limit", "as long as it may be", "zstd", 1, _LIMIT),
    _padded("one-more", "one byte longer than it may be", "zstd", 2, _LIMIT + 1),
    *(_case(f"PAY-13/{method.name}-all-ones", f"a {method.name} payload of 2^32 - 1 bytes",
            REFUSES, _pages(8, lands=False, next_packet_size=U32), _ENDED, method=method.name)
      for method in _STREAMS),
)  # fmt: skip

_PAY_14 = (
    *(_case(f"PAY-14/{method.name}-{slug}",
            f"a zero page, and {size} bytes of {method.name} payload announced", REFUSES,
            _pages(zero=(8,), lands=False, next_packet_size=size), *PROOF, method=method.name,
            since=_ZERO_SINCE)
      for method in _STREAMS for slug, size in (("one", 1), ("page", 4096), ("all-ones", U32))),
    *(_case(f"PAY-14/{method.name}-without-any-page",
            f"a SYNC packet with a stale next_packet_size, to a receiver of {method.name}", ACCEPTS,
            _pages(9), *(Sync(wire=wire, fields={"next_packet_size": 77}) for wire in PAIR), PART,
            MARK, *PROOF, method=method.name, reported="it has no pages")
      for method in _STREAMS),
)  # fmt: skip

# ---- decoding ------------------------------------------------------------------------------------


def _encoded(method: str, *contents: bytes) -> list[str]:
    """Return payloads that follow each other on a channel, as hex."""
    encoder = next(m for m in METHODS if m.name == method).encoder()
    return [encoder.encode([data]).hex() for data in contents]


def _wrong_length(slug: str, says: str, method: str, length: int, **options: Any) -> Case:
    """Decode to so many bytes in place of a page, and go on in the same compressed stream."""
    data = content(8, 0, 2 * PAGE_SIZE)[:length]
    wrong, good = _encoded(method, data, content(SENTINEL, 0, PAGE_SIZE))
    return _case(f"PAY-15/{method}-{slug}", f"a {method} payload that decodes to {says}", REFUSES,
                 Pages(wire="0", normal=(8,), payload=wrong, fields={"next_packet_size":
                       len(wrong) // 2}),
                 Pages(wire="0", normal=(SENTINEL,), payload=good), PROOF[-1], method=method,
                 applies=of_common_pages, **options)  # fmt: skip


def _undecodable(slug: str, says: str, method: str, payload: str) -> Case:
    return _case(f"PAY-15/{method}-{slug}", f"a {method} payload {says}", REFUSES,
                 Pages(wire="0", normal=(8,), payload=payload), _ENDED, method=method)  # fmt: skip


def _session(method: str) -> Case:
    """Send the same pages in three rounds, with other content each time."""
    rounds = [
        (Pages(wire=str(n % 2), normal=tuple(range(8, 8 + PAGE_COUNT // 2)), salt=n), *round_end())
        for n in range(3)
    ]
    steps = (step for steps in rounds for step in steps)
    return _case(f"PAY-15/{method}-session", f"a whole {method} migration of three rounds", ACCEPTS,
                 *steps, Complete(), method=method)  # fmt: skip


_PAY_15 = (
    *(case for method in METHODS[1:] for case in (
        _session(method.name),
        _undecodable("garbage", "that is no stream", method.name, "ff" * 64),
        _undecodable("empty", "of no bytes", method.name, ""),
        _undecodable("zeros", "of zeros", method.name, "00" * 64),
    )),
    *(case for method in ("zlib", "zstd") for case in (
        _wrong_length("half-a-page", "half a page", method, PAGE_SIZE // 2),
        _wrong_length("one-byte-less", "all but one byte of its page", method, PAGE_SIZE - 1),
        _wrong_length("one-byte-more", "one byte more than its page", method, PAGE_SIZE + 1,
                      reported="only less than the pages is forbidden"),
    )),
    _undecodable("dictionary", "that wants a dictionary", "zlib", "78bb0000000100"),
    _undecodable("distance", "that refers to what was never sent", "zlib",
                 _encoded("zlib", content(8, 0, PAGE_SIZE) * 2, content(8, 0, PAGE_SIZE))[1]),
    _undecodable("window", "that wants a window of 1 TiB", "zstd", "28b52ffd00f0010000"),
)  # fmt: skip

# ---- zero pages ----------------------------------------------------------------------------------

_PAY_16 = (
    _case("PAY-16/first-sight", "zero pages that were never sent before", ACCEPTS,
          _pages(zero=(8, 9)), *PROOF, since=_ZERO_SINCE),
    _case("PAY-16/beside-content", "a packet of pages with content, and of zero pages", ACCEPTS,
          _pages(8, 10, zero=(9, 11)), *PROOF, since=_ZERO_SINCE),
    _case("PAY-16/over-content", "content, a round later zeros for the same pages", ACCEPTS,
          _pages(8, 9), *round_end(), _pages(zero=(8, 9)), *PROOF, since=_ZERO_SINCE),
    _case("PAY-16/over-content-of-another-channel",
          "content, a round later zeros for the same page on another channel", ACCEPTS,
          _pages(8), *round_end(), Pages(wire="1", zero=(8,)), *proof("1"), since=_ZERO_SINCE),
    _case("PAY-16/content-again", "zeros, then content, then zeros, a round each", ACCEPTS,
          _pages(zero=(8,)), *round_end(), _pages(8), *round_end(), _pages(zero=(8,)), *PROOF,
          since=_ZERO_SINCE),
    _case("PAY-16/content-after-zeros", "zeros, and a round later content", ACCEPTS,
          _pages(zero=(8,)), *round_end(), _pages(8), *PROOF, since=_ZERO_SINCE),
    _case("PAY-16/twice", "zeros, and a round later zeros again", ACCEPTS,
          _pages(zero=(8,)), *round_end(), _pages(zero=(8,)), *PROOF, since=_ZERO_SINCE),
    _case("PAY-16/full", "content, a round later zeros for 128 pages", ACCEPTS,
          _pages(*range(PAGE_COUNT)), *round_end(), _pages(zero=tuple(range(PAGE_COUNT))), *PROOF,
          since=_ZERO_SINCE, applies=of_common_pages),
    *(_case(f"PAY-16/{method.name}", f"the same with {method.name}", ACCEPTS,
            _pages(8, 9), *round_end(), _pages(10, zero=(8,)), _pages(zero=(9,)), *PROOF,
            method=method.name, since=_ZERO_SINCE) for method in METHODS[1:]),
    _case("PAY-16/words", "content, a round later zeros by words of the main stream", ACCEPTS,
          _pages(8, 9), *round_end(), *syncs(*PAIR), PART, Main(part="zeros", pages=(8,)), MARK,
          *PROOF, reported="of what is on the main stream nothing is demanded"),
)  # fmt: skip

# ---- none ----------------------------------------------------------------------------------------

_PAY_17 = (
    *(_case(f"PAY-17/{slug}", f"a page, and a next_packet_size of {size}", ACCEPTS,
            _pages(8, next_packet_size=size), *PROOF)
      for slug, size in (("zero", 0), ("one", 1), ("one-more", 4097), ("all-ones", U32))),
    *(_case(f"PAY-17/no-pages-{slug}", f"no pages, and a next_packet_size of {size}", ACCEPTS,
            _pages(next_packet_size=size), *PROOF)
      for slug, size in (("page", 4096), ("all-ones", U32))),
    _case("PAY-17/sync", "SYNC packets with a stale next_packet_size", ACCEPTS,
          _pages(8), *(Sync(wire=wire, fields={"next_packet_size": 4096}) for wire in PAIR), PART,
          MARK, *PROOF),
    _case("PAY-17/zero-page", "a zero page, and a next_packet_size of 4096", ACCEPTS,
          _pages(zero=(8,), next_packet_size=4096), *PROOF, since=_ZERO_SINCE),
)  # fmt: skip

CASES: tuple[Case, ...] = (*_PAY_12, *_PAY_13, *_PAY_14, *_PAY_15, *_PAY_16, *_PAY_17)


def test_payload(multifd_case: Callable[[], None]) -> None:
    multifd_case()
