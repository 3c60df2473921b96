"""One migration for each known deviation of real senders, as that sender would make it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from multifd_proto.wire.schema import MultiFDPacket

from .miniatures import COUNT, Packet, Session, base, legacy, pages, sync


def _legacy_with(number: int, packet: Packet) -> Session:
    return legacy().with_packet(1, number, packet)


def stale_size() -> Session:
    """Return a SYNC packet that repeats the size of the packet before it."""
    session = legacy()
    size = session.channels[1].packets[1].head.next_packet_size
    return session.with_head(1, 2, next_packet_size=size)


def empty_trailer() -> Session:
    """Return a SYNC packet with pages, and the empty packet that follows it."""
    session = legacy()
    sender = session.channels[1]
    packet = pages(5, (30,))
    with_pages = replace(packet, head=replace(packet.head, flags=1))
    trailer = MultiFDPacket(pages_alloc=COUNT, packet_num=5, offset=(0,) * COUNT)
    packets = (*sender.packets[:2], with_pages, Packet(trailer), *sender.packets[3:])
    return session.with_sender(1, replace(sender, packets=packets))


def lost_zero_packets() -> Session:
    """Return a compressed migration in which the numbers of zero-only packets are missing."""
    session = base("zlib", alloc=COUNT).of("9.0")
    return session.with_head(0, 3, packet_num=9).with_head(1, 3, packet_num=10)


def unmarked_sync() -> Session:
    """Return a migration with a SYNC on each channel after the last mark."""
    session = base().of("9.2")
    first, second = session.channels
    session = session.with_sender(0, replace(first, packets=(*first.packets, sync(9))))
    return session.with_sender(1, replace(second, packets=(*second.packets, sync(10))))


QUIRK_SHOWN: dict[str, Callable[[], Session]] = {
    "reserved-init-bytes": lambda: legacy().of("4.0").with_init(1, unused2=b"\x7f" * 32),
    "stale-next-packet-size": stale_size,
    "stale-offsets": lambda: legacy().with_head(1, 2, offset=(0x10000,) * COUNT),
    "empty-trailer": empty_trailer,
    "sync-with-pages": empty_trailer,
    "shared-packet-numbers": lambda: legacy().with_head(1, 3, packet_num=9),
    "lost-zero-packets": lost_zero_packets,
    "unmarked-last-sync": unmarked_sync,
    "page-twice-in-a-round": lambda: _legacy_with(1, pages(3, (8, 9, 1))),
}
"""By quirk: a migration that shows it."""
