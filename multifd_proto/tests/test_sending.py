from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import DeviceStateReceived, InitReceived, PacketReceived
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.sending import (
    MainWriter,
    PacketWriter,
    SourceParameters,
    ZeroPages,
)
from multifd_proto.peers.templates import template_for
from multifd_proto.tests.sent_streams import SentStreams, complaints
from multifd_proto.wire.dialect import DIALECTS, Dialect, dialect_of
from multifd_proto.wire.main_records import Command, SectionEnd, SectionPart, SectionStart
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.ram_records import RamBlockEntry, RamEos, RamFlush, RamZero
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE

U = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8").bytes
EVERY = [pytest.param(dialect, id=dialect.name) for dialect in DIALECTS]


def read(dialect: Dialect, *messages: bytes, page_size: int = 4096) -> list[object]:
    channel = Channel(page_size=page_size, dialect=dialect)
    channel.receive_data(b"".join(messages))
    return list(channel.events())


def packets(events: list[object]) -> list[PacketReceived]:
    return [event for event in events if isinstance(event, PacketReceived)]


def test_a_preamble_names_machine_and_channel():
    writer = PacketWriter(SourceParameters(dialect_of("10.0"), channels=255, uuid=U))
    (event,) = read(dialect_of("10.0"), writer.init(254))
    assert isinstance(event, InitReceived)
    assert (event.init.uuid, event.init.id) == (U, 254)
    assert not any(event.init.unused1 + event.init.unused2)


@pytest.mark.parametrize("dialect", EVERY)
def test_a_sync_packet_has_nothing_but_what_its_dialect_writes(dialect):
    writer = PacketWriter(SourceParameters(dialect))
    (sync,) = packets(read(dialect, writer.init(0), writer.sync()))
    assert sync.packet.flags == 1
    assert sync.packet.pages_alloc == (128 if dialect.index < dialect_of("9.2").index else 0)
    assert (sync.pages, sync.packet.next_packet_size) == (0, 0)
    assert not any(sync.packet.ramblock)
    assert not any(sync.packet.offset)


def test_a_packet_lists_pages_with_content_before_pages_of_zeros():
    dialect = dialect_of("10.0")
    writer = PacketWriter(SourceParameters(dialect, method=METHODS[1]))
    head = writer.pages(b"pc.ram", (0x3000, 0x1000), (0x2000,), 77)
    (packet,) = packets(read(dialect, writer.init(0), head))
    assert packet.packet.flags == 0x2
    assert (packet.packet.normal_pages, packet.packet.zero_pages) == (2, 1)
    assert packet.packet.offset[:4] == (0x3000, 0x1000, 0x2000, 0)
    assert (packet.packet.pages_alloc, packet.packet.next_packet_size) == (128, 77)
    assert packet.ramblock == b"pc.ram"
    assert len(head) == 1344


def test_packet_numbers_go_over_all_channels_and_all_kinds_but_device_state():
    dialect = dialect_of("10.0")
    writer = PacketWriter(SourceParameters(dialect))
    device = writer.device_state(b"0000:00:03.0/vfio", 3, 5) + b"state"
    stream = [writer.init(0), writer.sync(), device, writer.pages(b"r", (), (0,), 0), writer.sync()]
    events = read(dialect, *stream)
    assert [event.packet.packet_num for event in packets(events)] == [0, 1, 2]
    (state,) = (event for event in events if isinstance(event, DeviceStateReceived))
    assert (state.idstr, state.packet.instance_id, state.payload) == (b"0000:00:03.0/vfio", 3, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "number of channels is 0, must be 1 to 255"),
        ({"channels": 256}, "number of channels is 256, must be 1 to 255"),
        ({"uuid": b"short"}, "uuid is 5 bytes, must be 16"),
        (
            {"page_size": 5000},
            "page size is 5000, must be one of (1024, 2048, 4096, 8192, 16384, 32768, 65536)",
        ),
        ({"method": METHODS[1]}, "compression zlib is of 5.0 and newer, dialect is 4.0"),
        (
            {"dialect": dialect_of("9.0"), "method": METHODS[3]},
            "compression qpl is of 9.1 and newer, dialect is 9.0",
        ),
        (
            {"dialect": dialect_of("8.2"), "detection": ZeroPages.MULTIFD},
            "zero pages travel in packets since 9.0, dialect is 8.2",
        ),
    ],
)
def test_what_no_source_can_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SourceParameters(**{"dialect": dialect_of("4.0"), **changes})


@pytest.mark.parametrize("dialect", EVERY)
def test_zero_pages_travel_as_the_machine_types_of_the_dialect_have_it(dialect):
    modern = dialect.index >= dialect_of("9.0").index
    expected = ZeroPages.MULTIFD if modern else ZeroPages.LEGACY
    assert SourceParameters(dialect).zero_pages is expected
    assert SourceParameters(dialect, detection=ZeroPages.NONE).zero_pages is ZeroPages.NONE


# ---- the main stream -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", EVERY)
def test_the_main_stream_has_its_sections_marks_and_commands_in_order(dialect):
    writer = MainWriter(template_for(dialect), (RamBlockEntry(b"r", 1 << 20),), return_path=True)
    zeros = writer.zeros(b"r", tuple(range(0, 300 << 12, 1 << 12)))
    pieces = (
        writer.start(), writer.mark(), writer.part(), zeros, writer.mark(),
        writer.end(), writer.mark(), writer.finish(),
    )  # fmt: skip
    kinds = (Command, SectionStart, SectionPart, SectionEnd, RamFlush, RamEos, RamZero)
    found = [
        record.cmd if isinstance(record, Command) else type(record)
        for _, _, record in SentStreams(b"".join(pieces), []).records()
        if isinstance(record, kinds) and getattr(record, "full", False) is False
    ]
    mark = [RamFlush, RamEos] if dialect.flush_mark else [RamEos]
    switchover = [11] if dialect.index >= dialect_of("10.0").index else []
    assert found[:3] == [1, 2, SectionStart]
    parts = [*mark, SectionPart, RamZero, RamZero, *mark, *switchover, SectionEnd, *mark]
    assert found[3:] == parts


def test_without_a_return_path_nobody_asks_for_one():
    writer = MainWriter(template_for(DIALECTS[-1]), (), return_path=False)
    records = SentStreams(writer.start(), []).records()
    assert not any(isinstance(record, Command) for _, _, record in records)


# ---- everything together -------------------------------------------------------------------------


@dataclass
class Plan:
    """A migration to send: rounds of packets, each with its channel."""

    parameters: SourceParameters
    blocks: dict[bytes, int]
    rounds: list[list[tuple[int, bytes, list[int]]]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    dialect = draw(st.sampled_from(DIALECTS))
    methods = [m for m in METHODS if dialect_of(m.since).index <= dialect.index]
    kinds = [ZeroPages.LEGACY, ZeroPages.NONE]
    kinds += [ZeroPages.MULTIFD] * (dialect.index >= dialect_of("9.0").index)
    parameters = SourceParameters(
        dialect,
        channels=draw(st.integers(1, 5)),
        uuid=draw(st.binary(min_size=16, max_size=16)),
        page_size=draw(st.sampled_from([1024, 4096, 65536])),
        method=draw(st.sampled_from(methods)),
        detection=draw(st.sampled_from([None, *kinds])),
    )
    names = draw(
        st.lists(
            st.binary(min_size=1, max_size=255).filter(lambda name: 0 not in name),
            min_size=1, max_size=3, unique=True,
        )
    )  # fmt: skip
    blocks = {name: draw(st.integers(1, 12)) for name in names}
    rounds = []
    for number in range(draw(st.integers(1, 3))):
        packets_: list[tuple[int, bytes, list[int]]] = []
        for name, count in blocks.items():
            order = draw(st.permutations(range(count)))
            # all pages in round 0, any in further ones
            pages = order if not number else order[: draw(st.integers(0, count))]
            most = draw(st.integers(1, min(8, parameters.page_count)))
            packets_ += [
                (draw(st.integers(0, parameters.channels - 1)), name, pages[at : at + most])
                for at in range(0, len(pages), most)
            ]
        rounds.append(packets_)
    return Plan(parameters, blocks, rounds)


def content(name: bytes, page: int, round_: int, size: int) -> bytes:
    """Return what a page holds in a round: in every third case zeros."""
    if (page + round_) % 3 == 0:
        return bytes(size)
    return bytes([len(name), page + 1, round_, 7] * (size // 4))


def play(plan: Plan) -> tuple[SentStreams, dict[bytes, bytes]]:
    """Return the streams of a plan, and the memory that a destination must have."""
    parameters, size = plan.parameters, plan.parameters.page_size
    writer = PacketWriter(parameters)
    entries = tuple(RamBlockEntry(name, pages * size) for name, pages in plan.blocks.items())
    main_writer = MainWriter(template_for(parameters.dialect), entries, return_path=True)
    channels = [bytearray(writer.init(number)) for number in range(parameters.channels)]
    encoders = [parameters.method.encoder() for _ in channels]
    memory = {name: bytearray(pages * size) for name, pages in plan.blocks.items()}
    main = bytearray(main_writer.start())

    def sync_point() -> None:
        for channel in channels:
            channel += writer.sync()  # the list's own bytearray grows
        main.extend(main_writer.mark())

    sync_point()
    for round_, packets_ in enumerate(plan.rounds):
        main += main_writer.part()
        for number, name, pages in packets_:
            held = {page: content(name, page, round_, size) for page in pages}
            for page, data in held.items():
                memory[name][page * size : (page + 1) * size] = data
            detect = parameters.zero_pages is not ZeroPages.NONE
            blank = [page * size for page, data in held.items() if detect and not any(data)]
            normal = [page * size for page in pages if page * size not in blank]
            if parameters.zero_pages is ZeroPages.LEGACY and blank:
                main += main_writer.zeros(name, blank)
                blank = []
            if normal or blank:
                payload = encoders[number].encode([held[at // size] for at in normal])
                channels[number] += writer.pages(name, normal, blank, len(payload)) + payload
        sync_point()
    main += main_writer.end()
    sync_point()
    main += main_writer.finish()
    streams = SentStreams(bytes(main), [bytes(channel) for channel in channels])
    return streams, {name: bytes(data) for name, data in memory.items()}


@given(plans())
@settings(max_examples=60)
def test_what_is_sent_conforms_and_amounts_to_the_memory(plan):
    streams, memory = play(plan)
    parameters = plan.parameters
    given_ = MigrationParameters(
        dialect=parameters.dialect,
        page_size=parameters.page_size,
        channels=parameters.channels,
        uuid=parameters.uuid,
        compression=parameters.method,
        ramblocks=tuple(
            RamBlock(name, pages * parameters.page_size) for name, pages in plan.blocks.items()
        ),
    )
    report = streams.report(given_)
    assert complaints(report) == []
    assert report.exercised
    assert streams.memory(parameters.page_size, parameters.dialect) == memory


@pytest.mark.parametrize("dialect", EVERY)
def test_a_full_packet_conforms_in_every_dialect(dialect):
    full = list(range(128))
    plan = Plan(
        SourceParameters(dialect), {b"ram": 128}, [[(0, b"ram", full)], [(1, b"ram", full)]]
    )
    streams, memory = play(plan)
    given_ = MigrationParameters(dialect=dialect, page_size=4096, channels=2, uuid=bytes(16))
    assert complaints(streams.report(given_)) == []
    assert streams.memory(4096, dialect) == memory
    assert len(memory[b"ram"]) == MULTIFD_PACKET_SIZE
