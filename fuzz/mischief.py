"""Hypothesis strategies for misdeeds: acts at the bytes where a sender's state changes.

Where a message begins, ends, or has a field, the places around are given outright: that a
connection ends after the 64th of 65 bytes is not drawn by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from multifd_proto.conformance.sender.scenarios import Scenario, applicable
from multifd_proto.conformance.target import Description, SourceSetup

from multifd_proto.machine.sending import PING
from multifd_proto.wire.return_path import HEADER, LENGTHS, PONG, SHUT, SWITCHOVER_ACK, reply
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacketHdr, page_count

from .misdeeds import ANSWERS, SIZE, Act, Misdeeds

LARGE = 4 << 20
"""Bytes of memory that no buffers of the system take in at once."""
_TOLD = {"channels": "one-channel", "dirty": "dirty-memory", "return_path": "return-path"}
"""Field of a source -> scenario that a sender does not support which is not told that field."""
_MOST_ACTS = 4
_RARELY = 40
"""One in so many has memory that changes: such a source is slow to start, and to complete."""

_UNKNOWN = HEADER.pack(0x4141, 4) + bytes(4)
_ABSURD = HEADER.pack(PONG, 0xFFFF)
_SHUT_OK, _SHUT_BAD = (reply(SHUT, code.to_bytes(4, "big")) for code in (0, 1))
_PONG = reply(PONG, PING.to_bytes(4, "big"))
_OTHER_PONG = reply(PONG, (PING ^ 0xFFFFFFFF).to_bytes(4, "big"))
_REQUEST_PAGES = HEADER.pack(4, 12) + bytes(12)
_OTHERS = [HEADER.pack(kind, size) + bytes(size) for kind, size in ((3, 13), (5, 5), (6, 4))]
SAID: tuple[bytes, ...] = (
    b"", _SHUT_BAD, _SHUT_OK, _SHUT_OK * 2, _SHUT_BAD + _SHUT_OK, _SHUT_OK + _SHUT_BAD,
    reply(SHUT, b"\xff" * 4), _SHUT_OK[:1], _SHUT_OK[:4], _SHUT_OK[:-1],
    reply(SHUT), reply(SHUT, bytes(5)), reply(SHUT, bytes(512)),
    _PONG, _PONG * 2, _OTHER_PONG, reply(PONG), reply(PONG, bytes(3)), _PONG * 500,
    reply(SWITCHOVER_ACK), reply(SWITCHOVER_ACK) * 2, reply(SWITCHOVER_ACK, b"\0"),
    _UNKNOWN, _ABSURD, _ABSURD + bytes(4096), HEADER.pack(0, 0), HEADER.pack(0xFFFF, 0xFFFF),
    _REQUEST_PAGES, *_OTHERS, b"\0", b"\xff" * 64, b"GET / HTTP/1.0\r\n\r\n",
)  # fmt: skip
"""What is said on the return path, or in place of an answer."""

_KINDS = st.sampled_from(sorted({0, 3, 4, 5, 6, 8, 0xFFFF, *LENGTHS}))
_garbage: SearchStrategy[bytes] = (
    st.sampled_from(SAID)
    | st.builds(
        lambda kind, size, data: HEADER.pack(kind, size) + data,
        _KINDS,
        st.sampled_from((0, 1, 3, 4, 5, 12, 13, 512, 513, 0xFFFF)),
        st.binary(max_size=16),
    )
    | st.binary(max_size=32)
)
_hex = _garbage.map(bytes.hex)
_times = st.sampled_from((0.001, 0.005, 0.02, 0.05, 0.1))


def channel_places(peer: Description) -> SearchStrategy[int]:
    """Return byte positions in a channel: around each field and message, or anywhere."""
    init, count = MultiFDInit.size(), page_count(peer.page_size)
    head = peer.dialect.packet.size(count)
    pages = 2 * head + init
    starts = (0, init, init + head, pages, pages + peer.page_size, pages + count * peer.page_size)
    parts = (0, 1, 4, MultiFDPacketHdr.size(), 64, 320, head // 2, peer.page_size // 2)
    near = {start + part + step for start in starts for part in parts for step in (-1, 0, 1)}
    return st.sampled_from(sorted(place for place in near if place >= 0)) | st.integers(0, LARGE)


def main_places() -> SearchStrategy[int]:
    """Return byte positions in a main stream, which is short if machines have no devices."""
    return st.sampled_from((0, 1, 3, 4, 7, 8, 9, 13)) | st.integers(0, 600) | st.integers(0, 8000)


@st.composite
def sources(draw: DrawFn, peer: Description) -> SourceSetup:
    """Return what a sender is started for."""
    told = {name for name, scenario in _TOLD.items() if scenario not in peer.unsupported}
    methods = sorted(peer.methods - peer.unsupported.keys())
    counts = [n for n in (2, 1, 3, 4) if n <= peer.max_channels] if "channels" in told else [2]
    large = draw(st.integers(0, 2)) == 2
    return SourceSetup(
        channels=draw(st.sampled_from(counts)),
        method=draw(st.just("none") | st.sampled_from(methods)),
        memory="random" if large else draw(st.sampled_from(("mixed", "zero", "random"))),
        size=LARGE if large else SIZE,
        dirty="dirty" in told and draw(st.integers(1, _RARELY)) == _RARELY,
        return_path=peer.return_path and "return_path" in told and draw(st.booleans()),
    )


def why_not(source: SourceSetup, peer: Description) -> str:
    """Return why a sender cannot be started for this; empty if it can."""
    for name, scenario in _TOLD.items():
        if scenario in peer.unsupported and getattr(source, name) != getattr(SourceSetup, name):
            return str(peer.unsupported[scenario])
    return str(applicable(Scenario("", "", source), peer))


@st.composite
def acts(draw: DrawFn, peer: Description, source: SourceSetup) -> Act:
    """Return one act on one connection."""
    on = draw(st.integers(0, source.channels))
    at = draw(channel_places(peer) if on else main_places())
    doings = _on_main(source) if on == 0 else _DOINGS
    return draw(st.sampled_from(sorted(doings)).flatmap(lambda do: _built(on, at, do, doings[do])))


_Details = Mapping[str, SearchStrategy[Any]]

_DOINGS: Mapping[str, _Details] = {
    "pause": {"seconds": _times},
    "slow": {
        "piece": st.sampled_from((1, 63, 64, 1344, 4096, 65536)),
        "seconds": st.sampled_from((0.0, 0.001, 0.005)),
    },
    "stall": {},
    "say": {"hex": _hex},
    "half-close": {},
    "close": {},
    "reset": {},
    "cancel": {},
}


def _on_main(source: SourceSetup) -> Mapping[str, _Details]:
    answer = {"to": st.sampled_from(ANSWERS), "hex": _hex}
    return {**_DOINGS, "answer": answer} if source.return_path else _DOINGS


def _built(on: int, at: int, do: str, details: _Details) -> SearchStrategy[Act]:
    return st.fixed_dictionaries(dict(details)).map(lambda given: Act(on, at, do, **given))


@st.composite
def misdeeds(draw: DrawFn, peer: Description) -> Misdeeds:
    """Return misdeeds for a sender: mostly one or two.

    Args:
        draw: of Hypothesis.
        peer: the sender: its dialect, methods and page size count.
    """
    source = draw(sources(peer))
    return Misdeeds(
        source=source,
        acts=tuple(draw(st.lists(acts(peer, source), max_size=_MOST_ACTS))),
        window=draw(st.sampled_from((None, None, 1, 4096))),
        accepts=draw(st.sampled_from([None] * 8 + list(range(source.channels + 1)))),
    )
