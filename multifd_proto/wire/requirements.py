"""The requirement catalogue: read out of the chapters of `spec/`, which are its only source.

A requirement is a block of a chapter:

    #### INIT-1 magic
    *MUST · sender · all dialects · observable: wire · source `multifd_send_initial_packet`*

    A sender MUST write `0x11223344` into `magic`.

Its sources are separated by commas: functions, macros and files of QEMU in backticks, messages that
QEMU prints (or parts of them) in double quotes, commits and remarks as they are. Behind each may
stand in parentheses in which dialects it is to be found, where not in all that the requirement
binds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files

from multifd_proto.errors import CatalogueError
from multifd_proto.wire.dialect import EVERY, Dialect, span


class Level(Enum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Role(Enum):
    """Who a requirement binds."""

    SENDER = "sender"
    RECEIVER = "receiver"


class SourceKind(Enum):
    """What a source is."""

    NAME = "name"
    """A function or macro."""
    FILE = "file"
    MESSAGE = "message"
    """A text that QEMU prints, or a part of it, as it stands in the code (`%d`)."""
    COMMIT = "commit"
    REMARK = "remark"


@dataclass(frozen=True)
class Source:
    """One thing in QEMU that a requirement was read in."""

    kind: SourceKind
    name: str
    dialects: frozenset[Dialect] = EVERY
    """Where it is to be found, if the requirement binds there."""


@dataclass(frozen=True)
class Requirement:
    """One normative statement of the specification."""

    id: str
    """Permanent, such as `INIT-1`; never used again once withdrawn."""
    slug: str
    level: Level
    role: Role
    dialect_text: str
    dialects: frozenset[Dialect]
    """The dialects that it binds."""
    observable: str
    """`wire` (the sender's bytes show it), `live` (a receiver's reaction), `image` (a file or
    memory), or `none`."""
    observable_reason: str
    """Why it cannot be observed, where it cannot."""
    source: str
    """Where it was read: QEMU's function, file, message or commit, as the block says it."""
    sources: tuple[Source, ...]
    """The same, taken apart."""
    text: str
    chapter: str
    """File name in `spec/`."""

    @property
    def anchor(self) -> str:
        """The block's address within the specification, as Markdown renderers make it."""
        words = re.sub(r"[^\w\- ]", "", f"{self.id} {self.slug}".lower())
        return f"{self.chapter}#{words.replace(' ', '-')}"

    @property
    def sort_key(self) -> tuple[str, int]:
        """Key that sorts PKT-2 before PKT-10."""
        group, number = self.id.split("-")
        return group, int(number)


_BLOCK = re.compile(
    r"^#### (?P<id>[A-Z]+-\d+) (?P<slug>.+)\n"
    r"\*(?P<level>\w+) · (?P<role>\w+) · (?P<dialects>[^·]+) · "
    r"observable: (?P<observable>\w+)(?: \((?P<reason>[^·]+)\))? · source (?P<source>[^*]+)\*\n"
    r"\n(?P<text>(?:.+\n?)+)",
    re.MULTILINE,
)
_HEADING = re.compile(r"^#### .*$", re.MULTILINE)
_KEYWORD = re.compile(r"\b(MUST|SHOULD|MAY)\b")
_SOURCE = re.compile(
    r"(?:`(?P<code>[^`]+)`|\"(?P<message>[^\"]+)\"|(?P<bare>[^`\",()]+?))"
    r"(?: \((?P<dialects>[^)]+)\))?(?:, |$)"
)
_FILE = re.compile(r".*\.(?:[ch]|json|py|rst)")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_OBSERVABLE = ("wire", "live", "image", "none")


@cache
def load() -> dict[str, Requirement]:
    """Return the catalogue by id, in the order of the chapters.

    Raises:
        CatalogueError: a block is malformed, or an id is used twice.
    """
    catalogue: dict[str, Requirement] = {}
    chapters = (f for f in files("multifd_proto.spec").iterdir() if f.name.endswith(".md"))
    for chapter in sorted(chapters, key=lambda f: f.name):
        for requirement in parse_chapter(chapter.name, chapter.read_text(encoding="utf-8")):
            if requirement.id in catalogue:
                raise CatalogueError(f"{chapter.name}: {requirement.id} is used twice")
            catalogue[requirement.id] = requirement
    return catalogue


def parse_chapter(name: str, text: str) -> Iterator[Requirement]:
    """Yield the requirements of one chapter.

    Raises:
        CatalogueError: a `####` heading is not followed by a well-formed block.
    """
    for heading in _HEADING.finditer(text):
        block = _BLOCK.match(text, heading.start())
        line = text.count("\n", 0, heading.start()) + 1
        if block is None:
            raise CatalogueError(f"{name}:{line}: malformed requirement {heading.group()!r}")
        yield _requirement(name, line, block)


def _requirement(chapter: str, line: int, block: re.Match[str]) -> Requirement:
    text, source = (" ".join(block[part].split()) for part in ("text", "source"))
    try:
        if set(_KEYWORD.findall(text)) != {block["level"]}:
            raise ValueError(f"its text says {_KEYWORD.findall(text)}, its level {block['level']}")
        if block["observable"] not in _OBSERVABLE:
            raise ValueError(f"observable is {block['observable']!r}")
        return Requirement(
            id=block["id"],
            slug=block["slug"].strip(),
            level=Level(block["level"]),
            role=Role(block["role"]),
            dialect_text=block["dialects"],
            dialects=_dialects(block["dialects"]),
            observable=block["observable"],
            observable_reason=" ".join((block["reason"] or "").split()),
            source=source,
            sources=tuple(_sources(source)),
            text=text,
            chapter=chapter,
        )
    except ValueError as error:
        raise CatalogueError(f"{chapter}:{line}: {block['id']}: {error}") from None


def _dialects(text: str) -> frozenset[Dialect]:
    """Read `all dialects`, `9.0+` or `4.0 to 8.2`."""
    if text == "all dialects":
        return EVERY
    first, _, last = text.partition(" to ")
    return span(first, last) if last else span(first.removesuffix("+"))


def _sources(text: str) -> Iterator[Source]:
    """Take a list of sources apart."""
    place = 0
    while place < len(text):
        item = _SOURCE.match(text, place)
        if item is None:
            raise ValueError(f'source is {text[place:]!r}, must be `NAME`, "MESSAGE" or a commit')
        kind = _kind(item)
        dialects = _dialects(item["dialects"]) if item["dialects"] else EVERY
        yield Source(kind, item["code"] or item["message"] or item["bare"], dialects)
        place = item.end()


def _kind(item: re.Match[str]) -> SourceKind:
    if item["message"]:
        return SourceKind.MESSAGE
    if item["code"]:
        return SourceKind.FILE if _FILE.fullmatch(item["code"]) else SourceKind.NAME
    return SourceKind.COMMIT if _COMMIT.fullmatch(item["bare"]) else SourceKind.REMARK
