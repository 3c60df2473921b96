"""Chapter 3, the init message: what a receiver refuses, and what it has to leave alone."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import Init, Open
from ..target import MACHINE
from .steps import MARK, PAIR, PROOF, START, channels, proof, syncs

_TURNED = MACHINE[3::-1] + MACHINE[5:3:-1] + MACHINE[7:5:-1] + MACHINE[8:]


def _second(case: str, says: str, expect: Expect, wire: str = "1", **fields: int | str) -> Case:
    """Give the second of two channels this init message."""
    return Case(case, says, expect,
                (*START, *channels("0"), Open(wire=wire), Init(wire=wire, fields=fields),
                 *syncs("0", wire), MARK, *proof(wire)))  # fmt: skip


def _refused(case: str, says: str, wire: str = "1", **fields: int | str) -> Case:
    return _second(case, says, Expect.REFUSES, wire, **fields)


def _above(count: int, number: int, slug: str, *, repeat: int = 1) -> Case:
    """Give the last of so many channels this number."""
    last = str(number)
    wires = (*map(str, range(count - 1)), last)
    return Case(f"INIT-12/{slug}", f"a channel {number}, to a receiver of {count}", Expect.REFUSES,
                (*START, *channels(*wires), *syncs(*wires), MARK, *proof(last)),
                channels=count, repeat=repeat)  # fmt: skip


CASES: tuple[Case, ...] = (
    *(_refused(f"INIT-9/{slug}", f"an init with the magic {magic:#010x}", magic=magic)
      for slug, magic in (("zero", 0), ("turned-round", 0x44332211), ("plus-one", 0x11223345),
                          ("all-ones", 0xFFFFFFFF))),
    *(_refused(f"INIT-10/{slug}", f"an init of version {version:#x}", version=version)
      for slug, version in (("zero", 0), ("two", 2), ("turned-round", 0x01000000),
                            ("all-ones", 0xFFFFFFFF))),
    _refused("INIT-11/zero", "an init without a uuid", uuid=bytes(16).hex()),
    _refused("INIT-11/all-ones", "an init with a foreign uuid", uuid="ff" * 16),
    _refused("INIT-11/first-byte", "an init whose uuid differs in its first byte",
             uuid=(bytes([MACHINE[0] ^ 0x80]) + MACHINE[1:]).hex()),
    _refused("INIT-11/last-byte", "an init whose uuid differs in its last byte",
             uuid=(MACHINE[:-1] + bytes([MACHINE[-1] ^ 1])).hex()),
    _refused("INIT-11/turned-round", "an init whose uuid has the byte order of Windows",
             uuid=_TURNED.hex()),
    _above(1, 1, "id-equals-channels-1"),
    # what lies behind an array that is one too short is a matter of chance
    *(_above(count, count, f"id-equals-channels-{count}", repeat=2) for count in (2, 3, 8)),
    _above(2, 3, "id-above-channels"),
    _above(2, 128, "id-128"),
    _above(2, 255, "id-255"),
    Case("INIT-12/highest", "the highest channel before the others", Expect.ACCEPTS,
         (*START, *channels("2", "0", "1"), *syncs("0", "1", "2"), MARK, *proof("2")), channels=3),
    _refused("INIT-13/first-again", "channel 0 twice", wire="0b"),
    Case("INIT-13/last-again", "channel 2 twice, and no channel 1", Expect.REFUSES,
         (*START, *channels("0", "2", "2b"), *syncs("0", "2", "2b"), MARK, *proof("2b")),
         channels=3),
    Case("INIT-13/at-work", "channel 0 once more, when it has sent its SYNC", Expect.REFUSES,
         (*START, *channels("0"), *syncs("0"), *channels("0b"), *syncs("0b"), MARK, *proof("0b"))),
    _second("INIT-14/unused1", "an init whose unused1 is all ones", Expect.ACCEPTS,
            unused1="ff" * 7),
    _second("INIT-14/unused2", "an init whose unused2 is all ones", Expect.ACCEPTS,
            unused2="ff" * 32),
    Case("INIT-14/all-channels", "what a stack may have held in the reserved bytes of all inits",
         Expect.ACCEPTS,
         (*START,
          *(step for wire in PAIR for step in
            (Open(wire=wire),
             Init(wire=wire, fields={"unused1": "00ff7f550000a0", "unused2": "5a" * 32}))),
          *syncs(*PAIR), MARK, *PROOF)),
)  # fmt: skip


def test_init(multifd_case: Callable[[], None]) -> None:
    multifd_case()
