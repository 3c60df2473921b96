"""The start of a recorded session, byte by byte: a Markdown view of one capture in `spec/`."""

from __future__ import annotations

import inspect
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.resources import as_file, files
from itertools import takewhile

from multifd_proto.capture.events import Data
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import CatalogueError
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import InitReceived, PacketReceived
from multifd_proto.views.tables import code, table
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamSetup
from multifd_proto.wire.schema import MultiFDInit, RamPacket, Row

CAPTURE = "q10_0-none.pcap.zst"
"""The recorded session: QEMU 10.0, no compression, 4 channels."""
MAIN_SHOWN = 245
"""Bytes of the main stream that are shown: setup, its mark, and the first two parts."""
_FOLD = 8
"""Bytes of one value in a row that are folded."""
_LONGEST = 32
"""Bytes that a cell shows."""
_RUN = re.compile(rb"(.)\1{%d,}" % (_FOLD - 1), re.DOTALL)

_Line = tuple[object, ...]


def worked_example() -> str:
    """Return channel 0's init, its first SYNC and its first pages, and the main stream's start.

    Raises:
        CatalogueError: the capture does not hold them.
        CaptureError: the capture cannot be read.
    """
    try:
        main, channel = _streams()
        init, *packets = _messages(channel)
        assert isinstance(init, InitReceived)
        heads = [event for event in packets if isinstance(event, PacketReceived)]
        sync = next(event for event in heads if event.sync)
        pages = next(event for event in heads if event.packet.normal_pages)
    except (StopIteration, KeyError, ValueError):
        raise CatalogueError(f"{CAPTURE}: no whole session with a channel 0") from None
    return "\n\n".join(
        (
            "### The init message of channel 0",
            _table(_message(init.init, channel, init.offset)),
            "### Its first packet: SYNC",
            _table(_packet(sync, channel)),
            "### Its first packet with normal pages",
            _table(_packet(pages, channel)),
            "### The main stream, meanwhile",
            _table(_main(main)),
        )
    )


def _streams() -> tuple[bytes, bytes]:
    """Return the bytes of the main stream and of channel 0."""
    streams: defaultdict[int, bytearray] = defaultdict(bytearray)
    with as_file(files("multifd_proto.spec") / "captures" / CAPTURE) as path:
        for event in CaptureReader([path]):
            if isinstance(event, Data) and event.half.forward:
                streams[event.half.stream] += event.data
    main = next(data for data in streams.values() if data.startswith(STREAM_MAGIC))
    channels = (data for data in streams.values() if data is not main)
    size = MultiFDInit.size()
    return bytes(main), bytes(next(c for c in channels if MultiFDInit.parse(c[:size]).id == 0))


def _messages(stream: bytes) -> list[InitReceived | PacketReceived]:
    machine = Channel()
    machine.receive_data(stream)
    machine.receive_eof()
    return [e for e in machine.events() if isinstance(e, InitReceived | PacketReceived)]


def _table(lines: Iterable[_Line]) -> str:
    return table(("offset", "bytes", "field", "value", "meaning"), lines)


def _packet(event: PacketReceived, stream: bytes) -> Iterator[_Line]:
    """Yield the lines of a packet's head and of the payload behind it."""
    packet = event.packet
    yield from _message(packet, stream, event.offset)
    place = event.offset + packet.size(len(packet.offset))
    if event.payload:
        payload = stream[place : place + event.payload]
        yield place, spell(payload), "payload", f"{len(payload)} bytes", "the normal pages"


def _message(message: MultiFDInit | RamPacket, stream: bytes, start: int) -> Iterator[_Line]:
    for row in message.rows():
        if row.name == "offset" and not isinstance(message, MultiFDInit):
            yield from _offsets(message, stream, start + row.offset, row)
            continue
        place = start + row.offset
        content = stream[place : place + row.size]
        value = _value(row.name, getattr(message, row.name))
        yield place, spell(content), code(row.name), value, row.meaning


def _offsets(packet: RamPacket, stream: bytes, start: int, row: Row) -> Iterator[_Line]:
    """Yield, for normal pages, zero pages and unused elements: the first, then the others."""
    normal, used = packet.normal_pages, packet.normal_pages + packet.zero_pages
    total = len(packet.offset)
    for first, end, what in (
        (0, normal, "places of normal pages in the block, in bytes"),
        (normal, used, "places of zero pages"),
        (used, total, "unused"),
    ):
        for begin, stop in ((first, min(first + 1, end)), (first + 1, end)):
            if begin >= stop:
                continue
            name = (
                f"{row.name}[{begin}]" if stop - begin == 1 else f"{row.name}[{begin}..{stop - 1}]"
            )
            place = start + 8 * begin
            values = sorted(set(packet.offset[begin:stop]))
            span = " to ".join(f"{value:#x}" for value in dict.fromkeys((values[0], values[-1])))
            content = stream[place : place + 8 * (stop - begin)]
            yield place, spell(content), code(name), span, what


def _main(stream: bytes) -> Iterator[_Line]:
    machine = MainStream()
    machine.receive_data(stream)
    machine.receive_eof()
    for offset, size, record in takewhile(lambda r: r[0] < MAIN_SHOWN, machine.records()):
        meaning = (inspect.getdoc(type(record)) or "").splitlines()[0]
        name = type(record).__name__
        if not isinstance(record, RamSetup):
            yield offset, spell(stream[offset : offset + size]), name, _fields(record), meaning
            continue
        word, *entries = [8, *(len(block.build()) for block in record.blocks)]
        yield offset, spell(stream[offset : offset + word]), name, f"total {record.total}", meaning
        offset += word
        for length, block in zip(entries, record.blocks, strict=True):
            line = spell(stream[offset : offset + length]), type(block).__name__, _fields(block)
            yield offset, *line, (inspect.getdoc(type(block)) or "").splitlines()[0]
            offset += length


def _fields(record: object) -> str:
    """Return the fields that a record has, with their values."""
    values = ((f.name, getattr(record, f.name)) for f in fields(record))  # type: ignore[arg-type]
    present = ((name, value) for name, value in values if value or value == 0)
    return ", ".join(
        f"{name} {value.decode('latin-1') if isinstance(value, bytes) else value}"
        for name, value in present
        if value is not False
    )


def _value(name: str, value: int | bytes) -> str:
    if name == "uuid" and isinstance(value, bytes):
        return str(uuid.UUID(bytes=value))
    if isinstance(value, bytes):
        text = value.rstrip(b"\0")
        return code(text.decode("latin-1")) if text else "zeros"
    return f"{value:#x}" if name in ("magic", "flags") else str(value)


def spell(content: bytes) -> str:
    """Return bytes in hex, runs of one value folded, and no more than a cell can take."""
    words, place = list[str](), 0
    for run in _RUN.finditer(content):
        words += [f"{byte:02x}" for byte in content[place : run.start()]]
        words.append(f"{run[1].hex()} x {len(run[0])}")
        place = run.end()
    words += [f"{byte:02x}" for byte in content[place:]]
    return code(" ".join(words[:_LONGEST] + ["…"] * (len(words) > _LONGEST)))
