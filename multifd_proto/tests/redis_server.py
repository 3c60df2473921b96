"""Debian's redis-server for tests: real, on a port of its own, gone with its test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from multifd_proto.peers.mortal import tied

WANTED = 10.0
"""Seconds within which everything here has happened."""


class Server:
    """A redis-server that can be stopped, and started again with the data that it had."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no",
            *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        process = subprocess.Popen(tied(self._command), stdout=subprocess.PIPE, text=True)
        self._process = process
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                return
        self.stop()
        pytest.fail("redis-server does not start")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process:
            self._process.kill()
            self._process.communicate(timeout=WANTED)
            self._process = None

    def client(self) -> Any:
        """Return redis-py's client; to be closed."""
        from redis import Redis

        return Redis(host="127.0.0.1", port=self.port)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    """Run a server; skip the test, or fail it where nothing may be skipped, if there is none."""
    lacking = [] if shutil.which("redis-server") else ["redis-server: apt install redis-server"]
    lacking += [] if find_spec("redis") else ["redis-py: pip install redis"]
    if lacking and os.environ.get("MULTIFD_REQUIRE_REDIS") == "1":
        pytest.fail(f"no {lacking[0]}; MULTIFD_REQUIRE_REDIS=1 demands it")
    if lacking:
        pytest.skip(f"no {lacking[0]}")
    folder.mkdir(exist_ok=True)
    server = Server(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def until(true: Callable[[], object], what: str, seconds: float = WANTED) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"in {seconds} s: {what}"
        time.sleep(0.02)
