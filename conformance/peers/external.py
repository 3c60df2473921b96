"""`tcp:HOST:PORT`, `unix:PATH`: a receiver that listens already, started by somebody else.

    tcp:192.0.2.7:4444?channels=4&uuid=...&blocks=pc.ram:64M&restart=./bring-it-up.sh

Nothing of it can be seen but its connections, so that what it does has to show there: whether it
closes them, and what it says on the return path. Most receivers take one migration in their lives:
`restart` is a command that brings it back up, run before each migration; it has to end within
thirty seconds, with status 0, when the receiver listens. In it `{channels}`, `{uuid}` and
`{method}` are filled in; `%20` stands for a space, as always in URIs. What it prints goes to our
standard error.
"""

from __future__ import annotations

import subprocess
from urllib.parse import unquote

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.owner import Owner

from ..target import Description, ReceiverPeer, RunningReceiver, Setup, State
from .command import Command, parse_command, values_of
from .options import Options, parse_options
from .process import describe_death, kill_group, spawn

_RESTART = 30.0
_STDERR = 2


def receiver(rest: str, options: dict[str, str], uri: str) -> ReceiverPeer:
    """Return the receiver that a URI names."""
    address = parse_address(f"{uri.partition(':')[0]}:{rest}")
    restart = options.get("restart")
    command = None
    if restart is not None:
        command = parse_command(uri, unquote(restart), "channels", "uuid", "method")
    return ExternalReceiver(uri, address, parse_options(uri, options, "restart"), command)


class ExternalReceiver(Owner):
    """An implementation that somebody else has started."""

    def __init__(
        self, uri: str, address: Address, options: Options, restart: Command | None
    ) -> None:
        self._uri, self._address, self._options = uri, address, options
        self._restart = restart

    @property
    def uri(self) -> str:
        """What the user called it."""
        return self._uri

    def describe(self) -> Description:
        """Tell what the user said of it; its product is its address, unless it was named."""
        fixed = not self._restart or "channels" not in self._restart.places
        return self._options.describe(str(self._address), senses=frozenset(), fixed=fixed)

    def receive(self, setup: Setup) -> RunningReceiver:
        """Have it restarted, if that was said how; it listens.

        Raises:
            PeerError: it is not there for such a setup, or cannot be restarted.
        """
        told = self._restart.places if self._restart else frozenset[str]()
        self._options.demand(self._uri, setup, told)
        if self._restart:
            _run(self._uri, self._restart.fill(values_of(setup)))
        return RunningExternal(self._address)

    def close(self) -> None:
        """Let go of nothing: it is not ours."""


class RunningExternal(Owner):
    """A receiver of which nothing is known but where it listens."""

    death: str | None = None
    crashed: bool = False

    def __init__(self, address: Address) -> None:
        self.address = address

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """Return None: its memory cannot be seen."""
        return None

    def state(self, timeout: float) -> State:  # noqa: ARG002
        """Return UNKNOWN: there is nobody to ask."""
        return State.UNKNOWN

    def reason(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def log(self) -> str:
        """Return nothing."""
        return ""

    def close(self) -> None:
        """Leave it as it is: it is not ours."""


def _run(uri: str, command: list[str]) -> None:
    """Run a command to its end.

    Raises:
        PeerError: it cannot be run, takes too long, or ends with another status than 0.
    """
    # what it starts keeps its streams: a pipe of ours would break in the receiver's hands
    process = spawn(command, stdout=_STDERR, stderr=_STDERR)
    try:
        status = process.wait(_RESTART)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise PeerError(f"peer {uri!r}: restart has not ended after {_RESTART:g} s") from None
    if status:
        raise PeerError(
            f"peer {uri!r}: restart ended with {describe_death(status)}, must be exit status 0"
        )
