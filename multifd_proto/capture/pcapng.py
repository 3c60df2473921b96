"""The pcapng file: sections, interfaces, packets and TLS secrets; other blocks are passed over."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import Frame, Interface, Network, NotKept, link_layer, refuse
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError

if TYPE_CHECKING:
    from multifd_proto.capture.columns.records import Records
    from multifd_proto.capture.columns.walk import Walk

MAGIC = b"\x0a\x0d\x0d\x0a"
"""First four bytes of a section header block, the same in both byte orders."""

NOT_KEPT = b"multifd strip: what is cut off was captured, and not kept"
"""Description of an interface whose frames were stripped; it makes their missing bytes no gaps."""

_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _STATISTICS, _PACKET = 1, 2, 3, 5, 6
_SECRETS = 10
_SECTION = 0x0A0D0D0A
_LEAST = {_INTERFACE: 20, _OLD_PACKET: 32, _SIMPLE_PACKET: 16, _STATISTICS: 24, _PACKET: 32}
_LEAST |= {_SECTION: 28, _SECRETS: 20}
_SMALLEST = 12  # a block of nothing but its type and, twice, its size
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 3, 9, 14  # options of an interface description
_ISB_IFDROP, _ISB_OSDROP = 5, 7  # options of interface statistics
_TLS_KEY_LOG = 0x544C534B  # type of secrets: SSLKEYLOGFILE
_SECOND = 1_000_000_000


class Pcapng:
    """A file that starts with `MAGIC`."""

    def __init__(self, window: Window, info: CaptureInfo, limits: Limits) -> None:
        """Take the first section.

        Raises:
            CaptureError: Its header is cut.
        """
        least = _LEAST[_SECTION]
        if not window.fill(least):
            raise CaptureError(
                f"{window.name}: pcapng header is {window.left} bytes, {least} were demanded"
            )
        self._window = window
        self._info = info
        self._limits = limits
        self._section = _Section(window, info)
        self._size = 0

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are left.

        Raises:
            CaptureError: The sizes of a block contradict each other or what it is, or are larger
                than `Limits.record`.
        """
        while self.more():
            yield from self.one()
            yield from self._section.packets(self._window)

    def more(self) -> bool:
        """Have the next block in memory whole; tell whether there is one.

        Raises:
            CaptureError: As `frames`.
        """
        window = self._window
        if not window.demand(_SMALLEST, "a block header"):
            return False
        if window.view[window.start : window.start + 4] == MAGIC:
            self._section = _Section(window, self._info)
        self._size = self._section.block_size(window)
        window.believe(self._size, self._limits.record, "a block")
        if not window.demand(self._size, "a block"):
            return False
        self._section.check_end(window, self._size)
        return True

    def one(self) -> Iterator[Frame]:
        """Pass over the next block, which `more` has seen; yield its frame, if it is one."""
        frame = self._section.block(self._window.view, self._window.start, self._size)
        self._window.start += self._size
        if frame:
            yield frame

    def records(self, most: int, first: int) -> Records | None:
        """Return the next packets as columns, at most `most`; None where `one` has to be asked.

        Args:
            most: bounds how many.
            first: number of the next record in the input.
        """
        return self._section.walk(self._window, self._limits).records(most, first)

    def take_back(self) -> None:
        """Have the records that were returned last read again."""
        self._section.walk(self._window, self._limits).take_back()


def frames(window: Window, info: CaptureInfo, limits: Limits) -> Iterator[Frame]:
    """Yield the frames of a file that starts with `MAGIC`.

    Raises:
        CaptureError: As `Pcapng` and its `frames`.
    """
    return Pcapng(window, info, limits).frames()


class _Section:
    """A section: its byte order and its interfaces."""

    def __init__(self, window: Window, info: CaptureInfo) -> None:
        """Take the byte order from the section header at the start of the window."""
        mark = bytes(window.view[window.start + 8 : window.start + 12])
        if mark not in _BYTE_ORDERS:
            raise CaptureError(
                f"{window.name}: section at byte {window.offset} has byte-order magic "
                f"{mark.hex()}, 1a2b3c4d or 4d3c2b1a was demanded"
            )
        self._name = window.name
        self._info = info
        self._order = _BYTE_ORDERS[mark]
        self._word = struct.Struct(self._order + "I").unpack_from
        self._packet = struct.Struct(self._order + "7I").unpack_from
        self._interfaces: list[Interface] = []
        self._drops: dict[int, int] = {}
        self._walk: Walk | None = None

    def block_size(self, window: Window) -> int:
        """Return the size of the next block in bytes, if it can be one."""
        (kind,), (size,) = (self._word(window.view, window.start + n) for n in (0, 4))
        least = _LEAST.get(kind, _SMALLEST)
        if size < least or size % 4:
            raise CaptureError(
                f"{window.name}: block of type {kind} at byte {window.offset} is {size} bytes, "
                f"a multiple of 4 from {least} on was demanded"
            )
        return int(size)

    def check_end(self, window: Window, size: int) -> None:
        """Refuse a block whose second size is not its first."""
        (repeated,) = self._word(window.view, window.start + size - 4)
        if repeated != size:
            raise CaptureError(
                f"{window.name}: block at byte {window.offset} is {size} bytes at its start "
                f"and {repeated} at its end"
            )

    def packets(self, window: Window) -> Iterator[Frame]:
        """Yield the well-formed packet blocks that come next and are in memory."""
        view, place, end = window.view, window.start, window.end
        interfaces, packet, word = self._interfaces, self._packet, self._word
        while end - place >= _LEAST[_PACKET]:
            kind, size, number, high, low, captured, length = packet(view, place)
            start, after = place + 28, place + size
            stop = start + captured
            if kind != _PACKET or after > end or stop > after - 4 or number >= len(interfaces):
                break
            if size % 4 or word(view, after - 4)[0] != size:
                break
            network, _, factor, divisor, offset = interfaces[number]
            time = (high << 32 | low) * factor // divisor + offset
            yield time, network, view, start, stop, start + length if length > captured else stop
            place = after
        window.start = place

    def walk(self, window: Window, limits: Limits) -> Walk:
        """Return what walks over the packets."""
        from multifd_proto.capture.columns.pcapng import PacketBlocks
        from multifd_proto.capture.columns.walk import Walk

        if self._walk is None:
            self._walk = Walk(window, PacketBlocks(self._order, self._interfaces, limits.record))
        return self._walk

    def block(self, view: memoryview, place: int, size: int) -> Frame | None:
        """Read any one block; return the frame if it is one."""
        (kind,) = self._word(view, place)
        stop = place + size - 4
        if kind == _PACKET:
            _, _, number, *rest = self._packet(view, place)
            return self._frame(view, number, rest, place + 28, stop)
        if kind == _OLD_PACKET:
            number, drops = struct.unpack_from(self._order + "HH", view, place + 8)
            self._info.drops += drops if drops != 0xFFFF else 0  # which means unknown
            rest = list(self._packet(view, place)[3:])
            return self._frame(view, number, rest, place + 28, stop)
        if kind == _SIMPLE_PACKET:
            (length,) = self._word(view, place + 8)
            snap = (self._interfaces or [_UNKNOWN])[0].snap or length
            captured = min(length, snap, stop - place - 12)
            return self._frame(view, 0, [0, 0, captured, length], place + 12, stop)
        if kind == _INTERFACE:
            self._interfaces.append(self._interface(view, place, stop))
        elif kind == _STATISTICS:
            self._count_drops(view, place, stop)
        elif kind == _SECRETS:
            self._take_secrets(view, place, stop)
        return None

    def _frame(
        self, view: memoryview, number: int, rest: list[int], start: int, stop: int
    ) -> Frame:
        """Make the frame of a packet block: `rest` is time (high, low), bytes captured, length."""
        high, low, captured, length = rest
        known = number < len(self._interfaces)
        network, _, factor, divisor, offset = self._interfaces[number] if known else _UNKNOWN
        if captured > stop - start:
            network, captured = refuse("packet longer than its block"), 0
        time = (high << 32 | low) * factor // divisor + offset
        return time, network, view, start, start + captured, start + max(captured, length)

    def _interface(self, view: memoryview, place: int, stop: int) -> Interface:
        link_type, snap = struct.unpack_from(self._order + "HxxI", view, place + 8)
        network: Network = link_layer(link_type)
        ticks, offset = 10**6, 0
        for code, value in self._options(view, place + 16, stop):
            if code == _IF_TSRESOL and len(value) == 1:
                ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == _IF_TSOFFSET and len(value) == 8:
                (seconds,) = struct.unpack(self._order + "q", value)
                offset = seconds * _SECOND
            elif code == _IF_DESCRIPTION and value == NOT_KEPT:
                network = NotKept(network)
        exact = _SECOND % ticks == 0
        factor, divisor = (_SECOND // ticks, 1) if exact else (_SECOND, ticks)
        return Interface(network, snap, factor, divisor, offset)

    def _count_drops(self, view: memoryview, place: int, stop: int) -> None:
        """Add what was lost since the last statistics of the interface, which are sums."""
        (number,) = self._word(view, place + 8)
        drops = sum(
            int.from_bytes(value, "big" if self._order == ">" else "little")
            for code, value in self._options(view, place + 20, stop)
            if code in (_ISB_IFDROP, _ISB_OSDROP) and len(value) == 8
        )
        before = self._drops.get(number, 0)
        self._info.drops += max(0, drops - before)
        self._drops[number] = max(before, drops)

    def _take_secrets(self, view: memoryview, place: int, stop: int) -> None:
        (kind,), (size,) = (self._word(view, place + n) for n in (8, 12))
        if kind == _TLS_KEY_LOG:
            text = bytes(view[place + 16 : min(place + 16 + size, stop)])
            self._info.secrets.add(text.splitlines(), f"{self._name}: secrets inside")

    def _options(self, view: memoryview, place: int, stop: int) -> Iterator[tuple[int, bytes]]:
        while stop - place >= 4:
            code, size = struct.unpack_from(self._order + "HH", view, place)
            if not code or size > stop - place - 4:
                return
            yield code, bytes(view[place + 4 : place + 4 + size])
            place += 4 + size + -size % 4


_UNKNOWN = Interface(refuse("interface not described"), 0)
