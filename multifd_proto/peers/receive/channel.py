"""One multifd channel of a receiver: a thread that reads what comes next, each in its own way.

Straight packets take the fast lane. For the others the machine says how many bytes are wanted: the
rest of a head, into a small buffer, or of a payload, which goes from the socket into guest memory
if it is not compressed.

A payload may take as long as it likes, as long as bytes of it come; a head may not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.machine.events import ChannelState, DeviceStateReceived
from multifd_proto.peers.connection import Connection, PeerClosedError, PeerTimeoutError
from multifd_proto.peers.receive.fast_lane import FastLane
from multifd_proto.peers.receive.intake import ChannelIntake
from multifd_proto.peers.receive.reception import Reception
from multifd_proto.wire.schema import MultiFDPacketHdr

_BUFFER = 128 << 10
_HEADER = MultiFDPacketHdr.size()
_READS = 2  # without a byte, in the time that silence may last


class ChannelReader:
    """Receives one channel into the guest's memory."""

    def __init__(
        self,
        reception: Reception,
        connection: Connection,
        stream: int,
        device_state: Callable[[DeviceStateReceived], Path] | None = None,
    ) -> None:
        """Make a reader for a connection whose first bytes are still to come.

        Args:
            reception: the migration.
            connection: the channel's connection.
            stream: number of the connection, in the order of acceptance.
            device_state: names a file for the data of a device-state packet; None drops them.
        """
        self.intake = intake = ChannelIntake(reception, stream, connection.opened, device_state)
        """What has come of it so far."""
        self._reception, self._connection = reception, connection
        self._lane: FastLane | None = None
        if not intake.compressed:
            self._lane = FastLane(reception, connection, stream, intake.statistics)
        self._buffer = memoryview(bytearray(_BUFFER))
        self._begun = 0.0  # when a head began that has not come at once
        self._silences = 0
        reception.unfinished.append(self._inside)

    def run(self, first: bytes) -> None:
        """Receive the channel to its end.

        Args:
            first: bytes of it that have been read already, the init message if any.

        Raises:
            PeerError: the source did what a receiver refuses, or went away, or was silent.
        """
        # a read that waits for all of a payload says what came of it when its time is up: that has
        # to be well before it would count as silence
        self._connection.set_timeout(self._reception.timeout / _READS)
        self.intake.take(first)
        self._connection.name = f"channel {self.intake.statistics.id}"
        while need := self.intake.machine.wanted():
            try:
                more = self._read_some(need)
            except PeerTimeoutError:
                self._bear_silence()
            except PeerClosedError as error:
                self._end(error)
                return
            else:
                self._silences = 0
                if not more:
                    self._end(None)
                    return

    # ---- reading ---------------------------------------------------------------------------------

    def _read_some(self, need: int) -> bool:
        """Read what comes next; return False at the end of the stream."""
        intake = self.intake
        if self._lane:
            if intake.pieces:
                return self._read_pages()
            # before its first SYNC a channel has no pages, after the last mark it should not
            if intake.between and intake.statistics.syncs and not intake.over:
                return self._read_fast(self._lane)
        return self._read(need)

    def _read_fast(self, lane: FastLane) -> bool:
        """Read straight packets, and what comes of the first that is none."""
        left = lane.run()
        self.intake.passed_packets(left.passed)
        self.intake.take(left.head)
        self.intake.passed(left.pages)
        lane.inside = None
        if left.error:
            raise left.error
        return bool(left.head)

    def _read_pages(self) -> bool:
        """Read a payload straight into guest memory; return False at the end of the stream."""
        length = self._connection.receive_pieces(self.intake.pieces)
        self._reception.progress()
        self.intake.passed(length)
        return length > 0

    def _read(self, need: int) -> bool:
        """Read up to `need` bytes for the machine; return False at the end of the stream."""
        view = self._buffer[:need]
        # a header comes at once or not at all; what came of it, others have to know (`_inside`)
        length = self._connection.receive_into(view, whole=need > _HEADER)
        self._reception.progress()
        if length < len(view) and self.intake.machine.state is not ChannelState.AWAIT_PAYLOAD:
            self._bound_head()
        else:
            self._begun = 0.0
        self.intake.take(view[:length])
        return length > 0

    def _bound_head(self) -> None:
        """Let a head that comes in drops not take for ever."""
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._begun > self._reception.timeout:
            raise PeerError(f"{self._place(0)}: its head took longer than {self._timeout}")

    # ---- not reading -----------------------------------------------------------------------------

    def _bear_silence(self) -> None:
        """Let a peer be silent between packets, as long as others are not."""
        self._reception.check()
        self._silences += 1
        inside = self._inside()
        if inside and self._silences >= _READS:
            raise PeerError(inside)
        self._reception.check_progress()

    def _inside(self) -> str | None:
        """Say what the channel stands in the middle of, and for how long; None if in nothing."""
        passed = self._lane.inside if self._lane else None
        if passed is None and self.intake.between:
            return None
        payload = passed is not None or self.intake.machine.state is ChannelState.AWAIT_PAYLOAD
        part = "payload" if payload else "head"
        return f"{self._place(passed or 0)}: no byte of its {part} came for {self._timeout}"

    def _place(self, passed: int) -> str:
        return f"channel {self.intake.statistics.id}, packet @{self.intake.head + passed:#x}"

    @property
    def _timeout(self) -> str:
        return f"{self._reception.timeout:g} s"

    def _end(self, error: PeerClosedError | None) -> None:
        """Take the end of the stream, or the reset of the connection."""
        if self._connection.aborted:
            self._reception.stop()
        self.intake.end(reset=error is not None, ragged=self._connection.ragged)
        with self._reception.lock:
            over = self._reception.state.over
        if error and not over:
            raise error
