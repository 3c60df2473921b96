"""What a big migration sends: packets in batches of columns, and the main stream around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    Opaque,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.ram_records import RamBlockEntry, RamEos, RamFlush, RamSetup
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_PACKET_SIZE,
    MULTIFD_VERSION,
    MultiFDPacket,
)

PAGE = 4096
PAGES = MULTIFD_PACKET_SIZE // PAGE
HEAD = MultiFDPacket.dtype(PAGES)
BLOCK = b"pc.ram"
FAKE_BLOCK = b"fake"
"""RAM block of the heads that are no heads but content of pages."""

_POOL = 16 << 20
_BATCH = 4 << 20
_SPREAD = 3
"""In rounds after the first, a packet's pages are up to so many pages apart."""


def heads_of(count: int, block: bytes = BLOCK, **columns: Any) -> NDArray[np.void]:
    """Return so many heads, zero but for magic, version and the columns named."""
    heads = np.zeros(count, HEAD)
    heads["magic"], heads["version"] = MULTIFD_MAGIC, MULTIFD_VERSION
    heads["ramblock"] = np.void(block.ljust(256, b"\0"))
    for name, column in columns.items():
        heads[name] = column
    return heads


def page_pool(seed: int, *, sparse: bool, nested: bool) -> bytes:
    """Return what pages are cut from: random bytes with heads in them, or zeros.

    Args:
        seed: of the random bytes.
        sparse: zeros, which a file system need not store.
        nested: some of the heads follow upon each other, as in guests that migrate guests.
    """
    if sparse:
        return bytes(_POOL)
    pool = bytearray(np.random.default_rng(seed).bytes(_POOL))
    places = range(512, _POOL - 8 * HEAD.itemsize, 1 << 18)
    normal = np.arange(len(places)) % PAGES + 1
    size = normal * PAGE
    fakes = heads_of(
        len(places), FAKE_BLOCK, pages_alloc=PAGES, normal_pages=normal, next_packet_size=size
    )
    syncs = heads_of(2, FAKE_BLOCK, flags=FLAG_SYNC).tobytes() if nested else b""
    for place, fake in zip(places, fakes, strict=True):
        planted = syncs + fake.tobytes()
        pool[place : place + len(planted)] = planted
        bare = place + (1 << 17) + 5  # no head, but what one begins with
        pool[bare : bare + 12] = planted[:12]
    return bytes(pool)


@dataclass
class ChannelTruth:
    """What one channel has sent, and what of it the capture has."""

    id: int
    packets: int = 0
    syncs: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    payload: int = 0
    packet_num_sum: int = 0
    length: int = 0
    """Bytes of the stream, the init among them."""
    begin: int = 0
    """Place in the stream where the capture begins; 0 if it has the SYN."""
    lost: int = 0
    """Bytes behind `begin` that no record has."""
    found: int = 0
    """Packets whose first 24 bytes the capture has."""
    whole: int = 0
    """Packets whose whole head the capture has."""
    heads: Any = field(default_factory=xxhash.xxh3_64, repr=False)
    pages: Any = field(default_factory=xxhash.xxh3_64, repr=False)
    listed: list[tuple[int, int, int]] = field(default_factory=list, repr=False)
    """On demand, of each packet: place in the stream, packet_num, bytes of its head before the
    first that the capture lacks."""

    def add(self, heads: NDArray[np.void], payload: list[memoryview]) -> None:
        """Take note of packets that are sent."""
        self.packets += len(heads)
        self.syncs += int((heads["flags"] & FLAG_SYNC).sum())
        self.normal_pages += int(heads["normal_pages"].sum())
        self.zero_pages += int(heads["zero_pages"].sum())
        self.packet_num_sum += int(heads["packet_num"].sum())
        self.heads.update(heads)
        for pages in payload:
            self.payload += len(pages)
            self.pages.update(pages)

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        hashes = {"heads_xxh3": self.heads.hexdigest(), "payload_xxh3": self.pages.hexdigest()}
        return numbers | hashes


@dataclass
class Sent:
    """A batch of one channel: bytes to send and, of each packet, place in them and number."""

    data: bytes
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]


class Packets:
    """Makes the packets of all channels, a batch at a time."""

    def __init__(
        self, channels: int, *, zero_only: bool, pool: bytes, seed: int, round_packets: int
    ) -> None:
        self.truth = [ChannelTruth(id_) for id_ in range(channels)]
        self.round = 0
        self._zero_only = zero_only
        self._pool = memoryview(pool)
        self._random = np.random.default_rng(seed + 1)
        self._number = 0
        self._page = 0
        self._left = self._round_packets = round_packets
        largest = HEAD.itemsize + (0 if zero_only else MULTIFD_PACKET_SIZE)
        self._most = max(1, _BATCH // (channels * largest))

    @property
    def memory(self) -> int:
        """Bytes of the RAM block: as far as a round can reach."""
        return self._round_packets * len(self.truth) * PAGES * _SPREAD * PAGE

    @property
    def round_over(self) -> bool:
        """Only the SYNC packets of this round are to come."""
        return not self._left

    def batch(self) -> list[Sent]:
        """Return the next packets with pages, as many on each channel."""
        count = min(self._most, self._left)
        self._left -= count
        shape = (count, len(self.truth))
        normal, zero = self._page_counts(shape)
        step = (self.round - 1) % _SPREAD + 1
        room = ((normal + zero) * step).ravel()
        first = (self._page + room.cumsum() - room).reshape(shape)
        self._page += int(room.sum())
        index = np.arange(PAGES)
        offsets = (first[..., None] + index * step) * PAGE * (index < (normal + zero)[..., None])
        columns = {"normal_pages": normal, "zero_pages": zero, "next_packet_size": normal * PAGE}
        return self._sent(count, {**columns, "offset": offsets, "pages_alloc": PAGES})

    def syncs(self) -> list[Sent]:
        """Return the packets that end the round."""
        self._left = self._round_packets
        self._page = 0
        self.round += 1
        return self._sent(1, {"flags": FLAG_SYNC, "ramblock": np.void(bytes(256))})

    def _page_counts(self, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw normal and zero pages: 9 of 10 packets are full."""
        draw = self._random.random(shape)
        if self._zero_only:
            return np.zeros(shape, np.int64), np.full(shape, PAGES)
        short = self._random.integers(1, PAGES, shape)
        normal = np.where(draw < 0.9, PAGES, np.where(draw < 0.98, short, 0))
        zero = np.where(draw < 0.95, 0, PAGES - normal)
        return normal, zero

    def _sent(self, count: int, columns: dict[str, Any]) -> list[Sent]:
        shape = (count, len(self.truth))
        numbers = self._number + np.arange(count * len(self.truth)).reshape(shape)
        self._number += numbers.size
        heads = heads_of(numbers.size).reshape(shape)
        for name, column in columns.items():
            heads[name] = column
        heads["packet_num"] = numbers
        return [
            self._joined(truth, np.ascontiguousarray(heads[:, id_]), numbers[:, id_])
            for id_, truth in enumerate(self.truth)
        ]

    def _joined(
        self, truth: ChannelTruth, heads: NDArray[np.void], numbers: NDArray[np.int64]
    ) -> Sent:
        sizes = heads["next_packet_size"].astype(np.int64)
        begins = self._random.integers(0, (_POOL - MULTIFD_PACKET_SIZE) // 8, len(heads)) * 8
        payload = [
            self._pool[at : at + n] for at, n in zip(begins.tolist(), sizes.tolist(), strict=True)
        ]
        truth.add(heads, payload)
        raw = memoryview(heads.tobytes())
        size = HEAD.itemsize
        parts = [
            part for i, pages in enumerate(payload) for part in (raw[i * size :][:size], pages)
        ]
        ends = (sizes + size).cumsum()
        return Sent(b"".join(parts), ends - sizes - size, numbers)


# ---- the main stream -----------------------------------------------------------------------------


def _built(records: Iterator[MainRecord]) -> bytes:
    return b"".join(record.build() for record in records)


def main_begin(memory: int) -> bytes:
    """Return the main stream up to the mark of the first SYNC packets."""
    return _built(iter([
        MainHeader(), Configuration(b"pc-q35-11.1"), SectionStart(1, b"ram", 0, 4),
        RamSetup(memory, (RamBlockEntry(BLOCK, memory),)), RamFlush(), RamEos(), Footer(1),
    ]))  # fmt: skip


def main_round() -> bytes:
    """Return what the main stream has at the end of a round."""
    return _built(iter([SectionPart(1), RamFlush(), RamEos(), Footer(1)]))


def main_end() -> bytes:
    """Return the main stream from the last round's end on."""
    return _built(iter([
        Command(11), SectionEnd(1), RamFlush(), RamEos(), Footer(1),
        SectionStart(0, b"timer", 0, 2, full=True), Opaque(24), Footer(0),
        StreamEnd(), VmDescription(800),
    ]))  # fmt: skip
