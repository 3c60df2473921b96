"""Chapter 4, Packets: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(4)


def test_packets(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
