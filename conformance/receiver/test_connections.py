"""Chapter 2, connections: which is which, how many there are, and how they end."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import (
    MAIN,
    Absent,
    Complete,
    Ended,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Reset,
    Sync,
)
from ..target import Description, Sense
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
    of_common_pages,
    pieces,
    proof,
    round_end,
    silent_channels,
    syncs,
)

ACCEPTS, REFUSES, REFUSES_ALL = Expect.ACCEPTS, Expect.REFUSES, Expect.REFUSES_ALL
# wrong in every field, so that it is refused whichever of them a receiver looks at
_BAD = Raw(wire="0", hex="ff" * 1344)
_PAGE = Pages(wire="0", normal=(8,))
_QEVM = "5145564d00000003"
_SEEN = frozenset({Sense.MEMORY})


def _answers(peer: Description) -> str:
    return "" if peer.return_path else "the peer has no return path"


_CHAN_2 = (
    Case("CHAN-2/session", "a whole migration", ACCEPTS,
         (*BEGUN, _PAGE, *round_end(), Complete()), also=silent_channels),
    Case("CHAN-2/return-path", "a whole migration that asks for answers on the main stream",
         ACCEPTS,
         (Open(wire=MAIN), Main(part="start", return_path=True), *channels(*PAIR), *syncs(*PAIR),
          MARK, _PAGE, *round_end(), Complete()),
         applies=_answers, also=silent_channels),
    Case("CHAN-2/refusal", "bytes that are no packet", REFUSES,
         (*BEGUN, _BAD, Ended(wires=("0",))), also=silent_channels),
)  # fmt: skip

_CHAN_5 = (
    Case("CHAN-5/channels-first", "all channels before the main stream", ACCEPTS,
         (*channels(*PAIR), *syncs(*PAIR), *START, MARK, *PROOF), since="8.1"),
    Case("CHAN-5/main-in-the-middle", "the main stream between two channels", ACCEPTS,
         (*channels("0"), *START, *channels("1"), *syncs(*PAIR), MARK, *PROOF), since="8.1"),
    Case("CHAN-5/inits-before-the-header", "the first byte of the main stream after the channels",
         ACCEPTS,
         (Open(wire=MAIN), *channels(*PAIR), *syncs(*PAIR), Main(part="start"), MARK, *PROOF)),
)  # fmt: skip

_CHAN_6 = (
    Case("CHAN-6/four-bytes", "a connection that starts with four bytes of neither kind", REFUSES,
         (Open(wire=MAIN), Main(part="header"), Open(wire="0"), Raw(wire="0", hex="deadbeef"),
          Ended(wires=("0",))), since="8.1"),
    Case("CHAN-6/http", "a connection that speaks HTTP", REFUSES,
         (Open(wire=MAIN), Main(part="header"), Open(wire="0"),
          Raw(wire="0", hex=(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 8).hex()),
          Ended(wires=("0",)))),
    Case("CHAN-6/tls", "a connection that starts a TLS handshake in a plain migration", REFUSES,
         (Open(wire=MAIN), Main(part="header"), Open(wire="0"),
          Raw(wire="0", hex="16030100fa010000f60303" + "5a" * 64), Ended(wires=("0",)))),
)  # fmt: skip


def _meanwhile(slug: str, says: str, *strange: Open | Init | Raw) -> Case:
    """Leave a connection where it is, and go on with the migration."""
    steps = (*START, *channels("0"), Open(wire="1b"), *strange, Pause(seconds=0.05),
             *channels("1"), *syncs(*PAIR), MARK, *PROOF)  # fmt: skip
    return Case(f"CHAN-7/{slug}", says, ACCEPTS, steps)


_CHAN_7 = (
    _meanwhile("silent", "nothing on one connection, while the others go on"),
    _meanwhile("two-bytes", "two bytes on one connection, while the others go on",
               Raw(wire="1b", hex="1122")),
    _meanwhile("half-an-init", "half an init message, while the others go on",
               Init(wire="1b", first=32)),
)  # fmt: skip

_CHAN_8 = (
    Case("CHAN-8/one-of-two", "all but one channel, up to the first mark and a page behind it",
         ACCEPTS,
         (*START, *channels("0"), *syncs("0"), MARK,
          Pages(wire="0", normal=(SENTINEL,)), Absent(page=SENTINEL),
          *channels("1"), *syncs("1"), *proof("1")[1:]),
         needs=_SEEN),
    *(Case(f"CHAN-8/{count}-channels", f"a whole migration over {count} channels", ACCEPTS,
           (*begun(count), _PAGE, Pages(wire=str(count - 1), normal=(9,)),
            *round_end(*map(str, range(count))), Complete()), channels=count)
      for count in (1, 2, 3, 16, 255)),
)  # fmt: skip

_THERE = (*BEGUN, Pause(seconds=0.1))  # so long that all are known for what they are
_SURPLUS = Open(wire="2", refusable=True)
_CHAN_9 = (
    Case("CHAN-9/surplus-channel", "one channel more, when all are there", ACCEPTS,
         (*_THERE, _SURPLUS, Init(wire="2"), Ended(wires=("2",)), *PROOF)),
    Case("CHAN-9/surplus-silent", "one connection more that says nothing, when all are there",
         ACCEPTS, (*_THERE, _SURPLUS, Ended(wires=("2",)), *PROOF)),
    Case("CHAN-9/second-main-stream", "a second main stream, when all are there", ACCEPTS,
         (*_THERE, _SURPLUS, Raw(wire="2", hex=_QEVM), Ended(wires=("2",)), *PROOF)),
    Case("CHAN-9/second-main-stream-early", "a second main stream in place of a channel",
         Expect.SURVIVES,
         (*START, *channels("0"), Open(wire="1"), Open(wire="2"), Raw(wire="2", hex=_QEVM),
          Pause(seconds=0.05), Init(wire="1"), *syncs(*PAIR), MARK, *PROOF)),
)  # fmt: skip

_CHAN_10 = (
    Case("CHAN-10/between-packets", "the end of a channel between two packets", ACCEPTS,
         (*BEGUN, Pages(wire="1", normal=(8,)), Fin(wire="1"), Pause(seconds=0.1), *PROOF),
         needs=_SEEN),
    Case("CHAN-10/after-the-first-sync", "the end of a channel that had nothing but a SYNC",
         ACCEPTS, (*BEGUN, Fin(wire="1"), Pause(seconds=0.1), *PROOF), needs=_SEEN),
    Case("CHAN-10/after-the-last-sync", "the end of all channels before the mark of the last round",
         ACCEPTS,
         (*BEGUN, _PAGE, Main(part="end"), *syncs(*PAIR), Fin(wire="0"), Fin(wire="1"),
          Pause(seconds=0.1), MARK, Complete(sync=False))),
)  # fmt: skip


def _cut(slug: str, says: str, message: Init | Sync | Pages) -> Case:
    """End channel 1 inside a message."""
    init = isinstance(message, Init)
    before = (*START, *channels("0"), *syncs("0"), Open(wire="1")) if init else BEGUN
    return Case(f"CHAN-11/{slug}", f"the end of a channel {says}", REFUSES,
                (*before, message, Fin(wire="1"), Ended(wires=PAIR)),
                applies=of_common_pages)  # fmt: skip


def _whole(slug: str, says: str, cut: tuple[Init | Sync | Pages | Raw | Pause, ...]) -> Case:
    return Case(f"CHAN-11/{slug}", says, ACCEPTS, (*BEGUN, *cut, *PROOF))


_TWO = Pages(wire="1", normal=(8, 9))
_ODD = (1, 4, 11, 12, 13, 63, 64, 320, 700, 1343, 1344, 1345, 5440, 9535)
_CHAN_11 = (
    *(_cut(f"init-{n}", f"after {n} of the 64 bytes of its init", Init(wire="1", first=n))
      for n in (4, 8, 24, 32, 63)),
    *(_cut(f"header-{n}", f"after {n} of the 12 bytes that a packet starts with",
           Pages(wire="1", normal=(8,), first=n)) for n in (1, 4, 11)),
    *(_cut(f"head-{n}", f"after {n} bytes of the head of a packet",
           Pages(wire="1", normal=(8,), first=n)) for n in (12, 13, 64, 320, 1343)),
    _cut("sync-1343", "one byte before that of a SYNC packet", Sync(wire="1", first=1343)),
    *(_cut(f"payload-{n}", f"after {n} of the 8192 bytes of a payload",
           Pages(wire="1", normal=(8, 9), first=1344 + n)) for n in (0, 1, 4095, 4096, 8191)),
    Case("CHAN-11/init-1", "the end of a connection after its first byte", REFUSES,
         (*START, *channels("0"), Open(wire="1"), Init(wire="1", first=1), Fin(wire="1"),
          Ended(wires=PAIR)),
         reported="a byte does not tell what the connection is"),
    Case("CHAN-11/reset", "the reset of a channel between two packets", REFUSES,
         (*BEGUN, Reset(wire="1"), Ended(wires=("0",))),
         reported="a reset may, or may not, be told from an end"),
    Case("CHAN-11/init-in-pieces", "an init message byte by byte", ACCEPTS,
         (*START, *channels("0"), Open(wire="1"),
          *(step for piece in pieces(Init(wire="1"), range(1, 64))
            for step in (piece, Pause(seconds=0.001))),
          *syncs(*PAIR), MARK, *PROOF)),
    Case("CHAN-11/packet-in-pieces", "a packet of two pages in odd pieces", ACCEPTS,
         (*BEGUN,
          *(step for piece in pieces(_TWO, _ODD) for step in (piece, Pause(seconds=0.005))),
          *proof("1")), applies=of_common_pages),
    Case("CHAN-11/header-in-pieces", "a main stream whose first four bytes come one by one",
         ACCEPTS,
         (Open(wire=MAIN),
          *(step for piece in pieces(Main(part="start"), range(1, 12))
            for step in (piece, Pause(seconds=0.005))),
          *channels(*PAIR), *syncs(*PAIR), MARK, *PROOF)),
)  # fmt: skip

_CHAN_12 = (
    Case("CHAN-12/bad-packet", "bytes on channel 0 that are no packet", REFUSES,
         (*BEGUN, _BAD, Ended(wires=PAIR))),
    Case("CHAN-12/bad-init", "a good channel, and one whose init it has to refuse", REFUSES,
         (*START, *channels("0"), Open(wire="1"),
          Init(wire="1", fields={"version": 2, "uuid": "ff" * 16, "id": 255}),
          Ended(wires=PAIR))),
    Case("CHAN-12/sixteen-channels", "bytes that are no packet on one of 16 channels",
         REFUSES, (*begun(16), _BAD, Ended(wires=tuple(map(str, range(16))))), channels=16),
)  # fmt: skip

_CHAN_13 = (
    Case("CHAN-13/mark-then-fault", "bytes that are no packet, while it waits for a SYNC",
         REFUSES_ALL,
         (*BEGUN, *syncs("1"), PART, MARK, Pause(seconds=0.05), _BAD, Ended(wires=ALL))),
    Case("CHAN-13/fault-then-mark", "bytes that are no packet, and a mark", REFUSES_ALL,
         (*BEGUN, *syncs("1"), _BAD, PART, MARK, Ended(wires=ALL))),
    Case("CHAN-13/end-in-a-packet", "the end of a channel in a packet, while it waits for a SYNC",
         REFUSES_ALL,
         (*BEGUN, *syncs("1"), PART, MARK, Pages(wire="0", normal=(8,), first=100),
          Pause(seconds=0.05), Fin(wire="0"), Ended(wires=ALL))),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *_CHAN_2, *_CHAN_5, *_CHAN_6, *_CHAN_7, *_CHAN_8, *_CHAN_9, *_CHAN_10, *_CHAN_11, *_CHAN_12,
    *_CHAN_13,
)  # fmt: skip


def test_connections(multifd_case: Callable[[], None]) -> None:
    multifd_case()
