"""The two ways through a capture say the same: in columns, and one thing at a time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import xxhash
import zstandard

from multifd_proto.capture import streams
from multifd_proto.capture.columns import walk
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader, Limits
from multifd_proto.errors import CaptureError
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import PacketReceived
from multifd_proto.tests.bigcaptures import Recipe, generate
from multifd_proto.views.report import as_data
from multifd_proto.views.rows import row

CAPTURES = sorted((Path(__file__).parents[2] / "spec/captures").glob("*.pcap.zst"))


class Said:
    """All that a capture says, comparable."""

    def __init__(self, paths, *, columns, decode=False, limits=None, digest=None):
        self.reader = CaptureReader(paths, limits=limits or Limits())
        follower = Follower(decode=decode, digest=digest)
        self.batched = 0
        self.events = defaultdict(list)
        self.rows = defaultdict(list)
        self.error = None
        stream = self.reader if columns else iter(self.reader)
        try:
            for piece in follower.pieces(stream):
                self._add(piece, follower)
        except CaptureError as error:
            self.error = str(error)
        self.reports = [
            as_data(session.checker.conclude(), session.checker.migration)
            for session in follower.sessions
        ]
        self.connections = follower.connections
        self.halves = [
            [
                (
                    half.record,
                    half.bytes,
                    half.segments,
                    half.retransmitted,
                    half.reordered,
                    half.missing,
                )
                for half in (connection.half, connection.reverse)
            ]
            for connection in follower.connections.values()
        ]

    def _add(self, piece, follower):
        pairs = [piece]
        if isinstance(piece, PacketBatch):
            self.batched += len(piece)
            pairs = [
                (follower.connections[int(piece.stream[index])], event)
                for index in range(len(piece))
                for event in piece.events(index)
            ]
        for connection, event in pairs:
            number = connection.half.stream
            self.events[number].append(event)
            values = row(number, connection.channel, event, offsets=True)
            if values:
                self.rows[number].append(values)

    def value(self):
        info = self.reader.info
        return {
            "error": self.error,
            "rows": self.rows,
            "reports": self.reports,
            "halves": self.halves,
            "info": (info.records, info.skipped, info.first, info.last, info.truncated, info.drops),
            "events": dict(self.events),
        }


def assert_same(paths, **options):
    singly, columns = (Said(paths, columns=c, **options) for c in (False, True))
    one, other = singly.value(), columns.value()
    for part in one:
        assert other[part] == one[part], part
    return columns


@pytest.fixture
def small_tables(monkeypatch):
    monkeypatch.setattr(streams, "_FIRST", 0)
    monkeypatch.setattr(streams, "_LEAST", 16)
    monkeypatch.setattr(streams, "_FEW", 2)
    monkeypatch.setattr(streams, "_PATIENCE", 1)


@pytest.fixture(params=["hopping", "reading"])
def way(request, monkeypatch):
    if request.param == "hopping":
        monkeypatch.setattr(walk, "_FEW", 0)
        monkeypatch.setattr(walk, "_LARGE", 0)


def unpacked(path: Path, tmp_path: Path) -> Path:
    out = tmp_path / path.stem
    with path.open("rb") as file, out.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(file, plain)
    return out


@pytest.mark.parametrize("decode", [False, True], ids=["decode", "check"])
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_captures_of_real_migrations(path, decode, tmp_path, small_tables, way):
    said = assert_same([unpacked(path, tmp_path)], decode=decode)
    heads = sum(isinstance(e, PacketReceived) for events in said.events.values() for e in events)
    if not decode:
        assert said.batched > heads // 4


@pytest.mark.parametrize("path", CAPTURES[:3], ids=lambda path: path.name)
def test_compressed_captures(path, small_tables):
    assert assert_same([path]).batched


@pytest.mark.parametrize("path", [p for p in CAPTURES if "10_0" in p.name], ids=lambda p: p.name)
def test_digests_of_payloads(path, tmp_path, small_tables, way):
    said = assert_same([unpacked(path, tmp_path)], digest=xxhash.xxh3_64)
    rows = [values for rows in said.rows.values() for values in rows]
    digests = [values for values in rows if values["type"] == "payload"]
    packets = [values for values in rows if values["type"] == "packet"]
    assert len(digests) == len(packets)
    assert sum(v["length"] for v in digests) == sum(v["payload"] for v in packets)
    nothing = xxhash.xxh3_64(b"").hexdigest()
    assert all((v["xxh3"] == nothing) == (not v["length"]) for v in digests)


@pytest.mark.parametrize("segment", [65_483, 1448], ids=["hopping", "reading"])
def test_progress_is_told_on_the_way(segment, tmp_path):
    capture = tmp_path / "capture"
    whole = generate(capture, Recipe(size=32 << 20, segment=segment, sparse=True)).bytes
    told = []
    reader = CaptureReader([capture], progress=lambda *places: told.append(places))
    for _ in Follower().pieces(reader):
        pass
    places = [place for place, _ in told]
    assert {total for _, total in told} == {whole}
    assert places == sorted(places)
    assert places[-1] == whole
    assert any(whole // 4 < place < whole * 3 // 4 for place in places)
