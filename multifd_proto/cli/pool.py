"""Tasks in processes: when one is killed, its task alone fails; when we die, so do they."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread

from multifd_proto.cli.many import Done, Outcome, Task, do

# concurrent.futures gives up all tasks of a pool when one of its processes is killed
_CONTEXT = get_context("spawn")
_TICK = 0.2
"""Seconds between two words on how far a task is."""


def in_processes(jobs: int, tasks: Sequence[Task], done: Done) -> Generator[Outcome, None, None]:
    """Do tasks, so many at a time; yield what became of each, in the order in which they end.

    Args:
        jobs: processes at most.
        tasks: what to do.
        done: told of bytes read.
    """
    waiting = list(reversed(tasks))
    workers = [_Worker() for _ in range(min(jobs, len(tasks)))]
    try:
        while waiting or any(worker.task for worker in workers):
            for place, worker in enumerate(workers):
                if waiting and not worker.task:
                    if worker.process.exitcode is not None:
                        worker.close()
                        workers[place] = _Worker()
                    workers[place].begin(waiting.pop())
            busy = [worker for worker in workers if worker.task]
            heard = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in heard:
                    continue
                said = worker.hear()
                if isinstance(said, Outcome):
                    yield said
                else:
                    done(said)
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """A process that does one task after the other."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        """Have it do a task."""
        self.task = task
        with suppress(ConnectionError):  # it is dead, and will be found to be
            self.pipe.send(task)

    def hear(self) -> Outcome | int:
        """Return what has become of the task, or how many more bytes were read for it."""
        assert self.task
        try:
            said: Outcome | int = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            said = Outcome(self.task.path, error=_death(self.process.exitcode))
        if isinstance(said, Outcome):
            self.task = None
        return said

    def close(self) -> None:
        """Kill it, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process exited with status {status}"


def _work(pipe: Connection) -> None:
    # an interrupt of the whole group: the parent ends us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        said = _Teller(pipe)
        outcome = do(task, said.add)
        said.tell()
        pipe.send(outcome)


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


class _Teller:
    """Tells of bytes read, now and then."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._bytes = 0
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes."""
        self._bytes += count
        if time.monotonic() - self._last > _TICK:
            self.tell()

    def tell(self) -> None:
        """Tell of those that were not told of yet."""
        self._pipe.send(self._bytes)
        self._bytes, self._last = 0, time.monotonic()
