"""tcpdump on the loopback interface: the whole of a TCP port's traffic, or an error."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multifd_proto.errors import PeerError

_TIMEOUT = 20.0
_SETTLE = 0.3


@contextmanager
def capturing(port: int, pcap: Path) -> Iterator[None]:
    """Capture what passes a TCP port of the loopback interface while the context lasts.

    Args:
        port: the TCP port, of either address family.
        pcap: file to write, in pcap format, segments whole.

    Raises:
        PeerError: tcpdump is not installed or may not capture, or it has lost packets.
    """
    command = ["tcpdump", "-i", "lo", "--immediate-mode", "-B", "65536", "-s", "0", "-w", "-"]
    with pcap.open("wb") as file:
        try:
            process = subprocess.Popen(
                [*command, f"tcp port {port}"], stdout=file, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise PeerError("tcpdump is not installed, but is needed to capture") from None
        with process:
            try:
                _demand_listening(process)
                yield
                time.sleep(_SETTLE)  # for the last segments to get here
                _demand_nothing_lost(_stop(process))
            finally:
                process.kill()


def _demand_listening(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr
    said = b""
    while b"listening on" not in said:
        ready, _, _ = select.select([process.stderr], [], [], _TIMEOUT)
        more = os.read(process.stderr.fileno(), 4096) if ready else b""
        if not more:
            why = said.decode().partition("\n")[0].removeprefix("tcpdump: ")
            raise PeerError(f"tcpdump cannot capture: {why or 'it says nothing'}")
        said += more


def _stop(process: subprocess.Popen[bytes]) -> str:
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=_TIMEOUT)[1].decode()
    except subprocess.TimeoutExpired:
        raise PeerError(f"tcpdump has not ended within {_TIMEOUT:g} s") from None


def _demand_nothing_lost(summary: str) -> None:
    lost = re.search(r"(\d+) packets? dropped by kernel", summary)
    if not lost or lost[1] != "0":
        raise PeerError(f"tcpdump has lost packets: {summary.strip()!r}")
