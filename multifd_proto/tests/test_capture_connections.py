import struct
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture.connections import Connections
from multifd_proto.capture.events import Data, End, Endpoint, Opened, StreamEvent
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import Segment
from multifd_proto.tests.captures import Seen, collect

FIN, SYN, RST, ACK = 1, 2, 4, 16


def segment(
    flags: int,
    seq: int = 0,
    data: bytes = b"",
    *,
    port: int = 40000,
    back: bool = False,
    time: int = 0,
) -> Segment:
    """A segment from 10.0.0.1:port to 10.0.0.2:49152, or back."""
    hosts = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    ports = struct.pack(">H", port), struct.pack(">H", 49152)
    key = b"".join((*hosts[::-1], *ports[::-1]) if back else (*hosts, *ports))
    return time, key, seq % 2**32, flags, memoryview(data), 0, len(data), 0


def run(
    *segments: Segment, limits: Limits | None = None, info: CaptureInfo | None = None
) -> Iterator[StreamEvent]:
    connections = Connections(info or CaptureInfo(), limits or Limits())
    yield from connections.events(segments)
    yield from connections.flush()


def halves(*segments: Segment) -> list[Seen]:
    return collect(run(*segments))


def test_a_connection_is_opened_by_its_syn() -> None:
    events = list(
        run(
            segment(SYN, 99, time=5),
            segment(SYN | ACK, 499, back=True, time=6),
            segment(ACK, 500, b"hello", back=True, time=7),
            segment(ACK, 100, b"world", time=8),
        )
    )
    opened = events[0]
    assert isinstance(opened, Opened)
    half, reverse = opened.half, opened.reverse
    assert (opened.time, half.opened, reverse.opened) == (5, 5, 5)
    assert (half.forward, reverse.forward) == (True, False)
    assert (half.source, half.destination) == (
        Endpoint("10.0.0.1", 40000),
        Endpoint("10.0.0.2", 49152),
    )
    assert (reverse.source, reverse.destination) == (half.destination, half.source)
    assert (half.anchored, reverse.anchored) == (True, True)
    assert events[1:] == [
        Data(7, reverse, 0, memoryview(b"hello")),
        Data(8, half, 0, memoryview(b"world")),
    ]


def test_a_syn_ack_tells_who_opened() -> None:
    there, back = halves(segment(SYN | ACK, 499, back=True), segment(ACK, 500, b"hi", back=True))
    assert str(there.half.source) == "10.0.0.1:40000"
    assert (there.data, back.data) == (b"", b"hi")
    assert (there.half.anchored, back.half.anchored) == (False, True)


def test_without_a_syn_the_first_to_send_data_opened() -> None:
    there, back = halves(
        segment(ACK, 7), segment(ACK, 500, b"hi", back=True), segment(ACK, 7, b"ho")
    )
    assert str(there.half.source) == "10.0.0.2:49152"
    assert (there.data, back.data) == (b"hi", b"ho")


def test_without_data_the_first_to_speak_opened() -> None:
    there, back = halves(segment(ACK, 7), segment(ACK, 8, back=True), segment(ACK, 7))
    assert str(there.half.source) == "10.0.0.1:40000"
    assert (there.half.segments, back.half.segments) == (2, 1)
    assert not there.events


def test_a_fin_without_data_opens_in_the_name_of_the_first() -> None:
    there, back = halves(segment(ACK, 7), segment(FIN | ACK, 8, back=True))
    assert str(there.half.source) == "10.0.0.1:40000"
    assert back.events == [End(0, back.half, 0, reset=False, by_peer=False)]


def test_streams_are_numbered_in_order_of_appearance() -> None:
    seen = halves(
        segment(ACK, 1, port=1),
        segment(SYN, 1, port=2),
        segment(ACK, 1, b"x", port=3),
        segment(ACK, 1, b"x", port=1),
    )
    ports = [s.half.source.port for s in seen if s.half.forward and s.half.source]
    assert ports == [1, 2, 3]
    assert [s.half.stream for s in seen] == [0, 0, 1, 1, 2, 2]


def test_both_directions_end_on_their_own() -> None:
    there, back = halves(
        segment(SYN, 0),
        segment(SYN | ACK, 0, back=True),
        segment(ACK, 1, b"abc"),
        segment(FIN | ACK, 4, time=3),
        segment(ACK, 1, b"xy", back=True),
        segment(FIN | ACK, 3, back=True, time=5),
        segment(ACK, 5),
    )
    assert there.end == End(3, there.half, 3, reset=False, by_peer=False)
    assert back.end == End(5, back.half, 2, reset=False, by_peer=False)


def test_a_reset_ends_both_directions() -> None:
    there, back = halves(
        segment(SYN, 0),
        segment(SYN | ACK, 0, back=True),
        segment(ACK, 1, b"abc"),
        segment(ACK, 6, b"fg"),
        segment(RST, 1, back=True, time=9),
        segment(ACK, 4, b"de"),
    )
    assert there.data == b"abc??fg"
    assert there.end == End(9, there.half, 7, reset=True, by_peer=True)
    assert back.end == End(9, back.half, 0, reset=True, by_peer=False)
    assert there.half.bytes == 7


def test_a_reset_ends_only_what_has_not_ended() -> None:
    there, back = halves(segment(SYN, 0), segment(FIN | ACK, 1), segment(RST, 2, time=4))
    assert there.end == End(0, there.half, 0, reset=False, by_peer=False)
    assert back.end == End(4, back.half, 0, reset=True, by_peer=True)


def test_a_refused_connection_is_opened_and_reset() -> None:
    events = list(run(segment(SYN, 0), segment(RST | ACK, 0, back=True)))
    assert [type(event) for event in events] == [Opened, End, End]


def test_a_reset_out_of_nowhere_is_a_connection() -> None:
    there, back = halves(segment(RST, 7))
    assert there.end == End(0, there.half, 0, reset=True, by_peer=False)
    assert back.end == End(0, back.half, 0, reset=True, by_peer=True)


def test_a_repeated_syn_is_the_same_connection() -> None:
    there, back = halves(
        segment(SYN, 10),
        segment(SYN, 10),
        segment(SYN | ACK, 20, back=True),
        segment(SYN | ACK, 20, back=True),
        segment(ACK, 11, b"a"),
        segment(SYN, 10),
        segment(ACK, 12, b"b"),
    )
    assert there.data == b"ab"
    assert (there.half.segments, back.half.segments) == (5, 2)


def test_a_syn_with_another_number_is_a_new_connection() -> None:
    seen = halves(
        segment(SYN, 10),
        segment(ACK, 11, b"old"),
        segment(ACK, 16, b"late"),
        segment(SYN, 5000),
        segment(SYN | ACK, 1, back=True),
        segment(ACK, 5001, b"new"),
    )
    assert [s.half.stream for s in seen] == [0, 0, 1, 1]
    assert [s.data for s in seen] == [b"old??late", b"", b"new", b""]
    assert [s.end for s in seen] == [None] * 4


def test_a_syn_after_data_without_one_is_a_new_connection() -> None:
    seen = halves(segment(ACK, 11, b"old"), segment(SYN, 10**9), segment(ACK, 10**9 + 1, b"new"))
    assert [s.data for s in seen] == [b"old", b"", b"new", b""]


def test_the_ports_may_be_used_again_in_the_other_direction() -> None:
    seen = halves(
        segment(SYN, 10),
        segment(SYN | ACK, 20, back=True),
        segment(ACK, 11, b"old"),
        segment(SYN, 777, back=True),
        segment(ACK, 778, b"new", back=True),
    )
    assert [s.data for s in seen] == [b"old", b"", b"new", b""]
    assert str(seen[2].half.source) == "10.0.0.2:49152"


def test_a_simultaneous_open_is_one_connection() -> None:
    there, back = halves(
        segment(SYN, 10),
        segment(SYN, 20, back=True),
        segment(SYN | ACK, 10),
        segment(SYN | ACK, 20, back=True),
        segment(ACK, 11, b"a"),
        segment(ACK, 21, b"b", back=True),
    )
    assert (there.data, back.data) == (b"a", b"b")


def test_a_syn_may_carry_data() -> None:
    there, _ = halves(segment(SYN, 10, b"early"), segment(ACK, 16, b"late"))
    assert there.data == b"earlylate"


def test_a_connection_with_itself_is_followed() -> None:
    key = bytes((127, 0, 0, 1)) * 2 + struct.pack(">HH", 7, 7)
    empty = memoryview(b"")
    info = CaptureInfo()
    connections = Connections(info, Limits(streams=1))
    events = list(
        connections.events(
            [
                (0, key, 9, SYN, empty, 0, 0, 0),
                (0, key, 10, ACK, memoryview(b"me"), 0, 2, 0),
                segment(SYN, 0),
            ]
        )
    )
    assert collect(events)[0].data == b"me"
    assert info.dropped_streams == 1


def test_ipv6_endpoints() -> None:
    key = bytes(15) + b"\1" + bytes.fromhex("fd00") + bytes(13) + b"\2" + struct.pack(">HH", 1, 2)
    there, _ = halves((0, key, 0, SYN, memoryview(b""), 0, 0, 0))
    assert (str(there.half.source), str(there.half.destination)) == ("[::1]:1", "[fd00::2]:2")


def test_the_longest_idle_connection_is_dropped_when_there_are_too_many() -> None:
    info = CaptureInfo()
    events = list(
        run(
            segment(SYN, 0, port=1, time=1),
            segment(SYN, 0, port=2, time=2),
            segment(ACK, 3, b"held", port=2, time=2),
            segment(ACK, 1, b"active", port=1, time=3),
            segment(SYN, 0, port=3, time=4),
            segment(ACK, 7, b" still", port=1, time=5),
            segment(ACK, 1, b"again", port=2, time=6),
            limits=Limits(streams=2),
            info=info,
        )
    )
    seen = collect(events)
    assert [s.data for s in seen if s.half.forward] == [b"active still", b"??held", b"", b"again"]
    assert [s.half.anchored for s in seen if s.half.forward] == [True, True, True, False]
    assert info.dropped_streams == 2
    assert not any(isinstance(event, End) for event in events)


def test_an_eighth_of_the_connections_is_dropped_at_once() -> None:
    info = CaptureInfo()
    seen = collect(
        run(
            *(segment(SYN, 0, port=n, time=n) for n in range(1, 18)),
            limits=Limits(streams=16),
            info=info,
        )
    )
    assert info.dropped_streams == 2
    assert len(seen) == 34


@given(
    st.lists(
        st.builds(
            segment,
            st.integers(0, 63),
            st.integers(0, 40) | st.integers(0, 2**32 - 1),
            st.binary(max_size=30),
            port=st.integers(1, 4),
            back=st.booleans(),
            time=st.integers(0, 100),
        ),
        max_size=60,
    )
)
def test_any_segments_give_streams_without_contradictions(segments: list[Segment]) -> None:
    limits = Limits(window=1500, total=2500, streams=3)
    connections = Connections(CaptureInfo(), limits)
    events = []
    for event in connections.events(segments):
        events.append(event)
        assert 0 <= connections.held.bytes <= limits.total
    events.extend(connections.flush())
    assert connections.held.bytes == 0
    seen = collect(events)
    assert sum(s.half.segments for s in seen) == len(segments)
    assert sum(s.half.missing for s in seen) == sum(n for s in seen for _, n, _ in s.gaps)
