"""QEMU's own account of the packets it sent and received: its `multifd_*` trace events.

No one here wrote this oracle: what is decoded from a capture must equal it, packet by packet.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

_EVENT = re.compile(
    r"multifd_(?P<event>send|recv|send_ram_fill|send_fill|recv_unfill) channel (?P<channel>\d+)"
    r"(?: packet_num (?P<packet_num>\d+))?"
    r"(?: (?:normal )?pages (?P<normal>\d+))?"
    r"(?: zero pages (?P<zero>\d+))?"
    r"(?: flags 0x(?P<flags>[0-9a-f]+) next packet size (?P<size>\d+))?"
)
_END = re.compile(
    r"multifd_(?P<side>send|recv)_thread_end channel (?P<channel>\d+) packets (?P<packets>\d+)"
    r"(?: (?:normal )?pages (?P<normal>\d+))?(?: zero pages (?P<zero>\d+))?"
)
_SYNC = 0x1


@dataclass(frozen=True)
class TracedPacket:
    """A packet as QEMU traced it; None where the release does not print the number.

    `flags` has no method bits in releases up to 8.2, and `next_packet_size` (bytes) is the
    header's field, which those releases leave stale in packets without pages.
    """

    channel: int
    packet_num: int
    normal: int | None
    zero: int | None
    flags: int
    next_packet_size: int

    @property
    def is_sync(self) -> bool:
        """Whether the SYNC flag is set."""
        return bool(self.flags & _SYNC)


@dataclass(frozen=True)
class ThreadTotals:
    """What the thread of a channel says at its end; None where the release does not print it.

    Until 8.2, at both ends, `packets` counts the channel's preamble as one more packet.
    """

    packets: int
    normal: int | None
    zero: int | None


def sent_packets(trace: str) -> dict[int, list[TracedPacket]]:
    """Return the packets that a source traced, by channel and in order.

    Reads `multifd_send` (until 9.1) and `multifd_send_fill` with the `multifd_send_ram_fill`
    before it (since 9.2). Under compression, 9.0 to 9.2.0 trace zero-only packets that they never
    send. Lines of several channels may interleave, and other lines are passed over; page
    counts are None if a line that should hold them is missing.
    """
    return _packets(trace, "send")


def received_packets(trace: str) -> dict[int, list[TracedPacket]]:
    """Return the packets that a destination traced, by channel and in order.

    Reads `multifd_recv` (until 9.1) and `multifd_recv_unfill` (since 9.2: no page counts).
    """
    return _packets(trace, "recv")


def thread_totals(trace: str) -> dict[int, ThreadTotals]:
    """Return the totals of each channel whose thread has traced its end, on either side."""
    return {
        int(match["channel"]): ThreadTotals(
            int(match["packets"]), _number(match["normal"]), _number(match["zero"])
        )
        for match in _END.finditer(trace)
    }


def _packets(trace: str, side: str) -> dict[int, list[TracedPacket]]:
    packets: dict[int, list[TracedPacket]] = defaultdict(list)
    pages: dict[int, tuple[int | None, int | None]] = {}
    for match in _EVENT.finditer(trace):
        event, channel = match["event"], int(match["channel"])
        counts = _number(match["normal"]), _number(match["zero"])
        if event == "send_ram_fill":
            pages[channel] = counts
        elif event.startswith(side) and match["flags"] and match["packet_num"]:
            flags = int(match["flags"], 16)
            if event == "send_fill":
                unknown = (0, 0) if flags & _SYNC else (None, None)
                counts = pages.pop(channel, unknown)
            elif event == side:
                counts = counts[0], counts[1] or 0  # until 8.2 packets have no zero pages
            packets[channel].append(
                TracedPacket(channel, int(match["packet_num"]), *counts, flags, int(match["size"]))
            )
    return dict(packets)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _without_pages(packet: TracedPacket) -> bool:
    return packet.normal == 0 and packet.zero == 0


def _repeats(packets: Sequence[TracedPacket]) -> bool:
    numbers = Counter((packet.channel, packet.packet_num) for packet in packets)
    return any(count > 1 for count in numbers.values())


def _has_gaps(packets: Sequence[TracedPacket]) -> bool:
    numbers = {packet.packet_num for packet in packets}
    return len(numbers) <= max(numbers, default=-1)


_QUIRKS: Mapping[str, Callable[[Sequence[TracedPacket]], bool]] = {
    "sync-with-pages": lambda packets: any(p.is_sync and p.normal for p in packets),
    "empty-trailer": lambda packets: any(not p.is_sync and _without_pages(p) for p in packets),
    "repeated-packet-num": _repeats,
    "packet-num-gaps": _has_gaps,
    "stale-next-packet-size": lambda packets: any(
        _without_pages(p) and p.next_packet_size for p in packets
    ),
    "zero-pages-in-packets": lambda packets: any(p.zero for p in packets),
}


def quirks(sent: Mapping[int, Sequence[TracedPacket]]) -> list[str]:
    """Name what a source's packets show of the differences between releases.

    - `sync-with-pages`: a SYNC packet carries pages (until 8.2).
    - `empty-trailer`: a packet has neither pages nor SYNC (until 8.2).
    - `repeated-packet-num`: a channel uses a packet number twice (until 8.2).
    - `packet-num-gaps`: no channel uses some number (until 8.2).
    - `stale-next-packet-size`: a packet without pages announces a payload (5.0 to 8.1).
    - `zero-pages-in-packets`: packets list zero pages (since 9.0).
    """
    packets = list(chain.from_iterable(sent.values()))
    return [name for name, shown in _QUIRKS.items() if shown(packets)]
