"""Chapter 8, The main stream: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(8)


def test_main_stream(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
