"""Verdicts on readers and writers of mapped-ram files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Self

from multifd_proto.errors import PeerError
from multifd_proto.machine.verdict import Result
from multifd_proto.machine.verdict import Verdict as Found
from multifd_proto.peers.mapped_ram import MappedRamFile

from .file_target import BLOCK, PAGE_SIZE, Loaded, Saved
from .observation import Reaction
from .peers.guest_memory import GuestMemory
from .verdict import Failure, Judgement, Verdict

_GONE_WRONG = {Reaction.CRASHED: Failure.CRASHES, Reaction.HUNG: Failure.HANGS}


class FileExpect(Enum):
    """What keeps the requirement."""

    LOADS = "is loaded, and memory is what was saved"
    REFUSES = "is refused"
    KEEPS = "the file keeps the requirement"


def judge_loaded(expect: FileExpect, loaded: Loaded, wanted: bytes) -> Judgement:
    """Return the verdict on a reader.

    Args:
        expect: what the file has to come to.
        loaded: what it came to.
        wanted: memory as it was saved.
    """
    text = _words(loaded.reaction, "loaded", loaded.reason, loaded.death)
    failure = _GONE_WRONG.get(loaded.reaction)
    if failure is None and expect is FileExpect.REFUSES and loaded.reaction is Reaction.ACCEPTED:
        failure = Failure.ACCEPTS_BAD
    elif failure is None and expect is FileExpect.LOADS:
        if loaded.reaction is Reaction.REJECTED:
            failure = Failure.REJECTS_GOOD
        elif loaded.memory is None:
            return Judgement(Verdict.INCONCLUSIVE, f"{text}; its memory cannot be seen")
        elif (place := _difference(loaded.memory, wanted)) is not None:
            failure, text = Failure.WRONG_IMAGE, f"{text}; memory differs at {place:#x}"
    return Judgement(Verdict.FAILED if failure else Verdict.PASSED, text, failure)


def _difference(seen: bytes, wanted: bytes) -> int | None:
    """Return where the first page begins that differs."""
    places = range(0, max(len(seen), len(wanted)), PAGE_SIZE)
    return next((p for p in places if seen[p : p + PAGE_SIZE] != wanted[p : p + PAGE_SIZE]), None)


def _words(reaction: Reaction, done: str, reason: tuple[str, ...], death: str | None) -> str:
    said = done if reaction is Reaction.ACCEPTED else reaction.value
    why = [*([death] if death else []), *reason[:1]]
    return f"{said}: {'; '.join(why)}" if why and reaction is not Reaction.ACCEPTED else said


@dataclass(frozen=True)
class SavedFile:
    """What a writer did, and what the file that it saved shows."""

    saved: Saved
    results: tuple[Result, ...] = ()
    differs: str = ""
    """Where the file is not what memory was, in words."""
    trouble: str = ""
    """Why the file could not be read."""

    @classmethod
    def of(cls, path: Path, offset: int, saved: Saved) -> Self:
        """Look into a file.

        Args:
            path: the file.
            offset: where in it the stream begins.
            saved: what the writer says of it.
        """
        kept = replace(saved, memory=None)  # this is kept for long, and memory is large
        if saved.reaction is not Reaction.ACCEPTED:
            return cls(kept)
        try:
            with MappedRamFile(path, offset) as file:
                if not file.mapped:
                    return cls(kept, trouble="the file is none of a migration with mapped-ram")
                return cls(kept, file.results, _compare(file, saved.memory))
        except PeerError as error:
            return cls(kept, trouble=str(error).removeprefix(f"{path}: "))

    def judge(self, requirement: str) -> Judgement:
        """Judge the writer by a requirement."""
        saved = self.saved
        text = _words(saved.reaction, "saved", saved.reason, saved.death)
        if failure := _GONE_WRONG.get(saved.reaction):
            return Judgement(Verdict.FAILED, text, failure)
        if saved.reaction is not Reaction.ACCEPTED or self.trouble:
            return Judgement(Verdict.INCONCLUSIVE, "; ".join(filter(None, (text, self.trouble))))
        result = next(r for r in self.results if r.requirement.id == requirement)
        if result.verdict is Found.FAILED:
            first = result.violations[0]
            said = f"@{first.offset:#x} {first.message}"
            return Judgement(Verdict.FAILED, said, Failure.WRONG_BYTES)
        if requirement == "MAPR-3" and self.differs:
            return Judgement(Verdict.FAILED, self.differs, Failure.WRONG_IMAGE)
        if result.verdict is not Found.PASSED:
            return Judgement(Verdict.INCONCLUSIVE, result.reason)
        return Judgement(Verdict.PASSED, text)


def _compare(file: MappedRamFile, memory: bytes | None) -> str:
    """Return where the block in a file is not what memory was; empty if it is, or is not known."""
    info = next((info for info in file.blocks if info.block.name == BLOCK), None)
    if info is None:
        return f"the file has no block {BLOCK.decode()!r}"
    if memory is None or not info.readable:
        return ""
    with GuestMemory(memory) as image:
        place = file.compare(info.block, image.path)
    if place is None:
        return ""
    return f"the page of {BLOCK.decode()} at {place:#x} is not what memory was"
