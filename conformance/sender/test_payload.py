"""Chapter 5, Payload methods: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(5)


def test_payload(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
