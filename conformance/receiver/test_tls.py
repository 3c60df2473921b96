"""Chapter 10, TLS: the same inside, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

from ..case import Case, Expect
from ..script import Complete, Ended, Fin, Main, Pages, Pause
from ..target import Sense
from .steps import BEGUN, MARK, PAIR, proof, round_end, syncs

_PAGE = Pages(wire="0", normal=(8,))

CASES: tuple[Case, ...] = (
    Case("TLS-5/session", "a whole migration inside TLS", Expect.ACCEPTS,
         (*BEGUN, _PAGE, *round_end(), Complete()), tls=True),
    Case("TLS-5/with-close-notify", "the end of a channel with close_notify", Expect.ACCEPTS,
         (*BEGUN, _PAGE, Fin(wire="0"), Pause(seconds=0.1), *proof("1")), tls=True,
         needs=frozenset({Sense.MEMORY})),
    Case("TLS-5/without-close-notify", "the end of a channel without close_notify", Expect.REFUSES,
         (*BEGUN, _PAGE, Fin(wire="0", notify=False), Ended(wires=PAIR)), tls=True),
    Case("TLS-5/after-the-last-sync", "the end of a channel without close_notify, behind its "
         "last SYNC", Expect.SURVIVES,
         (*BEGUN, _PAGE, Main(part="end"), *syncs(*PAIR), Fin(wire="0", notify=False),
          Pause(seconds=0.1), MARK, Complete(sync=False)), tls=True,
         reported="older senders end like that, and a receiver may be configured for them"),
)  # fmt: skip


def test_tls(multifd_case: Callable[[], None]) -> None:
    multifd_case()
