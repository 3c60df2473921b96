"""Where findings are kept: one readable JSON file each, in a directory that processes share."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from multifd_proto.errors import MultiFDError

LARGEST = 65_535
"""Bytes of a file that a corpus takes; what is larger is kept, but told of."""
_READ = 1 << 24
"""Bytes of a file beyond which it is none of ours."""
_SLUG = 60
_LINE = 80

Data: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[str], None]


class StoreError(MultiFDError):
    """Findings cannot be kept there: says place and reason."""


class Store(Protocol):
    """Keeps one finding a signature: an input's JSON object with the key `finding`."""

    def add(self, signature: str, data: Mapping[str, Any]) -> bool:
        """Keep a finding if there is none of its signature; return whether it is new.

        Of all processes that add the same at once, exactly one is told True.
        """

    def replace(self, signature: str, data: Mapping[str, Any]) -> None:
        """Keep a finding in place of another if its `rank` is lower, or if there is none."""

    def all(self) -> dict[str, Data]:
        """Return what is kept, by signature."""

    def close(self) -> None:
        """Let go of everything."""


def rank(data: Mapping[str, Any]) -> tuple[bool, int, bool, int, str]:
    """Return what orders two findings of one signature: the lower one is kept.

    One that showed again when it was tried comes first; then that with the shorter input, in bytes
    of JSON; of equally long ones that which is minimised, then that which was tried more often. The
    order is total: whoever merges, in whichever order, keeps the same.
    """
    said = _said(data)
    confirmed = said.get("confirmed")
    counts = confirmed if isinstance(confirmed, list | tuple) else ()
    good, tried = counts if len(counts) == 2 and all(isinstance(n, int) for n in counts) else (0, 0)
    length = len(json.dumps({key: value for key, value in data.items() if key != "finding"}))
    minimised = said.get("minimised") is True
    return not good, length, not minimised, -tried, json.dumps(data, sort_keys=True)


def signed(signature: str, data: Mapping[str, Any]) -> Data:
    """Return a finding as it is kept: with its signature in it."""
    return {**data, "finding": {**_said(data), "signature": signature}}


def read_finding(text: str | bytes) -> tuple[str, Data]:
    """Read a finding; return its signature with it.

    Raises:
        StoreError: it is none.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"no JSON: {error}") from None
    signature = _said(data).get("signature") if isinstance(data, dict) else None
    if not isinstance(signature, str):
        raise StoreError("no finding: 'finding' must be an object that holds a 'signature'")
    return signature, data


def to_text(data: Mapping[str, Any]) -> str:
    """Return the readable form: a line for each key, and for each item of a list or object."""
    lines = ",\n ".join(f"{json.dumps(key)}: {_value(value)}" for key, value in data.items())
    return f"{{\n {lines}\n}}\n"


def file_name(signature: str, number: int = 0) -> str:
    """Return the name of a finding's file; others by number, should that one be taken."""
    slug = re.sub(r"[^a-z0-9]+", "-", signature.lower()).strip("-")[:_SLUG].rstrip("-")
    mark = sha256(signature.encode(errors="replace")).hexdigest()[:8]
    return f"{slug or 'finding'}-{mark}{f'-{number}' if number else ''}.json"


def to_stderr(message: str) -> None:
    """Tell on stderr."""
    sys.stderr.write(message + "\n")


class DirectoryStore:
    """Findings as files. Several processes may use one directory, and may be killed at any time.

    A file that holds no finding is told of once and left alone.

    Args:
        path: the directory; it is made if it is not there.
        tell: takes a message for the user.

    Raises:
        StoreError: it cannot be made or written to.
    """

    def __init__(self, path: Path, tell: Tell = to_stderr) -> None:
        self.path = path
        self._tell = tell
        self._told: set[str] = set()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None
        with self._alone():
            pass

    def add(self, signature: str, data: Mapping[str, Any]) -> bool:
        """See `Store`. Raises StoreError if it cannot be written."""
        with self._alone():
            if self._find(signature):
                return False
            self._write(self._free(signature), signed(signature, data))
            return True

    def replace(self, signature: str, data: Mapping[str, Any]) -> None:
        """See `Store`. Raises StoreError if it cannot be written."""
        new = signed(signature, data)
        with self._alone():
            found = self._find(signature)
            if found is None:
                self._write(self._free(signature), new)
            elif rank(new) < rank(found[1]):
                self._write(found[0], new)

    def all(self) -> dict[str, Data]:
        """See `Store`. Of two files with one signature, the lower in rank counts."""
        kept: dict[str, Data] = {}
        for path in sorted(self.path.glob("*.json")):
            for signature, data in self._read(path):
                if signature not in kept or rank(data) < rank(kept[signature]):
                    kept[signature] = data
        return kept

    def close(self) -> None:
        """Do nothing: nothing is held between the calls."""

    def _find(self, signature: str) -> tuple[Path, Data] | None:
        """Return the file with a signature: that of its name, or one that was put there by hand."""
        named = self.path / file_name(signature)
        for path in (named, *sorted(self.path.glob("*.json"))):
            for found, data in self._read(path):
                if found == signature:
                    return path, data
        return None

    def _free(self, signature: str) -> Path:
        """Return a path for a new file, which is not that of a foreign or truncated one."""
        number = 0
        while (path := self.path / file_name(signature, number)).exists():
            number += 1
        return path

    def _read(self, path: Path) -> Iterator[tuple[str, Data]]:
        """Yield what a file holds, if it is there and a finding."""
        try:
            with path.open("rb") as file:
                content = file.read(_READ + 1)
            if len(content) > _READ:
                raise StoreError(f"more than {_READ} bytes")
            yield read_finding(content)
        except FileNotFoundError:
            pass
        except (OSError, StoreError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._tell_once(f"{path}: left alone, {reason}", path.name)

    def _write(self, path: Path, data: Data) -> None:
        text = to_text(data).encode()
        if len(text) > LARGEST:
            self._tell_once(f"{path}: {len(text)} bytes, a corpus takes {LARGEST}", path.name)
        # its name is no secret: nobody else writes while we hold the lock
        draft = self.path / ".draft"
        try:
            with draft.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise self._failed(error) from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the directory's lock, which the system takes from us when we are killed."""
        try:
            # opened anew each time: after a fork, both processes would hold the same lock
            file = (self.path / ".lock").open("ab")
        except OSError as error:
            raise self._failed(error) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _tell_once(self, message: str, about: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._tell(message)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"findings in {self.path}: {error.strerror}")


def _said(data: Mapping[str, Any]) -> Mapping[str, Any]:
    said = data.get("finding")
    return said if isinstance(said, Mapping) else {}


def _value(value: object) -> str:
    line = json.dumps(value)
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
    if isinstance(value, Mapping) and len(line) > _LINE:
        items = (f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
        return "{\n  " + ",\n  ".join(items) + "\n }"
    return line
