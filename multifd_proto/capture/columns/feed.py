"""A table of segments handed to the machines of its connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multifd_proto.capture.columns.hop import Piece, follow_channel, follow_main
from multifd_proto.capture.columns.runs import Run
from multifd_proto.capture.session import Connection
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.migration import ChannelInfo


def feed(connections: Mapping[int, Connection], taken: Iterable[Run]) -> list[Piece]:
    """Feed each run to the machine of its connection; return what they say, run by run."""
    pieces: list[Piece] = []
    for run in taken:
        connection = connections[run.half.stream]
        machine = connection.machine
        if isinstance(machine, Channel):
            assert isinstance(connection.peer, ChannelInfo)
            pieces += follow_channel(machine, run)
            connection.peer.page_size = machine.page_size
        else:
            assert machine
            pieces += follow_main(machine, run)
        run.half.unwanted_until = run.stop + machine.unwanted()
    return pieces
