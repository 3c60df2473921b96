"""Starts a command, and says how long it took and how much memory.

    python launcher.py FIGURES COMMAND...

A process of its own, because Linux counts the memory of whoever starts a process as that process's
until it has become another program: a small one must do it. FIGURES is the file for the answer.
Memory is the most that the command itself had, or that all its processes had together when they
were looked at, memory that several of them see counted once.
"""

import os
import sys
import time
from threading import Event, Thread

_TICK = 0.05


def proportional(pid: int) -> int:
    """Return the memory of a process and of those that it started, in KiB."""
    total, begun = 0, []
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123  # pathlib takes memory
            total = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
            begun = file.read().split()
    except (OSError, StopIteration):
        pass  # it has ended
    return total + sum(proportional(int(child)) for child in begun)


if __name__ == "__main__":
    began = time.monotonic()
    pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    over, seen = Event(), [0]

    def look() -> None:
        """Look at it again and again."""
        while not over.wait(_TICK):
            seen.append(max(seen.pop(), proportional(pid)))

    watcher = Thread(target=look)
    watcher.start()
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    peak = max(usage.ru_maxrss, *seen)
    with open(sys.argv[1], "w") as file:  # noqa: PTH123
        file.write(f"{began} {seconds} {peak} {os.waitstatus_to_exitcode(status)}")
