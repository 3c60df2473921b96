"""The classic capture file, of microseconds and of nanoseconds, in both byte orders."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Frame, link_layer
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

MAGICS = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
"""First four bytes: byte order and nanoseconds of a tick."""
_FILE_HEADER = 24
_RECORD_HEADER = 16
_LINK_TYPE = 0x03FFFFFF  # the bits above tell of a frame check sequence


def frames(window: Window, _info: CaptureInfo, limits: Limits) -> Iterator[Frame]:
    """Yield the frames of a file whose first four bytes are among `MAGICS`.

    Raises:
        CaptureError: The file header is cut, or a record claims more than `limits.record` bytes.
    """
    if not window.fill(_FILE_HEADER):
        raise CaptureError(
            f"{window.name}: pcap header is {window.left} bytes, {_FILE_HEADER} were demanded"
        )
    order, tick = MAGICS[bytes(window.view[:4])]
    network = link_layer(struct.unpack_from(order + "I", window.view, 20)[0] & _LINK_TYPE)
    header = struct.Struct(order + "IIII").unpack_from
    window.start += _FILE_HEADER
    while window.demand(_RECORD_HEADER, "a record header"):
        size = _RECORD_HEADER + header(window.view, window.start)[2]
        window.believe(size, limits.record, "a record")
        if not window.demand(size, "a record"):
            return
        view, place, end = window.view, window.start, window.end
        while end - place >= _RECORD_HEADER:
            seconds, ticks, captured, length = header(view, place)
            start = place + _RECORD_HEADER
            stop = start + captured
            if stop > end:
                break
            time = seconds * 1_000_000_000 + ticks * tick
            yield time, network, view, start, stop, start + length if length > captured else stop
            place = stop
        window.start = place
