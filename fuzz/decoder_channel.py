"""Fuzzed: the machine of a channel, in any cut, with any loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from multifd_proto.conformance.script import (
    DeviceState,
    Init,
    Message,
    Pages,
    Script,
    ScriptError,
    Sync,
)
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import ChannelState, Ended, Event, PacketReceived, PayloadReceived
from multifd_proto.wire.dialect import DIALECTS, Dialect

from .damage import Gap, Piece, damaged, every, gaps, pieces, places
from .decoder_feeding import feed, same, skip, step_of
from .decoder_subjects import Bytes, ByteSubject, described, limit
from .guard import Wrong
from .strategies import messages

_CLOSED = (ChannelState.FAILED, ChannelState.CLOSED)
_ENDS = ("eof", "unknown")


@cache
def _known(dialect: Dialect, page_size: int, method: str) -> list[bytes]:
    """Return messages that are right, of all kinds, made once."""
    stage = Stage(Script((), channels=1, method=method), described(dialect, page_size), MACHINE)
    zero = "zero_pages" in {row.name for row in dialect.packet.rows()}
    steps: list[Message] = [
        Init(wire="0"),
        *(Sync(wire="0") for _ in range(3)),
        *(Pages(wire="0", normal=pages) for pages in ((0,), (1, 2), (200,))),
        *(Pages(wire="0", zero=pages) for pages in ((3,), (4, 6)) if zero),
        *(DeviceState(wire="0", size=size) for size in (0, 1, 40) if dialect.device_state),
    ]
    return [stage.build(step).data for step in steps]


@cache
def _any(dialect: Dialect, page_size: int) -> SearchStrategy[Message]:
    return messages("0", described(dialect, page_size), 1)


@st.composite
def channel_bytes(draw: DrawFn) -> Bytes:
    """Return streams of a channel: messages, most of them right, and then damage."""
    dialect = draw(st.sampled_from(DIALECTS))
    size = draw(st.sampled_from((4096, 1024, 65536)))
    peer = described(dialect, size)
    method = draw(st.sampled_from(sorted(peer.methods)))
    known = _known(dialect, size, method)
    parts = [known[0]] if draw(st.integers(0, 9)) else []
    parts += draw(st.lists(st.sampled_from(known), max_size=6))
    if draw(st.booleans()):
        stage = Stage(Script((), channels=1, method=method), peer, MACHINE)
        with suppress(ScriptError):
            parts.insert(
                draw(st.integers(0, len(parts))), stage.build(draw(_any(dialect, size))).data
            )
    data = limit(damaged(draw, b"".join(parts), [data[:360] for data in known]))
    options = {
        "dialect": draw(st.sampled_from((dialect.name, dialect.name, None))),
        "page_size": draw(st.sampled_from((size, size, None))),
        "started": bool(draw(st.integers(0, 7))),
        "decode": draw(st.booleans()),
        "gaps": gaps(draw, len(data)),
        "end": draw(st.sampled_from(_ENDS)),
    }
    return Bytes("channel", data, places(draw, len(data)), options)


class ChannelSubject(ByteSubject):
    """`machine.channel.Channel`."""

    name = "channel"
    options: Mapping[str, Any] = {
        "dialect": None, "page_size": None, "started": True, "decode": False, "gaps": (),
        "end": "eof",
    }  # fmt: skip

    def strategy(self) -> SearchStrategy[Bytes]:
        """Return streams of messages, or of anything."""
        return channel_bytes() | st.binary(max_size=2000).map(self.seed)

    def check(self, value: Bytes) -> Iterable[str]:
        """Demand the same events of all cuts, and that what it says it waits for is true."""
        missing: tuple[Gap, ...] = self.option(value, "gaps")
        data = value.data
        whole = self._events(value, feed, pieces(data, (), missing))
        for way, feeder, cuts in (
            ("cut", feed, value.cuts),
            ("byte by byte", feed, every(len(data))),
            ("without what is not wanted", skip, ()),
            ("as wanted", as_wanted, ()),
        ):
            same(self.name, way, whole, self._events(value, feeder, pieces(data, cuts, missing)))
        return labels(whole)

    def _events(
        self, value: Bytes, feeder: Callable[[Channel, Iterable[Piece]], None], of: Iterable[Piece]
    ) -> list[Event]:
        channel = Channel(
            page_size=self.option(value, "page_size"),
            dialect=self.dialect(value),
            decode=self.option(value, "decode"),
            started=self.option(value, "started"),
        )
        feeder(channel, of)
        if self.option(value, "end") == "eof":
            channel.receive_eof()
        else:
            channel.finish()
        return list(channel.events())


def as_wanted(channel: Channel, stream: Iterable[Piece]) -> None:
    """Hand over as many bytes as the channel says it waits for, each time."""
    for piece in stream:
        if isinstance(piece, int):
            channel.receive_gap(piece)
            continue
        while piece:
            wanted = channel.wanted()
            if (wanted == 0) is not (channel.state in _CLOSED) or wanted < 0:
                seen = f"waits for {wanted} bytes in {channel.state.value}"
                raise Wrong("differs", seen, "channel wanted")
            length = min(max(wanted, step_of(piece)) if wanted else len(piece), len(piece))
            channel.receive_data(piece[:length])
            piece = piece[length:]


def labels(events: Iterable[Event]) -> Iterator[str]:
    """Yield what was reached."""
    for event in events:
        yield type(event).__name__
        if isinstance(event, PayloadReceived) and event.fault:
            yield f"payload {event.fault.kind.value}"
        elif isinstance(event, Ended):
            yield f"ended in {event.state.value}"
        elif isinstance(event, PacketReceived):
            yield f"flags {event.packet.flags & 0xFF:#x}"
