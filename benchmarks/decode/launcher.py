"""Starts a command, and says how long it took and how much memory.

    python launcher.py FIGURES COMMAND...

A process of its own, because Linux counts the memory of whoever starts a process as that process's
until it has become another program: a small one must do it. FIGURES is the file for the answer.
"""

import os
import sys
import time

if __name__ == "__main__":
    began = time.monotonic()
    pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    with open(sys.argv[1], "w") as file:  # noqa: PTH123  # pathlib takes memory
        file.write(f"{began} {seconds} {usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}")
