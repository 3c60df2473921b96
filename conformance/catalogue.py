"""All cases of the suite, of both roles, and the files of tests that they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from multifd_proto.wire.requirements import Role, load

from .case import Case
from .mapped_ram import FileCase
from .result import Ask
from .sender.scenarios import SCENARIOS

_SENDER_EXPECTS = "what is sent keeps the requirement"


@cache
def receiver_cases() -> dict[str, Case]:
    """Return the cases that are played to receivers, in the order of the chapters."""
    return {row.id: row for row in _rows(Role.RECEIVER) if isinstance(row, Case)}


@cache
def file_cases(role: Role) -> dict[str, FileCase]:
    """Return the cases in which a file is exchanged."""
    return {row.id: row for row in _rows(role) if isinstance(row, FileCase)}


@cache
def asks(role: Role) -> dict[str, Ask]:
    """Return all cases of a role by id, in the order of the chapters."""
    found = (ask for name in _modules(role) for ask in asks_of(role, name))
    return {ask.case: ask for ask in found}


def matching(role: str | None, globs: Sequence[str]) -> list[Ask]:
    """Return the cases of one role, or of both, whose ids match one of the globs, if any."""
    found = (a for r in Role if role in (None, r.value) for a in asks(r).values())
    return [a for a in found if not globs or any(fnmatchcase(a.case, glob) for glob in globs)]


def asks_of(role: Role, module: str) -> list[Ask]:
    """Return the cases that stand in a file of tests.

    Args:
        role: whose cases; there is a folder for each.
        module: the file's name, without its suffix.
    """
    found = _module(role, module)
    rows = [
        Ask(row.id, role, row.requirement, row.says, row.expect.value, _group(row))
        for row in getattr(found, "CASES", ())
    ]
    heard = [
        Ask(f"{id_}/{name}", role, load()[id_], scenario.says, _SENDER_EXPECTS, group=name)
        for name, scenario in SCENARIOS.items()
        for id_ in getattr(found, "REQUIREMENTS", ())
    ]
    return rows + heard


def _group(row: Case | FileCase) -> str:
    """Return the group of a case: a file is judged by several requirements."""
    return f"file-{row.id.partition('/')[2]}" if isinstance(row, FileCase) else ""


def _rows(role: Role) -> Iterator[Case | FileCase]:
    for name in _modules(role):
        yield from getattr(_module(role, name), "CASES", ())


def _module(role: Role, name: str) -> Any:
    """Return a file of tests, always under the same name, however pytest imports it."""
    return import_module(f".{role.value}.{name}", __package__)


def _modules(role: Role) -> Iterator[str]:
    package = import_module(f".{role.value}", __package__)
    names = (module.name for module in iter_modules(package.__path__))
    return iter(sorted(name for name in names if name.startswith("test_")))
