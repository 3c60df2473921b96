"""Fuzzed: our proxy, between a source that plays a script and the reference receiver.

The proxy records and judges. What it has forwarded and recorded has to be what was sent, a
migration that goes through without it has to go through with it, and nothing may be left behind.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.script import ScriptError
from multifd_proto.conformance.target import Description, RunningReceiver, Setup, State

from multifd_proto.capture.events import Data, Half, Opened
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.proxy.pcapng_writer import PcapngWriter
from multifd_proto.peers.proxy.proxy import Outcome, Proxy

from .acts import Act, acts, in_order
from .decoder_files import unnamed_file
from .decoder_machine import Arranged, ScriptSubject, contested, play
from .guard import Limits, Wrong

_ANYWHERE = parse_address("tcp:127.0.0.1:0")
_DEADLINE = 10.0
_SEND = 2.0
_SILENCE = 3.0  # of a migration, for proxy and receiver
_SETTLING = 1.0


class ProxySubject(ScriptSubject):
    """`peers.proxy`, with a record and a judge."""

    name = "proxy"
    limits = Limits(seconds=10.0, memory=128 << 20)

    def check(self, value: Arranged) -> Iterable[str]:
        """Demand that what was sent goes on, is recorded and judged, and that it ends."""
        peer = parse_receiver(f"builtin:?dialect={value.dialect}&timeout={_SILENCE}")
        description = peer.describe()
        try:
            todo = [*in_order([*acts(value.script, description, value.sizes)], value.order)]
        except ScriptError:
            return
        begun = _left()
        with ExitStack() as stack:
            setup = Setup(channels=value.script.channels, method=value.script.method)
            running = stack.enter_context(peer.receive(setup))
            record = stack.enter_context(unnamed_file({}))
            source, outcome = _forwarded(running, record, todo)
            _compare(source, outcome, record)
            went = _went(running)
            self._hold_against(value, description, running, went=went)
        _demand_nothing_left(begun)
        yield f"{'goes through' if went else 'fails'} on {len(source.sent)} connections"
        yield from (f"{served.kind} broken {served.broken}" for served in outcome.connections)

    def _hold_against(
        self, value: Arranged, peer: Description, running: RunningReceiver, *, went: bool
    ) -> None:
        """Demand that a migration which has to go through did, with the memory that it has."""
        machine = play(value.script, peer, in_order([*acts(value.script, peer)]))
        if running.crashed:
            raise Wrong("raises", running.log()[-600:], "receiver behind the proxy")
        if not machine.complete or machine.unspecified or machine.loose:
            return
        if not went:
            seen = f"the receiver: {running.reason() or running.state(0).value}"
            raise Wrong("differs", f"does not go through the proxy; {seen}", "proxy migration")
        for block, memory in machine.memory.items():
            if running.read(block, 0, len(memory)) != memory and not contested(value.script):
                raise Wrong("differs", f"other memory of {block!r}", "proxy memory")


def _forwarded(
    running: RunningReceiver, record: Path, todo: Iterable[Act]
) -> tuple[_Source, Outcome]:
    """Play to the proxy, and return what was sent, and what the proxy says."""
    with (
        PcapngWriter(record) as writer,
        JudgingProcess(MigrationParameters()) as judge,
        Proxy(_ANYWHERE, running.address, recorder=writer, judge=judge, timeout=_SILENCE) as proxy,
    ):
        with _at_work(proxy) as outcomes, _Source(proxy.address) as source:
            for act in todo:
                act(source)
            source.finish()
        judge.conclude()
    return source, outcomes[0]


@contextmanager
def _at_work(proxy: Proxy) -> Iterator[list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(proxy.run()), name="fuzzed proxy")
    thread.start()
    try:
        yield outcomes
        thread.join(_DEADLINE if proxy.forwarded else 0.0)
        if thread.is_alive() and proxy.forwarded:
            seen = f"works {_DEADLINE:g} s after all connections were closed"
            raise Wrong("hangs", seen, "proxy")
    finally:
        proxy.stop()
        thread.join()


class _Source(Owner):
    """A source behind sockets: what `ReceiverMachine` is told, it does.

    Args:
        address: where it connects to.
    """

    def __init__(self, address: Address) -> None:
        self.sent: list[bytearray] = []
        """Bytes of each connection that were handed over."""
        self.whole: list[bool] = []
        """Whether a connection has taken all of its bytes, and was not broken off by us."""
        self._address = address
        self._sockets: list[socket.socket | None] = []

    def open(self) -> None:
        """Connect, if there is somebody."""
        sock: socket.socket | None = None
        with suppress(Exception):  # the proxy has ended
            sock = dial(self._address, 0, _SEND)
            sock.settimeout(_SEND)
        self._sockets.append(sock)
        self.sent.append(bytearray())
        self.whole.append(sock is not None)

    def receive_data(self, number: int, data: bytes) -> None:
        """Send, as long as that can be done."""
        sock, view = self._sockets[number], memoryview(data)
        try:
            while sock and view:
                done = sock.send(view)
                self.sent[number] += view[:done]
                view = view[done:]
        except OSError:
            self.whole[number] = False

    def receive_eof(self, number: int, *, reset: bool = False) -> None:
        """End a connection."""
        sock = self._sockets[number]
        if sock and reset:
            self.whole[number] = False
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            self._sockets[number] = None
        elif sock:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def finish(self) -> None:
        """End all connections, and wait for the other end."""
        for number in range(len(self._sockets)):
            self.receive_eof(number)
        for sock in filter(None, self._sockets):
            with suppress(OSError):
                while sock.recv(1 << 16):
                    pass

    def close(self) -> None:
        """Close all connections."""
        for sock in filter(None, self._sockets):
            sock.close()


def _compare(source: _Source, outcome: Outcome, record: Path) -> None:
    """Demand that record and outcome tell what was sent, up to where a connection broke."""
    recorded = _recorded(record)
    if len(recorded) != len(outcome.connections):
        seen = f"{len(recorded)} connections recorded, must be {len(outcome.connections)}"
        raise Wrong("differs", seen, "proxy record")
    for served, seen_bytes in zip(outcome.connections, recorded, strict=True):
        sent = bytes(source.sent[served.number])
        unbroken = source.whole[served.number] and served.broken is None
        if not sent.startswith(seen_bytes) or (unbroken and sent != seen_bytes):
            seen = f"{len(seen_bytes)} bytes recorded of connection {served.number}"
            raise Wrong("differs", f"{seen}, sent were {len(sent)}", "proxy record")
        if served.sent > len(sent) or (unbroken and served.sent != len(sent)):
            seen = f"{served.sent} bytes forwarded of connection {served.number}"
            raise Wrong("differs", f"{seen}, sent were {len(sent)}", "proxy bytes")


def _recorded(record: Path) -> list[bytes]:
    streams: dict[Half, bytearray] = {}
    for event in CaptureReader([record]):
        if isinstance(event, Opened):
            streams[event.half] = bytearray()
        elif isinstance(event, Data) and event.half in streams:
            streams[event.half] += event.data
    return [bytes(stream) for stream in streams.values()]


def _went(running: RunningReceiver) -> bool:
    deadline = time.monotonic() + _DEADLINE
    while (state := running.state(0)) is State.RUNNING and time.monotonic() < deadline:
        time.sleep(0.002)
    return state is State.COMPLETED


def _left() -> Mapping[str, int]:
    """Return what a process has that can be left behind."""
    descriptors = Path("/proc/self/fd")
    open_ = len([*descriptors.iterdir()]) if descriptors.is_dir() else 0
    return {"descriptors": open_, "threads": threading.active_count()}


def _demand_nothing_left(begun: Mapping[str, int]) -> None:
    deadline = time.monotonic() + _SETTLING
    while (now := _left()) != begun and time.monotonic() < deadline:
        time.sleep(0.01)
    for what, count in now.items():
        if count > begun[what]:
            raise Wrong("leaves", f"{count - begun[what]} {what} left behind", f"proxy {what}")
