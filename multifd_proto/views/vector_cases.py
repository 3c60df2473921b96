"""What the files of test vectors are made of: cases, numbered and with their fields decoded."""

from __future__ import annotations

from itertools import count
from typing import Any

from multifd_proto.views.vector_form import SCHEMA, Document, pack
from multifd_proto.views.vector_judge import ACCEPTABLE, INVALID, VALID, judge
from multifd_proto.wire.schema import Message

UUID = bytes.fromhex("3a1f7c520d4e4b869c357e21d8f6a904")
"""Of the machine that migrates."""
NOTES = {
    "Boundary": "A value at the edge of what is allowed.",
    "Framing": "Where the message ends, or that it is one, cannot be told.",
    "Reserved": "A field without meaning is not zero; receivers ignore it.",
    "Hostile": "Receivers that trust the value read or write outside of their memory.",
    "KnownDeviation": "Real releases of this dialect send it, against what is demanded.",
    "Untidy": "Against a SHOULD: receivers accept it.",
}
_LEVEL = {"Untidy": ACCEPTABLE, "KnownDeviation": ACCEPTABLE}

Case = tuple[str, Message | bytes, str | None, str]
"""Comment, message, requirement that it violates, flags."""


def document(suite: str, groups: list[Document], notes: dict[str, str] = NOTES) -> Document:
    """Return a file: its tests numbered, their decoded fields added, unused notes left away."""
    numbers = count(1)
    used = {flag for group in groups for test in group["tests"] for flag in test["flags"]}
    for group in groups:
        tests = group["tests"]
        for test, seen in zip(tests, judge(suite, group), strict=True):
            test["fields"] = seen.fields
        group["tests"] = [{"id": f"{suite}-{next(numbers)}", **test} for test in tests]
    kept = {flag: text for flag, text in notes.items() if flag in used}
    return {"schema": SCHEMA, "suite": suite, "notes": kept, "groups": groups}


def make_test(case: Case, **more: Any) -> Document:
    """Return a test, its fields not yet decoded."""
    comment, message, requirement, flags = case
    result = VALID if requirement is None else INVALID
    for flag in flags.split():
        result = _LEVEL.get(flag, result)
    data = message if isinstance(message, bytes) else message.build()
    return {
        "comment": comment,
        "hex": pack(data),
        "fields": {},
        "result": result,
        "requirement": requirement,
        "flags": flags.split(),
        **more,
    }
