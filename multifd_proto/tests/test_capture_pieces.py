from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture.info import Limits
from multifd_proto.capture.pieces import PIECE, Absent, Held, Payload, Pieces

STREAM = bytes(range(200))


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    starts = draw(st.lists(st.integers(0, 150), max_size=20))
    return [(start, start + draw(st.integers(0, 50))) for start in starts]


@given(ranges())
def test_new_parts_are_what_is_not_there(wanted: list[tuple[int, int]]) -> None:
    pieces, there = Pieces(Held(Limits())), set[int]()
    for start, end in wanted:
        parts = pieces.new_parts(start, end)
        assert parts == sorted(parts)
        assert all(a < b for a, b in parts)
        new = [n for a, b in parts for n in range(a, b)]
        assert new == [n for n in range(start, end) if n not in there]
        there.update(new)
        for a, b in parts:
            pieces.keep(0, a, b, memoryview(STREAM)[a:b])
    for start, end, _, payload in pieces:
        assert isinstance(payload, memoryview)
        assert payload == STREAM[start:end]
    assert [n for start, end, *_ in pieces for n in range(start, end)] == sorted(there)


def test_payloads_are_copied() -> None:
    buffer = bytearray(b"abc")
    pieces = Pieces(Held(Limits()))
    pieces.keep(7, 10, 13, memoryview(buffer))
    buffer[:] = b"xyz"
    assert list(pieces) == [(10, 13, 7, memoryview(b"abc"))]


def test_what_is_held_is_counted_for_one_and_for_all() -> None:
    held = Held(Limits(window=1000, total=1500))
    one, other = Pieces(held), Pieces(held)
    one.keep(0, 100, 140, memoryview(bytes(40)))
    one.keep(0, 0, 90, Absent.UNWANTED)
    other.keep(0, 0, 30, memoryview(bytes(30)))
    assert (one.held, other.held, held.bytes) == (2 * PIECE + 40, PIECE + 30, 3 * PIECE + 70)
    assert not one.exceed(1000 - one.held)
    assert one.exceed(1001 - one.held)
    assert not other.exceed(1500 - held.bytes)
    assert other.exceed(1501 - held.bytes)
    one.forget(1)
    assert (one.held, held.bytes) == (PIECE + 40, 2 * PIECE + 70)
    other.forget(1)
    one.forget(1)
    assert (one.held, other.held, held.bytes) == (0, 0, 0)


def test_pieces_shift_together() -> None:
    pieces = Pieces(Held(Limits()))
    payloads: list[Payload] = [memoryview(b"a"), Absent.SNAPPED]
    for n, payload in enumerate(payloads):
        pieces.keep(n, 100 + n, 101 + n, payload)
    pieces.shift(100)
    assert list(pieces) == [(0, 1, 0, payloads[0]), (1, 2, 1, payloads[1])]
