"""Processes that do not outlive the one that started them, even if that is killed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

_TIED = ("setpriv", "--pdeathsig", "KILL")


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that runs another one, which is killed as soon as we are gone.

    Linux ties it to the thread that starts it: that has to live as long as the process shall. What
    the process itself starts is not tied. On machines without util-linux's `setpriv` the command
    is returned as it is, as is one that cannot be run, so that whoever starts it learns why.
    """
    if shutil.which(command[0]) and _can_tie():
        return [*_TIED, *command]
    return list(command)


@cache
def _can_tie() -> bool:
    if not shutil.which(_TIED[0]):
        return False
    # that of busybox does not know the option
    done = subprocess.run([*_TIED, "true"], capture_output=True, check=False, timeout=10.0)
    return done.returncode == 0
