"""The order of the capture: which events cut the packets that are judged at once."""

from __future__ import annotations

import pytest

from multifd_proto.capture.columns.order import InOrder, matters, shows
from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.events import HeaderReceived, PacketReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import RULES
from multifd_proto.tests.batched import batch_of
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_VERSION,
    MultiFDPacket,
    MultiFDPacketHdr,
)

COUNT = 8
HEADERS = [
    MultiFDPacketHdr(magic, version, flags)
    for magic in (MULTIFD_MAGIC, 0)
    for version in (MULTIFD_VERSION, 2)
    for flags in (0, FLAG_SYNC, 2, 0x40, 1 << 31)
]


def faults(event: HeaderReceived) -> list[object]:
    rules = [rule for rule in RULES.values() if rule.on is HeaderReceived]
    assert len(rules) == 3
    return [
        fault
        for rule in rules
        if rule.when is None or rule.when(Migration(), ChannelInfo(0, None, True), event)
        for fault in rule.judge(Migration(), ChannelInfo(0, None, True), event)
    ]


def cut(header: MultiFDPacketHdr) -> list[int]:
    """Return the packets of each batch, where a header stands behind the third of five."""
    packets = [
        (0, PacketReceived(0, 0, MultiFDPacket(offset=(0,) * COUNT), 0, 0, 0)) for _ in range(5)
    ]
    pieces = InOrder([(3, 1, HeaderReceived(0, 0, header)), batch_of(packets)]).cut(matters)
    return [len(piece) if isinstance(piece, PacketBatch) else 0 for piece in pieces]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_header_cuts_where_it_has_a_fault(header):
    event = HeaderReceived(0, 0, header)
    assert shows((3, 1, event))
    assert cut(header) == ([3, 0, 2] if faults(event) else [0, 5])


def test_headers_without_a_fault_in_any_dialect_are_known():
    faultless = [header for header in HEADERS if not faults(HeaderReceived(0, 0, header))]
    assert [header.flags for header in faultless] == [0, FLAG_SYNC]
