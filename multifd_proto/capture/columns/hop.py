"""From head to head of a channel: packets as columns, their payload passed over."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multifd_proto.capture.columns.records import Integers
from multifd_proto.capture.columns.runs import PHASES, Run
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import ChannelState, Event
from multifd_proto.machine.heads import Heads
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC
from multifd_proto.wire.main_records import MainRecord
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.payload import METHOD_MASK, method_of
from multifd_proto.wire.schema import MULTIFD_MAGIC, MULTIFD_VERSION, RamPacket

_START = struct.Struct(">6I").unpack_from  # magic to next_packet_size, in every layout
_FEW = 4
"""Packets without payload in a row, from which on it pays to look at many at once."""
_FEW_PARTS = 32
_PART = 1 << 20
"""Bytes of a payload that are put together at once."""
_MANY = 4096

Single = tuple[int, int, "Event | MainPiece"]
"""An event by itself: its place in the order of the capture, its connection's number, and it."""
Piece = Single | PacketBatch
"""What a run says."""


@dataclass(frozen=True, slots=True)
class MainPiece:
    """A record of the main stream, to be made an event when it is its turn."""

    offset: int
    size: int
    record: MainRecord
    time: int


def follow_channel(channel: Channel, run: Run) -> Iterator[Piece]:
    """Feed a run to a channel: clean packets become columns, the rest goes message by message."""
    phase, stream = 0, run.half.stream
    if run.passed:
        channel.receive_skipped(run.passed, run.clock)
        for event in channel.events():
            yield run.place_of(0, phase), stream, event
    while channel.offset < run.stop:
        walk = _Walk(channel, run)
        if channel.between_packets and not channel.hands_over:
            walk.hop()
        if walk.places:
            phase += 1
            yield walk.batch(phase)
            walk.tell_channel()
            phase += 1
        for index in _feed_message(channel, run):
            for event in channel.events():
                yield run.place_of(index, phase), stream, event


def _feed_message(channel: Channel, run: Run) -> Iterator[int]:
    """Feed a channel until it stands between two packets again, or the run is over."""
    while channel.offset < run.stop:
        offset, passed = channel.offset, channel.unwanted()
        if passed:
            end = min(offset + passed, run.stop)
            index = run.piece(end - 1)
            channel.receive_skipped(end - offset, int(run.time[index]))
        elif channel.state is ChannelState.AWAIT_PAYLOAD:
            end = min(offset + channel.wanted(), run.stop, offset + _PART)
            index = run.piece(end - 1)
            channel.receive_data(run.read(offset, end - offset), int(run.time[index]))
        else:
            index = run.piece(offset)
            left, need = int(run.end[index]) - offset, channel.wanted()
            # where only the bytes to come can tell what is wanted, all there are
            part = min(need, left) if need > 1 else left
            channel.receive_data(run.read(offset, part), int(run.time[index]))
        yield index
        if channel.between_packets:
            return


def follow_main(main: MainStream, run: Run) -> Iterator[Single]:
    """Feed a run to a main stream."""
    if run.passed:
        main.receive_skipped(run.passed)
    for index, (start, end) in enumerate(zip(run.start.tolist(), run.end.tolist(), strict=True)):
        while start < end:
            passed = min(main.unwanted(), end - start)
            if passed:
                main.receive_skipped(passed)
            else:
                passed = end - start
                main.receive_data(run.read(start, passed))
            start += passed
        for offset, size, record in main.records():
            place = run.place_of(index, 0), run.half.stream
            yield *place, MainPiece(offset, size, record, int(run.time[index]))


class _Walk:
    """A walk over the clean packets of a run."""

    def __init__(self, channel: Channel, run: Run) -> None:
        self.position = channel.offset
        self.places: list[int] = []
        self._heads: list[bytes | memoryview] = []
        self._parts: list[bytes] = []
        self._last: bytes | memoryview = b""
        self._over: bytes | memoryview = b""
        self._syncs = 0
        self._open = False  # the last packet's payload is not over
        self._last_payload = 0
        self._channel = channel
        self._run = run
        self._layout: type[RamPacket] = channel.layout
        self._count = channel.page_count or 0
        self._size = self._layout.size(self._count)
        self._dtype = self._layout.dtype(self._count)

    def hop(self) -> None:
        """Go on as long as packets are clean, and whole in the run."""
        stop, size, read, count = self._run.stop, self._size, self._run.read, self._count
        page_size, empty, place = self._channel.page_size or 0, 0, self.position
        while place + size <= stop:
            if empty >= _FEW and (taken := self._take_empty(place)):
                place += taken
                continue
            head = read(place, size)
            magic, version, flags, _, normal, announced = _START(head)
            if magic != MULTIFD_MAGIC or version != MULTIFD_VERSION or normal > count:
                break
            if flags & FLAG_DEVICE_STATE and self._channel.device_state:
                break
            payload = normal * page_size
            if normal and flags & METHOD_MASK:  # nobody looks at pages as they are
                method = method_of(flags)
                if self._channel.looks_at(method):
                    break
                payload = method.payload_size(normal, announced, page_size) if method else announced
            self._heads.append(head)
            self.places.append(place)
            after, self._last = place + size + payload, head
            if after > stop:
                self._open, self._last_payload = True, payload
                break
            self._over = head
            self._syncs += flags & FLAG_SYNC
            empty = 0 if payload else empty + 1
            place = after
        self.position = place

    def _take_empty(self, place: int) -> int:
        """Take packets without payload that come one right after the other; return their bytes."""
        most = min((self._run.stop - place) // self._size, _MANY)
        data = self._run.read(place, most * self._size)
        heads = np.frombuffer(data, self._dtype)
        good = (heads["magic"] == MULTIFD_MAGIC) & (heads["version"] == MULTIFD_VERSION)
        good &= heads["normal_pages"] == 0
        if self._channel.device_state:
            good &= heads["flags"] & FLAG_DEVICE_STATE == 0
        count = most if good.all() else int(good.argmin())
        taken = count * self._size
        if not taken:
            return 0
        self._part()
        self._parts.append(bytes(data if taken == len(data) else data[:taken]))
        self._over = data[taken - self._size : taken]
        self.places.extend(range(place, place + taken, self._size))
        self._syncs += int((heads["flags"][:count] & FLAG_SYNC).sum())
        return taken

    def _part(self) -> None:
        """Put the heads together that came one by one."""
        if self._heads:
            self._parts.append(b"".join(self._heads))
            self._heads = []

    def tell_channel(self) -> None:
        """Move the channel on behind what was walked over."""
        channel, run = self._channel, self._run
        channel.receive_packets(self.position - channel.offset, self._syncs, self._number())
        if self._open:
            channel.receive_data(self._last, int(run.time[run.piece(self.position)]))
            for _ in channel.events():
                pass  # they are told by the batch

    def _number(self) -> int | None:
        """Return the `packet_num` of the last packet that is over."""
        end = self._layout.end_of("packet_num")
        return int.from_bytes(self._over[end - 8 : end], "big") if self._over else None

    def batch(self, phase: int) -> PacketBatch:
        """Return the packets."""
        run = self._run
        self._part()
        heads = Heads([np.frombuffer(part, self._dtype) for part in self._parts])
        offset = np.array(self.places, np.int64)
        after = np.append(offset[1:], self.position)
        if self._open:
            after[-1] = offset[-1] + self._size + self._last_payload
        sync = (heads.field("flags") & FLAG_SYNC).astype(np.int64)
        first = self._channel.round
        round_ = np.full(len(heads), -1) if first is None else first + np.cumsum(sync) - sync
        payload = after - offset - self._size
        begun = np.searchsorted(run.end, offset, "right")
        whole = np.searchsorted(run.end, offset + self._size - 1, "right")
        last = np.minimum(np.searchsorted(run.end, after - 1, "right"), len(run.end) - 1)
        ended = np.where(payload > 0, run.time[last], run.time[begun])
        if self._open:
            ended[-1] = -1
        return PacketBatch(
            layout=self._layout,
            heads=heads,
            stream=np.full(len(heads), run.half.stream, np.int64),
            offset=offset,
            time=run.time[begun],
            payload=payload,
            ended=ended,
            round=round_,
            row=run.row[whole] << PHASES | phase,
            digest=self._digests(offset + self._size, payload) if self._channel.digest else None,
        )

    def _digests(self, start: Integers, size: Integers) -> NDArray[np.uint64]:
        """Sum up the payloads; 0 for one that is not over."""
        digests, new = np.zeros(len(start), np.uint64), self._channel.digest
        assert new
        for index in range(len(start) - self._open):
            digest = new()
            parts = self._run.views(int(start[index]), int(size[index]))
            # a call for each small part takes longer than to put them together
            for part in parts if len(parts) <= _FEW_PARTS else (b"".join(parts),):
                digest.update(part)
            digests[index] = digest.intdigest()
        return digests
