"""Chapter 6, SYNC and rounds: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(6)


def test_sync(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
