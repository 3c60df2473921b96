"""The form of the test vectors: how bytes, fields and files are written in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from multifd_proto.wire.schema import Message

SCHEMA = "multifd-vectors-1"
"""Value of `schema` in every file."""
DIRECTORY = Path(str(files("multifd_proto.spec"))) / "vectors"
"""Where the files are: `spec/vectors`."""
_RUN = 8
"""Equal bytes from which on a run is written by its length."""

Document = dict[str, Any]


def pack(data: bytes) -> str:
    """Return bytes as run-length hex: `1122 00*256 ff` is 11 22, 256 zeros and ff."""
    tokens, literal = list[str](), ""
    for byte, run in groupby(data):
        length = sum(1 for _ in run)
        if length < _RUN:
            literal += f"{byte:02x}" * length
            continue
        tokens += [literal, f"{byte:02x}*{length}"]
        literal = ""
    return " ".join(token for token in [*tokens, literal] if token)


def unpack(text: str) -> bytes:
    """Return the bytes of run-length hex.

    Raises:
        ValueError: it is none.
    """
    out = b""
    for token in text.split():
        digits, star, times = token.partition("*")
        out += bytes.fromhex(digits) * (int(times) if star else 1)
    return out


def message_fields(message: Message) -> dict[str, Any]:
    """Return the fields of a layout: u64 as hex, since JSON readers may round large numbers."""
    count = len(getattr(message, "offset", ()))
    return {row.name: _field(getattr(message, row.name), row.type) for row in message.rows(count)}


def _field(value: int | bytes | tuple[int, ...], kind: str) -> Any:
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, tuple):
        used = max((n + 1 for n, offset in enumerate(value) if offset), default=0)
        return [hex(offset) for offset in value[:used]]
    return hex(value) if kind == "u64be" else value


def record_fields(record: object) -> Any:
    """Return what a record of the main stream holds, without what is absent."""
    if is_dataclass(record):
        named = ((f.name, getattr(record, f.name)) for f in fields(record))
        return {name: record_fields(value) for name, value in named if value is not None}
    if isinstance(record, bytes):
        return pack(record)
    if isinstance(record, tuple):
        return [record_fields(item) for item in record]
    return record


def render(document: Document) -> str:
    """Return a file's text: a line for each test."""
    head = {key: value for key, value in document.items() if key != "groups"}
    groups = ",\n".join(map(_render_group, document["groups"]))
    return f'{json.dumps(head, indent=1)[:-2]},\n "groups": [\n{groups}\n ]\n}}\n'


def _render_group(group: Document) -> str:
    head = {key: value for key, value in group.items() if key != "tests"}
    tests = ",\n".join("    " + json.dumps(test) for test in group["tests"])
    return f'  {json.dumps(head)[:-1]}, "tests": [\n{tests}\n  ]}}'


def committed() -> Iterable[tuple[str, Document]]:
    """Yield the name and content of every file of vectors."""
    for path in sorted(DIRECTORY.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("schema") == SCHEMA:
            yield path.name, document
