"""Chapter 7, Packet numbers: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(7)


def test_numbers(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
