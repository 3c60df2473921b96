"""Summary and report say the same of packets in columns as of their events."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multifd_proto.capture import streams
from multifd_proto.capture.events import Half
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.session import Connection, Session
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import PacketReceived
from multifd_proto.machine.migration import ChannelInfo
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.sets import PageSet
from multifd_proto.tests.batched import batch_of
from multifd_proto.views import summary as summaries
from multifd_proto.views.live_checker import LiveChecker
from multifd_proto.views.page import Collector, collect
from multifd_proto.views.summary import Summary
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.schema import MultiFDPacket, MultiFDPacketBefore9, page_count

CAPTURES = sorted((Path(str(files("multifd_proto.spec"))) / "captures").glob("*.pcap.zst"))
PAGE = 65536
COUNT = page_count(PAGE)
CHANNELS = 3
SECOND = 10**9


def plain(value: Any) -> Any:
    """Return all that a collector holds, comparable."""
    match value:
        case PageSet():
            return {
                chunk: bytes(value._bits[start // 8 : start // 8 + 4096])
                for chunk, start in value._chunks.items()
            }
        case Counter() | dict():
            return {key: plain(part) for key, part in value.items()}
        case list() if value and isinstance(value[0], collect.Stall):
            return sorted(value)  # a heap
        case _ if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        case _ if hasattr(value, "__dict__"):
            return plain(vars(value))
    return value


# ---- captures of real migrations -----------------------------------------------------------------


def collected(path: Path, *, columns: bool) -> dict[int, Collector]:
    follower, reader = Follower(decode=False), CaptureReader([path])
    found: dict[int, Collector] = {}
    for piece in follower.pieces(reader if columns else iter(reader)):
        if not isinstance(piece, tuple):
            for session, batch in follower.by_session(piece):
                found.setdefault(session.number, Collector()).add_batch(session, batch)
            continue
        connection, event = piece
        if connection.session:
            found.setdefault(connection.session.number, Collector()).add(connection, event)
    return found


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_real_captures_collect_the_same(path, monkeypatch):
    monkeypatch.setattr(streams, "_FIRST", 0)
    monkeypatch.setattr(streams, "_LEAST", 16)
    monkeypatch.setattr(streams, "_FEW", 2)
    monkeypatch.setattr(streams, "_PATIENCE", 1)
    assert plain(collected(path, columns=True)) == plain(collected(path, columns=False))


# ---- generated packets ---------------------------------------------------------------------------

_pages = st.integers(0, 44) | st.integers(32760, 32776) | st.just((1 << 48) - 4)
_packet = st.fixed_dictionaries(
    {
        "stream": st.integers(0, CHANNELS - 1),
        "flags": st.sampled_from([0] * 4 + [FLAG_SYNC]),
        "pages": st.lists(_pages, max_size=COUNT).map(tuple)
        | st.builds(lambda n, count: tuple(range(n, n + count)), _pages, st.integers(0, COUNT)),
        "normal": st.integers(0, COUNT),
        "skew": st.sampled_from([0] * 5 + [1, PAGE - 1]),
        "block": st.sampled_from([b"ram", b"ram", b"ram", b"big", b"ram\0old"]),
        "round": st.sampled_from([None, 0, 0, 1, 1, 2, 3, 900]),
        "wait": st.sampled_from([0, 1, 10**6, 7 * 10**6, SECOND, 4000 * SECOND]),
        "open": st.sampled_from([False] * 5 + [True]),
        "clock": st.sampled_from([True] * 7 + [False]),
    }
)
_scripts = st.lists(_packet, min_size=1, max_size=24)


def batch_from(script: list[dict[str, Any]], layout: Any) -> Any:
    time, packets, waits = 1_700_000_000 * SECOND, [], []
    for number, line in enumerate(script):
        places, normal = line["pages"], min(line["normal"], len(line["pages"]))
        values: dict[str, Any] = {"zero_pages": len(places) - normal}
        if layout is MultiFDPacketBefore9:
            values, normal = {}, len(places)
        offset = tuple((page * PAGE + line["skew"]) % (1 << 64) for page in places)
        packet = layout(
            flags=line["flags"], pages_alloc=COUNT, normal_pages=normal, packet_num=number,
            next_packet_size=normal * PAGE, ramblock=line["block"].ljust(256, b"\0"),
            offset=offset + (0,) * (COUNT - len(offset)), **values,
        )  # fmt: skip
        at = time if line["clock"] else 0
        head = PacketReceived(number, at, packet, 1 << 30, normal * PAGE, line["round"])
        packets.append((line["stream"], head))
        waits.append(line["wait"])
        time += line["wait"]
    batch = batch_of(packets)
    batch.ended = batch.time + waits
    batch.ended[batch.time == 0] = 0
    batch.ended[[line["open"] for line in script]] = -1
    return batch


def session_of(checker: Checker) -> Session:
    session = Session(0, None, None, checker)
    for stream in range(CHANNELS):
        half, reverse = (Half(stream, way, None, None, 0, anchored=True) for way in (True, False))
        connection = Connection(half, reverse, "multifd", session)
        connection.peer = checker.add_channel(stream)
        session.connections.append(connection)
    return session


@pytest.mark.parametrize("chunks", [summaries.MAX_PAGE_CHUNKS, 3], ids=["room", "no room"])
@pytest.mark.parametrize("layout", [MultiFDPacket, MultiFDPacketBefore9])
@given(scripts=st.lists(_scripts, min_size=1, max_size=3), rounds=st.sampled_from([2, 65536]))
def test_generated_packets_collect_the_same(scripts, rounds, layout, chunks):
    blocks = (RamBlock(b"ram", 40 * PAGE + 1), RamBlock(b"big", 1 << 60))
    session = session_of(Checker(MigrationParameters(ramblocks=blocks)))
    singly, at_once = Collector(), Collector()
    with pytest.MonkeyPatch.context() as patch:
        for module in (summaries, collect):
            patch.setattr(module, "MAX_PAGE_CHUNKS", chunks)
            patch.setattr(module, "MAX_ROUNDS", rounds)
        for script in scripts:
            batch = batch_from(script, layout)
            at_once.add_batch(session, batch)
            for place, stream in enumerate(batch.stream.tolist()):
                for event in batch.events(place):
                    singly.add(session.connections[stream], event)
            assert plain(at_once) == plain(singly)


@given(_scripts)
@example([])
def test_a_live_checker_counts_packets_in_columns(script):
    singly, at_once = LiveChecker(), LiveChecker()
    for checker in (singly, at_once):
        session_of(checker)
    if script:
        batch = batch_from(script, MultiFDPacket)
        at_once.judge_batch(batch)
        for place, stream in enumerate(batch.stream.tolist()):
            peer = singly.migration.streams[stream]
            assert isinstance(peer, ChannelInfo)
            singly.judge(peer, batch.events(place))
    assert at_once.so_far() == singly.so_far()
    assert at_once.so_far().packets == len(script)


def test_summaries_of_two_batches_add_up():
    line = {
        "stream": 0, "flags": 0, "pages": (1, 2, 3), "normal": 2, "skew": 0, "block": b"ram",
        "round": 0, "wait": 10**6, "open": False, "clock": True,
    }  # fmt: skip
    summary = Summary()
    for _ in range(2):
        summary.add_batch(batch_from([line], MultiFDPacket))
    total = summary.total
    assert (total.packets, total.normal, total.zero, total.resent) == (2, 4, 2, 3)
    assert total.payload == 4 * PAGE
    assert summary.rounds[0] == total.__class__(**{**vars(total), "last": total.first})
