"""The scapy layers build, dissect and show every message, right or wrong, as users expect."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.config import conf
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw, fuzz, ls
from scapy.sessions import TCPSession

from multifd_proto.machine.sending import PacketWriter, SourceParameters
from multifd_proto.views.scapy_layers import (
    LAYERS,
    MultiFD,
    MultiFDDeviceData,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    MultiFDPages,
)
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_stream import LARGEST
from multifd_proto.wire import schema
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC, dialect_of
from multifd_proto.wire.main_records import MainHeader, SectionStart
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE, PAGE_SIZES, page_count

ROOT = Path(__file__).parents[2]
CAMPAIGN = Path(__file__).with_name("multifd.uts")
RAM = pytest.mark.parametrize("layer", [MultiFDPacket, MultiFDPacketBefore9])
SIZES = pytest.mark.parametrize("size", PAGE_SIZES)


# ---- layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "layer"), LAYERS.items())
def test_fields_are_those_of_the_schema(message, layer):
    names = [f.name for f in layer.fields_desc if f.name != "page_size"]
    assert names == [r.name for r in message.rows()]
    for r in message.rows():
        if r.name != "offset":
            assert layer().get_field(r.name).sz == r.size


@pytest.mark.parametrize("message", LAYERS)
@given(data=st.data())
def test_any_bytes_are_dissected_and_built_again(message, data):
    count = page_count(data.draw(st.sampled_from(PAGE_SIZES)))
    size = message.size(count)
    raw = data.draw(st.binary(min_size=8, max_size=64)).ljust(size, b"\0")[:size]
    options = {} if not message.item_size else {"page_size": MULTIFD_PACKET_SIZE // count}
    packet = LAYERS[message](raw, **options)
    packet.raw_packet_cache = None
    assert bytes(packet) == raw


@RAM
@SIZES
def test_every_page_size_is_built_and_dissected(layer, size):
    offsets = [size * number for number in range(5)]
    pages = b"".join(bytes([number + 1]) * size for number in range(3))
    packet = layer(page_size=size, ramblock="pc.ram", offset=offsets, packet_num=9)
    data = bytes(packet / MultiFDPages(load=pages))
    assert len(data) == 320 + 8 * page_count(size) + len(pages)
    seen = layer(data)
    assert (seen.page_size, seen.pages_alloc, seen.packet_num) == (size, page_count(size), 9)
    assert (seen.normal_pages, seen.next_packet_size) == (3, len(pages))
    assert seen.offset == offsets + [0] * (page_count(size) - 5)
    assert seen[MultiFDPages].load == pages
    assert list(seen.pages()) == [(n * size, bytes([n + 1]) * size) for n in range(3)]
    if layer is MultiFDPacket:
        assert seen.zero_pages == 2


@SIZES
def test_offsets_beyond_scapys_limit_of_lists_are_read(size):
    assert conf.max_list_count == 100
    offsets = [size * number for number in range(page_count(size))]
    data = bytes(MultiFDPacket(page_size=size, offset=offsets))
    assert MultiFDPacket(data).offset == offsets


def test_more_offsets_than_a_packet_has_room_for_are_built_as_they_are_given():
    offsets = list(range(200))
    assert len(bytes(MultiFDPacket(offset=offsets))) == 320 + 8 * 200


# ---- what is worked out --------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["8.2", "11.1"])
def test_packets_equal_those_of_our_own_sender(release):
    dialect = dialect_of(release)
    layer = LAYERS[dialect.packet]
    ours = PacketWriter(SourceParameters(dialect, 2, UUID(int=7).bytes, 4096, METHODS[0]))
    assert bytes(MultiFDInit(uuid=UUID(int=7), id=1)) == ours.init(1)
    zero = (8192,) if layer is MultiFDPacket else ()
    head = ours.pages(b"ram0", (0, 4096), zero, 8192)
    number = schema.MultiFDPacket.parse(head).packet_num
    packet = layer(ramblock=b"ram0", offset=[0, 4096, *zero], packet_num=number)
    assert bytes(packet / MultiFDPages(load=bytes(8192)))[: len(head)] == head
    sync = ours.sync()
    number = schema.MultiFDPacket.parse(sync).packet_num
    assert bytes(layer(flags="SYNC", packet_num=number)) == sync


@RAM
def test_values_that_are_given_stay_as_they_are(layer):
    wrong = {"pages_alloc": 1, "normal_pages": 77, "next_packet_size": 5, "magic": 3}
    seen = layer(bytes(layer(**wrong) / MultiFDPages(load=b"abc")))
    assert {name: seen.getfieldval(name) for name in wrong} == wrong


def test_compressed_pages_are_counted_by_their_offsets():
    packet = MultiFDPacket(flags="zstd", offset=[0, 4096, 8192], zero_pages=1)
    seen = MultiFDPacket(bytes(packet / MultiFDPages(load=b"compressed")))
    assert (seen.normal_pages, seen.zero_pages, seen.next_packet_size) == (2, 1, 10)
    assert seen.flags.zstd
    assert not seen.flags.SYNC
    assert list(seen.pages()) == []


def test_pages_without_payload_are_zero_pages():
    seen = MultiFDPacket(bytes(MultiFDPacket(offset=[0, 4096])))
    assert (seen.normal_pages, seen.zero_pages, seen.next_packet_size) == (0, 2, 0)


def test_device_state_is_built_and_dissected():
    packet = MultiFDPacketDeviceState(idstr="vfio", instance_id=2) / MultiFDDeviceData(load=b"xyz")
    seen = MultiFD(bytes(packet) + b"next")
    assert isinstance(seen, MultiFDPacketDeviceState)
    assert (seen.flags, seen.idstr, seen.next_packet_size) == (FLAG_DEVICE_STATE, b"vfio", 3)
    assert seen[MultiFDDeviceData].load == b"xyz"
    assert seen[Padding].load == b"next"


def test_each_bit_of_the_flags_has_its_name():
    assert MultiFDPacket(flags=0x7F).flags == ("SYNC+zlib+zstd+qpl+uadk+qatzip+DEVICE_STATE")
    assert str(MultiFDPacket(flags=1 << 31).flags) == "bit_31"
    assert MultiFDPacket(flags="SYNC+qpl").flags == FLAG_SYNC | 0x8


def test_names_with_stale_bytes_behind_them_keep_them():
    stale = b"pc.ram\0old".ljust(256, b"\0")
    data = schema.MultiFDPacket(ramblock=stale, offset=(0,) * 128).build()
    assert MultiFDPacket(data).ramblock == stale
    assert bytes(MultiFDPacket(data)) == data


# ---- cut and hostile bytes -----------------------------------------------------------------------


@RAM
def test_what_is_cut_off_is_unknown_and_never_zero(layer):
    data = bytes(layer(ramblock="pc.ram", offset=range(0, 8192, 4096), packet_num=5))
    for size in range(8, len(data)):
        seen = layer(data[:size])
        assert bytes(seen) == data[:size]
        assert seen.offset is None
        assert (seen.packet_num is None) == (size < layer.layout.end_of("packet_num"))
        assert (seen.ramblock is None) == (size < layer.layout.end_of("ramblock"))


@given(st.binary(min_size=1, max_size=400))
def test_any_bytes_are_some_packet(data):
    every: list[type[Packet]] = [MultiFD, *LAYERS.values(), QEVM]
    for layer in every:
        for prefix in (b"", b"\x11\x22\x33\x44\0\0\0\1", b"QEVM\0\0\0\3"):
            packet = layer(prefix + data)
            assert bytes(packet) == prefix + data
            assert packet.summary()


def test_a_packet_with_more_pages_than_offsets_has_no_payload():
    seen = MultiFDPacket(bytes(MultiFDPacket(normal_pages=129)) + b"rest")
    assert seen[Padding].load == b"rest"


def test_a_payload_that_nobody_would_send_is_not_waited_for():
    data = bytes(MultiFDPacketDeviceState(next_packet_size=LARGEST + 1))
    assert isinstance(MultiFD.tcp_reassemble(data, {}, {}), Raw)
    metadata: dict[str, int] = {}
    data = bytes(MultiFDPacketDeviceState(next_packet_size=LARGEST))
    assert MultiFD.tcp_reassemble(data, metadata, {}) is None
    assert metadata == {"tcp_min_len": 276 + LARGEST}


# ---- one stream ----------------------------------------------------------------------------------


def channel(size: int = 4096) -> list[bytes]:
    """Return the messages of a channel whose pages hold whole messages."""
    planted = (bytes(MultiFDInit()) + bytes(MultiFDPacket(flags="SYNC", page_size=size))) * 80
    pages = planted[: 4 * size].ljust(4 * size, b"x")
    state = MultiFDPacketDeviceState(idstr="vfio") / MultiFDDeviceData(load=b"state")
    full = MultiFDPacket(page_size=size, offset=[0, 1, 2, 3]) / MultiFDPages(load=pages)
    sync = MultiFDPacket(page_size=size, flags="SYNC")
    return [bytes(MultiFDInit(id=3)), *map(bytes, (sync, full, state, sync, full, sync))]


@SIZES
@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 20])
def test_messages_are_found_in_any_cut(size, cut):
    messages = channel(size)
    stream = b"".join(messages)
    session, seen = TCPSession(app=True), []
    step = cut if cut > 1 or size == 4096 else 13
    for at in range(0, len(stream), step):
        data = stream[at : at + step]
        while packet := session.process(data, cls=MultiFD):
            seen.append(packet)
            data = b""
    assert [bytes(packet) for packet in seen] == messages
    assert [type(packet) for packet in seen[:4]] == [
        MultiFDInit, MultiFDPacket, MultiFDPacket, MultiFDPacketDeviceState,
    ]  # fmt: skip


def test_a_page_size_can_be_told_beforehand(monkeypatch):
    monkeypatch.setitem(conf.contribs["multifd"], "page_size", 65536)
    sync = bytes(MultiFDPacket(flags="SYNC"))
    assert len(sync) == 320 + 8 * 8
    packet = MultiFD.tcp_reassemble(sync, {}, {})
    assert packet
    assert bytes(packet) == sync


def test_where_no_message_begins_nothing_is_one_any_more():
    session: dict[str, object] = {}
    init, sync = channel()[:2]
    assert isinstance(MultiFD.tcp_reassemble(init, {}, session), MultiFDInit)
    for data in (bytes(100) + sync, sync):
        packet = MultiFD.tcp_reassemble(data, {}, session)
        assert isinstance(packet, Raw)
        assert packet.load == data


def test_an_old_layout_is_followed_by_its_own_class():
    init = bytes(MultiFDInit())
    sync = bytes(MultiFDPacketBefore9(flags="SYNC+DEVICE_STATE"))
    session: dict[str, object] = {}
    assert isinstance(MultiFDPacketBefore9.tcp_reassemble(init, {}, session), MultiFDInit)
    packet = MultiFDPacketBefore9.tcp_reassemble(sync, {}, session)
    assert type(packet) is MultiFDPacketBefore9
    assert packet.pages_alloc == 128


# ---- the main stream -----------------------------------------------------------------------------


def test_a_main_stream_is_built_of_records_and_dissected_into_them():
    records = [MainHeader(), SectionStart(1, b"ram", 0, 4)]
    data = bytes(QEVM(records=records))
    assert data == MainHeader().build() + SectionStart(1, b"ram", 0, 4).build()
    seen = MultiFD(data)
    assert isinstance(seen, QEVM)
    assert seen.records == records
    assert seen.summary() == "QEVM MainHeader SectionStart"


def test_a_main_stream_is_followed_through_its_pieces():
    session: dict[str, object] = {}
    whole = MainHeader().build()
    pieces = [MultiFD.tcp_reassemble(part, {}, session) for part in (whole[:5], whole[5:])]
    assert [(p.data, p.records) for p in pieces if p] == [
        (whole[:5], []), (whole[5:], [MainHeader()]),
    ]  # fmt: skip


# ---- what scapy's users do -----------------------------------------------------------------------


def test_ports_bind_both_ways():
    frame = Ether() / IP(dst="10.0.0.1") / TCP() / MultiFDInit(id=7)
    assert frame[TCP].dport == 49152
    seen = Ether(bytes(frame))
    assert seen[MultiFDInit].id == 7
    assert isinstance(Ether(bytes(Ether() / IP() / TCP(dport=49152) / b"guest")).lastlayer(), Raw)


def test_fuzzed_packets_are_built_and_dissected():
    for layer in LAYERS.values():
        seen = set()
        for _ in range(20):
            data = bytes(fuzz(layer()))
            assert bytes(layer(data)) == data
            seen.add(data)
        assert len(seen) == 20


def test_show_and_ls_print_the_fields():
    out = io.StringIO()
    with redirect_stdout(out):
        ls(MultiFDPacket)
        (MultiFDPacket(offset=[4096], ramblock="pc.ram") / MultiFDPages(load=bytes(4096))).show2()
        MultiFDInit(uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8").show()
    said = out.getvalue()
    assert "packet_num : LongField" in said
    assert "offset    = [0x1000] + 127 unused" in said
    assert "load      = <4096 bytes: 00 00" in said
    assert "UUID('6ba7b810-9dad-11d1-80b4-00c04fd430c8')" in said


def test_summaries_tell_the_story():
    pages = MultiFDPacket(offset=[0, 4096], ramblock="pc.ram", packet_num=4, normal_pages=1)
    assert MultiFD(bytes(pages / MultiFDPages(load=bytes(4096)))).summary() == (
        "MultiFDPacket 4 1 normal 1 zero pages of pc.ram / MultiFDPages"
    )
    assert MultiFDPacket(flags="SYNC", packet_num=5).summary() == "MultiFDPacket 5 SYNC"
    assert MultiFDPacketDeviceState(idstr="vfio").summary() == "MultiFDPacketDeviceState vfio/0"


def test_copies_are_equal_and_independent():
    packet = MultiFDPacket(bytes(MultiFDPacket(offset=[0, 4096])))
    copy = packet.copy()
    copy.offset[0] = 8192
    copy.flags.SYNC = True
    assert (packet.offset[0], packet.flags) == (0, 0)
    assert bytes(packet) != bytes(copy)
    assert MultiFDPacket(bytes(copy)).offset[0] == 8192


@pytest.mark.parametrize("library", ["multifd_proto", "multifd_proto.cli"])
def test_the_extension_hook_loads_nothing(library):
    code = f"import sys, {library}; print([m for m in sys.modules if m.startswith('scapy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_full_packet_takes_less_than_a_millisecond_more_than_its_bytes():
    pages = bytes(MULTIFD_PACKET_SIZE)
    data = bytes(MultiFDPacket(offset=range(0, 4096 * 128, 4096)) / MultiFDPages(load=pages))
    best = min(timed(lambda: MultiFDPacket(data)) for _ in range(20))
    raw = min(timed(lambda: Raw(bytes(bytearray(data)))) for _ in range(20))
    assert best < raw + 0.001


def timed(what) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


@pytest.mark.skipif(not (ROOT / "spec/captures").exists(), reason="not in a checkout")
@pytest.mark.parametrize("file", ["README.md", "multifd_proto/views/scapy_contrib.py"])
def test_the_examples_of_the_documentation_show_what_happens(file):
    command = [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_utscapy_campaign_passes():
    command = [sys.executable, "-m", "scapy.tools.UTscapy", "-t", str(CAMPAIGN), "-f", "text"]
    command += ["-P", "conf.exts.load('multifd-proto')"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"PASSED=[1-9]\d* FAILED=0", done.stdout)
