"""Lines of packets in columns are those of the packets one by one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.machine.batch import PacketBatch
from multifd_proto.machine.heads import Heads
from multifd_proto.views.messages import describe
from multifd_proto.views.packet_columns import Columns
from multifd_proto.views.packet_lines import csv_lines, json_lines, text_lines
from multifd_proto.views.rows import COLUMNS, row
from multifd_proto.wire.schema import MultiFDPacket, MultiFDPacketBefore9

PAGES = 8
small = st.integers(0, 3) | st.integers(0, 2**32 - 1)


@st.composite
def batches(draw):
    layout = draw(st.sampled_from([MultiFDPacket, MultiFDPacketBefore9]))
    count = draw(st.integers(1, 6))
    names = st.sampled_from([b"pc.ram", b"100%", b"\xff\xfe", b'a,"b"\n']) | st.binary(max_size=9)
    heads = []
    for _ in range(count):
        values = {
            "flags": draw(st.integers(0, 255)),
            "normal_pages": draw(st.integers(0, PAGES)),
            "pages_alloc": draw(small),
            "next_packet_size": draw(small),
            "packet_num": draw(st.integers(0, 2**64 - 1)),
            "ramblock": draw(names).ljust(256, b"\0"),
            "offset": tuple(draw(st.lists(small, min_size=PAGES, max_size=PAGES))),
        }
        if layout is MultiFDPacket:
            values["zero_pages"] = draw(st.integers(0, PAGES - values["normal_pages"]))
        heads.append(layout(**values).build())
    column: dict[str, Any] = {
        name: np.array(draw(st.lists(values, min_size=count, max_size=count)), np.int64)
        for name, values in {
            "stream": st.integers(0, 2),
            "offset": st.integers(0, 2**40),
            "time": st.integers(-(2**50), 2**62) | st.just(0),
            "payload": st.sampled_from([0, 1, 4096]),
            "round": st.integers(-1, 3),
        }.items()
    }
    digests = st.none() | st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count)
    over = st.lists(st.booleans(), min_size=count, max_size=count)
    digest = draw(digests)
    return PacketBatch(
        digest=None if digest is None else np.array(digest, np.uint64),
        layout=layout,
        heads=Heads([np.frombuffer(b"".join(heads), layout.dtype(PAGES))]),
        ended=np.where(draw(over), np.abs(column["time"]), -1),
        row=np.arange(count),
        **column,
    )


CHANNELS = {0: 3, 1: None, 2: 0}.get


def rows(batch, *, offsets=False):
    for index, stream in enumerate(batch.stream.tolist()):
        for event in batch.events(index):
            if values := row(stream, CHANNELS(stream), event, offsets=offsets):
                yield values


@given(batches())
def test_text_is_what_describe_says(batch):
    lines = text_lines(Columns(batch, CHANNELS, offsets=False))
    assert lines == "".join(f"{describe(values)}\n" for values in rows(batch))


@given(batches(), st.booleans())
def test_json_holds_the_rows(batch, offsets):
    lines = json_lines(Columns(batch, CHANNELS, offsets=offsets)).splitlines()
    for line, values in zip(lines, rows(batch, offsets=offsets), strict=True):
        seconds, nanoseconds = divmod(values.pop("time"), 10**9)
        rest = json.dumps(values, separators=(", ", ": "))
        assert line == f'{rest[:-1]}, "time": {seconds}.{nanoseconds:09d}}}'


@given(batches())
def test_csv_holds_the_rows(batch):
    lines = csv_lines(Columns(batch, CHANNELS, offsets=False), list(COLUMNS))
    out = io.StringIO()
    table = csv.DictWriter(out, list(COLUMNS), extrasaction="ignore", lineterminator="\n")
    for values in rows(replace(batch, digest=None)):
        seconds, nanoseconds = divmod(values["time"], 10**9)
        table.writerow(values | {"time": f"{seconds}.{nanoseconds:09d}"})
    assert lines == out.getvalue()


@given(batches(), st.data())
def test_a_stretch_has_the_lines_of_its_packets(batch, data):
    start = data.draw(st.integers(0, len(batch) - 1))
    stop = data.draw(st.integers(start + 1, len(batch)))
    part = batch[start:stop][0 : stop - start]
    for form in (text_lines, json_lines):
        singly = (batch[np.array([place])] for place in range(start, stop))
        lines = [form(Columns(packet, CHANNELS, offsets=False)) for packet in singly]
        assert form(Columns(part, CHANNELS, offsets=False)) == "".join(lines)
