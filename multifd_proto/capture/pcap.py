"""The classic capture file, of microseconds and of nanoseconds, in both byte orders."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Frame, link_layer
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

if TYPE_CHECKING:
    from multifd_proto.capture.columns.records import Records
    from multifd_proto.capture.columns.walk import Walk

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


class Pcap:
    """A file whose first four bytes are among `MAGICS`."""

    def __init__(self, window: Window, _info: CaptureInfo, limits: Limits) -> None:
        """Read the file header.

        Raises:
            CaptureError: It is cut.
        """
        if not window.fill(_FILE_HEADER):
            raise CaptureError(
                f"{window.name}: pcap header is {window.left} bytes, {_FILE_HEADER} were demanded"
            )
        self._order, self._tick = MAGICS[bytes(window.view[:4])]
        (link,) = struct.unpack_from(self._order + "I", window.view, 20)
        self._network = link_layer(link & _LINK_TYPE)
        self._header = struct.Struct(self._order + "IIII").unpack_from
        self._window = window
        self._limits = limits
        self._walk: Walk | None = None
        window.start += _FILE_HEADER

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are left.

        Raises:
            CaptureError: A record claims more than `Limits.record` bytes.
        """
        window, header, network, tick = self._window, self._header, self._network, self._tick
        while self.more():
            view, place, end = window.view, window.start, window.end
            while end - place >= _RECORD_HEADER:
                seconds, ticks, captured, length = header(view, place)
                start = place + _RECORD_HEADER
                stop = start + captured
                if stop > end:
                    break
                time = seconds * 1_000_000_000 + ticks * tick
                yield (
                    time, network, view, start, stop, start + length if length > captured else stop
                )  # fmt: skip
                place = stop
            window.start = place

    def one(self) -> Iterator[Frame]:
        """Yield the next frame, if there is one; to be asked for as long as `more` says so."""
        window = self._window
        seconds, ticks, captured, length = self._header(window.view, window.start)
        start = window.start + _RECORD_HEADER
        window.start = start + captured
        time = seconds * 1_000_000_000 + ticks * self._tick
        yield (
            time, self._network, window.view, start, window.start, start + max(length, captured)
        )  # fmt: skip

    def more(self) -> bool:
        """Have the next record in memory whole; tell whether there is one.

        Raises:
            CaptureError: It claims more than `Limits.record` bytes.
        """
        window = self._window
        if not window.demand(_RECORD_HEADER, "a record header"):
            return False
        size = _RECORD_HEADER + self._header(window.view, window.start)[2]
        window.believe(size, self._limits.record, "a record")
        return window.demand(size, "a record")

    def records(self, most: int, first: int) -> Records | None:
        """Return the next records as columns, at most `most`; None where `one` has to be asked.

        Args:
            most: bounds how many.
            first: number of the next record in the input.
        """
        return self._columns().records(most, first)

    def take_back(self) -> None:
        """Have the records that were returned last read again."""
        self._columns().take_back()

    def _columns(self) -> Walk:
        from multifd_proto.capture.columns.pcap import PcapRecords
        from multifd_proto.capture.columns.walk import Walk

        if self._walk is None:
            walker = PcapRecords(self._order, self._tick, self._network, self._limits.record)
            self._walk = Walk(self._window, walker)
        return self._walk


def frames(window: Window, info: CaptureInfo, limits: Limits) -> Iterator[Frame]:
    """Yield the frames of a file whose first four bytes are among `MAGICS`.

    Raises:
        CaptureError: The file header is cut, or a record claims more than `limits.record` bytes.
    """
    return Pcap(window, info, limits).frames()
