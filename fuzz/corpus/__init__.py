"""The corpus: inputs that are kept for ever, and replayed by every run of the tests.

A file is a script with the key `corpus`: `says`, what it is, and `outcomes`, what a conforming
receiver makes of it, by dialect: `accepts`, `waits`, or `refuses` and the requirement; `completes`
for a session that was recorded from a real release. The cases of the conformance suite belong to
the corpus too; they are not copied but derived.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

from multifd_proto.conformance.catalogue import receiver_cases
from multifd_proto.conformance.script import Script, load_script
from multifd_proto.conformance.target import Description

from multifd_proto.errors import MultiFDError


@dataclass(frozen=True)
class Entry:
    """One input."""

    name: str
    """Of its file without the suffix, or id of its case."""
    says: str
    script: Script
    outcomes: Mapping[str, str]
    """By dialect; empty for the cases, which say themselves what is demanded."""


class CorpusError(MultiFDError):
    """A file of the corpus is malformed: says file, value seen and value demanded."""


def entries() -> Iterator[Entry]:
    """Yield what the files hold, by name.

    Raises:
        CorpusError: a file is malformed.
        ScriptError: a file holds no script.
    """
    for path in sorted(files(__name__).iterdir(), key=lambda each: each.name):
        if path.name.endswith(".json"):
            yield read(path.name.removesuffix(".json"), path.read_text("utf-8"))


def read(name: str, text: str) -> Entry:
    """Read the text of a file; raises what `entries` does."""
    script = load_script(text)
    said = json.loads(text).get("corpus")
    if not isinstance(said, dict) or not {"says", "outcomes"} <= set(said):
        raise CorpusError(f"{name}: corpus is {said!r}, must hold says and outcomes")
    return Entry(name, str(said["says"]), script, said["outcomes"])


def cases(peer: Description) -> Iterator[Entry]:
    """Yield the cases of the conformance suite that make sense for a receiver."""
    for case in receiver_cases().values():
        if not case.not_applicable(peer) and not case.tls:
            yield Entry(case.id, case.says, case.script, {})
