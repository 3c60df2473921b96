from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from multifd_proto.peers.debian import find_qemu
from multifd_proto.tests.browser import browser  # noqa: F401  # a fixture

settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

REQUIRED = os.environ.get("MULTIFD_REQUIRE_QEMU") == "1"


def missing(what: str) -> None:
    """Skip, or fail where nothing may be skipped."""
    if REQUIRED:
        pytest.fail(f"{what}, and MULTIFD_REQUIRE_QEMU=1 demands it")
    pytest.skip(what)


@pytest.fixture
def qemu() -> Callable[[str], Path]:
    """Find the QEMU of a release."""

    def find(version: str) -> Path:
        path = find_qemu(version)
        if path is None:
            missing(f"no QEMU {version}: python -m multifd_proto.peers.debian {version}")
        assert path is not None
        return path

    return find


@pytest.fixture
def tcpdump() -> str:
    """Find tcpdump, and the right to capture."""
    path = shutil.which("tcpdump")
    if path is None or os.geteuid() != 0:
        missing("no tcpdump that may capture (as root)")
    assert path is not None
    return path
