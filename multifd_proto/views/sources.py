"""Whether what the requirements were read in still stands in a QEMU source tree.

Looks through the C files of a tree for the functions, macros and messages that the catalogue
names, and for its commits where the tree is a git checkout with its history.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from multifd_proto.errors import CatalogueError
from multifd_proto.wire.dialect import Dialect, dialect_of
from multifd_proto.wire.requirements import Requirement, Source, SourceKind, load

HOME = "migration"
"""Folder of a tree that is searched first, and without which it is no QEMU source tree."""

_IGNORED = {"build", "roms", "subprojects", "tests"}
_SPLIT_LITERAL = re.compile(r'"\s*\n\s*"')
_GIT_TIMEOUT = 60.0


class Presence(Enum):
    """What became of a source in a tree."""

    FOUND = "found"
    """Defined, printed or there, in the file that is named."""
    MENTIONED = "mentioned"
    """Used in the file that is named, but not defined in any."""
    MISSING = "missing"
    NOT_DUE = "-"
    """It is not found, as it should be: the requirement or the source is not of that release."""
    NOT_LOOKED_FOR = "not looked for"


@dataclass(frozen=True)
class Finding:
    """What became of one source in one tree."""

    presence: Presence
    file: str = ""
    """Relative to the tree; empty where there is none to name."""

    def __str__(self) -> str:
        if self.presence is Presence.FOUND:
            return self.file or self.presence.value
        return f"{self.presence.value} in {self.file}" if self.file else self.presence.value


@dataclass(frozen=True)
class Row:
    """One source of one requirement, in all trees."""

    requirement: Requirement
    source: Source
    findings: tuple[Finding, ...]

    @property
    def called(self) -> str:
        """The source, as the requirement's block writes it."""
        quote = {SourceKind.MESSAGE: '"', SourceKind.FILE: "`", SourceKind.NAME: "`"}
        mark = quote.get(self.source.kind, "")
        return f"{mark}{self.source.name}{mark}"

    @property
    def drifted(self) -> bool:
        """It is not found, or not in the same file of every tree."""
        unsettled = self.findings[0].presence in (Presence.MENTIONED, Presence.MISSING)
        return unsettled or len(set(self.findings)) > 1


class Tree:
    """A QEMU source tree.

    Raises:
        CatalogueError: it is none, or of a release that is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / HOME).is_dir():
            raise CatalogueError(f"{path}: has no folder {HOME}, must be a QEMU source tree")
        try:
            self.version = (path / "VERSION").read_text("utf-8").strip()
            self.dialect: Dialect = dialect_of(_release(self.version))
        except OSError as error:
            raise CatalogueError(f"{path}/VERSION: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CatalogueError(f"{path}/VERSION: {error}") from None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The release, to sort by."""
        return tuple(map(int, self.version.split(".")))

    def find(self, sources: Iterable[Source]) -> dict[tuple[SourceKind, str], Finding]:
        """Look for sources, whatever the release; those not looked for are left out.

        Raises:
            CatalogueError: a file of the tree cannot be read.
        """
        wanted = {(source.kind, source.name) for source in sources}
        found = dict(self._find_commits({name for k, name in wanted if k is SourceKind.COMMIT}))
        files = self._files()
        for kind, name in wanted:
            if kind is SourceKind.FILE:
                where = next((f for f in files if f"/{f}".endswith(f"/{name}")), "")
                presence = Presence.FOUND if where else Presence.MISSING
                found[kind, name] = Finding(presence, where)
        names = {name for kind, name in wanted if kind is SourceKind.NAME}
        messages = {name for kind, name in wanted if kind is SourceKind.MESSAGE}
        return found | self._search(files, names, messages)

    def _files(self) -> list[str]:
        """Return the C files, those of `HOME` first."""
        found = []
        for folder, folders, names in os.walk(self.path):
            folders[:] = [f for f in folders if f not in _IGNORED and f[0] != "."]
            paths = (Path(folder, name) for name in names if name.endswith((".c", ".h")))
            found += [path.relative_to(self.path).as_posix() for path in paths if path.is_file()]
        return sorted(found, key=lambda file: (not file.startswith(f"{HOME}/"), file))

    def _text(self, file: str) -> str:
        try:
            return (self.path / file).read_text("latin-1")
        except OSError as error:
            message = f"{self.path / file}: cannot be read: {error.strerror}"
            raise CatalogueError(message) from None

    def _search(
        self, files: list[str], names: set[str], messages: set[str]
    ) -> dict[tuple[SourceKind, str], Finding]:
        """Search the files' text for names and messages, until all are found."""
        name, message = SourceKind.NAME, SourceKind.MESSAGE
        found = {(name, one): Finding(Presence.MISSING) for one in names}
        found |= {(message, one): Finding(Presence.MISSING) for one in messages}
        for file in files:
            if not names and not messages:
                break
            text = self._text(file)
            for one in [one for one in names if one in text]:  # far faster than an expression
                if _defines(text, one):
                    found[name, one] = Finding(Presence.FOUND, file)
                elif found[name, one].presence is Presence.MISSING and _mentions(text, one):
                    found[name, one] = Finding(Presence.MENTIONED, file)
            joined = _SPLIT_LITERAL.sub("", text) if messages else ""
            for one in [one for one in messages if one in joined]:
                found[message, one] = Finding(Presence.FOUND, file)
            names = {one for one in names if found[name, one].presence is not Presence.FOUND}
            messages = {one for one in messages if found[message, one].presence is Presence.MISSING}
        return found

    def _find_commits(self, commits: set[str]) -> Iterator[tuple[tuple[SourceKind, str], Finding]]:
        """Look for commits, if the tree is a checkout with its whole history."""
        whole = (self.path / ".git").exists() and self._git("rev-parse", "--is-shallow-repository")
        if whole != (0, "false"):
            return
        for commit in sorted(commits):
            status, _ = self._git("merge-base", "--is-ancestor", commit, "HEAD")
            if status in (0, 1, 128):  # an ancestor, none, or not even known
                presence = Presence.MISSING if status else Presence.FOUND
                yield (SourceKind.COMMIT, commit), Finding(presence)

    def _git(self, *arguments: str) -> tuple[int, str]:
        """Run git in the tree; return its exit status and what it printed."""
        command = ["git", "-C", str(self.path), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_GIT_TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired):
            return -1, ""
        return done.returncode, done.stdout.strip()


def _release(version: str) -> str:
    """Return the release that a version leads to: 10.2.50 and 10.2.93 are on the way to 11.0."""
    numbers = [int(part) for part in version.split(".") if part.isdigit()]
    if len(numbers) == 3 and numbers[2] >= 50:
        major, minor, _ = numbers
        return f"{major}.{minor + 1}" if minor < 2 else f"{major + 1}.0"
    return version


def _defines(text: str, name: str) -> bool:
    """Tell whether a C file defines a function or a macro."""
    head = rf"^(?:[A-Za-z_][\w *]*[ *])?{re.escape(name)}\s*\([^;{{}}]*\)\s*\{{"
    return re.search(rf"{head}|^#\s*define\s+{re.escape(name)}\b", text, re.MULTILINE) is not None


def _mentions(text: str, name: str) -> bool:
    """Tell whether a C file holds a name as a word of its own."""
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def compare(trees: Iterable[Tree], catalogue: Iterable[Requirement] | None = None) -> list[Row]:
    """Return a row for each source of each requirement: what became of it in each tree.

    Args:
        trees: source trees, in the order of the findings.
        catalogue: the requirements; all if None.

    Raises:
        CatalogueError: a file of a tree cannot be read.
    """
    trees = list(trees)
    requirements = list(load().values() if catalogue is None else catalogue)
    searched = [tree.find(s for r in requirements for s in r.sources) for tree in trees]
    return [
        Row(
            requirement,
            source,
            tuple(
                _finding(requirement, source, tree, found)
                for tree, found in zip(trees, searched, strict=True)
            ),
        )
        for requirement in requirements
        for source in requirement.sources
    ]


def _finding(
    requirement: Requirement,
    source: Source,
    tree: Tree,
    found: dict[tuple[SourceKind, str], Finding],
) -> Finding:
    finding = found.get((source.kind, source.name), Finding(Presence.NOT_LOOKED_FOR))
    due = tree.dialect in requirement.dialects and tree.dialect in source.dialects
    if finding.presence in (Presence.MENTIONED, Presence.MISSING) and not due:
        return Finding(Presence.NOT_DUE)
    return finding
