"""Several captures as one: rotated ones, and those of several hosts; in both ways of reading."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multifd_proto.capture.events import StreamEvent
from multifd_proto.capture.files import Inputs
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.link import link_type
from multifd_proto.capture.merge import in_order
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.window import Window
from multifd_proto.errors import CaptureError
from multifd_proto.tests.both_ways import both
from multifd_proto.tests.captures import EPOCH, STEP, Frame, Talk, write_pcap, write_pcapng
from multifd_proto.views.report import as_data

CAPTURES = sorted((Path(__file__).parents[2] / "spec/captures").glob("*.pcap.zst"))
FRAMES = [path for path in CAPTURES if "tls" not in path.name]  # that one holds its secrets
STREAM = random.Random(6).randbytes(100_000)


def conversation() -> list[Frame]:
    return Talk().handshake().stream(STREAM, 500).send("FA", len(STREAM)).frames


def read_whole(*paths: Path) -> CaptureReader:
    """Check that captures hold the conversation; return their reader."""
    (there, _), reader = both(*paths)
    assert there.data == STREAM
    assert there.end
    assert there.half.reordered == 0
    return reader


@pytest.mark.parametrize("suffix", ["", ".zst"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 3, 1, 2], [3, 2, 1, 0]])
def test_rotated_captures_are_read_in_the_order_of_time(tmp_path, order, suffix):
    frames = conversation()
    paths = []
    for number, start in enumerate(range(0, len(frames), 60)):
        path = write_pcap(tmp_path / f"x{number}", frames[start : start + 60])
        if suffix:
            packed = zstandard.compress(path.read_bytes())
            path = path.with_suffix(suffix)
            path.write_bytes(packed)
        paths.append(path)
    reader = read_whole(*(paths[number] for number in order))
    assert reader.info.files == list(map(str, paths))
    assert reader.info.records == len(frames)


def test_captures_of_both_hosts_are_merged(tmp_path):
    frames = conversation()
    delay = STEP * 5 // 2
    late = [Frame(frame.data, frame.time + delay) for frame in frames]
    one, other = write_pcap(tmp_path / "one", frames), write_pcapng(tmp_path / "other", late)
    for paths in ((one, other), (other, one)):
        reader = read_whole(*paths)
        assert reader.info.formats == ["pcap", "pcapng"]
        assert reader.info.records == 2 * len(frames)
    (there, _), _ = both(one, other)
    after_the_end = 1000  # is not looked at
    assert there.half.retransmitted == len(STREAM) - after_the_end
    assert there.half.conflicts == 0


def test_what_one_host_did_not_capture_the_other_did(tmp_path):
    chance = random.Random(3)
    frames = conversation()
    lost = [chance.choice([None, None, "one", "other"]) for _ in frames]
    paths = [
        write_pcap(
            tmp_path / name,
            [
                Frame(frame.data, frame.time + skew)
                for frame, gone in zip(frames, lost, strict=True)
                if gone != name
            ],
        )
        for name, skew in (("one", 0), ("other", STEP // 3))
    ]
    for order in (paths, paths[::-1]):
        (there, _), _ = both(*order)
        assert there.data == STREAM
        assert there.gaps == []


def test_directions_captured_by_themselves_are_merged(tmp_path):
    frames = Talk().handshake().frames
    for number in range(0, 100_000, 500):
        talk = Talk().send("PA", number, STREAM[number : number + 500])
        frames += talk.send("PA", number, STREAM[number : number + 500], forward=False).frames
    for number, frame in enumerate(frames):
        frame.time = EPOCH + STEP * number
    there_is = [frame.data[26:30] == bytes((10, 0, 0, 1)) for frame in frames]
    paths = [
        write_pcap(
            tmp_path / str(way), [f for f, w in zip(frames, there_is, strict=True) if w == way]
        )
        for way in (False, True)
    ]
    (there, back), _ = both(*paths)
    assert there.data == back.data == STREAM
    single, _ = both(write_pcap(tmp_path / "all", frames))
    assert [e.time for e in single[0].events] == [e.time for e in there.events]


def test_only_what_overlaps_is_open_at_once(tmp_path):
    frames = conversation()
    paths = [
        write_pcap(tmp_path / f"x{start:03}", frames[start : start + 5])
        for start in range(0, len(frames), 5)
    ]
    fds = Path("/proc/self/fd")
    before, most = len(list(fds.iterdir())), 0
    for _ in CaptureReader(paths):
        most = max(most, len(list(fds.iterdir())))
    assert len(paths) > 30
    assert most <= before + 3
    read_whole(*paths)


def test_raw_dumps_come_first_and_empty_captures_last(tmp_path):
    frames = conversation()
    dump = tmp_path / "dump"
    dump.write_bytes(b"QEVM" + bytes(100))
    paths = [
        write_pcap(tmp_path / "empty", []),
        write_pcap(tmp_path / "b", frames[100:]),
        dump,
        write_pcap(tmp_path / "a", frames[:100]),
    ]
    (main, _, there, _), reader = both(*paths)
    assert main.data == b"QEVM" + bytes(100)
    assert there.data == STREAM
    assert [Path(name).name for name in reader.info.files] == ["dump", "a", "b", "empty"]


def test_an_input_that_is_no_capture_is_told_after_all_others(tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(b"hello")
    path = write_pcap(tmp_path / "x", conversation())
    seen: list[StreamEvent] = []
    with pytest.raises(CaptureError, match="bad: starts with 68 65 6c 6c, a pcap"):
        seen.extend(CaptureReader([bad, path]))
    assert len(seen) > 200


def test_pipes_are_read_in_the_order_given(tmp_path):
    frames = conversation()
    paths = [write_pcap(tmp_path / "b", frames[100:]), write_pcap(tmp_path / "a", frames[:100])]
    script = f'{sys.executable} -c "$0" "$1" <(cat "$2")'
    program = (
        "import sys; from multifd_proto.capture.streams import CaptureReader\n"
        "reader = CaptureReader(sys.argv[1:]); list(reader); print(*reader.info.files)"
    )
    done = subprocess.run(
        ["bash", "-c", script, program, *map(str, paths)],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.split()[0] == str(paths[0])


def reports(*paths: Path, columns: bool) -> list[object]:
    reader = CaptureReader(paths)
    follower = Follower(decode=True)
    for _ in follower.pieces(reader if columns else iter(reader)):
        pass
    return [
        as_data(session.checker.conclude(), session.checker.migration)
        for session in follower.sessions
    ]


@pytest.mark.parametrize("columns", [False, True], ids=["singly", "columns"])
@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.name)
@pytest.mark.parametrize("lossy", [False, True], ids=["late", "lossy"])
def test_two_captures_of_a_migration_are_judged_as_one(path, columns, lossy, tmp_path):
    info, link = CaptureInfo(), 0
    frames: list[Frame] = []
    for part in in_order(Inputs([path], info, None), info, Limits()):
        assert not isinstance(part, Window)
        for time, network, view, start, stop, end in part.frames():
            link = link_type(network)
            unlike_all_others = time + len(frames) % 1000
            frames.append(Frame(bytes(view[start:stop]), unlike_all_others, end - start))
    whole = write_pcap(tmp_path / "whole", frames, link)
    chance = random.Random(1)
    lost = [chance.choice([0, 1, None]) if lossy else None for _ in frames]
    paths = []
    for host, skew in ((0, 0), (1, 0 if lossy else 30_000)):
        kept = [
            Frame(frame.data, frame.time + skew, frame.length)
            for frame, gone in zip(frames, lost, strict=True)
            if gone != host
        ]
        paths.append(write_pcap(tmp_path / f"host{host}", kept, link))
    assert reports(*paths, columns=columns) == reports(whole, columns=columns)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=80, max_size=80),
    st.permutations(range(4)),
)
def test_any_distribution_over_files_gives_the_same_in_both_ways(tmp_path, places, order):
    frames = Talk().handshake().stream(STREAM[:77_000], 1000).frames
    files: list[list[Frame]] = [[] for _ in range(4)]
    for frame, (place, late) in zip(frames, places, strict=True):
        files[place].append(Frame(frame.data, frame.time + late * STEP))
    for number, content in enumerate(files):
        (write_pcapng if number % 2 else write_pcap)(tmp_path / str(number), content)
    both(*(tmp_path / str(number) for number in order))
