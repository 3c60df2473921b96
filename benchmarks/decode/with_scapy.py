"""What one would write with scapy: count the multifd packets of a capture.

    python benchmarks/decode/with_scapy.py FILE [ours]

With scapy's own TCPSession and the layers of `multifd_proto`, or with their session as well.
"""

from __future__ import annotations

import sys

from scapy.layers.inet import TCP
from scapy.packet import Packet, bind_layers
from scapy.sendrecv import sniff
from scapy.sessions import DefaultSession, TCPSession

from multifd_proto.views.scapy_layers import MultiFD, MultiFDPacket
from multifd_proto.views.scapy_session import MultiFDSession


def main(path: str, session: type[DefaultSession]) -> None:
    """Print the number of packets in a capture."""
    if session is TCPSession:
        bind_layers(TCP, MultiFD, dport=49152)
    found = 0

    def count(packet: Packet) -> None:
        nonlocal found
        while packet := packet.getlayer(MultiFDPacket):
            found += 1
            packet = packet.payload

    sniff(offline=path, session=session, store=False, prn=count)
    print(found)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], MultiFDSession if sys.argv[2:] == ["ours"] else TCPSession)
