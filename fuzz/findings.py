"""The file of a finding: its input, as JSON that one can read, and under `finding` what is wrong.

{"multifd-script": 1, "setup": {...}, "steps": [...],
 "finding": {"signature": "crashes SYNC-1 signal SIGSEGV", "kind": "crashes",
             "requirement": "SYNC-1", "observed": "crashed, the end of 0",
             "detail": "signal SIGSEGV", "peer": "qemu:10.0", "product": "QEMU",
             "version": "10.0.13", "dialect": "10.0", "confirmed": [3, 3],
             "found": {"seconds": 4.2, "executions": 71, "seed": 1, "worker": 0},
             "minimised": true}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from multifd_proto.errors import MultiFDError

from .store import LARGEST, to_text
from .target import Finding

_FACTS = ("peer", "product", "version", "dialect")
_TEXTS = ("kind", "requirement", "observed", "detail", "signature", *_FACTS)
_NUMBERS = ("seconds", "executions", "seed", "worker")


class FindingError(MultiFDError):
    """A file is no finding, or a finding makes no file: says place, value seen and demanded."""


@dataclass(frozen=True)
class Found:
    """When and where a campaign came upon it."""

    seconds: float
    """Since the campaign began."""
    executions: int
    """Inputs that were run until then, by the worker that found it."""
    seed: int
    worker: int


@dataclass(frozen=True)
class Record:
    """What a file says."""

    input: Mapping[str, Any]
    """The JSON object of the input; see `Target.from_json`."""
    finding: Finding
    facts: Mapping[str, str]
    """URI of the `peer`, its `product`, `version` and `dialect`; `against`, if there was another
    peer."""
    confirmed: tuple[int, int] = (0, 0)
    """How often it showed again, of how many tries."""
    found: Found | None = None
    minimised: bool = False
    """Nothing smaller shows it."""


def build(
    data: Mapping[str, Any],
    finding: Finding,
    facts: Mapping[str, str],
    found: Found,
    *,
    confirmed: tuple[int, int] = (0, 0),
    minimised: bool = False,
) -> dict[str, Any]:
    """Return a finding as the JSON object of its file.

    Args:
        data: JSON object of the input.
        finding: what is wrong.
        facts: `peer`, its URI, and what `Target.describe` returns.
        found: when and where it was found.
        confirmed: how often it showed again, of how many tries.
        minimised: nothing smaller shows it.
    """
    said = asdict(finding) | dict(facts)
    said |= {"confirmed": list(confirmed), "found": asdict(found), "minimised": minimised}
    return {**data, "finding": {"signature": finding.signature, **said}}


def dump(data: Mapping[str, Any]) -> str:
    """Return the text of a file: a line for each step.

    Raises:
        FindingError: it is longer than a corpus takes.
    """
    text = to_text(data)
    if len(text.encode()) > LARGEST:
        raise FindingError(f"finding: {len(text.encode())} bytes, must be at most {LARGEST}")
    return text


def read(text: str) -> Record:
    """Read the text of a file.

    Raises:
        FindingError: it is no JSON, too long, or something in it is missing or malformed.
    """
    if len(text.encode()) > LARGEST:
        raise FindingError(f"{len(text.encode())} bytes, must be at most {LARGEST}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FindingError(f"no JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("finding"), dict):
        raise FindingError("no finding: 'finding' must be an object")
    said = data.pop("finding")
    for name in _TEXTS:
        _demand(name, said.get(name), "a string", isinstance(said.get(name), str))
    finding = Finding(*(said[name] for name in ("kind", "requirement", "observed", "detail")))
    signature = said["signature"]
    _demand("signature", signature, repr(finding.signature), signature == finding.signature)
    facts = {name: said[name] for name in (*_FACTS, "against") if isinstance(said.get(name), str)}
    minimised = said.get("minimised", False)
    _demand("minimised", minimised, "true or false", isinstance(minimised, bool))
    return Record(data, finding, facts, _confirmed(said), _found(said), minimised)


def _confirmed(said: Mapping[str, Any]) -> tuple[int, int]:
    value = said.get("confirmed", [0, 0])
    numbers = isinstance(value, list) and len(value) == 2 and all(map(_counts, value))
    _demand("confirmed", value, "[k, n] with k up to n", numbers and value[0] <= value[1])
    return value[0], value[1]


def _found(said: Mapping[str, Any]) -> Found | None:
    value = said.get("found")
    if value is None:
        return None
    right = isinstance(value, dict) and all(
        _counts(value.get(name)) or (name == "seconds" and isinstance(value.get(name), float))
        for name in _NUMBERS
    )
    _demand("found", value, f"an object with the numbers {', '.join(_NUMBERS)}", right)
    return Found(*(value[name] for name in _NUMBERS))


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _demand(name: str, value: object, demanded: str, right: bool) -> None:
    if not right:
        raise FindingError(f"finding: {name} is {value!r}, must be {demanded}")
