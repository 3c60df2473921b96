import bz2
import fcntl
import gzip
import lzma
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard

from multifd_proto.capture.events import Data, End, Half, Opened, StreamEvent
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.window import READ
from multifd_proto.errors import CaptureError
from multifd_proto.tests.captures import Talk, read, write_pcap, write_pcapng

HELLO = bytes(range(256)) * 20
TALK = Talk().handshake().stream(HELLO, 1000).send("FA", len(HELLO))

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    " in gzip": gzip.compress,
    " in zstd": zstandard.ZstdCompressor().compress,
}


def error_of(*paths: Path | str) -> str:
    with pytest.raises(CaptureError) as error:
        list(CaptureReader(paths))
    return str(error.value)


@pytest.mark.parametrize("container", COMPRESSIONS)
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_captures_are_recognised_by_their_bytes(tmp_path: Path, form: str, container: str) -> None:
    path = tmp_path / "capture.txt"
    (write_pcap if form == "pcap" else write_pcapng)(path, TALK.frames)
    size = path.stat().st_size
    path.write_bytes(COMPRESSIONS[container](path.read_bytes()))
    (there, _), reader = read(path)
    assert there.data == HELLO
    assert there.end
    info = reader.info
    assert (info.files, info.formats, info.bytes) == ([str(path)], [form + container], size)
    assert (info.records, info.skipped, info.truncated) == (len(TALK.frames), {}, [])


DUMPS = [
    bytes.fromhex("11223344 00000001"),
    b"QEVM\0\0\0\3",
    bytes.fromhex("1603010200"),
    bytes.fromhex("160304"),
]


@pytest.mark.parametrize("container", COMPRESSIONS)
@pytest.mark.parametrize("start", DUMPS)
def test_a_raw_dump_is_a_stream(tmp_path: Path, start: bytes, container: str) -> None:
    path = tmp_path / "channel"
    content = start + HELLO * 500
    path.write_bytes(COMPRESSIONS[container](content))
    (there, back), reader = read(path)
    half = there.half
    assert there.data == content
    assert there.end == End(0, half, len(content), reset=False, by_peer=False)
    assert (half.source, half.destination, half.name) == (None, None, str(path))
    assert (half.anchored, half.forward, half.opened, half.bytes) == (True, True, 0, len(content))
    assert not back.events
    assert reader.info.formats == ["raw dump" + container]
    assert (reader.info.bytes, reader.info.records) == (len(content), 0)


def test_what_a_raw_dump_is_not_wanted_for_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "channel"
    path.write_bytes(b"QEVM" + bytes(3 * READ))
    kinds = []
    for event in CaptureReader([path]):
        kinds.append(type(event).__name__)
        if isinstance(event, Opened):
            event.half.unwanted_until = 2 * READ + 100
        elif isinstance(event, Data) and event.offset == 2 * READ + 100:
            event.half.unwanted_until = 1 << 60
    assert kinds == ["Opened", "Skipped", "Data", "Skipped", "End"]


def test_several_raw_dumps_are_several_streams(tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(3)]
    for path in paths:
        path.write_bytes(b"QEVM" + path.name.encode())
    seen, reader = read(*paths)
    assert [(s.half.stream, s.half.name, s.data) for s in seen if s.half.forward] == [
        (n, str(path), b"QEVM%d" % n) for n, path in enumerate(paths)
    ]
    assert reader.info.files == [str(path) for path in paths]


def test_a_compressed_raw_dump_that_is_cut_does_not_end(tmp_path: Path) -> None:
    for container in (" in gzip", " in zstd"):
        path = tmp_path / "channel"
        path.write_bytes(COMPRESSIONS[container](b"QEVM" + os.urandom(300_000))[:-200])
        (there, _), reader = read(path)
        assert there.end is None
        assert len(there.data) >= 2 * 128 * 1024
        assert reader.info.truncated[0].endswith("the compressed data ends too early")


def test_a_cut_compression_is_no_error(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x", Talk().handshake().stream(os.urandom(300_000), 1000).frames)
    size = path.stat().st_size
    path.write_bytes(gzip.compress(path.read_bytes())[: size // 2])
    (there, _), reader = read(path)
    assert 100_000 < len(there.data) < 200_000
    assert there.end is None
    fault, cut = reader.info.truncated
    assert fault == (
        f"{path}: unreadable from about byte {size // 2} on: the compressed data ends too early"
    )
    assert cut.startswith(f"{path}: truncated at byte ")


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "is empty"),
        (b"\xa1\xb2", "starts with a1 b2"),
        (b"hello world", "starts with 68 65 6c 6c"),
        (b"\x16\x03\x05\x00", "starts with 16 03 05 00"),
        (b"\x11\x22\x33", "starts with 11 22 33"),
        (gzip.compress(b"hello", mtime=0), "starts with 68 65 6c 6c in gzip"),
        (gzip.compress(b"", mtime=0), "is empty in gzip"),
        (b"\x1f\x8bgarbage", "is empty in gzip"),
        (b"\x28\xb5\x2f\xfdgarbage", "is empty in zstd"),
    ],
)
def test_other_files_are_errors(tmp_path: Path, content: bytes, seen: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    demanded = "a pcap, a pcapng or the dump of a migration stream was demanded"
    assert error_of(path) == f"{path}: {seen}, {demanded}"


@pytest.mark.parametrize(
    ("compress", "said"),
    [
        (lzma.compress, "xz is not read: unxz it first"),
        (bz2.compress, "bzip2 is not read: bunzip2 it first"),
        (lambda data: b"\x04\x22\x4d\x18" + data, "lz4 is not read: unlz4 it first"),
    ],
    ids=["xz", "bzip2", "lz4"],
)
def test_other_compressions_are_named(
    tmp_path: Path, compress: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "x"
    path.write_bytes(compress(b"hello"))
    with pytest.raises(CaptureError, match=f"^{re.escape(str(path))}: {said}$"):
        read(path)


def test_unreadable_paths_are_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert error_of(missing) == f"{missing}: cannot be read: No such file or directory"
    assert error_of(tmp_path) == f"{tmp_path}: is a directory, a file was demanded"


def test_a_missing_file_is_told_before_the_first_is_read(tmp_path: Path) -> None:
    dump = tmp_path / "channel"
    dump.write_bytes(b"QEVM")
    reader = CaptureReader([dump, tmp_path / "missing"])
    with pytest.raises(CaptureError):
        next(iter(reader))


def test_an_error_comes_after_the_events_before_it(tmp_path: Path) -> None:
    capture = write_pcap(tmp_path / "x", Talk().handshake().send("A", 10, b"late").frames)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"wrong")
    events: list[StreamEvent] = []
    with pytest.raises(CaptureError):
        events.extend(CaptureReader([capture, wrong]))
    assert isinstance(events[-1], Data)
    assert (events[-1].offset, bytes(events[-1].data)) == (10, b"late")


def test_progress_tells_what_is_read_of_what_is_stored(tmp_path: Path) -> None:
    first = write_pcap(tmp_path / "first", TALK.frames)
    second = tmp_path / "second"
    second.write_bytes(gzip.compress(b"QEVM" + os.urandom(3 * READ)))
    total = first.stat().st_size + second.stat().st_size
    told: list[tuple[int, int | None]] = []
    for _ in CaptureReader([first, second], progress=lambda *t: told.append(t)):
        pass
    assert {t for _, t in told} == {total}
    assert [n for n, _ in told] == sorted(n for n, _ in told)
    assert told[-1] == (total, total)
    assert len(told) >= 4


def test_a_fifo_is_read_without_seeking(tmp_path: Path) -> None:
    content = write_pcapng(tmp_path / "x", TALK.frames).read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(content))
    writer.start()
    told: list[int | None] = []
    events = list(CaptureReader([fifo], progress=lambda _n, total: told.append(total)))
    writer.join()
    assert b"".join(bytes(e.data) for e in events if isinstance(e, Data)) == HELLO
    assert set(told) == {None}


STDIN = """
import sys
from multifd_proto.capture.streams import CaptureReader
reader = CaptureReader(["-"], progress=lambda n, total: print(n, total, file=sys.stderr))
print(sum(len(e.data) for e in reader if type(e).__name__ == "Data"), *reader.info.files)
"""


def test_standard_input_is_read_as_it_comes(tmp_path: Path) -> None:
    content = write_pcap(tmp_path / "x", TALK.frames).read_bytes()
    command = [sys.executable, "-c", STDIN]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    assert done.stdout.decode() == f"{len(HELLO)} standard input\n"
    assert done.stderr.decode().endswith(f"{len(content)} None\n")


def test_standard_input_may_be_a_file_and_has_a_size_then(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x", TALK.frames)
    size = path.stat().st_size
    with path.open("rb") as file:
        command = [sys.executable, "-c", STDIN]
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    assert done.stderr.decode().endswith(f"{size} {size}\n")


def test_a_pipe_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    content = write_pcap(tmp_path / "x", TALK.frames).read_bytes()
    out, into = os.pipe()
    os.set_blocking(out, False)
    command = [sys.executable, "-c", STDIN]
    with subprocess.Popen(
        command, stdin=out, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        os.close(out)
        os.write(into, content[:100])
        assert child.stderr is not None
        child.stderr.readline()  # it has read and waits
        os.write(into, content[100:])
        os.close(into)
        answer, _ = child.communicate()
    assert answer.decode() == f"{len(HELLO)} standard input\n"


def test_a_pipe_is_made_as_wide_as_this_machine_lets_it(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    content = write_pcap(tmp_path / "x", TALK.frames).read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with os.fdopen(os.open(fifo, os.O_RDWR), "wb", buffering=0) as file:
        file.write(content)
        events = iter(CaptureReader([fifo]))
        assert isinstance(next(events), Opened)
        assert fcntl.fcntl(file, fcntl.F_GETPIPE_SZ) == most


@pytest.mark.parametrize("columns", [False, True])
def test_live_input_is_never_held_back(tmp_path: Path, columns: bool) -> None:
    talk = Talk().handshake()
    for number in range(600):
        talk.send("PA", 10 * number, b"%010d" % number)
    content = write_pcap(tmp_path / "x", talk.frames).read_bytes()
    places = [24, *accumulate((16 + len(f.data) for f in talk.frames), initial=24)]
    records = [content[a:b] for a, b in pairwise(places)][4:]
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reading, os.fdopen(into, "wb", buffering=0) as writing:
        live = Live()
        reader = CaptureReader([f"/proc/self/fd/{reading.fileno()}"])
        seen = live.pieces(reader.columns(live) if columns else iter(reader))
        writing.write(content[: places[4]])
        for number, record in enumerate(records):
            writing.write(record[: number % len(record)])
            if number:
                assert next(seen) == b"%010d" % (number - 1)
            writing.write(record[number % len(record) :])


class Live:
    """Takes everything as it comes."""

    packets = 0

    def takes(self, _half: Half) -> bool:
        return True

    def pieces(self, stream: Iterable[StreamEvent | list[Any]]) -> Iterator[bytes]:
        for piece in stream:
            if isinstance(piece, Data):
                yield bytes(piece.data)
            elif isinstance(piece, list):
                for run in piece:
                    yield bytes(run.read(run.begin, run.stop - run.begin))
