"""The guest's memory as a destination has it at the end: a page's copy of the latest round wins.

Connections have no common order, so the round of each page is remembered with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from multifd_proto.machine.events import PacketReceived, PayloadReceived

PAGES = 1 << 17
"""Pages that are kept; beyond them memory is not compared."""
BYTES = 64 << 20
"""Bytes of their contents that are kept at most; likewise."""
_SHOWN = 5

_Place = tuple[bytes, int]


@dataclass
class Memory:
    """Pages by name of their RAM block and offset in it."""

    pages: dict[_Place, tuple[int, bytes]] = field(default_factory=dict)
    """The round of a page, and its content; zeros as no bytes."""
    whole: bool = True
    """Everything was kept."""
    size: int = 0
    """Bytes of all contents."""

    def put(self, place: _Place, round_: int, content: bytes) -> None:
        """Take a page."""
        known = self.pages.get(place)
        size = self.size + len(content) - len(known[1] if known else b"")
        if size > BYTES or (known is None and len(self.pages) >= PAGES):
            self.whole = False
        elif known is None or known[0] <= round_:
            self.pages[place] = (round_, content)
            self.size = size

    def clear(self, block: bytes, offsets: tuple[int, ...], round_: int) -> None:
        """Take pages of zeros."""
        for offset in offsets:
            self.put((block, offset), round_, b"")

    def differences(self, block: bytes, image: bytes, page_size: int) -> Iterator[str]:
        """Yield in words where a block is not what it has to be; at the end, how often."""
        count = 0
        for offset in range(0, len(image), page_size):
            page = image[offset : offset + page_size]
            _, have = self.pages.get((block, offset), (0, b""))
            if have.ljust(page_size, b"\0") != page:
                count += 1
                if count <= _SHOWN:
                    at = next(
                        i for i, b in enumerate(page) if have[i : i + 1].ljust(1, b"\0")[0] != b
                    )
                    came = "came otherwise" if (block, offset) in self.pages else "never came"
                    yield f"{block.decode('latin-1')} at {offset + at:#x}: the page {came}"
        if count > _SHOWN:
            yield f"{count} pages of {block.decode('latin-1')} differ in all"


class Sink:
    """Takes the guest memory of one channel."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._places: Iterator[_Place] = iter(())
        self._round = self._size = 0
        self._page = bytearray()

    def begin(self, packet: PacketReceived) -> None:
        """Find out where the packet's normal pages go."""
        offsets = packet.page_offsets[: packet.packet.normal_pages]
        self._places = iter([(packet.ramblock, offset) for offset in offsets])
        self._round, self._size = packet.round or 0, packet.page_size
        self._page.clear()

    def write(self, data: bytes | memoryview) -> None:
        """Take memory, and put it where it belongs as soon as a page is whole."""
        view = memoryview(data)
        while len(view):
            room = self._size - len(self._page)
            self._page += view[:room]
            view = view[room:]
            if len(self._page) == self._size:
                self._put()

    def _put(self) -> None:
        place = next(self._places, None)
        if place:
            content = bytes(self._page)
            self._memory.put(place, self._round, content if any(content) else b"")
        self._page.clear()

    def end(self, payload: PayloadReceived) -> None:
        """Drop the rest of a payload that ends inside a page."""
        if payload.missing or payload.fault:
            self._page.clear()
