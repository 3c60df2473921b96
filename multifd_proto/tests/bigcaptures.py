"""Captures of migrations of any size, in constant memory, with the truth about them.

A migration of QEMU 11.1 that violates nothing: SYN, init and a first SYNC packet on each channel,
rounds in which no page is sent twice, a mark a round on the main stream, FIN. What is wrong with
the capture of it (order, losses, lengths) is wrong at random, the same for each seed, and told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multifd_proto.tests.bigframes import ACK, FIN, PSH, SEGMENT, SYN, Framer, HoleyFile, rows_of
from multifd_proto.tests.bigstreams import (
    HEAD,
    ChannelTruth,
    Packets,
    Sent,
    main_begin,
    main_end,
    main_round,
    page_pool,
)
from multifd_proto.wire.schema import MultiFDInit

MAIN = 0
_DISPLACED = 20
"""Segments by which a late one comes later, at most."""


@dataclass(frozen=True)
class Recipe:
    """What to capture, and how badly."""

    size: int = 16 << 20
    """Bytes that all channels send, at least."""
    channels: int = 4
    zero_only: bool = False
    """No packet has a payload."""
    round_packets: int = 64
    """Packets with pages that a channel sends in a round."""
    nested: bool = False
    """Pages have several heads of packets behind each other."""
    sparse: bool = False
    """Pages are zeros and holes in the file."""
    segment: int = 65_483
    """Bytes of TCP payload in a full segment."""
    acks: int = 2
    """The destination answers each of so many segments; 0: none."""
    isn: int | None = None
    """Initial sequence number of all connections; None: random ones."""
    link: str = "ethernet"
    version: int = 4
    length_zero: bool = False
    """No IP header tells a length; longer ones than 65,535 never do."""
    order: str = "<"
    nano: bool = False
    resolutions: tuple[int, ...] = ()
    """`if_tsresol` of each interface of a pcapng; none: a pcap."""
    snap: int = 262_144
    loss: float = 0.0
    """Rates of a channel's segments that the capture lacks ..."""
    reorder: float = 0.0
    """... that it has late ..."""
    retransmit: float = 0.0
    """... that it has again, whole or in part."""
    late: bool = False
    """The capture begins inside of the first packets with pages."""
    seed: int = 1


@dataclass
class Truth:
    """What is in a capture."""

    recipe: Recipe
    channels: list[ChannelTruth]
    marks: int = 0
    records: int = 0
    bytes: int = 0
    """Of the file."""

    def total(self, name: str) -> int:
        """Return the sum of one of the channels' numbers."""
        return sum(getattr(channel, name) for channel in self.channels)

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        channels = [channel.as_data() for channel in self.channels]
        sums = {name: self.total(name) for name in ("packets", "found", "whole", "normal_pages")}
        head = {"records": self.records, "bytes": self.bytes, "marks": self.marks}
        return {**head, **sums, "recipe": asdict(self.recipe), "channels": channels}


def generate(path: Path, recipe: Recipe | None = None) -> Truth:
    """Write a capture; `FILE.truth.json` beside it tells what is in it."""
    recipe = recipe or Recipe()
    with HoleyFile(path, holes=recipe.sparse) as file:
        truth = _Migration(recipe, file).run()
    truth.bytes = file.size
    text = json.dumps(truth.as_data(), indent=1) + "\n"
    path.with_name(f"{path.name}.truth.json").write_text(text)
    return truth


@dataclass
class _Line:
    """One connection."""

    number: int
    sent: int = 0
    """Place in the stream of the first byte of `rest`."""
    rest: bytes = b""
    """What is no full segment yet."""
    segments: int = 0
    begin: int | None = None
    """Place of the first byte that the capture can have."""
    lost: list[NDArray[np.int64]] = field(default_factory=list)
    """Begins and ends of what the capture lacks, of this round."""
    heads: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)
    """Places and numbers of this round's packets."""


class _Migration:
    def __init__(self, recipe: Recipe, file: HoleyFile) -> None:
        self._recipe, self._file = recipe, file
        self._random = np.random.default_rng(recipe.seed)
        self._lines = [_Line(number) for number in range(recipe.channels + 1)]
        pool = page_pool(recipe.seed, sparse=recipe.sparse, nested=recipe.nested)
        self._packets = Packets(
            recipe.channels, zero_only=recipe.zero_only, pool=pool, seed=recipe.seed,
            round_packets=recipe.round_packets,
        )  # fmt: skip
        isn = self._random.integers(0, 1 << 32, recipe.channels + 1).tolist()
        self._framer = Framer(
            link=recipe.link, version=recipe.version, length_zero=recipe.length_zero,
            snap=recipe.snap, isn=isn if recipe.isn is None else [recipe.isn] * len(isn),
            order=recipe.order, nano=recipe.nano, resolutions=recipe.resolutions,
        )  # fmt: skip
        self._truth = Truth(recipe, self._packets.truth)
        self._hidden = 1.0 if recipe.late else 0.0
        """Turns before this one are not captured."""

    def run(self) -> Truth:
        """Write it all."""
        self._file.write(self._framer.start())
        self._open()
        inits = [MultiFDInit(id=id_).build() for id_ in range(self._recipe.channels)]
        self._send(dict(enumerate(inits, 1)), flush=True)
        self._end_round(main_begin(self._packets.memory))
        while self._unsent():
            while not self._packets.round_over and self._unsent():
                if self._hidden:
                    self._hidden = 0.5
                self._send_packets(self._packets.batch())
                self._hidden = 0.0
            self._end_round(main_round() if self._unsent() else main_end())
        self._close()
        self._truth.records = self._framer.records
        return self._truth

    def _unsent(self) -> bool:
        return sum(line.sent + len(line.rest) for line in self._lines[1:]) < self._recipe.size

    # ---- what is sent --------------------------------------------------------------------------

    def _open(self) -> None:
        for line in self._lines:
            at = line.number
            self._emit(rows_of([
                (at, False, -1, 0, 0, 0, SYN, 1), (at, True, -1, 0, 0, 0, SYN | ACK, 2),
                (at, False, 0, 0, 0, 0, ACK, 3),
            ]))  # fmt: skip

    def _close(self) -> None:
        for line in self._lines:
            at, end = line.number, line.sent
            self._emit(rows_of([
                (at, False, end, 0, 0, 0, FIN | ACK, 1), (at, True, 0, end + 1, 0, 0, FIN | ACK, 2),
                (at, False, end + 1, 1, 0, 0, ACK, 3),
            ]))  # fmt: skip

    def _send_packets(self, sent: list[Sent], *, flush: bool = False) -> None:
        for line, batch in zip(self._lines[1:], sent, strict=True):
            line.heads.append((line.sent + len(line.rest) + batch.places, batch.numbers))
        self._send({at: batch.data for at, batch in enumerate(sent, 1)}, flush=flush)

    def _end_round(self, main: bytes) -> None:
        self._send_packets(self._packets.syncs(), flush=True)
        self._send({MAIN: main}, flush=True)
        self._truth.marks += 1
        for line, truth in zip(self._lines[1:], self._truth.channels, strict=True):
            _settle(line, truth)

    # ---- segments ------------------------------------------------------------------------------

    def _send(self, sent: Mapping[int, bytes], *, flush: bool = False) -> None:
        """Send as many full segments as there are on each connection, or everything."""
        data = [b""] * len(self._lines)
        rows = []
        for at, new in sent.items():
            line = self._lines[at]
            data[at] = line.rest + new
            own = self._cut(line, len(data[at]), flush)
            rows.append(own)
            if self._recipe.acks:
                rows.append(self._acks(line, own))
            line.sent += int(own["length"].sum())
            line.rest = data[at][int(own["length"].sum()) :]
            line.segments += len(own)
        whole = np.concatenate(rows)
        whole = self._spoiled(whole)
        self._emit(whole[np.argsort(whole["turn"], kind="stable")], data)

    def _cut(self, line: _Line, size: int, flush: bool) -> NDArray[np.void]:
        segment = self._recipe.segment
        count = -(-size // segment) if flush else size // segment
        rows = np.zeros(count, SEGMENT)
        rows["connection"] = line.number
        rows["begin"] = np.arange(count) * segment
        rows["length"] = np.minimum(segment, size - rows["begin"])
        rows["seq"] = line.sent + rows["begin"]
        rows["flags"] = ACK
        rows["flags"][-1:] |= PSH
        rows["turn"] = np.sort(self._random.random(count))
        return rows

    def _acks(self, line: _Line, data: NDArray[np.void]) -> NDArray[np.void]:
        numbers = line.segments + np.arange(1, len(data) + 1)
        answered = data[numbers % self._recipe.acks == 0]
        rows = np.zeros(len(answered), SEGMENT)
        for name in ("connection", "turn"):
            rows[name] = answered[name]
        rows["back"], rows["flags"] = True, ACK
        rows["ack"] = answered["seq"] + answered["length"]
        return rows

    def _spoiled(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Apply the rates to the channels' segments."""
        recipe = self._recipe
        if not recipe.loss + recipe.reorder + recipe.retransmit:
            return rows
        drawn = self._random.random(len(rows))
        drawn[(rows["connection"] == MAIN) | rows["back"]] = 1.0
        later = self._random.integers(1, _DISPLACED + 1, len(rows)) / len(rows)
        lost = drawn < recipe.loss
        drawn -= recipe.loss
        rows["turn"] += np.where((drawn >= 0) & (drawn < recipe.reorder), later, 0.0)
        drawn -= recipe.reorder
        chosen = (drawn >= 0) & (drawn < recipe.retransmit)
        again = rows[chosen]
        if recipe.snap >= recipe.segment + self._framer.head:  # else they might fill a hole
            cut = (self._random.random(len(again)) * again["length"]).astype(np.int64)
            cut[self._random.random(len(again)) < 0.5] = 0
            for name, sign in (("begin", 1), ("seq", 1), ("length", -1)):
                again[name] += sign * cut
        again["turn"] += later[chosen]
        self._note_lost(rows[lost], 0)
        return np.concatenate([rows[~lost], again])

    def _emit(self, rows: NDArray[np.void], data: list[bytes] | None = None) -> None:
        """Write records, and take note of what they lack."""
        if self._hidden:
            self._note_lost(rows[rows["turn"] < self._hidden], 0)
            rows = rows[(rows["turn"] >= self._hidden) & (rows["flags"] & SYN == 0)]
            if self._hidden == 1.0:
                return
        captured = max(0, self._framer.snap - self._framer.head)
        self._note_lost(rows[rows["length"] > captured], captured)
        for line in self._lines:
            if line.begin is None:
                # a SYN takes the place before the first byte, and tells where that is
                own = rows[(rows["connection"] == line.number) & ~rows["back"]]
                line.begin = max(int(own["seq"].min()), 0) if len(own) else None
        self._file.write(self._framer.frames(rows, data or [b""] * len(self._lines)))

    def _note_lost(self, rows: NDArray[np.void], captured: int) -> None:
        """Take note that of these segments only the first bytes are there."""
        for line in self._lines:
            own = rows[(rows["connection"] == line.number) & (rows["length"] > captured)]
            if len(own):
                ends = own["seq"] + own["length"]
                line.lost.append(np.stack([own["seq"] + captured, ends], axis=1))


def _settle(line: _Line, truth: ChannelTruth) -> None:
    """Find out, at the end of a round, how much of its heads there is."""
    # the end stands for all that is behind it
    lost = np.concatenate([*line.lost, np.full((1, 2), 1 << 62)])
    lost = np.unique(lost, axis=0)  # sorted, and a repeated segment lacks the same again
    places = np.concatenate([at for at, _ in line.heads])
    numbers = np.concatenate([number for _, number in line.heads])
    first = np.searchsorted(lost[:, 1], places, "right")
    known = np.clip(lost[first, 0] - places, 0, HEAD.itemsize)
    truth.found += int((known >= 24).sum())
    truth.whole += int((known == HEAD.itemsize).sum())
    truth.listed += zip(places.tolist(), numbers.tolist(), known.tolist(), strict=True)
    truth.length, truth.begin = line.sent, line.begin or 0
    behind = lost[(lost[:, 0] >= truth.begin) & (lost[:, 0] < line.sent)]
    truth.lost += int((behind[:, 1] - behind[:, 0]).sum())
    line.lost.clear()
    line.heads.clear()
