"""Chapter 9, Device state: what a sender owes."""

from __future__ import annotations

from collections.abc import Callable

from .judging import requirements_of

REQUIREMENTS = requirements_of(9)


def test_device_state(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
