"""A stripped capture says the same and holds no guest memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.utils import rdpcap

from multifd_proto.capture.files import Inputs
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.images import Images, ImageSink
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.merge import in_order
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.strip.kept import Covered
from multifd_proto.capture.strip.output import COMMENT
from multifd_proto.capture.strip.run import strip
from multifd_proto.capture.window import Window
from multifd_proto.cli.strip import command
from multifd_proto.errors import CaptureError
from multifd_proto.machine.verdict import Verdict
from multifd_proto.tests.captures import LINKS, STEP, Frame, Talk, write_pcap
from multifd_proto.views.rows import Row, row
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.main_records import (
    Configuration,
    Footer,
    MainHeader,
    MainRecord,
    SectionPart,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.payload import METHODS, PayloadMethod
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import (
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

FOLDER = Path(str(files("multifd_proto.spec"))) / "captures"
NAMES = sorted(path.name.removesuffix(".pcap.zst") for path in FOLDER.glob("*.pcap.zst"))
RUN = 8
"""Bytes of a page that must not be found in a row."""


def decoded(*paths: Path) -> dict[int, list[Row]]:
    """Return all rows of a capture, by stream."""
    rows: dict[int, list[Row]] = {}
    for connection, event in Follower().follow(CaptureReader(paths)):
        values = row(connection.half.stream, connection.channel, event, offsets=True)
        if values:
            rows.setdefault(connection.half.stream, []).append(values)
    return rows


def verdicts(*paths: Path) -> list[dict[str, tuple[Any, ...]]]:
    """Return each migration's verdicts, with where each violation is.

    What was seen is left out: where a message was due and there is none, that can be anything.
    """
    follower = Follower(decode=True)
    for _ in follower.follow(CaptureReader(paths)):
        pass
    reports = [session.checker.conclude() for session in follower.sessions]
    return [
        {
            r.requirement.id: (
                r.verdict,
                r.applied,
                [str(v).partition(": ")[0] for v in r.violations],
            )
            for r in report.results
        }
        for report in reports
    ]


def assert_equal(*paths: Path, stripped: Path, slim: bool = False) -> None:
    """Assert that a stripped capture says what the capture says.

    A run of zero pages ends with the next record's first bytes. A slim one has records whole, at
    the time of their last bytes.
    """
    was, now = decoded(*paths), decoded(stripped)
    for values in (values for rows in (was, now) for stream in rows.values() for values in stream):
        if slim and values.get("record") == "RamZero":
            del values["time"]
    assert now == was
    for judged, again in zip(verdicts(*paths), verdicts(stripped), strict=True):
        for name, verdict in judged.items():
            if verdict != again[name]:
                assert name.startswith("PAY"), (name, verdict, again[name])
                assert again[name][0] is Verdict.NOT_EXERCISED, (name, verdict, again[name])


@cache
def page_runs(name: str) -> frozenset[bytes]:
    """Return the runs of `RUN` bytes, one every 64 bytes, of the non-zero pages of a capture."""
    images: list[Images] = []
    runs = set()
    with TemporaryDirectory() as folder:

        def sink(session: Any, _connection: Any) -> ImageSink:
            if not images:
                images.append(Images(Path(folder), session.checker.migration))
            return ImageSink(images[0])

        for _ in Follower(sinks=sink).follow(CaptureReader([FOLDER / f"{name}.pcap.zst"])):
            pass
        images[0].close()
        for path in Path(folder).iterdir():
            data = path.read_bytes()
            for place in range(0, len(data) - RUN, 64):
                run = data[place : place + RUN]
                if len(set(run)) > 3:  # others are too common for their presence to tell anything
                    runs.add(run)
    return frozenset(runs)


@pytest.mark.parametrize("slim", [False, True], ids=["frames", "slim"])
@pytest.mark.parametrize("name", NAMES)
def test_real_captures_say_the_same_without_their_pages(name, slim, tmp_path):
    source, out = FOLDER / f"{name}.pcap.zst", tmp_path / "out.pcapng"
    done = strip([str(source)], out, slim=slim)
    assert_equal(source, stripped=out, slim=slim)
    assert done.size == out.stat().st_size
    data = out.read_bytes()
    every = {data[place : place + RUN] for place in range(len(data) - RUN)}
    legitimate = structure(source) + COMMENT.encode()
    assert [run.hex() for run in page_runs(name) & every if run not in legitimate] == []


def structure(path: Path) -> bytes:
    """Return the heads of a capture's packets, in which a page may find its own bytes."""
    heads = bytearray()
    for _, event in Follower().follow(CaptureReader([path])):
        for message in ("init", "header", "packet", "record"):
            if hasattr(event, message):
                heads += getattr(event, message).build()
    return bytes(heads)


# ---- marked pages --------------------------------------------------------------------------------

MARK = b"SECRET"
PAGE = (MARK + b"-page;") * 400
COUNT = page_count(4096)


def packet(number: int, pages: int, method: PayloadMethod, encoder: Any) -> bytes:
    """Return a packet whose pages are full of marks; compressed ones are so after decompression."""
    payload = encoder.encode([PAGE[:4096].ljust(4096, b".")] * pages) if pages else b""
    head = MultiFDPacket(
        flags=method.flag if pages else FLAG_SYNC,
        pages_alloc=COUNT if pages else 0,
        normal_pages=pages,
        next_packet_size=len(payload),
        packet_num=number,
        ramblock=(b"pc.ram" if pages else b"").ljust(256, b"\0"),
        offset=tuple(4096 * page for page in range(pages)) + (0,) * (COUNT - pages),
    )
    return head.build() + payload


def channel(number: int, method: PayloadMethod) -> bytes:
    """Return what a channel sends: pages, device state, pages, all of them marked."""
    device, encoder = MARK * 500, method.encoder()
    state = MultiFDPacketDeviceState(idstr=b"vfio".ljust(256, b"\0"), next_packet_size=len(device))
    messages = [
        MultiFDInit(id=number).build(),
        packet(3 * number, 0, method, encoder),
        packet(3 * number + 1, 5, method, encoder),
        state.build() + device,
        packet(3 * number + 2, 2, method, encoder),
        packet(100 + number, 0, method, encoder),
    ]
    return b"".join(messages)


def main_stream() -> bytes:
    """Return a main stream whose devices and description are marked."""
    blocks = (RamBlockEntry(b"pc.ram", 1 << 20),)
    description = b'{"' + MARK * 100 + b'"}'
    records: list[MainRecord | bytes] = [
        MainHeader(),
        Configuration(b"pc"),
        SectionStart(1, b"ram", 0, 4),
        RamSetup(1 << 20, blocks),
        RamFlush(),
        RamEos(),
        Footer(1),
        SectionPart(1),
        RamZero(b"pc.ram", (0, 4096), 0, False),
        RamPage(b"pc.ram", 8192, 4096, False).build()[:-4096] + PAGE[:4096],
        RamFlush(),
        RamEos(),
        Footer(1),
        SectionStart(7, b"cpu", 0, 1, full=True),
        MARK * 300,
        Footer(7),
        StreamEnd(),
        b"\x06" + len(description).to_bytes(4, "big") + description,
    ]
    return b"".join(r if isinstance(r, bytes) else r.build() for r in records)


STREAMS = {
    "none": channel(0, METHODS[0]),
    "zlib": channel(1, next(m for m in METHODS if m.name == "zlib")),
    "zstd": channel(2, next(m for m in METHODS if m.name == "zstd")),
    "main": main_stream(),
    "a packet of a wrong magic": channel(3, METHODS[0])[:-1344] + MARK * 300,
    "a wrong record": main_stream()[:-700] + b"\x55" + MARK * 300,
    "something else": b"HTTP/1.1 200 OK\r\n\r\n" + MARK * 500,
    "TLS": b"\x16\x03\x01\x02\x00" + MARK * 400,
}


@dataclass
class Plan:
    """A connection, as its segments come by; the places of a segment are those of its stream."""

    stream: str
    cuts: list[tuple[int, int]]
    isn: int
    version: int
    link: str
    handshake: bool
    answer: bool
    end: bool
    snap: int

    def talk(self) -> Talk:
        """Return the frames."""
        data = STREAMS[self.stream]
        talk = Talk(self.isn, version=self.version, link=self.link)
        if self.handshake:
            talk.handshake()
        for start, end in self.cuts:
            talk.send("PA", start, data[start:end])
        if self.answer:
            talk.send("PA", 0, MARK * 20, forward=False)
        if self.end:
            talk.send("FA", len(data))
        if self.snap:
            frames = talk.frames
            talk.frames = [f.snapped(self.snap) if len(f.data) > self.snap else f for f in frames]
        return talk


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any cut into segments, of which some are lost, late or sent again."""
    stream = draw(st.sampled_from(sorted(STREAMS)))
    size = len(STREAMS[stream])
    cuts: list[tuple[int, int]] = []
    place = 0
    for step in cycle(draw(st.sampled_from([(64000,), (1448,), (536, 9000, 3), (4096, 100)]))):
        if place >= size or len(cuts) == 24:
            break
        cuts.append((place, min(place + step, size)))
        place += step
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(cuts) - 1))
        start, end = cuts[index]
        match draw(st.sampled_from(["drop", "late", "again", "overlap"])):
            case "drop" if len(cuts) > 1:
                del cuts[index]
            case "late":
                cuts.insert(draw(st.integers(0, len(cuts) - 1)), cuts.pop(index))
            case "again":
                cuts.append((start, end))
            case "overlap":
                cuts.insert(index, (max(0, start - 700), min(size, end + 900)))
    return Plan(
        stream,
        cuts,
        isn=draw(st.sampled_from([1000, 2**32 - 2000])),
        version=draw(st.sampled_from([4, 6])),
        link=draw(st.sampled_from(sorted(LINKS))),
        handshake=draw(st.booleans()),
        answer=draw(st.booleans()),
        end=draw(st.booleans()),
        snap=draw(st.sampled_from([0, 0, 0, 700, 40, 1500])),
    )


@pytest.mark.parametrize("slim", [False, True], ids=["frames", "slim"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=plans())
def test_no_mark_is_left_whatever_the_segments_went_through(plan, slim, tmp_path):
    source = write_pcap(tmp_path / "in.pcap", plan.talk().frames, LINKS[plan.link][0])
    out = tmp_path / "out.pcapng"
    out.unlink(missing_ok=True)
    done = strip([str(source)], out, slim=slim)
    assert out.exists() == bool(done.migrations)
    if done.migrations:
        assert MARK not in out.read_bytes()
        if not slim:
            assert_equal(source, stripped=out)


def capture(tmp_path: Path, *talks: Talk, name: str = "in.pcap") -> Path:
    return write_pcap(tmp_path / name, [frame for talk in talks for frame in talk.frames])


def conversation(stream: str, port: int = 40000, **talk: Any) -> Talk:
    made = Talk(port=port, **talk).handshake().stream(STREAMS[stream], 1448)
    return made.send("FA", len(STREAMS[stream])).send("FA", 0, forward=False)


def run(*arguments: object, **options: Any) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], **options)


@pytest.mark.parametrize("slim", [False, True], ids=["frames", "slim"])
def test_connections_side_by_side_and_a_port_used_again(slim, tmp_path):
    talks = [
        conversation("main", 40001),
        conversation("zlib", 40002),
        conversation("something else", 40003),
        conversation("TLS", 40004),
        conversation("none", 40002, isn=77_000_000),
    ]
    source, out = capture(tmp_path, *talks), tmp_path / "out.pcapng"
    done = strip([str(source)], out, slim=slim)
    assert_equal(source, stripped=out, slim=slim)
    assert MARK not in out.read_bytes()
    follower = Follower()
    list(follower.follow(CaptureReader([out])))
    kinds = [follower.connections[number].kind for number in range(len(talks))]
    # of other traffic a slim one has a record, so that the numbers of the others are the same
    assert kinds == ["main", "multifd", "unknown" if slim else "other", "tls", "multifd"]
    if not slim:
        assert set(done.replaced) >= {"payload of packets", "main stream", "other traffic"}


def test_a_repetition_with_another_content_is_not_kept(tmp_path):
    data = STREAMS["none"]
    talk = Talk().handshake().stream(data, 1448).send("PA", 0, MARK * 200).send("FA", len(data))
    source, out = capture(tmp_path, talk), tmp_path / "out.pcapng"
    strip([str(source)], out)
    assert_equal(source, stripped=out)
    assert MARK not in out.read_bytes()


@pytest.mark.parametrize("version", [4, 6])
def test_a_frame_too_large_for_the_length_of_its_packet(version, tmp_path):
    data = STREAMS["none"]
    talk = Talk(version=version).handshake()
    length: dict[str, Any] = {"len": 0} if version == 4 else {"plen": 0}
    talk.send("PA", 0, data, **length)
    source, out = capture(tmp_path, talk.send("FA", len(data))), tmp_path / "out.pcapng"
    strip([str(source)], out)
    assert_equal(source, stripped=out)
    assert MARK not in out.read_bytes()


def test_a_frame_is_cut_in_front_of_its_messages(tmp_path):
    data = STREAMS["none"]
    talk = Talk().handshake().send("PA", 0, data).send("FA", len(data))
    out = tmp_path / "out.pcapng"
    strip([str(capture(tmp_path, talk))], out)
    packets = [p for p in rdpcap(str(out)) if p[TCP].dport == 49152 and p[IP].len > 40]
    assert [(p[TCP].seq - talk.isn - 1, p[IP].len - 40) for p in packets] == [
        (0, 64 + 2 * 1344 + 5 * 4096),
        (64 + 2 * 1344 + 5 * 4096, 276 + 6 * 500),
        (64 + 2 * 1344 + 5 * 4096 + 276 + 3000, 1344 + 2 * 4096),
        (64 + 3 * 1344 + 7 * 4096 + 276 + 3000, 1344),
    ]
    assert [str(p[TCP].flags) for p in packets] == ["A", "A", "A", "PA"]
    for sent in packets:
        checksum = sent[IP].chksum
        del sent[IP].chksum
        assert IP(bytes(sent[IP])[:20]).chksum == checksum
        assert sent.time == packets[0].time


def test_a_stripped_capture_can_be_stripped_again(tmp_path):
    source = capture(tmp_path, conversation("zlib"), conversation("main", 40001))
    once, twice = tmp_path / "1.pcapng", tmp_path / "2.pcapng"
    strip([str(source)], once)
    strip([str(once)], twice)
    assert once.read_bytes() == twice.read_bytes()


@pytest.mark.parametrize("slim", [False, True], ids=["frames", "slim"])
def test_uuid_and_addresses_are_replaced_and_stay_told_apart(slim, tmp_path):
    talks = [conversation("zlib", 40001), conversation("main", 40002)]
    source, out = capture(tmp_path, *talks), tmp_path / "out.pcapng"
    flag = ["--slim"] if slim else []
    new = "12345678-9abc-def0-1234-56789abcdef0"
    assert run(source, "-o", out, "--addresses", "--uuid", new, *flag).exit_code == 0
    data = out.read_bytes()
    assert bytes((10, 0, 0, 1)) not in data
    follower = Follower()
    rows = [row(0, None, event) for _, event in follower.follow(CaptureReader([out]))]
    assert {r["uuid"] for r in rows if r and r["type"] == "init"} == {new}
    assert {str(session.destination) for session in follower.sessions} == {"192.0.2.2:49152"}
    strip([str(source)], tmp_path / "plain.pcapng", slim=slim)
    assert verdicts(out) == verdicts(tmp_path / "plain.pcapng")


def test_ipv6_and_hardware_addresses_are_replaced(tmp_path):
    source = capture(tmp_path, conversation("zlib", version=6))
    out = tmp_path / "out.pcapng"
    assert run(source, "-o", out, "--addresses").exit_code == 0
    first = rdpcap(str(out))[0]
    assert (first[IPv6].src, first[IPv6].dst) == ("2001:db8::1", "2001:db8::2")
    assert (first.src, first.dst) == ("02:00:00:00:00:02", "02:00:00:00:00:01")


def test_what_was_done_is_said(tmp_path):
    source, out = capture(tmp_path, conversation("zlib")), tmp_path / "out.pcapng"
    said = json.loads(run(source, "-o", out, "--json").stdout)
    assert said["bytes_written"] == out.stat().st_size
    assert (said["messages"], said["migrations"], said["left_out"]) == (6, 1, {})
    assert sum(said["replaced"].values()) == len(STREAMS["zlib"]) - 64 - 4 * 1344 - 276


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_output_is_compressed_by_its_name(suffix, tmp_path):
    source = capture(tmp_path, conversation("zlib"))
    out = tmp_path / f"out.pcapng{suffix}"
    strip([str(source)], out)
    assert_equal(source, stripped=out)
    assert out.stat().st_size < source.stat().st_size / 4


def test_several_files_and_standard_input_are_one_capture(tmp_path):
    frames = conversation("zlib").frames
    first = write_pcap(tmp_path / "1.pcap", frames[:4])
    second = write_pcap(tmp_path / "2.pcap", frames[4:])
    out, piped = tmp_path / "out.pcapng", tmp_path / "piped.pcapng"
    strip([str(first), str(second)], out)
    assert_equal(first, second, stripped=out)
    done = run(first, "-", "-o", piped, input=second.read_bytes())
    assert (done.exit_code, piped.read_bytes()) == (0, out.read_bytes())


def test_an_input_is_never_overwritten(tmp_path):
    source = capture(tmp_path, conversation("zlib"))
    before = source.read_bytes()
    with pytest.raises(CaptureError, match="is an input, another file was demanded"):
        strip([str(source)], source)
    assert source.read_bytes() == before


def test_without_a_migration_nothing_is_written(tmp_path):
    out = tmp_path / "out.pcapng"
    done = run(capture(tmp_path, conversation("something else")), "-o", out)
    assert done.exit_code == 4
    assert "no migration in the input: 8 records, nothing was written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.pcap"]


def test_an_error_leaves_nothing_behind(tmp_path):
    dump, out = tmp_path / "dump", tmp_path / "out.pcapng"
    dump.write_bytes(STREAMS["none"])
    out.write_bytes(b"as it was")
    message = "dump: is the raw dump of a stream and has no frames to keep, which --slim does not"
    with pytest.raises(CaptureError, match=message):
        strip([str(dump)], out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump", "out.pcapng"]
    assert out.read_bytes() == b"as it was"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    source = capture(tmp_path, conversation("zlib"))
    out = tmp_path / "nowhere" / "out.pcapng"
    with pytest.raises(CaptureError, match=r"out\.pcapng: cannot be written: No such file"):
        strip([str(source)], out)


def test_a_raw_dump_can_be_slim(tmp_path):
    dump, out = tmp_path / "dump", tmp_path / "out.pcapng"
    dump.write_bytes(STREAMS["none"])
    strip([str(dump)], out, slim=True)
    assert decoded(out) == decoded(dump)
    assert MARK not in out.read_bytes()


def test_of_overlapping_copies_the_first_counts():
    covered = Covered()
    assert covered.add(10, 20) == [(10, 20)]
    assert covered.add(0, 5) == [(0, 5)]
    assert covered.add(3, 30) == [(5, 10), (20, 30)]
    assert covered.add(0, 30) == []
    for place in range(40, 40 + 4 * 4000, 4):
        assert covered.add(place, place + 2) == [(place, place + 2)]
    assert covered.add(42, 44) == []  # too long ago to be told from what was there


def around(path: Path, folder: Path, change: Callable[[Any], list[Any]]) -> Path:
    """Write the packets of a capture of Ethernet with each of them changed into frames."""
    frames = []
    for part in in_order(Inputs([path], CaptureInfo(), None), CaptureInfo(), Limits()):
        assert not isinstance(part, Window)
        for time, network, view, start, stop, _ in part.frames():
            packet = IP(bytes(view[network(view, start, stop) : stop]))
            frames += [Frame(bytes(ETHERNET / new), time) for new in change(packet)]
    return write_pcap(folder / "changed.pcap", frames)


ETHERNET = Ether(src="02::1", dst="02::2")
TUNNELLED: dict[str, Callable[[Any], list[Any]]] = {
    "VXLAN": lambda ip: [IP(len=0) / UDP(dport=4789, len=0) / VXLAN(vni=1) / ETHERNET / ip],
    "fragments": lambda ip: fragment(ip, 9000),
}


@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("change", TUNNELLED)
def test_what_came_through_a_tunnel_or_in_fragments_is_stripped_of_it(change, slim, tmp_path):
    (path,) = (FOLDER / f"{name}.pcap.zst" for name in NAMES if name == "q7_2-none")
    numbers = count(1)

    def changed(ip: Any) -> list[Any]:
        ip.id = next(numbers) % 2**16
        return TUNNELLED[change](ip)

    wrapped = around(path, tmp_path, changed)
    assert decoded(wrapped) == decoded(path)
    out = tmp_path / "out.pcapng"
    done = strip([str(wrapped)], out, slim=slim)
    assert done.dropped == {}
    assert_equal(wrapped, stripped=out, slim=slim)


def test_captures_of_two_hosts_are_stripped_as_one(tmp_path):
    frames = conversation("main").frames
    late = [Frame(frame.data, frame.time + STEP // 2) for frame in frames]
    paths = write_pcap(tmp_path / "a", frames[::2]), write_pcap(tmp_path / "b", late[1::2])
    out = tmp_path / "out.pcapng"
    assert strip([str(path) for path in paths], out).frames >= len(frames)
    assert_equal(*paths, stripped=out)
