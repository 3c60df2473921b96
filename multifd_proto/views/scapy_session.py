# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures and live traffic as scapy packets, one for each message of a migration.

The streams are reassembled by `multifd_proto.capture`: what is lost is a `MultiFDGap`. Each packet
has the `time` of its first byte, exact to the nanosecond, and an `origin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scapy.config import conf
from scapy.layers.inet import TCP
from scapy.packet import Packet
from scapy.sessions import DefaultSession
from scapy.supersocket import SuperSocket

from multifd_proto.capture.connections import Connections
from multifd_proto.capture.fragments import Datagrams
from multifd_proto.capture.info import CaptureInfo, Limits
from multifd_proto.capture.ip import segments
from multifd_proto.capture.link import Frame, link_layer
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.views.scapy_assembly import KEEP, Assembly

SNAPLEN = 262144
"""Bytes of a frame that are asked for, as tcpdump does; scapy's own 65535 cut frames of 65549."""
_RAW_LINK = 101


def multifd_packets(
    *paths: str | Path,
    parameters: MigrationParameters | None = None,
    limits: Limits | None = None,
    keep: int = KEEP,
    keylog: str | Path | None = None,
) -> Iterator[Packet]:
    """Yield the messages of captures in the order in which they are whole.

    Args:
        paths: what `CaptureReader` reads: pcap, pcapng, raw dumps, compressed or not.
        parameters: what is known of the migrations beforehand.
        limits: bounds on the memory that reassembly takes.
        keep: bytes of each stream that are kept until a message is whole; a payload that is
            longer has a gap.
        keylog: file with the secrets of TLS connections (SSLKEYLOGFILE format), besides those
            that are inside a pcapng.

    Raises:
        CaptureError: an input cannot be read, or is no capture.
    """
    reader = CaptureReader(paths, limits=limits or Limits())
    if keylog:
        reader.info.secrets.read(keylog)
    yield from Assembly(parameters, keep).packets(Decrypted(reader))


class MultiFDSession(DefaultSession):
    """A scapy session that hands out the messages of migrations, and nothing else.

    `sniff(session=MultiFDSession)`, with `offline=` or live, or an instance that is told more. At
    the end of a file all that was held back is handed out; after a live capture, by `finish`. TLS
    stays encrypted: `multifd_packets` decrypts it.
    """

    def __init__(
        self,
        parameters: MigrationParameters | None = None,
        *,
        limits: Limits | None = None,
        keep: int = KEEP,
    ) -> None:
        """Make a session; see `multifd_packets` for what it takes."""
        super().__init__()
        self.info = CaptureInfo()
        self._connections = Connections(self.info, limits or Limits())
        self._datagrams = Datagrams(self.info, limits or Limits())
        self._assembly = Assembly(parameters, keep)

    def recv(self, sock: SuperSocket) -> Iterator[Packet]:
        """Yield the messages that are whole with the next frame of a socket or file."""
        try:
            frame = sock.recv(SNAPLEN, stop_dissection_after=TCP)
        except EOFError:
            yield from self.finish()
            raise
        if frame:
            found = segments([_frame(frame)], self.info, self._datagrams)
            yield from self._assembly.some(self._connections.events(found))

    def finish(self) -> Iterator[Packet]:
        """Yield what was held back: nothing will come any more."""
        yield from self._assembly.packets(self._connections.flush())


def _frame(packet: Packet) -> Frame:
    """Return a dissected frame as `capture` takes it."""
    data = memoryview(packet.original or bytes(packet))
    link = conf.l2types.layer2num.get(type(packet), _RAW_LINK)
    length = max(len(data), packet.wirelen or 0)
    return int(packet.time * 10**9), link_layer(link), data, 0, len(data), length
