"""Chapter 2, Connections: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(2)


def test_connections(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
