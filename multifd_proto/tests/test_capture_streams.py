"""The reader as a whole, fed with captures that scapy and tcpdump wrote."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP

from multifd_proto.capture.events import Data, End, Endpoint, Gap, Opened, StreamEvent
from multifd_proto.capture.streams import CaptureReader, Limits
from multifd_proto.errors import CaptureError
from multifd_proto.tests.captures import (
    EPOCH,
    LINKS,
    STEP,
    Blocks,
    Frame,
    Talk,
    read,
    write_pcap,
    write_pcapng,
)

STREAM = random.Random(2).randbytes(6000)


@pytest.mark.parametrize("variant", ["<micro", ">micro", "<nano", ">nano", "pcapng"])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("version", [4, 6])
def test_every_capture_gives_the_same_streams(
    tmp_path: Path, variant: str, link: str, version: int
) -> None:
    talk = Talk(isn=2**32 - 2000, link=link, version=version).handshake()
    talk.send("PA", 1500, STREAM[1500:4000]).send("PA", 0, STREAM[:2000])
    talk.send("A", 0, b"answer", forward=False).send("A", 0)
    talk.send("PA", 4000, STREAM[4000:]).send("FA", 6000).send("FA", 6, forward=False)
    link_type = LINKS[link][0]
    path = tmp_path / "x"
    if variant == "pcapng":
        write_pcapng(path, talk.frames, link_type)
    else:
        write_pcap(path, talk.frames, link_type, order=variant[0], nano=variant[1:] == "nano")
    (there, back), reader = read(path)
    assert (there.data, back.data) == (STREAM, b"answer")
    assert there.end
    assert back.end
    assert (there.half.anchored, back.half.anchored) == (True, True)
    assert (there.half.segments, back.half.segments) == (7, 3)
    assert (there.half.reordered, there.half.retransmitted) == (1, 500)
    assert there.half.source is not None
    assert there.half.source.port == 40000
    info = reader.info
    assert (info.first, info.last) == (EPOCH, EPOCH + STEP * 9)
    assert (there.half.opened, there.end.time, back.end.time) == (
        EPOCH,
        EPOCH + STEP * 8,
        EPOCH + STEP * 9,
    )
    assert (info.records, info.skipped, info.truncated) == (10, {}, [])


def test_rotated_captures_are_one_input(tmp_path: Path) -> None:
    frames = Talk().handshake().stream(STREAM, 500).send("FA", 6000).frames
    paths = [
        write_pcap(tmp_path / "a", frames[:6]),
        write_pcapng(tmp_path / "b", frames[7:9]),
        write_pcap(tmp_path / "c", [frames[9], frames[6], *frames[10:]], order=">"),
    ]
    seen, reader = read(*paths)
    assert len(seen) == 2
    assert seen[0].data == STREAM
    assert seen[0].end
    assert reader.info.formats == ["pcap", "pcapng", "pcap"]
    assert reader.info.bytes == sum(path.stat().st_size for path in paths)


def test_frames_without_a_segment_are_counted_by_reason(tmp_path: Path) -> None:
    talk = Talk().handshake().stream(STREAM, 3000)
    talk.add(IP(dst="10.0.0.2") / UDP()).add(IP(dst="10.0.0.2") / UDP())
    talk.add(IP(dst="10.0.0.2", flags="MF") / TCP() / bytes(4))
    talk.frames.append(Frame(bytes(12) + b"\x08\x06" + bytes(40)))
    talk.frames.append(Frame(b"short"))
    (there, _), reader = read(write_pcap(tmp_path / "x", talk.frames))
    assert there.data == STREAM
    assert reader.info.skipped == {
        "not TCP": 2,
        "IP fragment": 1,
        "not IP": 1,
        "header cut short": 1,
    }


def test_zeros_at_the_end_of_a_file_are_empty_frames(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x", Talk().handshake().stream(STREAM, 3000).frames)
    with path.open("ab") as file:
        file.write(bytes(16 * 10))
    (there, _), reader = read(path)
    assert there.data == STREAM
    assert reader.info.skipped == {"empty": 10}
    assert reader.info.first == EPOCH


def test_an_unknown_link_type_is_counted(tmp_path: Path) -> None:
    seen, reader = read(write_pcap(tmp_path / "x", [Frame(bytes(60))] * 3, 147))
    assert not seen
    assert reader.info.skipped == {"link type 147 unknown": 3}


@pytest.mark.parametrize("version", [4, 6])
def test_frames_of_64_kib_and_more_are_decoded(tmp_path: Path, version: int) -> None:
    """What loopback and segmentation offload give: longer than their length field can tell."""
    talk = Talk(version=version).handshake()
    length: dict[str, Any] = {"len": 0} if version == 4 else {"plen": 0}
    data = os.urandom(300_000)
    for offset, end in ((0, 65_483), (65_483, 245_483), (245_483, 300_000)):
        talk.send("A", offset, data[offset:end], **length)
    (there, _), _ = read(write_pcap(tmp_path / "x", talk.frames))
    assert there.data == data


def test_the_snap_length_gives_gaps(tmp_path: Path) -> None:
    talk = Talk().handshake().stream(STREAM, 1000).send("FA", 6000)
    (there, _), _ = read(write_pcapng(tmp_path / "x", [f.snapped(100) for f in talk.frames]))
    assert there.gaps == [(n + 46, 954, "snapped") for n in range(0, 6000, 1000)]
    assert all(
        event.data == STREAM[event.offset : event.offset + 46]
        for event in there.events
        if isinstance(event, Data)
    )
    assert there.end


def test_data_may_be_kept(tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    path = write_pcap(tmp_path / "x", Talk().handshake().stream(data, 60_000).frames)
    kept = [event.data for event in CaptureReader([path]) if isinstance(event, Data)]
    assert b"".join(kept) == data


def test_pcapng_drops_are_reported(tmp_path: Path) -> None:
    blocks = Blocks().interface()
    blocks.block(5, blocks.pack("3I", 0, 0, 0) + blocks.options({5: blocks.pack("Q", 12)}))
    path = tmp_path / "x"
    path.write_bytes(blocks.data)
    assert read(path)[1].info.drops == 12


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_a_cut_at_any_byte_loses_nothing_that_is_complete(tmp_path: Path, form: str) -> None:
    frames = Talk().handshake().stream(STREAM[:200], 40).send("FA", 200).frames
    write, header, first, extra = {
        "pcap": (write_pcap, 24, 24, 16),
        "pcapng": (write_pcapng, 28, 28 + 20, 32),  # the first interface follows the header
    }[form]
    content = write(tmp_path / "x", frames).read_bytes()
    ends = [first]
    for frame in frames:
        padding = -len(frame.data) % 4 if form == "pcapng" else 0
        ends.append(ends[-1] + extra + len(frame.data) + padding)
    assert ends[-1] == len(content)
    path = tmp_path / "cut"
    for cut in range(header, len(content)):
        path.write_bytes(content[:cut])
        reader = CaptureReader([path])
        data = b"".join(bytes(e.data) for e in reader if isinstance(e, Data))
        assert reader.info.records == sum(end <= cut for end in ends[1:])
        assert data == STREAM[: max(0, min(200, 40 * (reader.info.records - 3)))]
        assert len(reader.info.truncated) == (cut not in (header, *ends))
    for cut in range(header):
        path.write_bytes(content[:cut])
        with pytest.raises(CaptureError):
            list(CaptureReader([path]))


def test_an_absurd_record_is_an_error_after_all_that_is_held(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x", Talk().handshake().send("A", 5, b"late").frames)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\xff" * 100)
    events: list[StreamEvent] = []
    with pytest.raises(CaptureError) as error:
        events.extend(CaptureReader([path], limits=Limits(record=1 << 20)))
    assert str(error.value) == (
        f"{path}: a record at byte {size} claims 4294967311 bytes, at most 1048576 are believed"
    )
    assert [type(event) for event in events] == [Opened, Gap, Data]


def test_a_hole_in_a_capture_keeps_memory_bounded(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    talk = Talk().handshake().stream(data, 50_000)
    del talk.frames[6]
    path = write_pcap(tmp_path / "x", talk.frames)
    reader = CaptureReader([path], limits=Limits(window=300_000, total=400_000))
    held, gaps, offset = [], [], 0
    for event in reader:
        held.append(reader.held)
        if isinstance(event, Data):
            assert event.data == data[event.offset : event.offset + len(event.data)]
            offset = event.offset + len(event.data)
        elif isinstance(event, Gap):
            gaps.append((event.offset, event.length, event.reason))
    assert gaps == [(150_000, 50_000, "lost")]
    assert offset == len(data)
    assert 200_000 < max(held) <= 300_000


CAPTURE = Talk().handshake().stream(STREAM[:300], 100).send("FA", 300).frames
with tempfile.TemporaryDirectory() as _directory:
    _path = Path(_directory, "capture")
    SEEDS = [
        write_pcap(_path, CAPTURE).read_bytes(),
        write_pcap(_path, CAPTURE, nano=False, order=">").read_bytes(),
        write_pcapng(_path, CAPTURE).read_bytes(),
        b"QEVM",
        b"\x11\x22\x33\x44",
        b"\x1f\x8b\x08\0",
        b"\x28\xb5\x2f\xfd",
        b"",
    ]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Captures, or what starts as one, with bytes overwritten, inserted or appended."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(content)))
        damage = draw(st.binary(max_size=12) | st.just(b"\xff" * 4) | st.just(bytes(4)))
        content[place : place + draw(st.sampled_from((0, 1, 4, len(damage))))] = damage
    return bytes(content + draw(st.binary(max_size=30)))


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_any_file_gives_events_or_a_capture_error(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(CaptureError):
        file.write(content)
        file.flush()
        read(Path(file.name), limits=Limits(window=1000, total=1000, streams=2))


def _loopback_capture(path: Path) -> subprocess.Popen[bytes]:
    """Start tcpdump on the loopback interface; return it when it captures."""
    if shutil.which("tcpdump") is None:
        pytest.skip("tcpdump is not on PATH")
    command = [
        "tcpdump",
        "-i",
        "lo",
        "-U",
        "-B",
        "32768",
        "--immediate-mode",
        "-w",
        str(path),
        "tcp",
    ]
    tcpdump = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tcpdump.stderr is not None
    said = tcpdump.stderr.readline()
    while said and b"listening on" not in said:
        last, said = said, tcpdump.stderr.readline()
    if not said:
        tcpdump.communicate()
        pytest.skip(f"tcpdump cannot capture: {last.decode().strip()}")
    return tcpdump


def test_what_tcpdump_captures_on_loopback_is_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "lo.pcap"
    data = os.urandom(2_000_000)
    tcpdump = _loopback_capture(path)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            client = socket.create_connection(("127.0.0.1", port))
            there, _ = server.accept()
            sender = threading.Thread(target=_send_all, args=(client, data))
            sender.start()
            received = 0
            while part := there.recv(1 << 16):
                received += len(part)
            there.close()
            sender.join()
        assert received == len(data)
        _wait_for_end(path, port)
    finally:
        tcpdump.terminate()
        tcpdump.communicate()
    seen, _ = read(path)
    [half] = [s for s in seen if s.half.destination == Endpoint("127.0.0.1", port)]
    assert half.half.forward
    assert half.half.anchored
    assert half.end
    assert half.length == len(data)
    if not half.gaps:  # the kernel may drop frames, and says so
        assert half.data == data


def _send_all(client: socket.socket, data: bytes) -> None:
    with client:
        client.sendall(data)


def _wait_for_end(path: Path, port: int) -> None:
    """Wait until tcpdump has written the end of the connection."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > 24:
            for event in CaptureReader([path]):
                if isinstance(event, End) and event.half.destination == Endpoint("127.0.0.1", port):
                    return
        time.sleep(0.05)
    raise TimeoutError("tcpdump did not write the end of the connection")
