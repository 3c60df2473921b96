"""A destination that does misdeeds to a sender, in one thread, for a bounded time.

Whatever it does, it hears what comes until then, so that it can be judged. At the end all of its
connections are closed, as if its process had ended: what a sender makes of that is seen afterwards.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from enum import Enum

from multifd_proto.conformance.sender.arrival import Arrival
from multifd_proto.conformance.sender.destination import set_window
from multifd_proto.conformance.sender.streams import Hearing
from multifd_proto.conformance.target import RunningSender, State

from multifd_proto.peers.address import Address
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.owner import Owner

from .line import Line
from .misdeeds import Misdeeds

SETTLED = (State.COMPLETED, State.FAILED)
_TICK = 0.02
_LAST = 0.1
"""Seconds without a byte after which nothing is taken to follow the end of a main stream."""
_NO_ROOM = 0.5
"""Seconds more for small receive buffers: TCP looks for room in them only now and then."""
_MOST_CONNECTIONS = 512


@dataclass(frozen=True)
class Patience:
    """How long a sender may take, in seconds."""

    connect: float
    """Until the first connection."""
    quiet: float
    """Without a byte, before it is taken to stand still."""
    settled: float
    """To close its connections, when it says that its migration is over."""
    whole: float
    """While it is heard."""
    end: float
    """To say that its migration is over, when its connections are closed."""
    answer: float
    """To answer its monitor."""


QUICK = Patience(connect=3.0, quiet=0.3, settled=0.3, whole=1.5, end=1.0, answer=0.5)
"""How long a campaign waits: real senders react within milliseconds."""
PATIENT = Patience(connect=10.0, quiet=1.0, settled=2.0, whole=8.0, end=5.0, answer=2.0)
"""How long is waited before something is called a finding."""


class Ending(Enum):
    """Why the destination has heard enough."""

    SETTLED = "the sender says that its migration is over"
    ALL = "all connections have ended"
    STILL = "nothing has come any more"
    TIME = "the time was up"


class Misbehaving(Owner):
    """Listens, and does misdeeds to one sender.

    Args:
        at: where to listen.
        hearing: takes what comes.
        misdeeds: what is done.
        patience: how long that may take.

    Raises:
        PeerError: the address cannot be listened on.
    """

    def __init__(
        self, at: Address, hearing: Hearing, misdeeds: Misdeeds, patience: Patience
    ) -> None:
        self._hearing, self._misdeeds, self._patience = hearing, misdeeds, patience
        hearing.revise = lambda answer: self._lines[0].revise(answer)
        self._listener = Listener(at, backlog=_MOST_CONNECTIONS)
        self.address = self._listener.address
        """Where a sender has to dial."""
        if misdeeds.window:
            set_window(self._listener.fileno(), misdeeds.window)
        self._lines: list[Line] = []
        self._progress = time.monotonic()
        self._listens = True
        self._done = False
        self.broken = False
        """The sender was given a reason to fail."""
        self.left_open: tuple[str, ...] = ()
        """Connections that it did not close although it said that its migration was over."""
        self._stop_listening(enough=misdeeds.accepts == 0)

    def close(self) -> None:
        """Close everything."""
        self._listener.close()
        for line in self._lines:
            line.arrival.socket.close()

    @property
    def taken(self) -> int:
        """Bytes that were read."""
        return sum(line.arrival.bytes for line in self._lines)

    @property
    def said(self) -> bytes:
        """What the sender was sent on the connection of the main stream."""
        return self._lines[0].said if self._lines else b""

    def run(self, sender: RunningSender) -> Ending:
        """Do the misdeeds, then close everything; return what has put an end to it."""
        begun = self._progress = time.monotonic()
        while not (ending := self._ending(sender, begun)):
            self._serve(sender)
        if ending is Ending.SETTLED:
            self._drain(sender)
        self.broken |= ending in (Ending.STILL, Ending.TIME)
        self._stop_listening()
        for line in self._lines:
            line.close()
        return ending

    def _ending(self, sender: RunningSender, begun: float) -> Ending | None:
        if sender.death or sender.state(0) in SETTLED:
            return Ending.SETTLED
        now, patience = time.monotonic(), self._patience
        quiet = now - self._progress
        if quiet > _LAST:
            for line in self._lines:
                line.arrival.part()
        awaited = self._listens and len(self._lines) <= self._misdeeds.source.channels
        if not awaited and not self._open():
            return Ending.ALL
        still = patience.quiet + (_NO_ROOM if self._misdeeds.window else 0)
        if quiet > (still if self._lines else patience.connect):
            return Ending.STILL
        return Ending.TIME if now - begun > patience.whole else None

    def _drain(self, sender: RunningSender) -> None:
        """Read everything to its end, now that nothing more is to be done."""
        self._done = True
        for line in self._lines:
            line.relent()
        begun = now = self._progress = time.monotonic()
        while self._open() or self._accept():
            still = now - self._progress > self._patience.settled
            if still or now - begun > self._patience.whole:
                # what goes on to send is slow, and no more than that
                self.left_open = tuple(self._open()) if still else ()
                self.broken = True
                break
            self._serve(sender)
            now = time.monotonic()

    def _open(self) -> list[str]:
        """Return the names of the connections that have not ended."""
        return [line.arrival.stream.name for line in self._lines if line.open]

    # ---- connections ----------------------------------------------------------------------------

    def _serve(self, sender: RunningSender) -> None:
        """Do what is due, and read what there is, once."""
        for line in self._lines:
            while act := line.due():
                self.broken |= not (act.harmless or act.do == "stall")
                line.do(act, sender)
                self._progress = time.monotonic()
        ready = self._await()
        # inits before packets, which are judged by what is known of all channels
        for line in sorted(self._lines, key=lambda line: line.arrival.stream.kind != "unknown"):
            if line.arrival.socket.fileno() in ready:
                line.read(excused=self.broken)
                self._progress = time.monotonic()
        if self._listens and self._listener.fileno() in ready:
            # last: what has come before a connection is read before it is accepted
            self._accept()

    def _await(self) -> set[int]:
        """Return the descriptors that something has come on, after a moment at most."""
        now, poll = time.monotonic(), select.poll()
        waits = [line.until - now for line in self._lines if line.waits]
        if waits:
            self._progress = now
        for line in self._lines:
            if line.readable:
                poll.register(line.arrival.socket, select.POLLIN)
        if self._listens:
            poll.register(self._listener, select.POLLIN)
        return {fd for fd, _ in poll.poll(max(0.0, min([_TICK, *waits])) * 1000)}

    def _accept(self) -> bool:
        """Accept a connection; tell whether one was there."""
        sock = self._listener.accept(0) if self._listens else None
        if not sock:
            return False
        self._progress = time.monotonic()
        number = len(self._lines)
        arrival = Arrival(sock, number, self._hearing, None)
        acts = [] if self._done else self._misdeeds.of(number)
        self._lines.append(Line(arrival, self._hearing.log, acts))
        self._stop_listening(enough=len(self._lines) in (self._misdeeds.accepts, _MOST_CONNECTIONS))
        return True

    def _stop_listening(self, *, enough: bool = True) -> None:
        if enough and self._listens:
            self._listens = False
            self.broken |= self._misdeeds.accepts is not None
            self._listener.close()
