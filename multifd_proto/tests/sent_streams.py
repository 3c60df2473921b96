"""What a source has sent: judged by the checker, and put together to the memory it amounts to."""

from __future__ import annotations

from dataclasses import dataclass, field

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import Event, PacketReceived, PayloadReceived
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Report, Verdict
from multifd_proto.wire.dialect import Dialect
from multifd_proto.wire.main_records import MainRecord
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamSetup, RamZero


@dataclass
class SentStreams:
    """The bytes of one migration's connections."""

    main: bytes
    channels: list[bytes]

    def events(self, page_size: int, dialect: Dialect) -> list[list[Event]]:
        """Return what each channel's bytes say."""
        out = []
        for stream in self.channels:
            channel = Channel(page_size=page_size, dialect=dialect, decode=True)
            channel.receive_data(stream)
            channel.receive_eof()
            out.append(list(channel.events()))
        return out

    def records(self) -> list[tuple[int, int, MainRecord]]:
        """Return the records of the main stream."""
        parser = MainStream()
        parser.receive_data(self.main)
        parser.receive_eof()
        return list(parser.records())

    def report(self, parameters: MigrationParameters) -> Report:
        """Judge it."""
        assert parameters.page_size
        assert parameters.dialect
        checker = Checker(parameters)
        main = checker.add_main(0)
        for offset, size, record in self.records():
            checker.judge(main, [MainReceived(offset, 0, size, record, main.marks)])
        for number, events in enumerate(self.events(parameters.page_size, parameters.dialect), 1):
            checker.judge(checker.add_channel(number), events)
        return checker.conclude()

    def memory(self, page_size: int, dialect: Dialect) -> dict[bytes, bytes]:
        """Return the RAM blocks as a destination has them at the end."""
        pages = _Pages(page_size)
        blocks: dict[bytes, int] = {}
        marks = 0
        modern = any(type(record).__name__ == "RamFlush" for _, _, record in self.records())
        for _, _, record in self.records():
            if isinstance(record, RamSetup):
                blocks = {entry.name: entry.used_length for entry in record.blocks}
            elif isinstance(record, RamZero):
                assert record.block
                for offset in record.offsets:
                    pages.put(marks, record.block, offset, bytes(page_size))
            elif type(record).__name__ == ("RamFlush" if modern else "RamEos"):
                marks += 1
        for stream in self.channels:
            channel = Channel(page_size=page_size, dialect=dialect, sink=pages)
            channel.receive_data(stream)
            for event in channel.events():
                if isinstance(event, PacketReceived) and event.pages:
                    assert event.round is not None
                    for offset in event.page_offsets[event.packet.normal_pages :]:
                        pages.put(event.round, event.ramblock, offset, bytes(page_size))
        return pages.images(blocks)


@dataclass
class _Pages:
    """Takes pages; the copy of the latest round counts."""

    page_size: int
    _found: dict[tuple[bytes, int], tuple[int, bytes]] = field(default_factory=dict)
    _buffer: bytearray = field(default_factory=bytearray)
    _packet: PacketReceived | None = None

    def begin(self, packet: PacketReceived) -> None:
        self._packet = packet
        self._buffer.clear()

    def write(self, data: bytes | memoryview) -> None:
        self._buffer += data

    def end(self, payload: PayloadReceived) -> None:
        packet = self._packet
        assert packet
        assert packet.round is not None
        assert payload.fault is None
        for index, offset in enumerate(packet.packet.offset[: packet.packet.normal_pages]):
            content = self._buffer[index * self.page_size : (index + 1) * self.page_size]
            self.put(packet.round, packet.ramblock, offset, bytes(content))

    def put(self, round_: int, block: bytes, offset: int, content: bytes) -> None:
        assert len(content) == self.page_size
        last, _ = self._found.get((block, offset), (-1, b""))
        assert last != round_
        if last < round_:
            self._found[block, offset] = round_, content

    def images(self, blocks: dict[bytes, int]) -> dict[bytes, bytes]:
        """Return the blocks; what never came is 0xEE."""
        images = {name: bytearray(b"\xee" * length) for name, length in blocks.items()}
        for (block, offset), (_, content) in self._found.items():
            images[block][offset : offset + len(content)] = content
        return {name: bytes(image) for name, image in images.items()}


def complaints(report: Report) -> list[str]:
    """Return everything the checker does not simply pass, deviations included."""
    found = [*report.of(Verdict.FAILED), *report.of(Verdict.DEVIATION)]
    return [str(violation) for result in found for violation in result.violations]
