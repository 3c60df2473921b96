"""One connection of a destination that misbehaves, and what is done to it."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from multifd_proto.conformance.sender.arrival import Arrival
from multifd_proto.conformance.sender.wirelog import WireLog
from multifd_proto.conformance.target import RunningSender

from multifd_proto.wire.return_path import HEADER, NAMES

from .misdeeds import Act

_PIECE = 1 << 18


@dataclass
class Line:
    """A connection."""

    arrival: Arrival
    log: WireLog
    acts: list[Act]
    """What is still to be done, in order."""
    piece: int = _PIECE
    """Bytes that are read at a time."""
    gap: float = 0.0
    """Seconds between two pieces."""
    until: float = 0.0
    """When it is read on; infinite if it is not."""
    said: bytes = b""
    """What the sender was sent, the answers among it."""
    _answers: dict[str, bytes] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """It has not ended."""
        return not self.arrival.over

    @property
    def waits(self) -> bool:
        """It is read on later."""
        return self.open and time.monotonic() < self.until < inf

    @property
    def readable(self) -> bool:
        """It may be read from now."""
        return self.open and self.until <= time.monotonic()

    def read(self, *, excused: bool) -> None:
        """Read what there is, up to the next act; as for `Stream.end`, a sender may be excused."""
        self.arrival.read(self._room)
        if self.arrival.ended:
            self.arrival.finish(excused=excused)
        elif self.gap:
            self.until = time.monotonic() + self.gap

    def due(self) -> Act | None:
        """Take the next act, if its place is reached."""
        return self.acts.pop(0) if self.readable and self.acts and self._room <= 0 else None

    @property
    def _room(self) -> int:
        return min(self.piece, self.acts[0].at - self.arrival.bytes if self.acts else self.piece)

    def relent(self) -> None:
        """Do nothing more to it, and read it as fast as can be."""
        self.acts, self.gap, self.until, self.piece = [], 0.0, 0.0, _PIECE
        with suppress(OSError):  # it may have ended
            self.arrival.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)

    def do(self, act: Act, sender: RunningSender) -> None:
        """Do an act; see `Act`."""
        match act.do:
            case "pause":
                self.until = time.monotonic() + act.seconds
            case "stall":
                self.until = inf
            case "slow":
                self.piece, self.gap = act.piece, act.seconds
            case "answer":
                self._answers[act.to] = bytes.fromhex(act.hex)
            case "say":
                self._say(bytes.fromhex(act.hex))
            case "half-close":
                self._note("closed", "our direction ended by us")
                with suppress(OSError):  # the sender may have ended it
                    self.arrival.socket.shutdown(socket.SHUT_WR)
            case "cancel":
                done = "is cancelled" if sender.cancel() else "cannot be cancelled"
                self._note("closed", f"the migration {done}")
            case _:
                self.close(reset=act.do == "reset")

    def close(self, *, reset: bool = False) -> None:
        """End the connection, if it has not ended."""
        if self.open and reset:
            self.arrival.break_off()
        elif self.open:
            self._note("broken", "connection closed by us")
            self.arrival.ended = "ended"
            self.arrival.finish(excused=True)

    def revise(self, answer: bytes) -> bytes:
        """Return what is sent in place of an answer on the return path."""
        kind, _ = HEADER.unpack_from(answer)
        answer = self._answers.get(NAMES[kind], answer)
        self.said += answer
        return answer

    def _say(self, data: bytes) -> None:
        self._note("sent", "bytes that nobody asked for", data)
        with suppress(OSError):  # the sender may have ended it, or take no more
            self.said += data[: self.arrival.socket.send(data)]

    def _note(self, kind: str, what: str, data: bytes = b"") -> None:
        self.log.note(self.arrival.stream.name, kind, what, data)
