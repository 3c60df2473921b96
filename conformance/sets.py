"""Frozen sets of requirements: what counts, so that a newer suite breaks nobody's CI.

A requirement that a set does not hold is looked at as well, but a failure of it fails no run.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from multifd_proto.errors import MultiFDError
from multifd_proto.wire.requirements import load

CURRENT = "2026.1"
"""The set of this release of the suite."""
LATEST = "latest"
"""Name of the set that holds all requirements there are."""


class SetError(MultiFDError):
    """There is no such set."""


@dataclass(frozen=True)
class RequirementSet:
    """The requirements that count."""

    name: str
    ids: frozenset[str]


def names() -> tuple[str, ...]:
    """Return the names of the frozen sets, oldest first."""
    found = (file.name for file in files(__package__).joinpath("sets").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load_set(name: str = CURRENT) -> RequirementSet:
    """Return a set by its name.

    Raises:
        SetError: there is none of that name.
    """
    if name == LATEST:
        return RequirementSet(name, frozenset(load()))
    if name not in names():
        raise SetError(f"set is {name!r}, must be one of {', '.join(names())}, {LATEST}")
    text = files(__package__).joinpath("sets", f"{name}.toml").read_text(encoding="utf-8")
    return RequirementSet(name, frozenset(tomllib.loads(text)["requirements"]))
