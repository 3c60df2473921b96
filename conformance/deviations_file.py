"""Files of deviations: read, and written for a run that should be green."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.requirements import Role

from .deviations import WEAK, Deviation, DeviationError, Deviations, ReasonText
from .releases import Releases
from .verdict import Failure

TODO = "TODO"
"""Reason of an entry that was written by `--multifd-deviations-update`; refused until filled in."""
_REASON = "-reason"
_EXPECT = (*(failure.value for failure in Failure), WEAK)
_FIELDS: Mapping[str, type] = {
    "case": str, "expect": list, "releases": str, "role": str, "reason": str, "link": str,
    "flaky": bool, "quirk": str,
}  # fmt: skip
_REASON_FIELDS: Mapping[str, type] = {"case": str, "releases": str, "text": str}


def load_deviations(paths: Sequence[Path] | None = None) -> Deviations:
    """Read files of deviations; the one that is shipped if None.

    Raises:
        DeviationError: a file cannot be read, is no TOML, or holds a malformed entry.
    """
    if paths is None:
        shipped = files(__package__).joinpath("deviations.toml")
        texts = {"deviations.toml": shipped.read_text(encoding="utf-8")}
    else:
        texts = {str(path): _read(path) for path in paths}
    entries: list[Deviation] = []
    reasons: list[ReasonText] = []
    for name, text in texts.items():
        for place, product, row in _rows(name, text):
            try:
                if product.endswith(_REASON):
                    reasons.append(_reason_text(place, product.removesuffix(_REASON), row))
                else:
                    entries.append(_deviation(place, product, row))
            except (ValueError, re.error) as error:
                raise DeviationError(f"{place}: {error}") from None
    return Deviations(tuple(entries), tuple(reasons))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviationError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _rows(name: str, text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place, product in lower case, and fields of each entry."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeviationError(f"{name}: no TOML: {error}") from None
    for product, rows in tables.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DeviationError(f"{name}: {product} must be a list of tables, [[{product}]]")
        for number, row in enumerate(rows, 1):
            case = row.get("case", "?")
            yield f"{name}: [[{product}]] entry {number} ({case})", product.lower(), row


def _check_fields(row: dict[str, Any], known: Mapping[str, type], *demanded: str) -> None:
    for name, value in row.items():
        if name not in known:
            raise ValueError(f"{name!r} is unknown, must be one of {', '.join(known)}")
        if not isinstance(value, known[name]):
            raise ValueError(f"{name} is {value!r}, must be of type {known[name].__name__}")
    for name in demanded:
        if not row.get(name):
            raise ValueError(f"{name!r} is missing")


def _deviation(place: str, product: str, row: dict[str, Any]) -> Deviation:
    _check_fields(row, _FIELDS, "case", "expect", *(() if "quirk" in row else ("reason",)))
    if "quirk" in row:
        row = _of_quirk(row)
    for how in row["expect"]:
        if how not in _EXPECT:
            raise ValueError(f"expect is {how!r}, must be one of {', '.join(_EXPECT)}")
    if row["reason"] == TODO:
        raise ValueError(f"reason is {TODO!r}, must be filled in")
    return Deviation(
        product=product,
        case=row["case"],
        expect=frozenset(row["expect"]),
        releases=Releases(row.get("releases", ""), row.get("dialects")),
        reason=row["reason"],
        link=row.get("link", ""),
        role=Role(row["role"]) if "role" in row else None,
        flaky=row.get("flaky", False),
        place=place,
    )


def _of_quirk(row: dict[str, Any]) -> dict[str, Any]:
    """Fill in what `wire/quirks.py` says."""
    quirk = next((quirk for quirk in QUIRKS if quirk.name == row["quirk"]), None)
    if quirk is None:
        known = ", ".join(quirk.name for quirk in QUIRKS)
        raise ValueError(f"quirk is {row['quirk']!r}, must be one of {known}")
    for name in ("reason", "link", "releases"):
        if name in row:
            raise ValueError(f"{name!r} is the quirk's own, must be absent")
    filled = {"reason": quirk.reason, "link": quirk.source, "dialects": quirk.dialects}
    return row | filled


def _reason_text(place: str, product: str, row: dict[str, Any]) -> ReasonText:
    _check_fields(row, _REASON_FIELDS, "case", "text")
    return ReasonText(
        product, row["case"], Releases(row.get("releases", "")), re.compile(row["text"]), place
    )


@dataclass(frozen=True)
class Surprise:
    """A case that failed, or passed weakly, and is not known for it."""

    product: str
    release: str
    """Such as `10.0`."""
    role: str
    case: str
    how: str


def written(surprises: Iterable[Surprise]) -> str:
    """Return the entries that would excuse what was seen, with the reasons still to be given."""
    where: dict[tuple[str, str, str, str], set[str]] = {}
    for one in surprises:
        where.setdefault((one.product.lower(), one.role, one.case, one.release), set()).add(one.how)
    same: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (product, role, case, release), hows in where.items():
        same.setdefault((product, role, case, tuple(sorted(hows))), []).append(release)
    return "\n".join(
        f'[[{_key(product)}]]\ncase = "{case}"\nrole = "{role}"\n'
        f'releases = "{", ".join(sorted(set(releases), key=_numbers))}"\n'
        f'expect = {json.dumps(hows)}\nreason = "{TODO}"\n'
        for (product, role, case, hows), releases in same.items()
    )


def _key(product: str) -> str:
    """Return the key of a TOML table."""
    return product if re.fullmatch(r"[\w-]+", product, re.ASCII) else json.dumps(product)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))
