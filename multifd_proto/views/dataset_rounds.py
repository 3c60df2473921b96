"""Rounds of channels, counted as packets go by: one row for each that is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from multifd_proto.capture.session import Connection
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import (
    DeviceStateReceived,
    Event,
    PacketReceived,
    PayloadReceived,
)


@dataclass
class _Round:
    """A round of a channel, as far as it has been seen."""

    round: int | None
    packets: int = 0
    syncs: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    payload: int = 0
    device_state: int = 0
    first: int = 0
    last: int = 0

    def at(self, first: int, last: int) -> None:
        """Widen the time it took; 0 is no time."""
        self.first = min(self.first or first, first or self.first)
        self.last = max(self.last, last)


class Rounds:
    """Counts the round that each channel is in, and hands it on when the next one begins."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Begin to count.

        Args:
            write: takes the row of a round.
        """
        self._write = write
        self._open: dict[int, tuple[Connection, _Round]] = {}

    def event(self, connection: Connection, event: Event) -> None:
        """Take an event of a connection."""
        match event:
            case PacketReceived():
                part = self._round(connection, event.round)
                part.packets += 1
                part.syncs += event.sync
                part.normal_pages += event.packet.normal_pages
                part.zero_pages += event.packet.zero_pages
                part.payload += event.payload
            case DeviceStateReceived():
                part = self._round(connection, event.round)
                part.packets += 1
                part.device_state += event.payload
            case PayloadReceived():
                part = self._round(connection, event.head.round)
            case _:
                return
        part.at(event.time, event.time)

    def batch(self, connection: Connection, batch: PacketBatch) -> None:
        """Take packets of one connection."""
        begins = np.flatnonzero(np.diff(batch.round, prepend=batch.round[0] - 1))
        add = np.add.reduceat
        counts = {
            "packets": np.diff(begins, append=len(batch)),
            "syncs": add(batch.sync.astype(np.int64), begins),
            "normal_pages": add(batch.normal_pages, begins),
            "zero_pages": add(batch.zero_pages, begins),
            "payload": add(batch.payload, begins),
        }
        first = np.minimum.reduceat(batch.time, begins).tolist()
        last = np.maximum.reduceat(np.maximum(batch.time, batch.ended), begins).tolist()
        for index, number in enumerate(batch.round[begins].tolist()):
            part = self._round(connection, None if number < 0 else number)
            for name, column in counts.items():
                setattr(part, name, getattr(part, name) + int(column[index]))
            part.at(first[index], last[index])

    def finish(self) -> None:
        """Hand on the rounds that the channels are in."""
        for stream in list(self._open):
            self._close(stream)

    def _round(self, connection: Connection, number: int | None) -> _Round:
        stream = connection.half.stream
        _, part = self._open.get(stream, (None, None))
        if part is None or part.round != number:
            self._close(stream)
            part = _Round(number)
            self._open[stream] = connection, part
        return part

    def _close(self, stream: int) -> None:
        connection, part = self._open.pop(stream, (None, None))
        if connection is None or part is None:
            return
        assert connection.session
        who = {
            "migration": connection.session.number,
            "stream": stream,
            "channel": connection.channel,
        }
        self._write(who | vars(part))
