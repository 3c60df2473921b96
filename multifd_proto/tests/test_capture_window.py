import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture.window import READ, Window
from multifd_proto.errors import CaptureError

DATA = random.Random(3).randbytes(3000)


def trickle(data: bytes, size: int, asked: list[int] | None = None) -> Window:
    """A window on an input that gives at most `size` bytes at once."""
    rest = memoryview(data)

    def read(count: int) -> bytes:
        nonlocal rest
        if asked is not None:
            asked.append(count)
        part, rest = bytes(rest[: min(count, size)]), rest[min(count, size) :]
        return part

    return Window("input", read, [])


@given(st.lists(st.integers(0, 400)), st.integers(1, 2000))
def test_takes_give_the_input_in_order(counts: list[int], size: int) -> None:
    window = trickle(DATA, size)
    place = 0
    for count in counts:
        assert window.offset == place
        assert window.take(count) == DATA[place : place + count]
        place = min(place + count, len(DATA))
    assert window.take(len(DATA)) == DATA[place:]
    assert window.take(1) == b""


@given(st.lists(st.integers(1, 400)), st.integers(1, 2000))
def test_views_stay_true(counts: list[int], size: int) -> None:
    window = trickle(DATA, size)
    views = []
    for count in counts:
        if window.fill(count):
            views.append((window.offset, window.view[window.start : window.start + count]))
            window.start += count
    assert all(view == DATA[offset : offset + len(view)] for offset, view in views)


def test_fill_tells_whether_the_input_is_long_enough() -> None:
    window = trickle(DATA, 7)
    assert window.fill(3000)
    assert window.left == 3000
    assert not window.fill(3001)
    assert window.left == 3000
    assert not trickle(b"", 7).fill(1)


def test_no_more_is_asked_for_than_completes_what_is_cut() -> None:
    asked: list[int] = []
    window = trickle(bytes(READ + 10), READ, asked)
    window.fill(1)
    window.start = READ - 4
    assert window.fill(9)
    assert asked == [READ, 5]
    assert (window.offset, window.left) == (READ - 4, 9)


def test_what_an_input_claims_is_not_asked_for_at_once() -> None:
    asked: list[int] = []
    assert not trickle(bytes(10), 10, asked).fill(1 << 40)
    assert asked == [READ, READ]


def test_an_input_that_ends_in_the_middle_is_noted() -> None:
    window = trickle(DATA[:100], 1000)
    window.take(90)
    assert not window.demand(16, "a record header")
    assert window.truncated == [
        "input: truncated at byte 90: a record header of 16 bytes was demanded, 10 bytes are left"
    ]


def test_an_input_that_ends_between_two_things_is_not() -> None:
    window = trickle(DATA[:100], 1000)
    window.take(100)
    assert not window.demand(16, "a record header")
    assert window.truncated == []


def test_claims_are_believed_up_to_a_limit() -> None:
    window = trickle(DATA, 1000)
    window.take(5)
    window.believe(100, 100, "a record")
    message = "input: a record at byte 5 claims 101 bytes, at most 100 are believed"
    with pytest.raises(CaptureError, match=f"^{message}$"):
        window.believe(101, 100, "a record")
