"""CHAN- and TLS-: how connections open, end, and which way bytes go."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.events import ChannelState, Ended
from multifd_proto.machine.migration import ChannelInfo, Migration, MigrationOver
from multifd_proto.machine.rule import Fault, rule

_AFTER_INIT = (ChannelState.AWAIT_HEADER, ChannelState.AWAIT_PACKET, ChannelState.AWAIT_PAYLOAD)


@rule("CHAN-1", on=Ended, when=lambda _m, _c, e: e.state in _AFTER_INIT and not e.by_peer)
def ends_at_boundary(_m: Migration, _c: ChannelInfo, e: Ended) -> Iterator[Fault]:
    if e.due:
        what = "packet head" if e.state is not ChannelState.AWAIT_PAYLOAD else "payload"
        yield Fault(
            "end of the channel", f"{e.due} bytes before the end of a {what}", "between packets"
        )


@rule(
    "CHAN-2",
    on=MigrationOver,
    when=lambda m, _c, _e: any(c.reverse_bytes is not None for c in m.streams.values()),
)
def one_way(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    for c in m.streams.values():
        if c.reverse_bytes:
            yield Fault(
                "number of bytes from the receiver", str(c.reverse_bytes), "0", stream=c.stream
            )


def _count_known(m: Migration, _c: None, _e: MigrationOver) -> bool:
    # fewer channels than demanded mean something only if all connections were seen
    return len(m.streams) > (m.channels or 0) or bool(m.main and m.main.complete and not m.tls)


@rule("CHAN-3", on=MigrationOver, needs="channels", when=_count_known)
def number_of_channels(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    if len(m.streams) != m.channels:
        yield Fault("number of channels", str(len(m.streams)), str(m.channels))


@rule(
    "CHAN-4",
    on=MigrationOver,
    when=lambda m, _c, _e: (
        m.main
        and m.main.opened is not None
        and any(c.opened is not None for c in m.streams.values())
    ),
)
def main_stream_first(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    assert m.main is not None
    assert m.main.opened is not None
    for c in m.streams.values():
        if c.opened is not None and c.opened < m.main.opened:
            early = f"{(m.main.opened - c.opened) / 1e9:.6f} s before the main stream's"
            yield Fault("opening of the connection", early, "after it", stream=c.stream)


@rule("TLS-1", on=MigrationOver, when=lambda m, _c, _e: m.tls or m.streams)
def tls_on_all(m: Migration, _c: None, _e: MigrationOver) -> Iterator[Fault]:
    everything = {*m.streams, *m.tls, *((m.main.stream,) if m.main else ())}
    tls = len(everything & (m.tls | m.decrypted))
    if 0 < tls < len(everything):
        yield Fault("number of connections with TLS", f"{tls} of {len(everything)}", "all or none")
