"""A target that is watched: each input is noted before it is run, and each run is told of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multifd_proto.errors import PeerError

from .link import Journal
from .target import Finding, Result, Target

_PATIENCE = 5
"""Failures in a row to start the peer, after which it cannot be used."""
_PAUSE = 0.3


class Watched:
    """In all else it is the target itself."""

    def __init__(self, target: Target[Any], journal: Journal, lives: Callable[[int], None]) -> None:
        """Watch a target.

        Args:
            target: what is watched.
            journal: holds each input while it is run.
            lives: called with the executions that are done: 1 after each, 0 in between.
        """
        self._target, self._journal, self._lives = target, journal, lives
        self._failures = 0
        self._written: tuple[Any, str] = (None, "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def text(self, value: Any) -> str:
        """Return the JSON of an input; to write it can take as long as to run it."""
        if self._written[0] is not value:
            self._written = value, json.dumps(self._target.to_json(value), sort_keys=True)
        return self._written[1]

    def run(self, value: Any, *, patient: bool = False) -> Result:
        """Run an input; what our own code raises is a finding too.

        Raises:
            PeerError: the peer could not be started, several times in a row.
        """
        self._journal.write(self.text(value))
        while True:
            try:
                result = self._target.run(value, patient=patient)
                break
            except PeerError:
                self._failures += 1
                self._lives(0)
                if self._failures >= _PATIENCE:
                    raise
                time.sleep(_PAUSE)
            except Exception as error:
                result = Result(_own_fault(error))
                break
        self._failures = 0
        self._journal.write("")
        self._lives(1)
        return result


def _own_fault(error: Exception) -> Finding:
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    code = place.tb_frame.f_code if place else None
    where = f"{Path(code.co_filename).name}:{code.co_name}" if code else ""
    observed = f"the fuzzer itself failed: {type(error).__name__}: {error}"
    return Finding("fuzzer-fails", "", observed[:500], f"{type(error).__name__} {where}")
