"""A worker's process, as its campaign sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from multifd_proto.peers.mortal import tied
from multifd_proto.peers.owner import Owner

from .link import Journal, Message
from .task import Task

_CHUNK = 1 << 16
_TAIL = 2000
_ATOMIC = 4096
"""Bytes that a pipe takes as a whole or not at all (`PIPE_BUF`)."""


class Hand(Owner):
    """A worker: started at once, killed with all that it has started when it is closed."""

    def __init__(self, task: Task) -> None:
        self.number = task.number
        self.executions = 0
        self.heard = time.monotonic()
        """When it last said something."""
        self.done = False
        """It has said that it is."""
        self._journal = Journal()
        self._errors = os.memfd_create("multifd-errors")
        command = [sys.executable, "-P", "-m", "multifd_proto.fuzz.worker", str(self._journal.file)]
        # in a session of its own, an interrupt from the terminal reaches us alone, who clear up
        self._process = subprocess.Popen(
            tied(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            pass_fds=[self._journal.file], start_new_session=True, bufsize=0,
        )  # fmt: skip
        self._rest = b""
        with suppress(BrokenPipeError):
            self._write(json.dumps(asdict(task)).encode() + b"\n")
        os.set_blocking(self.fileno(), False)
        os.set_blocking(self._stdin.fileno(), False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when the worker says something, or has ended."""
        assert self._process.stdout
        return self._process.stdout.fileno()

    def hear(self) -> list[Message] | None:
        """Return what the worker has said; None if it has ended."""
        try:
            data = os.read(self.fileno(), _CHUNK)
        except BlockingIOError:
            return []
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def tell(self, **message: Any) -> None:
        """Tell the worker something. One that does not listen hangs, and will be found out."""
        data = json.dumps(message).encode() + b"\n"
        if len(data) <= _ATOMIC:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._stdin.fileno(), data)

    def end(self) -> tuple[str, dict[str, Any], str]:
        """Kill the worker, should it live.

        Returns:
            How it ended, the input that it was running (empty if none), what it printed last.
        """
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        text = self._journal.read()
        size = os.fstat(self._errors).st_size
        said = os.pread(self._errors, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
        return how, json.loads(text) if text else {}, said.strip()

    def close(self) -> None:
        """Kill the worker, and let go of what belongs to it."""
        if self._process.stdin and not self._process.stdin.closed:
            self.end()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError):
                    stream and stream.close()
            os.close(self._errors)
            self._journal.close()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self._stdin.write(data) :]
