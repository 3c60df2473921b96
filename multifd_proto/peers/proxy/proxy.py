"""A proxy between two real peers: for each connection that it accepts it opens one onward.

Receivers before 8.0 take the connection that they accept first for the main stream, so connections
go onward in the order in which they were accepted: each is opened before the next is accepted.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.connection import Connection
from multifd_proto.peers.endpoint import Listener, dial
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.proxy.judged_watch import JudgedWatch
from multifd_proto.peers.proxy.pcapng_writer import Conversation, End, PcapngWriter
from multifd_proto.peers.proxy.relay import Relay, Side
from multifd_proto.peers.proxy.tamper import Faults, Tamper
from multifd_proto.peers.statistics import ChannelStatistics
from multifd_proto.peers.watch import Watch

MAX_CONNECTIONS = 257
"""Connections of a migration, at most: the main stream, 255 channels, one for postcopy-preempt."""
TIMEOUT = 30.0
"""Seconds of silence on all connections after which a migration is given up."""
_TICK = 0.05
_GRACE = 0.5
_BACKLOG = 512
_STAND_INS = ("192.0.2.1", "192.0.2.2")  # RFC 5737: for documentation, nobody's address
_STAND_IN_PORT = 4444


@dataclass(frozen=True)
class Served:
    """What became of one connection."""

    number: int
    """In the order of acceptance, from 0."""
    kind: str
    """`multifd`, `main`, `tls`, `other`, or `unknown` if too little came to tell."""
    id: int | None
    """Id of a channel, if its init came."""
    sent: int
    """Bytes that went from source to target."""
    returned: int
    """Bytes that went from target to source."""
    statistics: ChannelStatistics | None
    """What went over a channel; None where packets were not read."""
    broken: Side | None
    """Who broke it; None if it ended in order."""
    done: bool = True
    """It has ended: both sockets are closed."""


@dataclass
class Outcome:
    """What became of a migration."""

    connections: list[Served] = field(default_factory=list)
    refused: int = 0
    """Connections beyond the limit."""
    problems: list[str] = field(default_factory=list)
    """Why the migration did not go through; empty if it did, as far as was looked at."""
    interrupted: bool = False
    """By a KeyboardInterrupt."""


class Proxy(Owner):
    """Forwards one migration. It listens as soon as it is made. Use it as a context manager.

    Args:
        listen: where the source connects to; a port of 0 lets the system choose.
        target: where connections go on to.
        recorder: takes all bytes of both directions.
        judge: judges what goes onward to the target.
        parameters: what is known of the migration.
        faults: are put into what goes onward; record and judge see them.
        timeout: seconds without a byte on any connection after which the migration is given up, and
            that the target has to accept each connection; the wait for the first one has no end.
        max_connections: more are refused.
        log: is told what happens while the proxy runs.

    Raises:
        PeerError: `listen` cannot be listened on.
    """

    def __init__(
        self,
        listen: Address,
        target: Address,
        *,
        recorder: PcapngWriter | None = None,
        judge: JudgingProcess | None = None,
        parameters: MigrationParameters | None = None,
        faults: Faults | None = None,
        timeout: float = TIMEOUT,
        max_connections: int = MAX_CONNECTIONS,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._target, self._recorder, self._judge = target, recorder, judge
        self._faults, self._parameters = faults, parameters or MigrationParameters()
        self._timeout, self._max = timeout, max_connections
        self._log = log
        self._relays: list[Relay] = []
        self._outcome = Outcome()
        self._stopped = self._interrupted = False
        self._listener = Listener(listen, _BACKLOG)

    @property
    def address(self) -> Address:
        """Where the proxy listens, with the port that was chosen."""
        return self._listener.address

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    @property
    def forwarded(self) -> int:
        """Bytes that have gone on so far, in both directions."""
        return sum(sum(relay.bytes.values()) for relay in self._relays)

    @property
    def connections(self) -> list[Served]:
        """What has become of the connections so far; counts go on while they are open."""
        return [_served(relay) for relay in list(self._relays)]

    def stop(self) -> None:
        """Make `run` return soon, from another thread."""
        self._stopped = True

    def interrupt(self) -> None:
        """Make `run` return soon, from another thread, as a KeyboardInterrupt does."""
        self._interrupted = self._stopped = True

    def run(self) -> Outcome:
        """Serve until the migration is over, or given up; nothing is left open.

        It is over when the source has sent something, and all connections are closed on both
        sides: it keeps the main stream open to the last. A KeyboardInterrupt ends it as well.
        """
        try:
            self._serve()
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            self._outcome.interrupted = self._interrupted
            if self._interrupted:
                self._problem("interrupted")
            self._end()
        return self._outcome

    # ---- serving -------------------------------------------------------------------------------

    def _serve(self) -> None:
        seen, last = 0, time.monotonic()
        while not self._stopped:
            accepted = self._listener.accept(_TICK)
            moved = self.forwarded
            if accepted:
                self._take(accepted)
            elif self._is_over():
                break
            waiting = all(relay.done for relay in self._relays)
            if accepted or moved != seen or waiting:
                seen, last = moved, time.monotonic()
            elif time.monotonic() - last > self._timeout:
                self._give_up()

    def _is_over(self) -> bool:
        if not all(relay.done for relay in self._relays):
            return False
        return bool(self._outcome.problems) or any(relay.begun for relay in self._relays)

    def _give_up(self) -> None:
        open_ = sum(not relay.done for relay in self._relays)
        self._problem(f"no byte on any of {open_} open connections for {self._timeout:g} s")
        self._stopped = True

    def _problem(self, text: str) -> None:
        self._outcome.problems.append(text)
        self._log(text)

    def _take(self, accepted: socket.socket) -> None:
        """Open the connection onward, and start to forward."""
        number = len(self._relays)
        if number >= self._max:
            self._refuse(accepted)
            return
        try:
            onward = dial(self._target, number, self._timeout)
        except (PeerError, OSError) as error:
            Connection(accepted, "refused", self._timeout).reset()
            self._problem(f"connection {number}: target {error}")
            return
        except BaseException:
            accepted.close()
            raise
        relay = Relay(
            number,
            accepted,
            onward,
            self._watch(number),
            conversation=self._record(accepted, onward, number),
            pump=Tamper(self._faults).pump if self._faults else None,
        )
        self._relays.append(relay)
        relay.start()

    def _watch(self, number: int) -> Watch:
        if self._judge:
            return JudgedWatch(number, self._judge, self._parameters)
        follows = bool(self._recorder or self._faults)
        return Watch(number, follows=follows, parameters=self._parameters)

    def _refuse(self, accepted: socket.socket) -> None:
        accepted.close()
        self._outcome.refused += 1
        if self._outcome.refused == 1:
            self._problem(f"connection {self._max} is refused: {self._max} are the limit")

    def _record(
        self, accepted: socket.socket, onward: socket.socket, number: int
    ) -> Conversation | None:
        if self._recorder is None:
            return None
        source = _end_of(accepted, End(_STAND_INS[0], 1024 + number))
        destination = _end_of(onward, End(_STAND_INS[1], _STAND_IN_PORT))
        return self._recorder.open(source, destination)

    # ---- ending --------------------------------------------------------------------------------

    def _end(self) -> None:
        self._listener.close()
        for relay in self._relays:
            relay.break_off(Side.PROXY)
        deadline = time.monotonic() + _GRACE
        for relay in self._relays:
            relay.join(max(deadline - time.monotonic(), 0))
        self._outcome.connections = [_served(relay) for relay in self._relays]
        self._judge_end()

    def _judge_end(self) -> None:
        """Note why the migration has not gone through, as far as that shows."""
        outcome, watches = self._outcome, [relay.watch for relay in self._relays]
        if not any(watch.kind in ("main", "tls") for watch in watches):
            outcome.problems.append(f"no main stream on {len(watches)} connections")
        if any(watch.main_ended is False for watch in watches):
            outcome.problems.append("the main stream stopped before its end")
        for relay in self._relays:
            if relay.broken and not relay.ended_onward:
                by = relay.broken.value
                outcome.problems.append(f"connection {relay.number} was broken off by the {by}")


def _served(relay: Relay) -> Served:
    watch = relay.watch
    return Served(
        number=relay.number,
        kind=watch.kind,
        id=watch.id,
        sent=relay.bytes[True],
        returned=relay.bytes[False],
        statistics=watch.statistics,
        broken=relay.broken,
        done=relay.done,
    )


def _end_of(sock: socket.socket, stand_in: End) -> End:
    """Return the address of a socket's other end; of what is no IP socket, one in its place."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return stand_in
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # it has gone already
        return stand_in
    return End(host, port)
