"""Reading QEMU's traces: the lines of every release, in any order and with some missing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.peers.traces import (
    ThreadTotals,
    TracedPacket,
    quirks,
    received_packets,
    sent_packets,
    thread_totals,
)
from multifd_proto.tests.test_real_captures import FOLDER, NAMES

COUNTS_PREAMBLE = {"5.2", "7.2", "8.2"}
"""Releases whose channel threads count the preamble as a packet."""


def text(name, side):
    return (FOLDER / f"{name}.{side}.trace").read_text()


def facts(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


# ---- shipped traces ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("side", "end", "read"),
    [("src", "source", sent_packets), ("dst", "destination", received_packets)],
)
def test_packets_equal_the_totals_that_the_threads_print(name, side, end, read):
    packets = read(text(name, side))
    totals = thread_totals(text(name, side))
    assert set(packets) == set(totals) == set(range(facts(name)["channels"]))
    for channel, total in totals.items():
        preamble = facts(name)[end] in COUNTS_PREAMBLE
        assert total.packets == len(packets[channel]) + preamble
        if total.normal is not None:
            assert total.normal == sum(packet.normal for packet in packets[channel])
        if total.zero is not None:
            assert total.zero == sum(packet.zero for packet in packets[channel])


@pytest.mark.parametrize("name", NAMES)
def test_a_source_traces_the_page_counts_of_every_packet(name):
    packets = [packet for sent in sent_packets(text(name, "src")).values() for packet in sent]
    assert all(packet.normal is not None and packet.zero is not None for packet in packets)
    assert sum(packet.normal or 0 for packet in packets) == facts(name)["ram"]["normal"]


@pytest.mark.parametrize("name", NAMES)
def test_a_source_has_received_nothing_and_a_destination_has_sent_nothing(name):
    assert received_packets(text(name, "src")) == {}
    assert sent_packets(text(name, "dst")) == {}


# ---- every release's lines ---------------------------------------------------------------------

PID = "12096@1795426820.742844:"
PAGES = "normal pages 7 zero pages 121"
RAM_FILL = f"multifd_send_ram_fill channel 3 {PAGES}"
LINES = [
    (
        sent_packets,
        f"{PID}multifd_send channel 0 packet_num 4 pages 9 flags 0x0 next packet size 524288",
        TracedPacket(0, 4, 9, 0, 0, 524288),
    ),
    (
        sent_packets,
        "multifd_send channel 1 packet_num 10 normal pages 1 flags 0x1 next packet size 4096",
        TracedPacket(1, 10, 1, 0, 1, 4096),
    ),
    (
        sent_packets,
        f"multifd_send channel 2 packet_num 3 {PAGES} flags 0x2 next packet size 9",
        TracedPacket(2, 3, 7, 121, 2, 9),
    ),
    (
        sent_packets,
        f"{RAM_FILL}\nmultifd_send_fill channel 3 packet_num 8 flags 0x4 next packet size 77",
        TracedPacket(3, 8, 7, 121, 4, 77),
    ),
    (
        sent_packets,
        "multifd_send_fill channel 0 packet_num 9 flags 0x1 next packet size 0",
        TracedPacket(0, 9, 0, 0, 1, 0),
    ),
    (
        received_packets,
        "multifd_recv channel 1 packet_num 6 pages 2 flags 0x3 next packet size 88",
        TracedPacket(1, 6, 2, 0, 3, 88),
    ),
    (
        received_packets,
        f"multifd_recv channel 1 packet_num 6 {PAGES} flags 0x3 next packet size 8",
        TracedPacket(1, 6, 7, 121, 3, 8),
    ),
    (
        received_packets,
        "multifd_recv_unfill channel 0 packet_num 4294967296 flags 0x20 next packet size 5",
        TracedPacket(0, 1 << 32, None, None, 0x20, 5),
    ),
]


@pytest.mark.parametrize(("read", "line", "packet"), LINES)
def test_the_line_of_every_release_is_read(read, line, packet):
    assert read(f"something else\n{line}\n{line}\n") == {packet.channel: [packet] * 2}


@pytest.mark.parametrize(
    ("line", "totals"),
    [
        ("1@2.3:multifd_recv_thread_end channel 0 packets 6 pages 175", (6, 175, None)),
        ("multifd_send_thread_end channel 0 packets 6 normal pages 2", (6, 2, None)),
        (
            "multifd_send_thread_end channel 0 packets 49 normal pages 178 zero pages 5",
            (49, 178, 5),
        ),
        ("multifd_recv_thread_end channel 0 packets 16", (16, None, None)),
    ],
)
def test_the_totals_of_every_release_are_read(line, totals):
    assert thread_totals(line) == {0: ThreadTotals(*totals)}


def test_page_counts_of_a_missing_line_are_unknown():
    fill = "multifd_send_fill channel 0 packet_num 1 flags 0x0 next packet size 4096\n"
    other = "multifd_send_ram_fill channel 1 normal pages 1 zero pages 0\n"
    assert sent_packets(other + fill) == {0: [TracedPacket(0, 1, None, None, 0, 4096)]}


packets = st.builds(
    TracedPacket,
    channel=st.integers(0, 3),
    packet_num=st.integers(0, 2**64 - 1),
    normal=st.integers(0, 128),
    zero=st.integers(0, 128),
    flags=st.sampled_from([0, 2, 4, 8, 16, 32]),
    next_packet_size=st.integers(0, 2**32 - 1),
)


@given(st.lists(packets), st.randoms())
def test_channels_may_interleave(sent, random):
    """Each channel's own lines keep their order; those of others fall between them anyhow."""
    lines: dict[int, list[str]] = {channel: [] for channel in range(4)}
    for p in sent:
        pages = f"channel {p.channel} normal pages {p.normal} zero pages {p.zero}"
        head = f"channel {p.channel} packet_num {p.packet_num} flags 0x{p.flags:x}"
        lines[p.channel] += [
            f"multifd_send_ram_fill {pages}",
            f"multifd_send_fill {head} next packet size {p.next_packet_size}",
        ]
    turns = [channel for channel, own in lines.items() for _ in own]
    random.shuffle(turns)
    trace = "\n".join(lines[channel].pop(0) for channel in turns)
    expected: dict[int, list[TracedPacket]] = {}
    for p in sent:
        expected.setdefault(p.channel, []).append(p)
    assert sent_packets(trace) == expected


@given(st.lists(st.sampled_from([line for _, line, _ in LINES])), st.data())
def test_a_damaged_trace_is_read_as_far_as_it_goes(lines, data):
    whole = "\n".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    for read in (sent_packets, received_packets):
        full, part = read(whole), read(whole[:cut])
        for channel, found in part.items():
            assert found[:-1] == full[channel][: len(found) - 1]


# ---- quirks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if "shows" in facts(name)])
def test_captures_show_what_they_say(name):
    assert quirks(sent_packets(text(name, "src"))) == facts(name)["shows"]


@pytest.mark.parametrize(
    ("packets", "shown"),
    [
        ([], []),
        ([TracedPacket(0, 0, 0, 0, 1, 0), TracedPacket(0, 1, 5, 0, 0, 20480)], []),
        ([TracedPacket(0, 0, 5, 0, 1, 20480)], ["sync-with-pages"]),
        ([TracedPacket(0, 0, 0, 0, 0, 0)], ["empty-trailer"]),
        (
            [TracedPacket(0, 0, 1, 0, 0, 9), TracedPacket(0, 0, 1, 0, 0, 9)],
            ["repeated-packet-num"],
        ),
        ([TracedPacket(0, 1, 1, 0, 0, 9)], ["packet-num-gaps"]),
        ([TracedPacket(0, 0, 0, 0, 1, 9)], ["stale-next-packet-size"]),
        ([TracedPacket(0, 0, 1, 3, 0, 9)], ["zero-pages-in-packets"]),
    ],
)
def test_each_quirk_is_named(packets, shown):
    assert quirks({0: packets}) == shown


def test_one_number_on_two_channels_is_no_repetition():
    assert quirks({c: [TracedPacket(c, 0, 1, 0, 0, 9)] for c in (0, 1)}) == []
