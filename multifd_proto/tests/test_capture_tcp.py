import random
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture.connections import Connections
from multifd_proto.capture.events import Data, End, Opened, StreamEvent
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import Segment
from multifd_proto.tests.captures import Seen, collect

FIN, SYN, RST, ACK = 1, 2, 4, 16
KEY = bytes((10, 0, 0, 1, 10, 0, 0, 2)) + struct.pack(">HH", 40000, 49152)
STREAM = random.Random(1).randbytes(100_000)
WRAPS = st.sampled_from((0, 5, 2**31 - 50, 2**32 - 1, 2**32 - 100, 2**32 - 1000))


def piece(
    offset: int,
    data: bytes = b"",
    *,
    flags: int = ACK,
    isn: int = 0,
    missing: int = 0,
    time: int = 0,
) -> Segment:
    """A segment of one direction with its payload at an offset of the stream."""
    seq = (isn + 1 + offset) % 2**32
    return time, KEY, seq, flags, memoryview(data), 0, len(data), missing


def syn(isn: int = 0, time: int = 0) -> Segment:
    return piece(-1, flags=SYN, isn=isn, time=time)


def cut(
    begin: int, end: int, *, flags: int = ACK, isn: int = 0, missing: int = 0, time: int = 0
) -> Segment:
    """A segment of `STREAM`."""
    return piece(begin, STREAM[begin:end], flags=flags, isn=isn, missing=missing, time=time)


def run(segments: Iterable[Segment], limits: Limits | None = None) -> Iterator[StreamEvent]:
    connections = Connections(CaptureInfo(), limits or Limits())
    yield from connections.events(segments)
    yield from connections.flush()
    assert connections.held.bytes == 0


def forward(segments: Iterable[Segment], limits: Limits | None = None) -> Seen:
    return collect(run(segments, limits))[0]


@st.composite
def segmentations(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ranges that cover a stream of up to 600 bytes, with overlaps and repeats, in any order."""
    length = draw(st.integers(1, 600))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)), max_size=12)) | {0, length})
    ranges = [
        (max(0, a - draw(st.integers(0, 40))), min(length, b + draw(st.integers(0, 40))))
        for a, b in pairwise(cuts)
    ]
    ranges += draw(st.lists(st.sampled_from(ranges), max_size=4))
    return draw(st.permutations(ranges))


@given(segmentations(), WRAPS)
def test_any_segmentation_gives_the_bytes_back(ranges: list[tuple[int, int]], isn: int) -> None:
    length = max(end for _, end in ranges)
    segments = [
        syn(isn),
        *(cut(a, b, isn=isn) for a, b in ranges),
        piece(length, flags=FIN, isn=isn),
    ]
    seen = forward(segments)
    assert seen.data == STREAM[:length]
    assert not seen.gaps
    assert seen.end == End(0, seen.half, length, reset=False, by_peer=False)
    assert seen.half.bytes == sum(b - a for a, b in ranges)
    assert seen.half.retransmitted == seen.half.bytes - length


@given(segmentations(), WRAPS)
def test_without_a_syn_the_lowest_of_the_first_segments_is_the_start(
    ranges: list[tuple[int, int]], isn: int
) -> None:
    ranges = ranges[:16]
    seen = forward(cut(a, b, isn=isn) for a, b in ranges)
    lowest = min(a for a, _ in ranges)
    assert not seen.half.anchored
    _agrees(seen, ranges, lowest)


@given(segmentations(), WRAPS, st.data())
def test_what_was_dropped_is_a_gap_and_the_rest_is_in_its_place(
    ranges: list[tuple[int, int]], isn: int, data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(ranges), min_size=1))
    window = data.draw(st.sampled_from((300, 1000, 4 << 20)))
    seen = forward([syn(isn), *(cut(a, b, isn=isn) for a, b in kept)], Limits(window=window))
    if window == 4 << 20:
        _agrees(seen, kept, 0)
    _is_true(seen)


@given(segmentations(), st.data())
def test_a_consumer_that_skips_sees_the_same_stream(
    ranges: list[tuple[int, int]], data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(ranges), min_size=1))
    events = []
    for event in run([syn(), *(cut(a, b) for a, b in kept)]):
        events.append(event)
        if isinstance(event, Data):
            event.half.unwanted_until = event.offset + data.draw(st.integers(0, 200))
    seen = collect(events)[0]
    _agrees(seen, kept, 0, skips=True)
    _is_true(seen)


def _agrees(seen: Seen, ranges: list[tuple[int, int]], start: int, *, skips: bool = False) -> None:
    """The bytes of the ranges, and no others, are in the stream."""
    covered = bytearray(max(b for _, b in ranges) - start)
    for a, b in ranges:
        covered[a - start : b - start] = b"\1" * (b - a)
    missing = {o + n for o, length, _ in seen.gaps for n in range(length)}
    assert [n in missing for n in range(len(covered))] == [not c for c in covered]
    assert seen.length == len(covered)
    assert seen.half.missing == len(missing)
    if not skips:
        assert not seen.skipped
    for event in seen.events:
        if isinstance(event, Data):
            assert event.data == STREAM[start + event.offset :][: len(event.data)]


def _is_true(seen: Seen) -> None:
    for event in seen.events:
        if isinstance(event, Data):
            assert event.data == STREAM[event.offset :][: len(event.data)]


def test_offsets_go_on_beyond_4_gib() -> None:
    size = 1 << 20
    mebibyte = bytes(size)
    places = list(range(4200))
    places[4094:4100] = reversed(places[4094:4100])  # over the wrap of the sequence numbers
    half, offset = None, 0
    segments = [syn(77), *(piece(size * n, mebibyte, isn=77) for n in places)]
    for event in run(segments, Limits(window=16 << 20)):
        if isinstance(event, Data):
            assert event.offset == offset
            offset += len(event.data)
            half = event.half
    assert half is not None
    assert (offset, half.missing, half.reordered) == (4200 << 20, 0, 5)


def test_data_in_order_is_not_copied() -> None:
    source = memoryview(STREAM)
    segments = [syn(), (0, KEY, 1, ACK, source, 10, 20, 0), (0, KEY, 11, ACK, source, 20, 40, 0)]
    parts = [event.data for event in run(segments) if isinstance(event, Data)]
    assert [bytes(part) for part in parts] == [STREAM[10:20], STREAM[20:40]]
    assert all(part.obj is STREAM for part in parts)


def test_data_out_of_order_survives_its_buffer() -> None:
    buffer = bytearray(STREAM[100:200])
    late = (0, KEY, 101, ACK, memoryview(buffer), 0, 100, 0)

    def segments() -> Iterator[Segment]:
        yield syn()
        yield late
        buffer[:] = bytes(100)
        yield cut(0, 100)

    assert forward(segments()).data == STREAM[:200]


def test_the_first_copy_of_overlapping_bytes_wins() -> None:
    seen = forward([syn(), piece(2, b"cc"), piece(0, b"aabb"), piece(1, b"xxxx"), piece(4, b"dd")])
    assert seen.data == b"aaccxd"
    assert seen.half.retransmitted == 2 + 3 + 1


def test_keep_alives_and_acknowledgements_are_harmless() -> None:
    keep_alive = piece(9, b"\0")
    seen = forward([syn(), cut(0, 10), keep_alive, piece(9), piece(10), keep_alive, cut(10, 20)])
    assert seen.data == STREAM[:20]
    assert (seen.half.segments, seen.half.retransmitted, seen.half.reordered) == (7, 2, 0)


def test_duplicate_frames_are_retransmissions() -> None:
    frames = [syn(), cut(0, 10), cut(10, 20), piece(20, flags=FIN)]
    seen = forward(frame for frame in frames for _ in range(2))
    assert seen.data == STREAM[:20]
    assert (seen.half.bytes, seen.half.retransmitted) == (40, 20)


def test_late_segments_are_counted_as_reordered() -> None:
    seen = forward([syn(), cut(10, 20), cut(20, 30), cut(0, 5), cut(5, 10), cut(5, 10)])
    assert seen.data == STREAM[:30]
    assert (seen.half.reordered, seen.half.retransmitted) == (2, 5)


def test_a_hole_is_lost_when_the_window_is_full() -> None:
    limits = Limits(window=3000)
    late = [cut(a, a + 500, time=a) for a in range(1000, 6000, 500)]
    events = run([syn(), cut(0, 500), *late, cut(500, 1000)], limits)
    seen = collect(events)[0]
    assert seen.gaps == [(500, 500, "lost")]
    assert seen.data == STREAM[:500] + b"?" * 500 + STREAM[1000:6000]
    assert [event.time for event in seen.events] == [0, 1000, *range(1000, 6000, 500)]


def test_a_segment_larger_than_the_window_is_not_kept() -> None:
    seen = forward([syn(), cut(10, 5000), cut(0, 10)], Limits(window=1000))
    assert seen.gaps == [(0, 10, "lost")]
    assert seen.data == b"?" * 10 + STREAM[10:5000]


def test_a_filled_hole_gives_the_time_of_what_filled_it() -> None:
    seen = forward([syn(), cut(10, 20, time=5), cut(0, 10, time=7), cut(20, 30, time=6)])
    assert [event.time for event in seen.events] == [7, 7, 7]


def test_bytes_that_the_snap_length_cut_are_a_gap() -> None:
    seen = forward([syn(), cut(0, 10, missing=90), cut(100, 110, missing=90), cut(200, 210)])
    assert seen.gaps == [(10, 90, "snapped"), (110, 90, "snapped")]
    assert seen.length == 210
    assert seen.half.missing == 180


def test_snapped_segments_out_of_order_are_snapped_and_not_lost() -> None:
    seen = forward([syn(), cut(100, 110, missing=90), piece(200, missing=50), cut(0, 100)])
    assert seen.gaps == [(110, 90, "snapped"), (200, 50, "snapped")]
    assert seen.data[:110] == STREAM[:110]


def test_a_window_of_lost_data_of_3_gib_is_a_gap() -> None:
    seen = forward([syn(), cut(0, 10), piece(10 + (3 << 30) - 1, b"x")])
    assert seen.gaps == [(10, (3 << 30) - 1, "lost")]


def test_unwanted_bytes_come_as_one_skipped() -> None:
    events = []
    for event in run([syn(), *(cut(a, a + 10, time=a) for a in range(0, 100, 10))]):
        events.append(event)
        if isinstance(event, Data) and event.offset == 0:
            event.half.unwanted_until = 75
    seen = collect(events)[0]
    assert [(type(e).__name__, e.time) for e in seen.events] == [
        ("Data", 0), ("Skipped", 70), ("Data", 70), ("Data", 80), ("Data", 90)
    ]  # fmt: skip
    assert seen.skipped == [(10, 65)]
    assert seen.data[75:] == STREAM[75:100]


def test_skipped_comes_when_the_wanted_offset_is_reached() -> None:
    events = run([syn(), cut(0, 10), cut(10, 20), cut(20, 30), piece(0, flags=RST)])
    opened, data = next(events), next(events)
    assert isinstance(data, Data)
    data.half.unwanted_until = 20
    skipped, more = next(events), next(events)
    seen = collect([opened, data, skipped, more])[0]
    assert seen.skipped == [(10, 10)]
    assert seen.data[20:] == STREAM[20:30]
    data.half.unwanted_until = 1 << 62
    assert [type(event) for event in events] == [End, End]


def test_unwanted_bytes_are_not_copied_when_they_come_out_of_order() -> None:
    connections = Connections(CaptureInfo(), Limits())
    kept = []

    def segments() -> Iterator[Segment]:
        yield syn()
        yield cut(0, 10)
        for begin in range(20_000, 80_000, 10_000):
            yield cut(begin, begin + 10_000)
            kept.append(connections.held.bytes)
        yield cut(10, 20_000)

    seen = None
    for event in connections.events(segments()):
        if isinstance(event, Data) and event.offset == 0:
            event.half.unwanted_until = 50_000
        seen = event
    assert [b - a for a, b in pairwise(kept)] == [
        256,
        256,
        10_256,
        10_256,
        10_256,
    ]
    assert isinstance(seen, Data)
    assert seen.offset + len(seen.data) == 80_000
    assert connections.held.bytes == 0


def test_a_stream_that_is_not_wanted_at_all_is_never_copied() -> None:
    connections = Connections(CaptureInfo(), Limits())
    kept = []

    def segments() -> Iterator[Segment]:
        for begin in range(50_000, 0, -1000):
            yield cut(begin, begin + 1000)
            kept.append(connections.held.bytes)

    events = []
    for event in connections.events(segments()):
        events.append(event)
        if isinstance(event, Opened):
            event.half.unwanted_until = 1 << 62
    events.extend(connections.flush())
    assert max(kept) == 15 * 256
    assert collect(events)[0].skipped == [(0, 16_000)]


def test_a_gap_in_unwanted_bytes_is_still_a_gap() -> None:
    events = []
    for event in run([syn(), cut(0, 10), cut(10, 20), cut(30, 40), cut(40, 50)]):
        events.append(event)
        if isinstance(event, Data):
            event.half.unwanted_until = 50
    seen = collect(events)[0]
    assert seen.data == STREAM[:10] + b"-" * 10 + b"?" * 10 + b"-" * 20
    assert seen.skipped == [(10, 10), (30, 20)]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_start_of_a_stream_without_syn_may_be_reordered(count: int) -> None:
    places = [n * 10 for n in range(count)]
    places[:5] = reversed(places[:5])
    seen = forward(cut(1000 + a, 1010 + a) for a in places)
    assert seen.data == STREAM[1000 : 1000 + 10 * count]
    assert not seen.half.anchored


@pytest.mark.parametrize(("size", "count"), [(10, 16), (64 << 10, 4)])
def test_the_start_of_a_stream_without_syn_is_held_for_16_segments_or_256_kib(
    size: int, count: int
) -> None:
    taken = []

    def segments() -> Iterator[Segment]:
        for n in range(100):
            taken.append(n)
            yield piece(n * size, bytes(size))

    next(event for event in run(segments()) if isinstance(event, Data))
    assert len(taken) == count


def test_a_syn_that_comes_late_anchors_the_stream() -> None:
    seen = forward([cut(10, 20), cut(0, 10), syn(), cut(20, 30)])
    assert seen.half.anchored
    assert (seen.data, seen.half.stream) == (STREAM[:30], 0)


def test_a_fin_out_of_order_ends_the_stream_when_it_is_reached() -> None:
    seen = forward([syn(), cut(0, 10), cut(20, 30, flags=FIN | ACK), cut(10, 20, time=3)])
    assert seen.data == STREAM[:30]
    assert seen.end == End(3, seen.half, 30, reset=False, by_peer=False)


def test_a_fin_behind_a_hole_ends_the_stream_after_the_gap() -> None:
    seen = forward([syn(), cut(0, 10), piece(30, flags=FIN)])
    assert seen.gaps == [(10, 20, "lost")]
    assert seen.end == End(0, seen.half, 30, reset=False, by_peer=False)


def test_bytes_behind_the_end_count_and_are_ignored() -> None:
    seen = forward([syn(), cut(0, 10, flags=FIN), cut(10, 30), cut(10, 20)])
    assert seen.data == STREAM[:10]
    assert (seen.half.segments, seen.half.bytes) == (4, 40)


def test_the_end_of_the_input_delivers_all_and_ends_nothing() -> None:
    seen = forward([syn(), cut(10, 20), cut(30, 40)])
    assert seen.gaps == [(0, 10, "lost"), (20, 10, "lost")]
    assert seen.data == b"?" * 10 + STREAM[10:20] + b"?" * 10 + STREAM[30:40]
    assert seen.end is None


@pytest.mark.parametrize("window", [600, 5000, 50_000])
def test_what_is_held_never_exceeds_the_limits(window: int) -> None:
    connections = Connections(CaptureInfo(), Limits(window=window, total=window * 2))
    rng = random.Random(window)
    held = []

    def segments() -> Iterator[Segment]:
        for port in range(1, 5):
            key = KEY[:-2] + struct.pack(">H", port)
            yield 0, key, 0, SYN, memoryview(b""), 0, 0, 0
        for _ in range(3000):
            begin, port = rng.randrange(1, 90_000), rng.randrange(1, 6)
            key = KEY[:-2] + struct.pack(">H", port)
            yield (
                0,
                key,
                begin + 1,
                ACK,
                memoryview(STREAM),
                begin,
                begin + rng.randrange(1, 3000),
                0,
            )
            held.append(connections.held.bytes)

    held.extend(connections.held.bytes for _ in connections.events(segments()))
    assert window < max(held) <= window * 2


def test_memory_is_bounded_when_much_more_than_the_window_follows_a_hole() -> None:
    limits = Limits(window=1 << 20, total=1 << 20)
    connections = Connections(CaptureInfo(), limits)
    size, chunk = 65_000, bytes(65_000)
    held = []

    def segments() -> Iterator[Segment]:
        yield syn()
        for n in range(1, 2000):
            if n % 500 != 0:  # more holes
                yield piece(n * size, chunk)
            held.append(connections.held.bytes)

    seen = collect(connections.events(segments()))[0]
    assert 1 << 19 < max(held) <= 1 << 20
    assert [offset for offset, _, _ in seen.gaps] == [0, 500 * size, 1000 * size, 1500 * size]
