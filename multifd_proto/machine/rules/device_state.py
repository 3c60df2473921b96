"""DEV-: device-state packets."""

from __future__ import annotations

from collections.abc import Iterator

from multifd_proto.machine.events import DeviceStateReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Fault, rule
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import METHOD_MASK


@rule("DEV-1", on=DeviceStateReceived)
def named(_m: Migration, _c: ChannelInfo, e: DeviceStateReceived) -> Iterator[Fault]:
    if not e.idstr or 0 not in e.packet.idstr:
        seen = f"{e.packet.idstr[:24]!r}... without NUL" if e.idstr else "empty"
        yield Fault("idstr", seen, "a name and NUL")


@rule("DEV-2", on=DeviceStateReceived)
def no_sync(_m: Migration, _c: ChannelInfo, e: DeviceStateReceived) -> Iterator[Fault]:
    if e.packet.flags & FLAG_SYNC:
        yield Fault("flags word", f"{e.packet.flags:#x}", "without SYNC")


@rule("DEV-3", on=DeviceStateReceived)
def not_empty(_m: Migration, _c: ChannelInfo, e: DeviceStateReceived) -> Iterator[Fault]:
    if not e.packet.next_packet_size:
        yield Fault("next_packet_size", "0", "at least 1")


@rule("DEV-4", on=DeviceStateReceived)
def not_compressed(m: Migration, _c: ChannelInfo, e: DeviceStateReceived) -> Iterator[Fault]:
    if e.packet.flags & METHOD_MASK:
        yield Fault("flags word", f"{e.packet.flags:#x}", "without method bits")
    elif m.method is not None and m.method.flag:
        yield Fault("payload method of the migration", m.method.name, "none")
