"""The dissector in real tsharks: what it shows is what `decode` and `check` say."""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.strip.run import strip
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.conformance.judge import pieces
from multifd_proto.conformance.miniatures import (
    BASES,
    COUNT,
    PAGE_SIZE,
    base,
    pages,
    sync,
    with_device_state,
)
from multifd_proto.conformance.violations import VIOLATIONS
from multifd_proto.machine.events import InitReceived, PacketReceived
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers.proxy.pcapng_writer import End, PcapngWriter
from multifd_proto.tests.captures import Talk, write_pcap
from multifd_proto.tests.sharks import FETCHED, Shark, find
from multifd_proto.views.rows import row as row_of
from multifd_proto.views.wireshark import EVALUATED, NOT_EVALUATED, dissector
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import MultiFDPacketHdr

NOTE, ERROR = str(0x400000), str(0x800000)
"""Wireshark's severities of expert info."""
SPEC = Path(__file__).parents[2] / "spec"
CAPTURES = sorted((SPEC / "captures").glob("*.pcap.zst"))
NUMBERS = (
    "flags", "pages_alloc", "normal_pages", "zero_pages", "next_packet_size", "packet_num", "round",
    "payload",
)  # fmt: skip


@pytest.fixture(scope="session")
def script():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    path = folder / "multifd.lua"
    path.write_text(dissector())
    yield path
    shutil.rmtree(folder)


@pytest.fixture(scope="session", params=["own", *FETCHED])
def shark(request, script):
    program = find(request.param)
    if program is None:
        what = f"no tshark ({request.param}): python -m multifd_proto.peers.debian --tshark"
        if os.environ.get("MULTIFD_REQUIRE_TSHARK") == "1":
            pytest.fail(f"{what}, and MULTIFD_REQUIRE_TSHARK=1 demands it")
        pytest.skip(what)
    return Shark(program, script)


def test_every_requirement_of_the_wire_is_evaluated_or_has_a_reason_why_not():
    wire = {r.id for r in load().values() if r.observable == "wire"}
    assert not set(EVALUATED) & set(NOT_EVALUATED)
    assert {*EVALUATED, *NOT_EVALUATED} == wire
    judged = r'(?:^rule\(|violate\(c, e, )"([A-Z]+-\d+)"'
    assert set(re.findall(judged, dissector(), re.MULTILINE)) == set(EVALUATED)


@cache
def ours(capture):
    """What decode and check say: by stream the values of each field; the requirements violated."""
    follower = Follower(decode=True)
    values = defaultdict(list)
    for connection, event in follower.follow(Decrypted(CaptureReader([capture]))):
        if not isinstance(event, InitReceived | PacketReceived):
            continue
        row = row_of(connection.half.stream, connection.channel, event)
        assert row
        stream = str(row["stream"])
        values[stream, "channel"].append(str(row["channel"]))
        if isinstance(event, InitReceived):
            values[stream, "init.uuid"].append(row["uuid"])
            values[stream, "init.id"].append(str(row["id"]))
            continue
        for name in NUMBERS:
            values[stream, name].append(row[name])
        if row["ramblock"]:
            values[stream, "ramblock"].append(row["ramblock"])
    violated = {
        result.requirement.id
        for session in follower.sessions
        for verdict in (Verdict.FAILED, Verdict.DEVIATION)
        for result in session.checker.conclude().of(verdict)
    }
    return dict(values), violated & set(EVALUATED)


def theirs(shark, capture, *options):
    """The same, as tshark says it."""
    names = ("channel", "init.uuid", "init.id", *NUMBERS, "ramblock")
    values: dict[tuple[str, str], list[int | str]] = defaultdict(list)
    violated: set[str] = set()
    fields = ("multifd.stream", "multifd.violation", *(f"multifd.{name}" for name in names))
    for streams, violations, *cells in shark.fields(capture, *fields, options=options):
        violated |= set(violations)
        of_frame = dict(zip(names, cells, strict=True))
        if not (of_frame["init.id"] or of_frame["packet_num"]):
            continue
        for name, cell in of_frame.items():
            convert = (lambda text: int(text, 0)) if name in NUMBERS else str
            values[streams[0], name] += [convert(text) for text in cell if text]
    return {key: value for key, value in values.items() if value}, violated


def name_of(path):
    return path.name.partition(".")[0]


@pytest.mark.parametrize("capture", CAPTURES, ids=name_of)
def test_captures_of_real_releases_are_dissected_as_we_decode_them(shark, capture):
    assert theirs(shark, capture) == ours(capture)


@pytest.mark.parametrize(
    "capture", [*CAPTURES, SPEC / "captures/q10_0-tls.pcapng.zst"], ids=name_of
)
def test_slim_files_are_dissected_as_we_decode_what_they_were_made_of(shark, tmp_path, capture):
    slim = tmp_path / "slim.pcapng"
    strip([str(capture)], slim, slim=True)
    assert theirs(shark, slim) == ours(capture)


def test_a_slim_file_of_violations_shows_each_that_the_wire_shows(shark, miniatures, tmp_path):
    slim = tmp_path / "slim.pcapng"
    strip([str(miniatures)], slim, slim=True)
    assert theirs(shark, slim)[1] == theirs(shark, miniatures)[1]


SESSIONS = {**BASES, **VIOLATIONS}


@pytest.fixture(scope="session", params=[65000, 1000], ids=["large segments", "small segments"])
def miniatures(request, tmp_path_factory):
    """All miniatures in one capture, each to a port of its own: 50000 and up."""
    path = tmp_path_factory.mktemp("miniatures") / "miniatures.pcapng"
    with PcapngWriter(path) as writer:
        for number, make in enumerate(SESSIONS.values()):
            write_session(writer, make(), 50000 + number, request.param)
    return path


def write_session(writer, session, port, cut):
    main = session.main_tail or b"".join(record.build() for record in session.main)
    streams = [(main, 0), *((sender.build(), sender.reverse) for sender in session.channels)]
    for number, (data, reverse) in enumerate(streams):
        conversation = writer.open(End("10.0.0.1", 40000 + number), End("10.0.0.2", port))
        for piece in pieces(data, cut):
            conversation.data(piece, forward=True)
        conversation.data(bytes(reverse), forward=False)
        conversation.end(forward=True)
        conversation.end(forward=False)


def test_a_violation_of_one_requirement_is_shown_as_that_one_alone(shark, miniatures):
    # no heuristic takes a stream for multifd that does not begin with its magic
    odd = 50000 + list(SESSIONS).index("INIT-1")
    shown: dict[str, set[str]] = {name: set() for name in SESSIONS}
    fields = shark.fields(
        miniatures,
        "tcp.dstport", "tcp.srcport", "multifd.violation",
        only="multifd.violation",
        options=("-d", f"tcp.port=={odd},multifd"),
    )  # fmt: skip
    for target, source, violations in fields:
        port = max(int(target[0]), int(source[0]))
        shown[list(SESSIONS)[port - 50000]] |= set(violations)
    assert shown == {name: {name} & set(EVALUATED) for name in SESSIONS}


# ---- what a capture lacks ----------------------------------------------------------------------

NUMBER = "multifd.packet_num"


@cache
def segments(make, cut=4000):
    """The second channel of a session, alone, as frames."""
    data = make().channels[1].build()
    return tuple(
        Talk(version=6, port=51234).handshake().stream(data, cut).send("FA", len(data)).frames
    )


def numbers(shark, capture, *options):
    rows = shark.fields(capture, NUMBER, "multifd.violation", options=options)
    shown = [row for row in rows if any(row)]
    return [int(n) for row in shown for n in row[0]], [v for row in shown for v in row[1]]


def long_session():
    """A channel of 16 packets in rounds of two."""
    packets = [sync(0)]
    for number in range(1, 16):
        packet = pages(number, tuple(range(number % 4 + 1))) if number % 3 else sync(number)
        packets.append(packet)
    session = base()
    return session.with_sender(1, replace(session.channels[1], packets=tuple(packets)))


@pytest.mark.parametrize("seed", range(3))
def test_lost_segments_hide_packets_but_are_no_violation(shark, tmp_path, seed):
    frames = segments(long_session)
    chance = random.Random(seed)
    kept = [f for n, f in enumerate(frames) if n < 4 or chance.random() > 0.04]
    found, violated = numbers(shark, write_pcap(tmp_path / "lossy.pcap", kept))
    assert violated == []
    assert found == sorted(set(found) & set(range(16)))
    assert len(found) >= 8


def test_a_segment_lost_inside_a_payload_costs_nothing(shark, tmp_path):
    frames = segments(long_session)
    kept = [f for n, f in enumerate(frames) if n not in (20, 21, 40)]
    assert numbers(shark, write_pcap(tmp_path / "lossy.pcap", kept)) == (list(range(16)), [])


def test_segments_out_of_order_are_put_right(shark, tmp_path):
    frames = list(segments(long_session, 1700))
    for place in range(5, len(frames) - 5, 9):
        frames[place], frames[place + 1] = frames[place + 1], frames[place]
    capture = write_pcap(tmp_path / "order.pcap", frames)
    option = ("-o", "tcp.reassemble_out_of_order:TRUE")
    assert numbers(shark, capture, *option) == (list(range(16)), [])


def test_segments_sent_again_are_no_packets(shark, tmp_path):
    frames = segments(long_session)
    again = [f for frame in frames for f in (frame, frame)]
    assert numbers(shark, write_pcap(tmp_path / "again.pcap", again)) == (list(range(16)), [])


def test_a_capture_that_begins_in_the_middle_is_followed_from_the_next_packet(shark, tmp_path):
    data = long_session().channels[1].build()
    later = Talk(version=6, port=51234).stream(data[data.index(sync(3).build()) :], 4000).frames
    capture = write_pcap(tmp_path / "packet.pcap", later)
    assert numbers(shark, capture) == (list(range(3, 16)), [])
    capture = write_pcap(tmp_path / "payload.pcap", later[3:])
    found, violated = numbers(shark, capture, "-d", "tcp.port==49152,multifd")
    assert (found, violated) == (list(range(found[0], 16)), [])
    assert found[0] <= 6


def test_frames_that_were_cut_short_show_what_there_is(shark, tmp_path):
    frames = [frame.snapped(200) for frame in segments(long_session, 60000)]
    found, violated = numbers(shark, write_pcap(tmp_path / "snapped.pcap", frames))
    assert violated == []
    assert set(found) <= set(range(16))


def test_a_second_pass_shows_the_same(shark):
    capture = SPEC / "captures/q5_2-load.pcap.zst"
    assert theirs(shark, capture, "-2") == ours(capture)
    details = ("-O", "multifd", "-Y", "multifd")
    assert shark.run(capture, *details) == shark.run(capture, *details, "-2")
    # its first pass knows no fields then
    assert shark.run(capture, "-O", "multifd") == shark.run(capture, "-O", "multifd", "-2")


@pytest.mark.parametrize("seed", range(2))
def test_no_bytes_make_the_dissector_stumble(shark, tmp_path, seed):
    chance = random.Random(seed)
    data = bytearray(b"".join(make().channels[1].build() for make in (long_session, base)))
    start = MultiFDPacketHdr().build()[:8]
    for head in re.finditer(re.escape(start), bytes(data)):
        if chance.random() < 0.5:
            data[head.start() + chance.randrange(4, 64)] = chance.choice((0, 1, 0x40, 0xFF))
    frames = Talk(version=6, port=51234).handshake().stream(bytes(data), 9000).frames
    capture = write_pcap(tmp_path / "mutated.pcap", frames)
    for options in ((), ("-2",), ("-o", "multifd.offsets:TRUE", "-o", "multifd.page_size:64K")):
        printed = shark.run(capture, "-O", "multifd", *options)
        assert "QEMU multifd live migration" in printed
        assert "Lua Error" not in printed
        assert "Malformed" not in printed


# ---- what is shown ------------------------------------------------------------------------------


def test_device_state_is_shown(shark, tmp_path):
    capture = write_pcap(tmp_path / "device.pcap", segments(with_device_state))
    names = ("idstr", "instance_id", "payload", "flags.device_state")
    ((name, instance, payload, flag),) = shark.fields(
        capture, *(f"multifd.{name}" for name in names), only="multifd.idstr"
    )
    # a SYNC packet stands before it
    assert (name, instance, payload[:2]) == (["vfio"], ["0"], ["0", "12"])
    assert flag[1] in ("1", "True")


def test_the_info_column_tells_the_story(shark, tmp_path):
    capture = write_pcap(tmp_path / "info.pcap", segments(base, 60000))
    printed = shark.run(capture, "-Y", "multifd", "-T", "fields", "-e", "_ws.col.Info")
    old = shark.run(capture, "-Y", "multifd", "-T", "fields", "-e", "_ws.col.info")
    assert (printed.strip() or old).splitlines()[0] == (
        "ch 1 init; #1 round 0 SYNC; #3 round 1 3 pages of ram0 0x80000-0xaffff"
    )


def test_pages_are_ranges_and_fields_on_demand(shark, tmp_path):
    capture = write_pcap(tmp_path / "pages.pcap", segments(base))
    only = "multifd.normal_pages == 3"
    ranges = shark.fields(capture, "multifd.pages_at", "multifd.offset", only=only)
    assert list(ranges) == [[["0x80000-0xaffff"], []]]
    each = shark.fields(
        capture, "multifd.offset", only=only, options=("-o", "multifd.offsets:TRUE")
    )
    assert [[int(value, 16) for value in row[0]] for row in each] == [[0x80000, 0x90000, 0xA0000]]


def test_the_release_can_be_chosen(shark, tmp_path):
    session = base(alloc=COUNT).with_packet(1, 1, pages(3, (8,), (9,)))
    capture = write_pcap(tmp_path / "before.pcap", segments(lambda: session))
    assert numbers(shark, capture)[1] == []
    assert numbers(shark, capture, "-o", "multifd.dialect:before 9.0")[1] == ["PKT-8", "PKT-18"]


def test_the_page_size_can_be_chosen(shark, tmp_path):
    capture = write_pcap(tmp_path / "size.pcap", segments(base))
    size = "multifd.page_size"
    only = f"{size} && multifd.flags.sync == 1"
    assert {row[0][0] for row in shark.fields(capture, size, only=only)} == {str(PAGE_SIZE)}
    options = ("-o", "multifd.page_size:4K")
    assert {row[0][0] for row in shark.fields(capture, size, only=only, options=options)} == {
        "4096"
    }


def test_a_known_deviation_is_a_note_with_its_reason(shark):
    capture = SPEC / "captures/q7_2-none.pcap.zst"
    names = ("multifd.known_deviation", "_ws.expert.severity", "_ws.expert.message")
    rows = list(shark.fields(capture, *names, only='multifd.violation == "PKT-17"'))
    for reasons, severities, messages in rows:
        assert "stale-next-packet-size" in " ".join(reasons)
        assert set(severities) == {NOTE}
        assert any(re.fullmatch(r"PKT-17: next_packet_size is \d+, must be 0", m) for m in messages)
    assert rows


def test_a_violated_must_is_an_error_with_its_text(shark, tmp_path):
    capture = write_pcap(tmp_path / "error.pcap", segments(VIOLATIONS["PKT-16"]))
    names = ("multifd.requirement", "_ws.expert.severity", "_ws.expert.message")
    (row,) = shark.fields(capture, *names, only="multifd.violation")
    assert row == [
        [load()["PKT-16"].text],
        [ERROR],
        ["PKT-16: next_packet_size is 77, must be 196608"],
    ]


MAIN = ("version", "machine", "section", "ramblock", "ramblock.length")


def test_the_main_stream_shows_its_ram_blocks(shark):
    capture = SPEC / "captures/q10_0-none.pcap.zst"
    rows = shark.fields(
        capture, *(f"multifd.main.{name}" for name in MAIN), only="multifd.main.version"
    )
    ((version, machine, section, blocks, lengths),) = rows
    assert (version, section) == (["3"], ["ram"])
    assert machine[0].startswith("pc-")
    assert "pc.ram" in blocks
    assert len(lengths) == len(blocks)


def test_the_main_stream_of_a_slim_file_shows_the_same_record_by_record(shark, tmp_path):
    capture, slim = SPEC / "captures/q10_0-none.pcap.zst", tmp_path / "slim.pcapng"
    strip([str(capture)], slim, slim=True)
    names = [f"multifd.main.{name}" for name in MAIN]
    whole, parts = ([*zip(*shark.fields(path, *names), strict=True)] for path in (capture, slim))
    assert [[*chain(*cells)] for cells in parts] == [[*chain(*cells)] for cells in whole]
    assert len(parts[0]) > len(whole[0]) > 0


def test_records_of_a_slim_file_that_hold_no_bytes_say_what_tcp_said(shark, tmp_path):
    slim = tmp_path / "slim.pcapng"
    strip([str(write_pcap(tmp_path / "one.pcap", segments(base)))], slim, slim=True)
    printed = [line.split("multifd ", 1)[1] for line in shark.run(slim).splitlines()]
    story = [line.strip().partition(" ")[2].strip() for line in printed]
    assert story == [
        "SYN", "SYN", "ch 1 init", "ch 1 #1 round 0 SYNC",
        "ch 1 #3 round 1 3 pages of ram0 0x80000-0xaffff", "ch 1 #5 round 1 SYNC",
        "ch 1 #8 round 2 SYNC", "FIN",
    ]  # fmt: skip


def test_statistics_count_channels_and_rounds(shark):
    capture = SPEC / "captures/q10_0-none.pcap.zst"
    printed = shark.run(capture, "-q", "-o", "multifd.statistics:TRUE")
    lines = [line.split() for line in printed.splitlines()]
    values, _ = ours(capture)
    for stream in {stream for stream, _ in values}:
        (line,) = [cells for cells in lines if cells[:1] == [stream] and len(cells) == 9]
        of = {name: values[stream, name] for name in (*NUMBERS, "init.id")}
        assert line[1:7] == [
            of["init.id"][0],
            str(len(of["packet_num"])),
            str(sum(flags & 1 for flags in of["flags"])),
            str(sum(of["normal_pages"])),
            str(sum(of["zero_pages"])),
            str(sum(of["payload"])),
        ]
    assert shark.run(capture, "-q") == ""
