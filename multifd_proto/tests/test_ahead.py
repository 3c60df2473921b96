"""Walking ahead gives the records of the file, wherever the next place is, whoever walks."""

from __future__ import annotations

import os
import random
import signal
import struct
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from multifd_proto.capture.columns import ahead
from multifd_proto.capture.columns.ahead import Ahead
from multifd_proto.capture.columns.scout import Scout, scout

SIZE = struct.Struct("<I")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(ahead, "STRETCH", 1000)
    monkeypatch.setattr(ahead, "_BEFORE", 100)


def steps(held: memoryview) -> tuple[np.ndarray, int]:
    """Walk over records that begin with their size; one that begins with 0 is not simple."""
    places, place = [], 0
    while place + 16 <= len(held):
        (size,) = SIZE.unpack_from(held, place)
        if not size or place + size > len(held):
            break
        places.append(place)
        place += size
    return np.array(places, np.int64), place


def written(path: Path, seed: int, odd: float = 0.0, count: int | None = None) -> list[int]:
    """Write records, some of which are not simple and 20 bytes long; return where they begin."""
    rng = random.Random(seed)
    places, content = [], b""
    for _ in range(rng.choice([0, 1, 40, 400]) if count is None else count):
        places.append(len(content))
        size = 0 if rng.random() < odd else rng.randrange(16, 90)
        content += SIZE.pack(size) + rng.randbytes((size or 20) - 4)
    path.write_bytes(content + SIZE.pack(50)[: rng.randrange(5)])
    return places


def walked(reader: Ahead, content: bytes) -> list[int]:
    """Walk from the first record to the last, those that are not simple by hand."""
    place, found = 0, []
    while place < len(content):
        stretch = reader.at(place)
        index = stretch.index(place)
        if index is None:
            if place + 20 > len(content):
                break
            found.append(place)
            place += 20
            continue
        assert content[stretch.base :].startswith(stretch.held)
        found += (stretch.places[index:] + stretch.base).tolist()
        place = stretch.base + stretch.end
    return found


def elsewhere(monkeypatch) -> list[int]:
    """Have scouts counted."""
    asked = []
    ask = Scout.ask

    def count(self: Scout, *numbers: int) -> None:
        asked.append(1)
        ask(self, *numbers)

    monkeypatch.setattr(Scout, "ask", count)
    return asked


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("odd", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_all_records_are_found(seed, odd, alone, tmp_path, monkeypatch):
    if not alone:
        monkeypatch.setattr(ahead, "scout", lambda work: None)
    asked = elsewhere(monkeypatch)
    path = tmp_path / "file"
    places = written(path, seed, odd)
    with path.open("rb") as file:
        assert walked(Ahead(file.fileno(), steps), path.read_bytes()) == places
    if not alone or odd == 0:  # a scout is not asked where something odd is left over
        assert bool(asked) == (alone and path.stat().st_size > 1100)


@pytest.mark.parametrize("seed", range(8))
def test_places_forwards_and_back(seed, tmp_path):
    path = tmp_path / "file"
    places = written(path, seed, 0.01)
    content = path.read_bytes()
    rng = random.Random(seed)
    with path.open("rb") as file:
        reader, number = Ahead(file.fileno(), steps), 0
        for _ in range(100 if places else 0):
            place = places[number]
            stretch = reader.at(place)
            simple = SIZE.unpack_from(content, place)[0] > 0
            assert (stretch.index(place) is not None) == simple
            number = max(0, min(number + rng.randrange(-20, 40), len(places) - 1))


@pytest.mark.parametrize("when", range(4))
def test_a_scout_that_dies_is_not_missed(when, tmp_path, monkeypatch):
    made, asked = [], []

    class Mortal(Scout):
        def ask(self, *numbers):
            asked.append(1)
            if len(asked) == when + 1:
                os.kill(int(children().pop()), signal.SIGKILL)
            super().ask(*numbers)

    def make(work):
        made.append(Mortal(work))
        return made[-1]

    monkeypatch.setattr(ahead, "scout", make)
    path = tmp_path / "file"
    places = written(path, 5, count=400)
    with path.open("rb") as file:
        assert walked(Ahead(file.fileno(), steps), path.read_bytes()) == places
    assert len(asked) > when


def test_what_fails_at_a_scout_fails_here(tmp_path):
    def bad(held):
        if len(held) < 1000 or 7 in held[:4]:
            return steps(held)
        raise ZeroDivisionError

    path = tmp_path / "file"
    path.write_bytes(b"\x10\0\0\0" * 4 * 500)
    with path.open("rb") as file, pytest.raises(ZeroDivisionError):
        walked(Ahead(file.fileno(), bad), path.read_bytes())


def test_where_threads_are_there_is_no_scout():
    over = Event()
    thread = Thread(target=over.wait)
    thread.start()
    assert scout(lambda *numbers: numbers) is None
    over.set()
    thread.join()


def children() -> set[str]:
    threads = Path("/proc/self/task").iterdir()
    return {pid for thread in threads for pid in (thread / "children").read_text().split()}


def test_no_scout_is_left(tmp_path):
    before = children()
    path = tmp_path / "file"
    path.write_bytes(b"\x10\0\0\0" * 4 * 5000)
    with path.open("rb") as file:
        reader = Ahead(file.fileno(), steps)
        reader.at(0)
        assert children() > before
        del reader
    assert children() == before
