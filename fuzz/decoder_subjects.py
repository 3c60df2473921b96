"""What of our own code can be fuzzed: the form of a subject, and of inputs that are bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Generic, TypeVar

from hypothesis.strategies import SearchStrategy
from multifd_proto.conformance.target import MEMORY, Description

from multifd_proto import __version__
from multifd_proto.errors import MultiFDError
from multifd_proto.peers.templates import template_for
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Role

from .guard import Limits

VERSION = 1
"""Of the JSON form of bytes."""
LARGEST = 24 << 10
"""Bytes of an input at most: as hex, it fits a file of 64 KiB."""
T = TypeVar("T")


class InputError(MultiFDError):
    """A file is no input of a decoder: says place, value seen and value demanded."""


@dataclass(frozen=True)
class Bytes:
    """Bytes for one subject, how they are cut, and what it is told beside them."""

    subject: str
    data: bytes
    cuts: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values that JSON has: each subject says which it takes."""


class Subject(ABC, Generic[T]):
    """A part of ours that takes bytes from others."""

    name: str
    limits = Limits()
    patient = Limits(seconds=20.0)

    @abstractmethod
    def strategy(self) -> SearchStrategy[T]:
        """Return what inputs are drawn from."""

    @abstractmethod
    def check(self, value: T) -> Iterable[str]:
        """Run an input; return labels of what was reached. Raises `Wrong` if that is wrong."""

    @abstractmethod
    def to_json(self, value: T) -> dict[str, object]:
        """Return the readable form of an input."""

    @abstractmethod
    def from_json(self, data: Mapping[str, object]) -> T:
        """Read it back. Raises MultiFDError if it is none."""

    @abstractmethod
    def smaller(self, value: T) -> Iterator[T]:
        """Yield inputs that are a little smaller or plainer, the boldest first."""


class ByteSubject(Subject[Bytes]):
    """A subject whose inputs are bytes."""

    options: Mapping[str, Any]
    """Options that it takes, with what they are where an input does not say."""

    def option(self, value: Bytes, name: str) -> Any:
        """Return an option of an input."""
        return value.options.get(name, self.options[name])

    def dialect(self, value: Bytes) -> Dialect | None:
        """Return the dialect that an input names."""
        name = value.options.get("dialect")
        return None if name is None else dialect_of(name)

    def seed(self, data: bytes) -> Bytes:
        """Return an input of mere bytes."""
        return Bytes(self.name, data)

    def to_json(self, value: Bytes) -> dict[str, object]:
        """Return the readable form of an input."""
        return {
            "multifd-bytes": VERSION,
            "subject": value.subject,
            "options": dict(value.options),
            "cuts": list(value.cuts),
            "hex": value.data.hex(),
        }

    def from_json(self, data: Mapping[str, object]) -> Bytes:
        """Read it back."""
        if data.get("multifd-bytes") != VERSION:
            raise InputError(f"no bytes: 'multifd-bytes' must be {VERSION}")
        options, cuts = data.get("options", {}), data.get("cuts", [])
        if not isinstance(options, dict) or set(options) - set(self.options):
            known = ", ".join(self.options) or "none"
            raise InputError(f"options are {options!r}, must be an object of {known}")
        if not isinstance(cuts, list) or not all(isinstance(cut, int) for cut in cuts):
            raise InputError(f"cuts are {cuts!r}, must be a list of places")
        try:
            raw = bytes.fromhex(str(data.get("hex", "")))
        except ValueError as error:
            raise InputError(f"hex: {error}") from None
        value = Bytes(self.name, raw, (*cuts,), _frozen(options))
        try:
            self.dialect(value)
        except ValueError as error:
            raise InputError(f"dialect: {error}") from None
        return value

    def smaller(self, value: Bytes) -> Iterator[Bytes]:
        """Yield inputs with fewer bytes, without cuts and options, with zeros for bytes."""
        if value.cuts:
            yield replace(value, cuts=())
        for name in value.options:
            fewer = {key: given for key, given in value.options.items() if key != name}
            yield replace(value, options=fewer)
        step = len(value.data)
        while step:
            for at in range(0, len(value.data), step):
                yield replace(value, data=value.data[:at] + value.data[at + step :])
            step //= 2
        for cut in value.cuts:
            yield replace(value, cuts=tuple(each for each in value.cuts if each != cut))
        step = len(value.data) // 2
        while step >= 8:
            for at in range(0, len(value.data), step):
                part = value.data[at : at + step]
                if any(part):
                    plain = value.data[:at] + bytes(len(part)) + value.data[at + step :]
                    yield replace(value, data=plain)
            step //= 2


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they are drawn: lists of JSON are tuples there."""
    return {key: _tuple(given) for key, given in options.items()}


def _tuple(given: Any) -> Any:
    return tuple(map(_tuple, given)) if isinstance(given, list) else given


def limit(data: bytes) -> bytes:
    """Return as many of the bytes as an input may have."""
    return data[:LARGEST]


@cache
def described(dialect: Dialect, page_size: int = 4096) -> Description:
    """Return a machine for which messages are made."""
    return Description(
        product="multifd-proto",
        version=__version__,
        dialect=dialect,
        roles=frozenset(Role),
        around=template_for(dialect),
        blocks={b"ram0": max(MEMORY, 256 * page_size)},
        page_size=page_size,
        methods=frozenset(m.name for m in METHODS if is_in(m.since, dialect)),
    )


def is_in(since: str, dialect: Dialect) -> bool:
    """Tell whether a dialect has what came with a release."""
    return dialect_of(since).index <= dialect.index


NEWEST = DIALECTS[-1]
