"""The start of a recorded session, byte by byte: a Markdown view of one capture in `spec/`."""

from __future__ import annotations

import inspect
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.resources import as_file, files
from itertools import pairwise, takewhile

from multifd_proto.capture.events import Data
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.errors import CatalogueError
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import PacketReceived
from multifd_proto.views.tables import code, table
from multifd_proto.wire.main_records import STREAM_MAGIC, MainRecord
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamBlockEntry, RamSetup
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
        init = MultiFDInit.parse(channel[: MultiFDInit.size()])
        sync = next(packet for packet in _packets(channel) if packet.sync)
        pages = next(packet for packet in _packets(channel) if packet.packet.normal_pages)
    except (StopIteration, ValueError):
        raise CatalogueError(f"{CAPTURE}: no whole session with a channel 0") from None
    return "\n\n".join(
        (
            "### The init message of channel 0",
            _table(_message(init, channel, 0)),
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


def _packets(stream: bytes) -> Iterator[PacketReceived]:
    machine = Channel()
    machine.receive_data(stream)
    return (event for event in machine.events() if isinstance(event, PacketReceived))


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
    zeros, unused = packet.normal_pages, packet.normal_pages + packet.zero_pages
    total = len(packet.offset)
    firsts = (min(1, zeros), min(zeros + 1, unused), min(unused + 1, total))
    for begin, end in pairwise(sorted({0, zeros, unused, total, *firsts})):
        what = "place of a zero page" if begin >= zeros else "place of a normal page, in bytes"
        name = f"{row.name}[{begin}]" if end - begin == 1 else f"{row.name}[{begin}..{end - 1}]"
        values = packet.offset[begin:end]
        span = " to ".join(f"{value:#x}" for value in sorted({min(values), max(values)}))
        content = stream[start + 8 * begin : start + 8 * end]
        meaning = "not used" if begin >= unused else what
        yield start + 8 * begin, spell(content), code(name), span, meaning


def _main(stream: bytes) -> Iterator[_Line]:
    machine = MainStream()
    machine.receive_data(stream)
    for offset, size, record in takewhile(lambda r: r[0] < MAIN_SHOWN, machine.records()):
        for part, length in _parts(record, size):
            meaning = (inspect.getdoc(part) or "").splitlines()[0]
            content = spell(stream[offset : offset + length])
            yield offset, content, type(part).__name__, _fields(part), meaning
            offset += length


def _parts(record: MainRecord, size: int) -> Iterator[tuple[MainRecord | RamBlockEntry, int]]:
    """Yield a record without its block list, then the list's entries, with their bytes."""
    entries = record.blocks if isinstance(record, RamSetup) else ()
    sizes = [len(entry.build()) for entry in entries]
    yield record, size - sum(sizes)
    yield from zip(entries, sizes, strict=True)


def _fields(record: MainRecord | RamBlockEntry) -> str:
    """Return the numbers and names that a record has."""
    said = []
    for name in (f.name for f in fields(record)):
        value = getattr(record, name)
        if isinstance(value, bytes) and value:
            said.append(f"{name} {value.decode('latin-1')}")
        elif isinstance(value, int) and not isinstance(value, bool):
            said.append(f"{name} {value}")
    return ", ".join(said)


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
