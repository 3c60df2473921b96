"""How far something is, on standard error, if that is a terminal and it takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and, if known, all that there are to do."""
_PATIENCE = 2.0
_TICK = 0.2


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


@contextmanager
def counter(waiting: str, doing: str, count: Callable[[], int]) -> Iterator[None]:
    """Show how many bytes of a live migration have come, and how fast.

    Args:
        waiting: what is going on before the first byte.
        doing: and after it.
        count: tells the bytes; called from another thread, now and then.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.progress import TransferSpeedColumn as Speed

    over = Event()
    columns = SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), Speed()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(waiting, total=None)

        def show() -> None:
            while not over.wait(_TICK):
                done = count()
                bar.update(task, completed=done, description=doing if done else waiting)

        thread = Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
