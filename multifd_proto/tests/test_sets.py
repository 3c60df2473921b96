from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.machine.sets import PageSet

SIZE = 4096
CHUNK = 32768
"""Pages of a chunk."""

starts = st.integers(0, 300) | st.integers(CHUNK - 140, CHUNK + 10) | st.just((1 << 52) - 1)
runs = st.builds(range, starts, st.just(1 << 53)).flatmap(
    lambda pages: st.integers(0, 140).map(lambda count: list(pages[:count]))
)
scattered = st.lists(starts, max_size=20)
misplaced = st.integers(0, SIZE - 1)


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), runs | scattered, misplaced), max_size=8),
    st.integers(0, 6),
)
def test_pages_are_there_again_where_they_were_before_and_had_room(packets, limit):
    pages = PageSet()
    seen: set[tuple[bytes, int]] = set()
    chunks: set[tuple[bytes, int]] = set()
    for block, numbers, inside in packets:
        expected, refused = [], False
        for number in numbers:
            chunk = (block, number // CHUNK)
            if chunk not in chunks and len(chunks) == limit:
                refused = True
                continue
            chunks.add(chunk)
            if (block, number) in seen:
                expected.append(number * SIZE + inside)
            seen.add((block, number))
        asked: list[bool] = []

        def room(asked: list[bool] = asked) -> bool:
            asked.append(len(pages) < limit)
            return asked[-1]

        offsets = tuple(number * SIZE + inside for number in numbers)
        assert pages.add(block, offsets, SIZE, room) == expected
        assert len(pages) == len(chunks)
        assert (False in asked) == refused


def test_two_places_in_one_page_are_one_page():
    pages = PageSet()
    assert pages.add(b"a", (0, 1, SIZE), SIZE, lambda: True) == [1]
    assert pages.add(b"a", (SIZE, 2 * SIZE), SIZE, lambda: True) == [SIZE]
    assert pages.add(b"a", (2 * SIZE,), SIZE, lambda: True) == [2 * SIZE]
