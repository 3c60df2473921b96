"""Chapter 12, mapped-ram files: what a writer owes, in every way that it can save a machine."""

from __future__ import annotations

from collections.abc import Callable

from ..file_target import SaveSetup
from ..mapped_ram import FileCase, writes

SETUPS = {
    "zero": SaveSetup("zero"),
    "mixed": SaveSetup("mixed"),
    "random": SaveSetup("random"),
    "offset": SaveSetup("mixed", offset=12345),
    "one-channel": SaveSetup("mixed", channels=1),
    "four-channels": SaveSetup("mixed", channels=4),
    "four-channels-offset": SaveSetup("mixed", channels=4, offset=12345),
    "dirty": SaveSetup("mixed", dirty=True),
    "dirty-four-channels": SaveSetup("mixed", channels=4, dirty=True),
}

CASES: tuple[FileCase, ...] = tuple(
    writes(requirement, slug, setup)
    for requirement in ("MAPR-1", "MAPR-2", "MAPR-3", "MAPR-4")
    for slug, setup in SETUPS.items()
)


def test_mapped_ram(multifd_heard: Callable[[], None]) -> None:
    multifd_heard()
