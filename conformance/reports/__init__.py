"""What a run of the suite is written down as: a Markdown matrix, a page for the browser.

    python -m multifd_proto.conformance.reports RUN.jsonl... -o report.html

Several runs stand side by side in one report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .run import ReportError, Run, read

__all__ = ["SUFFIXES", "ReportError", "Run", "read", "render"]

SUFFIXES = (".md", ".html")
"""What `render` can write."""


def render(runs: Sequence[Run], path: Path) -> None:
    """Write a report; the suffix of its file says which.

    Raises:
        ReportError: the suffix is unknown, a library is missing, or the file cannot be written.
    """
    text = _text(runs, path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}") from None


def _text(runs: Sequence[Run], path: Path) -> str:
    if path.suffix == ".md":
        from .markdown import report as markdown

        return markdown(runs, path.parent)
    if path.suffix == ".html":
        from .html import report as html

        return html(runs)
    raise ReportError(f"{path}: the suffix is {path.suffix!r}, known are {', '.join(SUFFIXES)}")
