"""What a run is written down as while it runs: a JSON object a line, each flushed at once.

The first line says what was selected, the last one that the run came to its end: a file without it
is that of a run that was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


class Journal:
    """Writes lines; a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line, so that it is there even if we are killed right after."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()
