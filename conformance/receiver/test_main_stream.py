"""Chapter 8, the main stream: the list of RAM blocks."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import MAIN, Main, Open
from ..target import MEMORY, Description
from .steps import MARK, PAGE_SIZE, PAIR, PROOF, channels, syncs

_NAME = "ram0"


def _has_the_block(peer: Description) -> str:
    first = next(iter(peer.blocks))
    return "" if first == _NAME.encode() else f"made for a first RAM block {_NAME!r}"


def _list(
    slug: str, says: str, length: int, name: str, applies: Callable[[Description], str]
) -> Case:
    """Announce a RAM block, and go on as if it were the right one."""
    steps = (Open(wire=MAIN), Main(part="start", blocks={name: length}), *channels(*PAIR),
             *syncs(*PAIR), MARK, *PROOF)  # fmt: skip
    return Case(f"MAIN-12/{slug}", says, Expect.REFUSES, steps, applies=applies)


def _length(slug: str, says: str, length: int) -> Case:
    return _list(slug, f"a list with a RAM block {says}", length, _NAME, _has_the_block)


CASES: tuple[Case, ...] = (
    _list("unknown-block", "a list with a RAM block that there is not", MEMORY, "nosuchblock",
          lambda _: ""),
    _list("no-name", "a list with a RAM block without a name", MEMORY, "", lambda _: ""),
    _length("one-page-more", "that is a page longer than the receiver's", MEMORY + PAGE_SIZE),
    _length("one-page-less", "that is a page shorter than the receiver's", MEMORY - PAGE_SIZE),
    _length("huge", "of 2^40 bytes", 1 << 40),
)  # fmt: skip


def test_main_stream(multifd_case: Callable[[], None]) -> None:
    multifd_case()
