from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.machine.bulk_marks import PageMarks
from multifd_proto.machine.sets import PageSet, Runs

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


# ---- many at once --------------------------------------------------------------------------------

numbers = st.lists(st.integers(0, 40) | st.integers((1 << 64) - 4, (1 << 64) - 1), max_size=25)
batches = st.lists(numbers | st.integers(0, 30).map(lambda n: list(range(n, n + 9))), max_size=4)


@given(batches, st.integers(0, 12) | st.just(1000))
def test_numbers_added_at_once_are_as_added_one_by_one(batches, limit):
    one, many = Runs(limit), Runs(limit)
    for batch in batches:
        before = [n in one or n in batch[:place] for place, n in enumerate(batch)]
        counted = 0
        for number in batch:
            counted += not one.full
            one.add(number)
        again, came = many.add_all(np.array(batch, np.uint64))
        assert came == counted
        if not one.full:
            assert again.tolist() == before
        assert (many._starts, many._ends, many.full) == (one._starts, one._ends, one.full)


rows = st.lists(runs | scattered.map(lambda pages: [p for p in pages if p < 1 << 52]), max_size=8)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), rows), max_size=4))
def test_pages_added_at_once_are_all_new_or_none_is_added(batches):
    pages = PageSet()
    seen: set[tuple[bytes, int]] = set()
    for block, rows in batches:
        listed = [page for row in rows for page in row]
        found = PageMarks(np.array(listed, np.int64))
        assert found.distinct == (len(set(listed)) == len(listed))
        assert found.chunks == len({page // CHUNK for page in listed})
        ascending = np.array(sorted(listed), np.int64)
        there = [(block, page) in seen for page in ascending.tolist()]
        assert pages.there(block, ascending).tolist() == there
        new = found.distinct and not any(there)
        assert pages.add_all(block, found) == new
        if new:
            seen |= {(block, page) for page in listed}
    for block, page in seen:
        assert pages.add(block, (page * SIZE,), SIZE, lambda: True) == [page * SIZE]


def test_a_page_takes_a_bit():
    pages = PageSet()
    every_fourth = np.arange(0, 8 * CHUNK, 4)
    assert pages.add_all(b"a", PageMarks(every_fourth))
    assert (len(pages), len(pages._bits)) == (8, CHUNK)


@given(numbers)
def test_holes_are_counted_however_many_they_are(batch):
    runs = Runs(1000)
    for number in batch:
        runs.add(number)
    assert runs.missing_count() == max(batch, default=-1) + 1 - len({*batch})
