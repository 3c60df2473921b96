"""Reading ahead gives the bytes of the file, wherever the next place is."""

from __future__ import annotations

import random

import pytest

from multifd_proto.capture.columns import ahead
from multifd_proto.capture.columns.ahead import Ahead


@pytest.mark.parametrize("seed", range(20))
def test_places_forwards_and_back(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "STRETCH", 1000)
    monkeypatch.setattr(ahead, "_ROOM", 100)
    rng = random.Random(seed)
    content = rng.randbytes(rng.choice([0, 1, 999, 1000, 1001, 5000, 12345]))
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        reader, place = Ahead(file.fileno()), 0
        for _ in range(60):
            held = reader.read(place)
            assert content[place:].startswith(bytes(held))
            assert len(held) or place >= len(content)
            step = rng.choice([len(held), rng.randrange(len(held) + 1), rng.randrange(3000)])
            place = rng.choice([place + step, place + step, max(0, place - rng.randrange(200))])
        # nothing is left behind
        if reader._reader:
            reader._reader.join()
    assert path.stat().st_size == len(content)


def test_a_sequential_read_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "STRETCH", 1000)
    monkeypatch.setattr(ahead, "_ROOM", 100)
    content = random.Random(1).randbytes(7777)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        reader, place, out = Ahead(file.fileno()), 0, b""
        while held := reader.read(place):
            used = max(1, len(held) - 37) if len(held) > 37 else len(held)
            out += held[:used]
            place += used
    assert out == content
