"""RAM blocks rebuilt from a migration: sparse files, and which of their pages ever came.

A page's copy of the latest round wins. Connections have no common order on the wire, so the round
that each page came from is remembered: 4 bytes for each page of the stretches of 128 MiB (at
4 KiB a page) that were sent at all, a thousandth of the guest's memory.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multifd_proto.machine.events import Event, PacketReceived, PayloadReceived
from multifd_proto.machine.migration import MainReceived, Migration
from multifd_proto.wire.block_names import file_name
from multifd_proto.wire.ram_records import RamZero
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

MAX_BLOCKS = 512
"""Blocks that are written; a file is open for each."""
MAX_OFFSET = 1 << 46
"""End of a block whose length is not known: 64 TiB."""
_CHUNK = 32768


@dataclass(eq=False)
class Image:
    """One RAM block on its way into a file."""

    name: bytes
    path: Path
    length: int | None
    """Bytes of the block, if the main stream told."""
    page_size: int
    normal: int = 0
    """Arrivals of pages with content."""
    zero: int = 0
    """Arrivals of pages of zeros."""
    damaged: int = 0
    """Pages whose last copy is not whole in the capture."""
    rounds: dict[int, array[int]] = field(default_factory=dict)
    """By chunk of pages: 1 + the round that each page came in, 0 where it never came."""

    def __post_init__(self) -> None:
        """Make the file, of full length and without content."""
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        if self.length is not None:
            os.ftruncate(self.file, self.length)

    def claim(self, offset: int, round_: int) -> bool:
        """Tell whether a page of a round is to be written, and remember that it came."""
        chunk, place = divmod(offset // self.page_size, _CHUNK)
        rounds = self.rounds.get(chunk)
        if rounds is None:
            rounds = self.rounds[chunk] = array("I", bytes(4 * _CHUNK))
        if rounds[place] > round_ + 1:
            return False
        rounds[place] = round_ + 1
        return True

    def came(self, offset: int) -> bool:
        """Tell whether a page has come before."""
        chunk, place = divmod(offset // self.page_size, _CHUNK)
        return chunk in self.rounds and self.rounds[chunk][place] > 0

    def clear(self, offset: int, round_: int) -> None:
        """Take a page of zeros."""
        written = self.came(offset)
        if self.claim(offset, round_) and written:
            os.pwrite(self.file, bytes(self.page_size), offset)
        self.zero += 1

    def absent(self) -> Iterator[range]:
        """Yield the stretches of the block, in bytes, whose pages never came."""
        begin = None
        for page in range((self.length or 0) // self.page_size):
            if self.came(page * self.page_size):
                if begin is not None:
                    yield range(begin, page * self.page_size)
                begin = None
            elif begin is None:
                begin = page * self.page_size
        if begin is not None:
            yield range(begin, self.length or 0)


class Images:
    """The RAM blocks of one migration, as files `NAME.ram` in a folder."""

    def __init__(self, folder: Path, migration: Migration) -> None:
        self._folder = folder
        self._migration = migration
        self.blocks: dict[bytes, Image] = {}
        self.refused = 0
        """Pages outside of any known block."""
        self.latest = 0
        """The latest round seen, for packets whose round a gap hides."""

    @property
    def page_size(self) -> int:
        """Target page size in bytes, as far as known."""
        return self._migration.page_size or 4096

    def image(self, name: bytes, page_size: int) -> Image | None:
        """Return the image of a block; None where there is no such block."""
        image = self.blocks.get(name)
        if image is None and len(self.blocks) < MAX_BLOCKS:
            known = self._migration.blocks
            if known is not None and name not in known:
                return None
            length = known[name].used_length if known else None
            image = self.blocks[name] = Image(name, self._path(name), length, page_size)
        return image

    def in_order(self) -> list[Image]:
        """Return the images in the order of the list of blocks, behind them those not in it."""
        listed = {name: place for place, name in enumerate(self._migration.blocks or ())}
        images = self.blocks.values()
        return sorted(images, key=lambda image: listed.get(image.name, len(listed)))

    def page(self, name: bytes, offset: int, page_size: int) -> Image | None:
        """Return the image that a page belongs to; None, counted, where it is out of bounds."""
        image = self.image(name, page_size)
        end = MAX_OFFSET if image is None or image.length is None else image.length
        if image is None or offset + page_size > end:
            self.refused += 1
            return None
        return image

    def take_zeros(self, event: Event) -> None:
        """Take the zero pages of the main stream; other events have none."""
        if isinstance(event, MainReceived) and isinstance(event.record, RamZero):
            round_ = self.latest if event.round is None else event.round
            self.clear(event.record.block or b"", event.record.offsets, self.page_size, round_)

    def clear(self, name: bytes, offsets: Iterable[int], page_size: int, round_: int) -> None:
        """Take pages of zeros."""
        for offset in offsets:
            image = self.page(name, offset, page_size)
            if image:
                image.clear(offset, round_)

    def _path(self, name: bytes) -> Path:
        return self._folder / file_name(name, {image.path.name for image in self.blocks.values()})

    def close(self) -> None:
        """Close the files, each as long as its block."""
        known = self._migration.blocks or {}
        for name, image in self.blocks.items():
            if image.length is None and name in known:
                # its pages came before the list of blocks did
                image.length = known[name].used_length
                os.ftruncate(image.file, image.length)
            os.close(image.file)


class ImageSink:
    """Takes the guest memory of one channel."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._targets: list[tuple[Image, int] | None] = []
        self._written = 0
        self._page_size = 0

    def begin(self, packet: PacketReceived) -> None:
        """Find out where the packet's normal pages go; take its zero pages."""
        self._page_size = MULTIFD_PACKET_SIZE // len(packet.packet.offset)
        self._written = 0
        images = self._images
        images.latest = max(images.latest, packet.round or 0)
        round_ = images.latest if packet.round is None else packet.round
        self._targets = []
        if not packet.knows("offset"):
            return
        name, offsets, normal = packet.ramblock, packet.page_offsets, packet.packet.normal_pages
        for offset in offsets[:normal]:
            image = images.page(name, offset, self._page_size)
            claimed = image and image.claim(offset, round_)
            self._targets.append((image, offset) if image and claimed else None)
            if image:
                image.normal += 1
        images.clear(name, offsets[normal:], self._page_size, round_)

    def write(self, data: bytes | memoryview) -> None:
        """Write guest memory where it belongs."""
        view = memoryview(data)
        while len(view):
            page, inside = divmod(self._written, self._page_size)
            target, pages = self._adjacent(page, inside + len(view))
            part = view[: pages * self._page_size - inside]
            if target:
                os.pwrite(target[0].file, part, target[1] + inside)
            self._written += len(part)
            view = view[len(part) :]

    def _adjacent(self, page: int, size: int) -> tuple[tuple[Image, int] | None, int]:
        """Return where a page goes, and how many of the next go right behind it, within a size."""
        targets, page_size = self._targets, self._page_size
        target, last = targets[page] if page < len(targets) else None, page
        if target:
            image, offset = target
            while size > page_size and last + 1 < len(targets):
                offset, size = offset + page_size, size - page_size
                if targets[last + 1] != (image, offset):
                    break
                last += 1
        return target, last + 1 - page

    def end(self, payload: PayloadReceived) -> None:
        """Count what did not come."""
        whole = 0 if payload.missing else self._written // self._page_size
        for number, target in enumerate(self._targets):
            if target:
                target[0].damaged += number >= whole
