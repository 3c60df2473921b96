"""Finding one's place in a channel: page size from the first packet, next packet after a loss."""

from __future__ import annotations

from dataclasses import replace

from multifd_proto.wire.dialect import FLAG_DEVICE_STATE
from multifd_proto.wire.payload import METHOD_MASK
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_PACKET_SIZE,
    MULTIFD_VERSION,
    PAGE_SIZES,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    page_count,
)

START = MultiFDPacketHdr(MULTIFD_MAGIC, MULTIFD_VERSION, 0).build()[:8]
"""The eight bytes that every packet starts with."""
PAGE_COUNTS = tuple(sorted(page_count(size) for size in PAGE_SIZES))
"""All lengths an offset array can have, ascending."""
DEFAULT_PAGE_COUNT = page_count(4096)
LARGEST_HEAD = MultiFDPacket.size(PAGE_COUNTS[-1])
"""Bytes of the longest packet head there is: 1 KiB pages."""


def infer_page_count(stream: bytes | bytearray, ended: bool) -> int | None:
    """Infer page_count from a stream that starts with a packet of unknown length.

    Senders before 9.2 say it in every packet (`pages_alloc`). Newer ones write 0 into a SYNC
    packet, so the start of the packet behind it has to show how long this one was. Falls back to
    the page size of nearly all targets, 4 KiB; returns None while more bytes may tell.
    """
    if len(stream) < MultiFDPacket.end_of("pages_alloc"):
        return DEFAULT_PAGE_COUNT if ended else None
    pages_alloc = int.from_bytes(stream[12:16], "big")
    if pages_alloc in PAGE_COUNTS:
        return pages_alloc
    for count in PAGE_COUNTS:
        size = MultiFDPacket.size(count)
        if stream[size : size + len(START)] == START or (ended and len(stream) == size):
            return count
    return DEFAULT_PAGE_COUNT if ended or len(stream) >= LARGEST_HEAD + len(START) else None


PEEK = 16
"""Bytes at the start of a stream that `starts_with_packet` needs."""


def starts_with_packet(head: bytes) -> bool:
    """Tell whether what begins with the multifd magic is a packet, not an init message.

    Both begin alike; where an init has its uuid, a packet has flags of which at most seven bits
    are ever set, and `pages_alloc`. Packets without either do not start anything.
    """
    flags = int.from_bytes(head[8:12], "big")
    return 0 < flags < 2 * FLAG_DEVICE_STATE or int.from_bytes(head[12:16], "big") in PAGE_COUNTS


class PacketSearch:
    """Looks for the next packet in bytes of which the start is unknown.

    Guest memory can hold anything, also whole packets: a candidate has to be plausible in every
    field, and the channel confirms it by what follows. Holds less than one packet head and
    one slice of the input.
    """

    _SLICE = 64 * 1024

    def __init__(self, count: int | None, device_state: bool) -> None:
        """Make a search for packets of `count` offsets, and for device state where there is any."""
        self._count = count
        self._device_state = device_state
        self._kept = bytearray()

    def receive_data(self, data: memoryview) -> tuple[int, bytes | None, bytes]:
        """Look at bytes.

        Returns:
            How many were taken; the head of the packet that was found, if one was; and what was
            taken by earlier calls and is behind that head: it comes before the rest of `data`.
        """
        data = data[: self._SLICE]
        self._kept += data
        place = 0
        while (place := self._kept.find(START, place)) >= 0:
            size = _plausible_size(self._kept, place, self._count, self._device_state)
            if size is None:
                break
            if size:
                end, old = place + size, len(self._kept) - len(data)
                head, again = bytes(self._kept[place:end]), bytes(self._kept[end:old])
                self._kept.clear()
                return max(0, end - old), head, again
            place += 1
        # a start may be cut by the end of what has come so far
        del self._kept[: place if place >= 0 else max(0, len(self._kept) - len(START) + 1)]
        return len(data), None, b""

    def cut_head(self) -> tuple[bytes, int] | None:
        """Return the start of a packet that what comes next cuts off, and the size of its head.

        It tells where the next packet starts, and what there is of it is plausible. If there is
        one, it was taken: what comes next is looked at by itself.
        """
        place = 0
        while (place := self._kept.find(START, place)) >= 0:
            head = bytes(self._kept[place:])
            if len(head) < MultiFDPacket.end_of("next_packet_size"):
                return None
            count = self._count or int.from_bytes(head[12:16], "big") or DEFAULT_PAGE_COUNT
            if count in PAGE_COUNTS and _starts_ram_packet(head, count):
                self._kept.clear()
                return head, MultiFDPacket.size(count)
            place += 1
        return None

    def receive_gap(self) -> None:
        """Bytes are missing here: nothing can continue across."""
        self._kept.clear()


def _plausible_size(
    data: bytearray, place: int, count: int | None, device_state: bool
) -> int | None:
    """Return the size of the packet head at a place of `data`; 0: none, None: may become one."""
    left = len(data) - place
    if left < MultiFDPacketHdr.size():
        return None
    flags = int.from_bytes(data[place + 8 : place + 12], "big")
    if device_state and flags == FLAG_DEVICE_STATE:
        size = MultiFDPacketDeviceState.size()
        if left < size:
            return None
        device = MultiFDPacketDeviceState.parse(data[place : place + size])
        return size if _is_name(device.idstr) and device.next_packet_size else 0
    if left < MultiFDPacket.end_of("pages_alloc"):
        return None
    count = count or infer_page_count(data[place : place + LARGEST_HEAD + len(START)], ended=False)
    if count is None:
        return None
    if count not in PAGE_COUNTS:
        return 0
    size = MultiFDPacket.size(count)
    if left < size:
        return None
    return size if _is_ram_packet(MultiFDPacket.parse(data[place : place + size]), count) else 0


def _starts_ram_packet(head: bytes, count: int) -> bool:
    """Tell whether a head of which there is only the start is plausible."""
    size = MultiFDPacket.size(count)
    packet = MultiFDPacket.parse(head[:size].ljust(size, b"\0"))
    offsets = (len(head) - MultiFDPacket.size()) // MultiFDPacket.item_size
    if len(head) < MultiFDPacket.end_of("ramblock"):
        packet = replace(packet, ramblock=b"?".ljust(len(packet.ramblock), b"\0"))
    payload = packet.normal_pages * (MULTIFD_PACKET_SIZE // count)
    return _is_ram_packet(packet, count, max(offsets, 0)) and (
        bool(packet.flags & METHOD_MASK) or packet.next_packet_size == payload
    )


def _is_ram_packet(packet: MultiFDPacket, count: int, known: int | None = None) -> bool:
    pages = packet.normal_pages + packet.zero_pages
    offsets = packet.offset[:pages][:known]
    return (
        packet.flags < FLAG_DEVICE_STATE
        and packet.pages_alloc in (0, count)
        and pages <= packet.pages_alloc
        and not any(packet.reserved)
        and (pages == 0 or _is_name(packet.ramblock))
        and not any(offset % PAGE_SIZES[0] for offset in offsets)
        and len(set(offsets)) == len(offsets)
    )


def _is_name(field: bytes) -> bool:
    name, _, padding = field.partition(b"\0")
    return bool(name) and len(name) < len(field) and name.isascii() and not any(padding)
