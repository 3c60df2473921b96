"""One connection of a proxy: what arrives at one socket leaves by another, in both directions.

Each direction has a thread. Bytes that nobody has to see never enter this process (`splice`);
others are received, recorded, sent, and then shown to the `Watch`. The end of a stream goes on as
such, so that connections can be half closed; a reset goes on as a reset.

Descriptors are closed by the last thread to leave: while the other one still waits on them, their
numbers must not be used anew.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from enum import Enum

from multifd_proto.errors import PeerError
from multifd_proto.peers.connection import Buffer, Connection
from multifd_proto.peers.proxy.pcapng_writer import Conversation
from multifd_proto.peers.proxy.splice import ReceiveError, SendError, Splicer, UnableToSpliceError
from multifd_proto.peers.watch import Watch

BUFFER = 256 * 1024
"""Bytes that a direction holds at most, on their way through this process."""
_BACK = 16 * 1024
_FOREVER = 1e9


class Side(Enum):
    """Who ended a connection."""

    SOURCE = "source"
    TARGET = "target"
    PROXY = "proxy"


class BrokenError(Exception):
    """One side has broken the connection."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self.side = side


class Relay:
    """Forwards one connection, from `start` until `done`.

    Args:
        number: number of the connection, from 0, in the order of acceptance.
        source: the accepted socket.
        target: the socket onward.
        watch: told what goes onward.
        conversation: takes both directions for the record, if there is one.
        pump: forwards onward, by `receive`, `send` and `end`, where bytes are to be changed;
            returns at the end of the source's stream.
    """

    def __init__(
        self,
        number: int,
        source: socket.socket,
        target: socket.socket,
        watch: Watch,
        *,
        conversation: Conversation | None = None,
        pump: Callable[[Relay], None] | None = None,
    ) -> None:
        self.number, self.watch = number, watch
        self.bytes = {True: 0, False: 0}
        """Bytes that went on, by direction: `True` is onward."""
        self.broken: Side | None = None
        """Who broke the connection; None as long as it ends in order."""
        self.begun = False
        """The source has sent something."""
        self.over = threading.Event()
        """The connection is broken: no wait makes sense any more."""
        self.source = Connection(source, f"connection {number} from the source", _FOREVER)
        self.target = Connection(target, f"connection {number} to the target", _FOREVER)
        self._conversation, self._pump = conversation, pump
        self._sockets = source.fileno(), target.fileno()
        self._splicer: Splicer | None = None
        self._buffers: dict[bool, memoryview] = {}
        self._lock = threading.Lock()
        self._fin: set[bool] = set()
        self._threads = [
            threading.Thread(target=self._serve, args=(forward,), name=f"relay-{number}")
            for forward in (True, False)
        ]
        self._running = len(self._threads)

    # ---- from outside --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to forward; an interrupt has to wait until it is known which threads there are."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for thread in self._threads:
                try:
                    thread.start()
                except RuntimeError:  # the system has no more threads
                    self.break_off(Side.PROXY)
                    self._leave()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def done(self) -> bool:
        """Both sockets are closed."""
        return not self._running

    @property
    def ended_onward(self) -> bool:
        """The target was told that nothing more comes."""
        return True in self._fin

    def break_off(self, side: Side) -> None:
        """End both directions: `side` has broken the connection, the other is told by a reset."""
        with self._lock:
            if self.broken or not self._running:
                return
            self.broken = side
            if self._conversation:
                self._conversation.reset(forward=side is not Side.TARGET)
        self.over.set()
        self.source.stop_receiving()
        self.target.stop_receiving()

    def join(self, timeout: float) -> None:
        """Wait for both threads, after `break_off`; end what they wait for after `timeout`."""
        threads = [thread for thread in self._threads if thread.ident]
        for thread in threads:
            thread.join(timeout)
        if not self.done:  # a peer takes no bytes
            self.source.abort()
            self.target.abort()
        for thread in threads:
            thread.join()

    # ---- what moves bytes: also for `pump` -------------------------------------------------------

    def receive(self, limit: int, *, forward: bool = True) -> memoryview:
        """Return the next bytes of a direction, nothing at its end; valid until the next call.

        Raises:
            BrokenError: the connection is broken.
        """
        if self.broken:
            raise BrokenError(self.broken)
        inlet = self.source if forward else self.target
        view = self._buffer(forward)[:limit]
        try:
            count = inlet.receive_into(view)
        except PeerError:
            raise BrokenError(_sender(forward)) from None
        self.begun |= forward and count > 0
        return view[:count]

    def send(self, data: Buffer, *, forward: bool = True) -> None:
        """Send bytes on, and show them to whoever records or watches.

        Raises:
            BrokenError: the receiving side has broken the connection.
        """
        if self._conversation:
            self._conversation.data(data, forward=forward)
        self._put(data, forward)
        self.bytes[forward] += len(data)
        if forward:
            self.watch.feed(data)

    def _put(self, data: Buffer, forward: bool) -> None:
        try:
            (self.target if forward else self.source).send(data)
        except PeerError:
            raise BrokenError(_sender(not forward)) from None

    def _buffer(self, forward: bool) -> memoryview:
        if forward not in self._buffers:
            self._buffers[forward] = memoryview(bytearray(BUFFER if forward else _BACK))
        return self._buffers[forward]

    def end(self, *, forward: bool = True) -> None:
        """Tell the receiving side that nothing more comes."""
        if forward in self._fin:
            return
        self._fin.add(forward)
        if self._conversation:
            self._conversation.end(forward=forward)
        if forward:
            self.watch.end()
        (self.target if forward else self.source).end_sending()

    # ---- the two threads -----------------------------------------------------------------------

    def _serve(self, forward: bool) -> None:
        try:
            if not forward:
                self._pump_back()
            elif self._pump:
                self._pump(self)
            else:
                self._pump_onward()
            if not self.broken:
                self._end_in_order(forward)
        except BrokenError as broken:
            self.break_off(broken.side)
        finally:
            self._leave()

    def _end_in_order(self, forward: bool) -> None:
        """Pass on the end of a direction, unless it was a reset that the other thread has seen."""
        inlet = self.source if forward else self.target
        if (not forward) not in self._fin and inlet.was_reset():
            raise BrokenError(_sender(forward))
        self.end(forward=forward)

    def _pump_back(self) -> None:
        while data := self.receive(_BACK, forward=False):
            self.send(data, forward=False)

    def _pump_onward(self) -> None:
        if self._conversation:
            while data := self.receive(BUFFER):
                self.send(data)
            return
        while self._pass_on():
            pass

    def _pass_on(self) -> bool:
        """Let the next bytes go by, after a look at those that are to be seen; False at the end.

        They are looked at before they are taken, so that a head leaves together with its payload:
        whoever waits for them is woken once.
        """
        count, seen = self.watch.next()
        shown = 0
        if seen:
            shown = len(ahead := self._peek(min(count, BUFFER)))
            if not shown:
                return False
            self.watch.feed(ahead)
            count, seen = self.watch.next()
        before, total = self.bytes[True], shown + (0 if seen else count)
        try:
            self._move(total)
        finally:
            moved = self.bytes[True] - before
            self.watch.skip(max(moved - shown, 0))
        return moved == total

    def _peek(self, limit: int) -> memoryview:
        """Return the next bytes of the source and leave them where they are; nothing at the end."""
        view = self._buffer(True)[:limit]
        try:
            return view[: self.source.socket.recv_into(view, 0, socket.MSG_PEEK)]
        except OSError:
            raise BrokenError(Side.SOURCE) from None

    def _move(self, count: int) -> None:
        """Let `count` bytes go by unseen, or as many as come before the end of the stream."""
        end = self.bytes[True] + count
        while self.bytes[True] < end and not self.broken:
            left = end - self.bytes[True]
            try:
                self._splicer = self._splicer or Splicer()
                moved = self._splicer.move(*self._sockets, left)
            except UnableToSpliceError:
                data = self.receive(min(left, BUFFER))
                self._put(data, True)
                moved = len(data)
            except ReceiveError:
                raise BrokenError(Side.SOURCE) from None
            except SendError:
                raise BrokenError(Side.TARGET) from None
            if not moved:
                return
            self.begun = True
            self.bytes[True] += moved

    def _leave(self) -> None:
        with self._lock:
            last = self._running == 1
            if last:
                self._close()
            self._running -= 1

    def _close(self) -> None:
        if self._splicer:
            self._splicer.close()
        self._buffers.clear()
        self.watch.set_reverse(self.bytes[False])
        if not self.broken:
            self.source.close()
            self.target.close()
            return
        self.watch.end(reset=True, by_peer=self.broken is not Side.SOURCE)
        self.source.reset()
        self.target.reset()


def _sender(forward: bool) -> Side:
    return Side.SOURCE if forward else Side.TARGET
