"""Records of Wireshark's exported PDUs: tags that stand for link, IP and TCP headers, then data.

A tag is a type and a length, u16 big-endian each, and its value (Wireshark: epan/exported_pdu.h).
Ours say who sends to whom, and the TCP sequence numbers at the start and at the end of a stretch of
the stream. The data are the first bytes of the stretch; the rest of it was not kept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from multifd_proto.capture.link import Undecodable

if TYPE_CHECKING:
    from multifd_proto.capture.ip import Segment

DISSECTOR = b"multifd"
"""Name of the dissector that Wireshark hands the data to."""
END, _NAME, _PORT_TYPE, _SOURCE_PORT, _DESTINATION_PORT, TCP_INFO = 0, 12, 24, 25, 26, 34
_ADDRESSES = {4: (20, 21), 16: (22, 23)}
"""Size of an address: tags of the source and of the destination."""
_TCP = 2  # of the port types
_TAG = struct.Struct(">HH")
_INFO = struct.Struct(">HIIIBHH")
"""Version, sequence number at the start and behind the end, acknowledgement, 1 if reassembled,
flags, urgent pointer."""


def build(key: bytes, seq: int, length: int, flags: int, data: bytes) -> bytes:
    """Return a record.

    Args:
        key: direction, as in `Segment`.
        seq: sequence number of the first byte.
        length: bytes of the stretch.
        flags: of TCP.
        data: the first of its bytes.
    """
    size = (len(key) - 4) // 2
    source, destination = _ADDRESSES[size]
    info = _INFO.pack(1, seq % 2**32, (seq + length) % 2**32, 0, 0, flags, 0)
    tags = (
        (_NAME, DISSECTOR + bytes(-len(DISSECTOR) % 4)),
        (source, key[:size]),
        (destination, key[size:-4]),
        (_PORT_TYPE, struct.pack(">I", _TCP)),
        (_SOURCE_PORT, b"\0\0" + key[-4:-2]),
        (_DESTINATION_PORT, b"\0\0" + key[-2:]),
        (TCP_INFO, info),
        (END, b""),
    )
    return b"".join(_TAG.pack(tag, len(value)) + value for tag, value in tags) + data


def segment_of(time: int, view: memoryview, start: int, stop: int) -> Segment:
    """Return the `Segment` that a record stands for.

    Raises:
        Undecodable: It is not of a TCP stream, or does not say where in it.
    """
    tags, start = _tags(view, start, stop)
    info = tags.get(TCP_INFO, b"")
    for source, destination in _ADDRESSES.values():
        ends = tags.get(source, b""), tags.get(destination, b"")
        ports = tags.get(_SOURCE_PORT, b""), tags.get(_DESTINATION_PORT, b"")
        if all(ends) and len(ports[0]) == len(ports[1]) == 4 and len(info) == _INFO.size:
            _, seq, behind, _, _, flags, _ = _INFO.unpack(info)
            length = (behind - seq) % 2**32
            data = min(length, stop - start)
            key = b"".join(ends) + ports[0][2:] + ports[1][2:]
            return time, key, seq, flags & 0xFF, view, start, start + data, length - data
    raise Undecodable("exported PDU without TCP's sequence numbers")


def _tags(view: memoryview, start: int, stop: int) -> tuple[dict[int, bytes], int]:
    """Return the tags, and the place behind them."""
    tags: dict[int, bytes] = {}
    while stop - start >= _TAG.size and END not in tags:
        tag, size = _TAG.unpack_from(view, start)
        start += _TAG.size
        if size > stop - start:
            break
        tags[tag] = bytes(view[start : start + size])
        start += size
    if END not in tags:
        raise Undecodable("exported PDU malformed")
    return tags, start
