"""A watch whose connection is judged in another process."""

from __future__ import annotations

from multifd_proto.machine.events import Event, PacketReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.watch import ALL, Watch
from multifd_proto.wire.payload import METHOD_MASK


class JudgedWatch(Watch):
    """Follows a connection as far as needed to know what is to be seen, and hands that over."""

    def __init__(self, number: int, judge: JudgingProcess, parameters: MigrationParameters) -> None:
        super().__init__(number, follows=True, parameters=parameters)
        self._process = judge
        self._compressed = False
        judge.open(number)

    def next(self) -> tuple[int, bool]:
        """Return how many bytes come next, and whether they are to be seen: compressed ones are."""
        count, seen = super().next()
        return count, seen or (self._compressed and count < ALL)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes, in any cut."""
        self._process.feed(self.number, data)
        super().feed(data)
        if self.kind == "main":
            # it is small, and the sooner its list of blocks is known, the more can be judged
            self._process.flush(self.number)

    def skip(self, count: int) -> None:
        """Take note of bytes that went by unseen."""
        self._process.skip(self.number, count)
        super().skip(count)

    def end(self, *, reset: bool = False, by_peer: bool = False) -> None:
        """Take note that the connection has ended."""
        self._process.end(self.number, reset=reset, by_peer=by_peer)
        super().end(reset=reset, by_peer=by_peer)

    def set_reverse(self, count: int) -> None:
        """Take note of how many bytes the receiver has written."""
        self._process.returned(self.number, count)

    def _take_event(self, event: Event) -> None:
        super()._take_event(event)
        if isinstance(event, PacketReceived):
            self._compressed = bool(event.packet.flags & METHOD_MASK)
