"""How the live verbs print what went over each channel."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from multifd_proto.peers.statistics import ChannelStatistics, total


def print_channels(channels: Sequence[ChannelStatistics]) -> None:
    """Print the counts of each channel, and of all of them."""
    table = Table("channel", "packets", "SYNCs", "normal", "zero", "bytes")
    for column in table.columns:
        column.justify = "right"
    device = any(channel.device_state for channel in channels)
    if device:
        table.add_column("device state", justify="right")
    for channel in (*channels, *((total(channels),) if len(channels) > 1 else ())):
        name = "total" if channel.id is None else str(channel.id)
        counts = [channel.packets, channel.syncs, channel.normal, channel.zero, channel.bytes]
        counts += [channel.device_state] if device else []
        table.add_row(name, *map(str, counts))
    Console(width=None if sys.stdout.isatty() else 100).print(table)
