"""INIT-: the init message."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.events import ChannelState, Ended, InitReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Fault, rule
from multifd_proto.wire.quirks import RESERVED_INIT
from multifd_proto.wire.schema import MULTIFD_MAGIC, MULTIFD_VERSION


def _readable(_m: Migration, _c: ChannelInfo, e: InitReceived) -> bool:
    return (e.init.magic, e.init.version) == (MULTIFD_MAGIC, MULTIFD_VERSION)


@rule("INIT-1", on=InitReceived)
def magic(_m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    if e.init.magic != MULTIFD_MAGIC:
        yield Fault("magic", f"{e.init.magic:#010x}", f"{MULTIFD_MAGIC:#010x}")


@rule("INIT-2", on=InitReceived, when=lambda _m, _c, e: e.init.magic == MULTIFD_MAGIC)
def version(_m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    if e.init.version != MULTIFD_VERSION:
        yield Fault("version", str(e.init.version), str(MULTIFD_VERSION))


@rule("INIT-3", on=InitReceived, needs="first_init", when=_readable)
def one_uuid(m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    assert m.first_init is not None
    first = m.first_init.init
    if e.init.uuid != first.uuid:
        yield Fault("uuid", e.init.uuid.hex(), f"{first.uuid.hex()}, as on channel {first.id}")


@rule("INIT-4", on=InitReceived, needs="uuid", when=_readable)
def expected_uuid(m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    # another channel's uuid that differs from the first is INIT-3's
    if m.first_init is None and e.init.uuid != m.uuid:
        yield Fault("uuid", e.init.uuid.hex(), (m.uuid or b"").hex())


@rule("INIT-5", on=InitReceived, needs="channels", when=_readable)
def id_in_range(m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    if m.channels is not None and e.init.id >= m.channels:
        yield Fault("id", str(e.init.id), f"below {m.channels}, the number of channels")


@rule("INIT-6", on=InitReceived, when=_readable)
def id_unique(m: Migration, c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    for other in m.streams.values():
        if other is not c and other.id == e.init.id:
            yield Fault("id", str(e.init.id), f"another: connection {other.stream} has it")


@rule("INIT-7", on=InitReceived, when=_readable)
def reserved(_m: Migration, _c: ChannelInfo, e: InitReceived) -> Iterator[Fault]:
    if any(e.init.unused1 + e.init.unused2):
        seen = (e.init.unused1 + e.init.unused2).hex()
        yield Fault("reserved area", seen, "zero", quirks=(RESERVED_INIT,))


@rule("INIT-8", on=Ended, when=lambda _m, _c, e: not e.by_peer)
def whole(_m: Migration, _c: ChannelInfo, e: Ended) -> Iterator[Fault]:
    if e.state is ChannelState.AWAIT_INIT:
        yield Fault("end of the channel", f"after {64 - e.due} bytes", "after the 64 of the init")
