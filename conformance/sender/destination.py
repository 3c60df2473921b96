"""The destination of a scenario: it takes what a sender sends, in one thread, for a bounded time.

Whatever the scenario has it do to the sender, it does: read slowly, not at all, close, cancel.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from dataclasses import dataclass

from multifd_proto.peers.address import Address
from multifd_proto.peers.endpoint import Listener
from multifd_proto.peers.owner import Owner
from multifd_proto.wire.schema import MultiFDInit

from ..target import RunningSender, State
from .arrival import Arrival
from .scenarios import Behaviour
from .streams import Hearing

_TICK = 0.05
_MOMENT = 0.01
_MAIN_FIRST = 1.0
"""Seconds that the TLS handshake of the main stream may take while channels are connected."""
_CHANNEL_FIRST = 0.2
"""Seconds that the main stream is not read, for a channel to show that this is multifd."""
_LAST = 0.1
"""Seconds without a byte after which nothing is taken to follow the end of a main stream."""
_FIRST_CHANNEL = 1
"""Number of the connection that is treated badly; that before it is the main stream's."""
_SETTLED = (State.COMPLETED, State.FAILED)


@dataclass(frozen=True)
class Budgets:
    """How long a sender may take, in seconds, and how much it may send."""

    connect: float = 10.0
    """Until the first connection."""
    quiet: float = 5.0
    """Without a byte, while it is read from."""
    settled: float = 1.0
    """The same, when it says that its migration is over."""
    linger: float = 0.3
    """For further connections, when all have ended and the sender says nothing of its state."""
    whole: float = 30.0
    """For all of it."""
    size: int = 1 << 30
    """Bytes in all."""
    connections: int = 1024


class Destination(Owner):
    """Listens, and hears one migration.

    Args:
        at: where to listen.
        hearing: takes what comes.
        behaviour: what it does to the sender.
        budgets: how long that may take.
        context: credentials, where TLS is demanded.

    Raises:
        PeerError: the address cannot be listened on.
    """

    def __init__(
        self,
        at: Address,
        hearing: Hearing,
        behaviour: Behaviour,
        budgets: Budgets,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._hearing, self._behaviour, self._budgets = hearing, behaviour, budgets
        self._context = context
        self._listener = Listener(at, backlog=512)
        if behaviour.window:
            set_window(self._listener.fileno(), behaviour.window)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.fileno(), selectors.EVENT_READ)
        self._resting: dict[Arrival, float] = {}
        self._progress = time.monotonic()
        self._cancelled: bool | None = None
        self.arrivals: list[Arrival] = []
        self.broken = False
        """We have broken the migration, or had it cancelled."""
        self.channel_early = False
        """The main stream's TLS handshake was not finished until channels had theirs.

        In what order a sender's messages come does not tell, as the network may hold back some of
        them: so channels have to wait for the main stream, and a sender that never comes to it
        has another order.
        """

    @property
    def address(self) -> Address:
        """Where a sender has to dial."""
        return self._listener.address

    def close(self) -> None:
        """Close everything."""
        for arrival in self.arrivals:
            arrival.socket.close()
        self._selector.close()
        self._listener.close()

    def run(self, sender: RunningSender) -> str:
        """Hear the migration to its end; return what was awaited in vain, empty if nothing was."""
        begun = ended = self._progress = time.monotonic()
        while True:
            self._serve()
            now = time.monotonic()
            if now - self._progress > _LAST:
                for arrival in self.arrivals:
                    arrival.part()
            if not self._idle():
                ended = now
            elif self._is_over(sender, now - ended):
                return ""
            waited = self._in_vain(sender, begun, now)
            if waited:
                self._give_up()
                return waited
            if self._behaviour.cancel and self._hearing.pages_seen and self._cancelled is None:
                self._cancel(sender)

    def _idle(self) -> bool:
        return bool(self.arrivals) and all(arrival.over for arrival in self.arrivals)

    def _is_over(self, sender: RunningSender, seconds: float) -> bool:
        """Tell whether no further connection is to be expected."""
        expected = (self._hearing.parameters.channels or 255) + 1
        told = len(self.arrivals) >= expected or sender.state(0) in _SETTLED
        if seconds < (_MOMENT if told else self._budgets.linger):
            return False
        return not self._accept()

    def _in_vain(self, sender: RunningSender, begun: float, now: float) -> str:
        budgets, quiet = self._budgets, now - self._progress
        if not self.arrivals:
            if sender.death or sender.state(0) in _SETTLED:
                return "a connection, but the sender has ended"
            return f"a connection for {budgets.connect:g} s" if quiet > budgets.connect else ""
        if sum(arrival.bytes for arrival in self.arrivals) > budgets.size:
            return f"an end within {budgets.size} bytes"
        if len(self.arrivals) > budgets.connections:
            return f"an end within {budgets.connections} connections"
        if now - begun > budgets.whole:
            return f"an end for {budgets.whole:g} s"
        return self._stands_still(sender, quiet)

    def _stands_still(self, sender: RunningSender, quiet: float) -> str:
        """Return what the sender does not end."""
        if quiet < self._budgets.settled or self._resting or self._idle():
            return ""
        state = sender.state(0)
        settled = state in _SETTLED
        limit = self._budgets.settled if settled else self._budgets.quiet
        if quiet < limit:
            return ""
        left = [arrival.stream.name for arrival in self.arrivals if not arrival.over]
        said = f", although the migration has {state.value}" if settled else ""
        return f"the end of {', '.join(left[:5])}: no byte for {limit:g} s{said}"

    def _give_up(self) -> None:
        for arrival in self.arrivals:
            if not arrival.over:
                self._forget(arrival)
                arrival.break_off()

    # ---- connections -----------------------------------------------------------------------------

    def _serve(self) -> None:
        self._resume()
        eager = [arrival for arrival in self.arrivals if arrival.eager]
        timeout = 0.0 if eager else _MOMENT if self._idle() else _TICK
        if self._resting:
            timeout = min(timeout, max(min(self._resting.values()) - time.monotonic(), 0))
        ready = [key.data for key, _ in self._selector.select(timeout)]
        arrivals = {arrival for arrival in (*ready, *eager) if arrival is not None}
        # inits before packets, which are judged by what is known of all channels
        for arrival in sorted(arrivals, key=lambda a: (a.stream.kind != "unknown", a.number)):
            self._read(arrival)
        if None in ready:
            # last: what has come before a connection is read before it is accepted
            self._accept()

    def _accept(self) -> bool:
        """Accept what waits; tell whether something did."""
        before = len(self.arrivals)
        while len(self.arrivals) <= self._budgets.connections and (
            sock := self._listener.accept(0)
        ):
            self._progress = time.monotonic()
            arrival = Arrival(sock, len(self.arrivals), self._hearing, self._context)
            self.arrivals.append(arrival)
            if self._behaviour.drop == 0 and arrival.number == _FIRST_CHANNEL:
                self._drop(arrival)
            elif self._awaits_main() and arrival.number:
                self._resting[arrival] = time.monotonic() + _MAIN_FIRST
            elif not (self._context or arrival.number):
                self._resting[arrival] = time.monotonic() + _CHANNEL_FIRST
            else:
                self._selector.register(arrival.socket, selectors.EVENT_READ, arrival)
        return len(self.arrivals) > before

    def _read(self, arrival: Arrival) -> None:
        before, sock, behaviour = arrival.bytes, arrival.socket, self._behaviour
        first = arrival.number == _FIRST_CHANNEL
        size = behaviour.piece if before or not arrival.number else MultiFDInit.size()
        if first and behaviour.drop:
            size = max(behaviour.drop - arrival.bytes, 1)
        arrival.read(size)
        self._progress = time.monotonic()
        if arrival.socket is not sock:
            self._selector.unregister(sock)
            self._selector.register(arrival.socket, selectors.EVENT_READ, arrival)
        if arrival.ended:
            self._forget(arrival)
            arrival.finish(excused=self.broken)
        elif first and behaviour.drop and arrival.bytes >= behaviour.drop:
            self._forget(arrival)
            self._drop(arrival)
        elif first and behaviour.stall and not before:
            self._rest(arrival, behaviour.stall)
        elif behaviour.pause:
            self._rest(arrival, behaviour.pause)

    def _drop(self, arrival: Arrival) -> None:
        self.broken = True
        arrival.break_off()

    def _rest(self, arrival: Arrival, seconds: float) -> None:
        self._forget(arrival)
        self._resting[arrival] = time.monotonic() + seconds

    def _awaits_main(self) -> bool:
        return bool(self._context and self.arrivals and not self.arrivals[0].secured)

    def _resume(self) -> None:
        now = time.monotonic()
        for arrival, until in list(self._resting.items()):
            over = until <= now
            if over or self._may_go_on(arrival):
                self.channel_early |= over and self._awaits_main()
                del self._resting[arrival]
                self._selector.register(arrival.socket, selectors.EVENT_READ, arrival)

    def _may_go_on(self, arrival: Arrival) -> bool:
        """Tell whether what a new connection was to wait for has come."""
        if arrival.bytes:
            return False
        if arrival.number:
            return self._context is not None and not self._awaits_main()
        return any(other.stream.kind == "channel" for other in self.arrivals)

    def _forget(self, arrival: Arrival) -> None:
        if arrival.socket in self._selector.get_map():
            self._selector.unregister(arrival.socket)

    def _cancel(self, sender: RunningSender) -> None:
        """Cancel the migration, without having read on."""
        self.broken = self._cancelled = sender.cancel()
        done = "is cancelled" if self._cancelled else "cannot be cancelled"
        self._hearing.log.note("main", "closed", f"the migration {done}")
        self._progress = time.monotonic()


def set_window(listener: int, size: int) -> None:
    """Have all connections of a listening descriptor use receive buffers of so many bytes."""
    sock = socket.socket(fileno=listener)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    finally:
        sock.detach()
