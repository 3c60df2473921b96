"""Captures of real QEMU releases, dissected with scapy, equal our own decode field by field."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import zstandard
from scapy.packet import Packet
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession

from multifd_proto.capture.events import Data
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.machine.events import Event
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.views.rows import Row, row, text
from multifd_proto.views.scapy_layers import (
    LAYERS,
    MultiFD,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
)
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_origin import MultiFDGap
from multifd_proto.views.scapy_session import MultiFDSession, multifd_packets
from multifd_proto.wire import schema
from multifd_proto.wire.dialect import dialect_of

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
CAPTURES = sorted(FOLDER.glob("*.pcap.zst"))
TLS = sorted(FOLDER.glob("*.pcapng.zst"))
"""Over TLS, with the secrets inside."""
EVERY = pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name.split(".")[0])
WITH_TLS = pytest.mark.parametrize("capture", CAPTURES + TLS, ids=lambda path: path.name[:-9])
ByStream = dict[int, list[Row]]


@pytest.fixture
def plain(capture: Path, tmp_path: Path) -> Path:
    """Decompress a capture, for what cannot."""
    path = tmp_path / "capture.pcap"
    with capture.open("rb") as packed, path.open("wb") as file:
        zstandard.ZstdDecompressor().copy_stream(packed, file)
    return path


# ---- the two sides -------------------------------------------------------------------------------


def opened(path: Path) -> Decrypted:
    return Decrypted(CaptureReader([path]))


def decoded(path: Path, parameters: MigrationParameters | None = None) -> ByStream:
    """Return the rows of our own decode; how connections end is no message."""
    rows: ByStream = defaultdict(list)
    for connection, event in Follower(parameters).follow(opened(path)):
        stream = connection.half.stream
        values = row(stream, connection.channel, event, offsets=True)
        if values and values["type"] != "eof":
            rows[stream].append(values)
    return rows


def by_stream(packets: Iterable[Packet]) -> ByStream:
    rows: ByStream = defaultdict(list)
    for packet in packets:
        rows[packet.origin.stream].append(row_of(packet))
    return rows


def row_of(packet: Packet) -> Row:
    """Write down a scapy packet as `views.rows` writes down what it is of."""
    at = packet.origin
    head = {"stream": at.stream, "channel": at.channel, "offset": at.offset}
    values: dict[str, Any] = {**head, "time": int(packet.time * 10**9)}
    if isinstance(packet, MultiFDGap):
        return {**values, "type": "gap", "length": packet.length, "reason": packet.reason}
    if isinstance(packet, QEVM):
        (record,) = packet.records
        event = main_event(at.offset, values["time"], packet, at.round)
        assert record.build() == packet.data or type(record).__name__ in OPAQUE
        expected = row(at.stream, at.channel, event, offsets=True)
        assert expected
        return expected
    values |= {"magic": packet.magic, "version": packet.version}
    if isinstance(packet, MultiFDInit):
        return {**values, "type": "init", "uuid": str(packet.uuid), "id": packet.id}
    values |= {"round": at.round, "payload": payload_size(packet), "flags": packet.flags.value}
    values["next_packet_size"] = packet.next_packet_size
    if isinstance(packet, MultiFDPacketDeviceState):
        names = {"idstr": text(packet.idstr), "instance_id": packet.instance_id}
        return {**values, "type": "device_state", **names}
    zero = packet.zero_pages if isinstance(packet, MultiFDPacket) else 0
    return {
        **values,
        "type": "packet",
        "pages_alloc": packet.pages_alloc,
        "normal_pages": packet.normal_pages,
        "packet_num": packet.packet_num,
        "zero_pages": zero,
        "ramblock": text(packet.ramblock.partition(b"\0")[0]),
        "page_offsets": packet.offset[: packet.normal_pages + zero],
    }


OPAQUE = {"Opaque", "VmDescription", "RamZero", "Configuration"}
"""Records that are not kept in all their bytes."""


def main_event(offset: int, time: int, packet: QEVM, round_: int) -> Event:
    return MainReceived(offset, time, len(packet.data), packet.records[0], round_)


def payload_size(packet: Packet) -> int:
    layer, size = packet.payload, 0
    while layer:
        size += layer.length if isinstance(layer, MultiFDGap) else len(layer.load)
        layer = layer.payload
    return size


# ---- the captures --------------------------------------------------------------------------------


@WITH_TLS
def test_packets_of_our_reader_equal_our_decode(capture):
    assert by_stream(multifd_packets(capture)) == decoded(capture)


@EVERY
def test_packets_that_sniff_hands_out_equal_our_decode(capture, plain):
    assert by_stream(sniff(offline=str(plain), session=MultiFDSession)) == decoded(capture)


@pytest.mark.parametrize(
    "capture", [p for p in CAPTURES if p.name[:3] in ("q5_", "q7_")], ids=lambda path: path.name
)
def test_old_captures_are_read_in_their_own_layout(capture):
    parameters = MigrationParameters(dialect=dialect_of("7.2"))
    packets = list(multifd_packets(capture, parameters=parameters))
    assert {type(p) for p in packets} == {MultiFDInit, MultiFDPacketBefore9, QEVM}
    assert by_stream(packets) == decoded(capture, parameters)


@WITH_TLS
def test_each_message_alone_is_dissected_and_built_again(capture):
    kinds = set()
    for _, event in Follower().follow(opened(capture)):
        message = getattr(event, "packet", None) or getattr(event, "init", None)
        if message is None:
            continue
        data = message.build()
        for layer in (LAYERS[type(message)], MultiFD):
            packet = layer(data)
            assert packet.__class__ is LAYERS[type(message)]
            assert_fields_equal(packet, message)
            assert bytes(packet) == data
            packet.raw_packet_cache = None
            assert bytes(packet) == data
        kinds.add(type(message))
    assert kinds == {schema.MultiFDInit, schema.MultiFDPacket}


def assert_fields_equal(packet: Packet, message: schema.Message) -> None:
    for name, value in vars(message).items():
        seen = packet.getfieldval(name)
        if name == "uuid":
            seen = seen.bytes
        if name in ("ramblock", "idstr"):
            seen = seen.ljust(256, b"\0")
        if name == "offset":
            seen = tuple(seen)
        assert seen == value, name


@WITH_TLS
def test_scapys_own_reassembly_finds_the_same_messages(capture):
    streams: dict[int, list[bytes]] = defaultdict(list)
    for event in opened(capture):
        if isinstance(event, Data) and event.half.forward:
            streams[event.half.stream].append(bytes(event.data))
    expected = decoded(capture)
    for stream, chunks in streams.items():
        packets = list(reassembled(chunks))
        if isinstance(packets[0], QEVM):
            assert b"".join(p.data for p in packets) == b"".join(chunks)
            names = [type(record).__name__ for p in packets for record in p.records]
            assert names == [values["record"] for values in expected[stream]]
            continue
        assert b"".join(map(bytes, packets)) == b"".join(chunks)
        assert [p.packet_num for p in packets[1:]] == [
            values["packet_num"] for values in expected[stream][1:]
        ]
        assert [payload_size(p) for p in packets[1:]] == [
            values["payload"] for values in expected[stream][1:]
        ]


def reassembled(chunks: Iterable[bytes]) -> Iterator[Packet]:
    session = TCPSession(app=True)
    for chunk in chunks:
        data: bytes = chunk
        while packet := session.process(data, cls=MultiFD):
            yield packet
            data = b""


@WITH_TLS
def test_pages_of_packets_are_the_bytes_of_the_capture(capture):
    streams: dict[int, bytearray] = defaultdict(bytearray)
    for event in opened(capture):
        if isinstance(event, Data) and event.half.forward:
            streams[event.half.stream] += event.data
    for packet in multifd_packets(capture):
        at, data = packet.origin, bytes(packet)
        assert data == streams[at.stream][at.offset : at.offset + len(data)]
        assert MultiFDGap not in packet
