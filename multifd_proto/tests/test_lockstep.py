"""Records found by many chains in lockstep are those found one after the other, or none."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from multifd_proto.capture.columns.lockstep import walk
from multifd_proto.capture.columns.pcap import PcapRecords
from multifd_proto.capture.link import link_layer

SECOND = struct.pack("<I", 1_700_000_000)
FAKE = SECOND + struct.pack("<3I", 5, 84, 84) + bytes(84)
"""A whole record that is none, as a guest's memory may hold it."""
KNOWS = PcapRecords("<", 1000, link_layer(1), 1 << 20)


def records(body, seed):
    """Return a stretch of records, and where they are."""
    sizes = np.random.default_rng(seed).integers(60, 1500, 3000)
    places, parts, place = [], [], 0
    for number, size in enumerate(sizes.tolist()):
        places.append(place)
        head = SECOND + struct.pack("<3I", number, size, size)
        parts.append(head + (body * (size // len(body) + 1))[:size])
        place += 16 + size
    return b"".join(parts), places


@pytest.mark.parametrize("seed", range(3))
def test_all_records_are_found(seed):
    data, places = records(b"page", seed)
    found = walk(memoryview(data), KNOWS.chain)
    assert found
    assert found[0].tolist() == places
    assert found[1] == len(data)


@pytest.mark.parametrize("seed", range(3))
def test_what_only_begins_like_a_record_is_passed_over(seed):
    data, places = records(bytes(200) + SECOND + b"\xff" * 12, seed)
    found = walk(memoryview(data), KNOWS.chain)
    assert found
    assert found[0].tolist() == places


@pytest.mark.parametrize("seed", range(3))
def test_chains_of_false_records_are_never_taken(seed):
    data, places = records(FAKE, seed)
    found = walk(memoryview(data), KNOWS.chain)
    assert found is None or found[0].tolist() == places


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 400])
def test_a_record_that_is_cut_is_left_out(cut):
    data, places = records(b"page", 7)
    found = walk(memoryview(data[:-cut]), KNOWS.chain)
    assert found
    assert found[0].tolist() == [p for p in places if p < found[1]]
    rest = len(data) - cut - found[1]
    assert rest < 16 or rest < 16 + struct.unpack_from("<I", data, found[1] + 8)[0]
