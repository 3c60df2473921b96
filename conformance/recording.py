"""What went over the wires of a script, as pcapng: written from the log, without privileges."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from multifd_proto.peers.proxy.pcapng_writer import Conversation, End, PcapngWriter

from .observation import Exchange

_PEER = End("127.0.0.2", 4444)
_FIRST_PORT = 40000


def record(exchanges: Iterable[Exchange], path: Path, comment: str, begun: int = 0) -> None:
    """Write the log of a script as a capture that every tool reads.

    Args:
        exchanges: the log, in its order. Bytes that it does not hold are left out.
        path: of the pcapng file.
        comment: what readers show as the comment of the capture.
        begun: when the script began, in nanoseconds since the epoch.

    Raises:
        PeerError: it cannot be written.
    """
    wires: dict[str, Conversation] = {}
    with PcapngWriter(path, comment) as writer:
        for exchange in exchanges:
            now = begun + int(exchange.time * 1e9)
            writer.clock = lambda now=now: now  # type: ignore[misc]
            if exchange.kind == "open":
                us = End("127.0.0.1", _FIRST_PORT + len(wires))
                wires[exchange.wire] = writer.open(us, _PEER)
            elif exchange.wire in wires:
                _write(wires[exchange.wire], exchange)


def _write(wire: Conversation, exchange: Exchange) -> None:
    match exchange.kind:
        case "sent":
            wire.data(exchange.data, forward=True)
        case "received":
            wire.data(exchange.data, forward=False)
        case "fin" | "ended":
            wire.end(forward=exchange.kind == "fin")
        case "broken" | "reset":
            wire.reset(forward=exchange.kind == "broken")
