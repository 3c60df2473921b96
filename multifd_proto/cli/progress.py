"""A bar on standard error for whatever takes more than two seconds, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, if known, all that there are to do."""
_PATIENCE = 2.0


@contextmanager
def progress_bar(what: str) -> Iterator[Progress | None]:
    """Show how far something is; None where nobody would see it.

    Args:
        what: what is being done: "reading".
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.progress import TransferSpeedColumn as Speed

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed()
    bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)
    begun = time.monotonic()

    def progress(done: int, total: int | None) -> None:
        if not bar.live.is_started and time.monotonic() - begun > _PATIENCE:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield progress
    finally:
        bar.stop()
