"""Processes of peers: started so that they die with us, ended by force, and how they ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, TypeAlias

from multifd_proto.errors import PeerError
from multifd_proto.peers.mortal import tied

Stream: TypeAlias = int | IO[bytes] | None
"""What becomes of a standard stream, as `subprocess.Popen` takes it."""

# clang's and GCC's sanitizers, Rust, Go
_CRASH = re.compile(r"\w+Sanitizer\b|: runtime error: |\bpanicked at\b|^panic: ", re.MULTILINE)


def spawn(
    command: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; it is killed when the calling thread ends.

    Args:
        command: program and arguments; no shell is involved.
        stdin: as `subprocess.Popen` takes it.
        stdout: likewise.
        stderr: likewise.
        pass_fds: descriptors that the command keeps, under the same numbers.
        env: its environment; ours if None.

    Raises:
        PeerError: the command cannot be run.
    """
    try:
        return subprocess.Popen(
            tied(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise PeerError(f"{command[0]} cannot be run: {error.strerror or error}") from None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `spawn`, and all that it has started, at once; to be called once."""
    # the group outlives its leader as long as something that it started is there
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with suppress(OSError):  # what is still to be written, nobody reads any more
                stream.close()


def describe_death(returncode: int) -> str:
    """Say how a process ended: `exit status 1`, `signal SIGSEGV`.

    Args:
        returncode: as `subprocess.Popen` gives it: negative for a signal.
    """
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def reports_crash(text: str) -> bool:
    """Tell whether what a process printed is the report of a sanitizer, or of a panic."""
    return _CRASH.search(text) is not None
