"""Which event leads a channel from which state to which."""

from __future__ import annotations

from multifd_proto.machine.events import (
    BytesMissing,
    ChannelState,
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)

_S = ChannelState

TRANSITIONS: dict[ChannelState, dict[type[Event], ChannelState]] = {
    _S.AWAIT_INIT: {InitReceived: _S.AWAIT_HEADER, Ended: _S.CLOSED},
    _S.AWAIT_HEADER: {HeaderReceived: _S.AWAIT_PACKET, BytesMissing: _S.LOST, Ended: _S.CLOSED},
    _S.AWAIT_PACKET: {
        PacketReceived: _S.AWAIT_PAYLOAD,
        DeviceStateReceived: _S.AWAIT_PAYLOAD,
        BytesMissing: _S.LOST,
        Ended: _S.CLOSED,
    },
    _S.AWAIT_PAYLOAD: {PayloadReceived: _S.AWAIT_HEADER, Ended: _S.CLOSED},
    _S.LOST: {HeaderReceived: _S.AWAIT_PACKET, Ended: _S.CLOSED},
    _S.FAILED: {Ended: _S.CLOSED},
    _S.CLOSED: {},
}
"""What leads where. A value that cannot be followed (a wrong magic or version, more normal pages
than offsets) leads to `FAILED` instead; missing bytes lead to `LOST` only where they hide the
place of the next message."""
