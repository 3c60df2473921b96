"""What a receiver has to put up with in a packet, and what the specification leaves open.

Both are a sender's fault, and no receiver's reason to fail: of the first, a requirement on
receivers says so; of the second, none says anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import METHOD_MASK

_VAST = 1 << 63  # what a signed number cannot hold


def tolerances(event: PacketReceived, parameters: MigrationParameters, least: int) -> Iterator[str]:
    """Yield the requirements by which a receiver has to take what is odd in a packet's head.

    Args:
        event: a packet that is not refused.
        parameters: of the receiver.
        least: a lower `packet_num` is none that has risen on its channel.
    """
    packet, method = event.packet, parameters.compression
    stale = not event.pages and any(packet.ramblock)
    if any(packet.reserved) or stale or any(packet.offset[event.pages :]):
        yield "PKT-29"
    if not least <= packet.packet_num < _VAST:
        yield "PKT-32"
    if event.sync and event.pages:
        yield "SYNC-12"
    plain = method is not None and not method.flag
    if plain and packet.next_packet_size != packet.normal_pages * event.page_size:
        yield "PAY-17"


def unspecified(event: PacketReceived, parameters: MigrationParameters) -> str:
    """Return what is odd in a packet's head and may, or may not, be refused; empty if nothing."""
    packet, method, dialect = event.packet, parameters.compression, parameters.dialect
    if dialect and packet.flags & ~dialect.flags:
        return "a flag without a meaning"
    if not event.pages and packet.flags & ~FLAG_SYNC:
        return "flags of pages in a packet without pages"
    compressed = method is not None and method.flag
    if compressed and not event.pages and packet.next_packet_size:
        return "a payload of no pages"
    if (packet.flags & METHOD_MASK).bit_count() > 1:
        return "several payload methods"
    return ""
