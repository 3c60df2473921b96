"""Chapter 3, The init message: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(3)


def test_init(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
