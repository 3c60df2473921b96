"""Chapter 10, TLS: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(10)


def test_tls(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
