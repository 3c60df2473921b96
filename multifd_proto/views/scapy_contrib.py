# SPDX-License-Identifier: GPL-2.0-or-later
# scapy.contrib.name = MultiFD
# scapy.contrib.description = QEMU multifd live migration
# scapy.contrib.status = loads
"""What scapy loads as `scapy.contrib.multifd`: the layers are those of `multifd_proto.views`.

>>> from scapy.all import *
>>> conf.exts.load("multifd-proto"); load_contrib("multifd")

Every message of a capture is a packet, and what was lost is a `MultiFDGap`:

>>> packets = list(multifd_packets("spec/captures/q10_0-none.pcap.zst"))
>>> packets[23].summary()
'MultiFDPacket 8 96 normal 32 zero pages of pc.ram / MultiFDPages'
>>> [packets[23].origin.channel, packets[23].flags.SYNC, len(packets[23].load)]
[2, False, 393216]
>>> offset, page = next(packets[23].pages())
>>> hex(offset), len(page)
('0x100000', 4096)

So does `sniff(offline="migration.pcap", session=MultiFDSession)`, and live. What is not given is
worked out:

>>> pages = MultiFDPages(load=b"one".ljust(4096) + b"two".ljust(4096))
>>> p = MultiFDPacket(ramblock="pc.ram", offset=[0x1000, 0x2000, 0x3000]) / pages
>>> p = MultiFD(bytes(p))
>>> p.pages_alloc, p.normal_pages, p.zero_pages, p.next_packet_size
(128, 2, 1, 8192)

`StreamSocket(sock, MultiFD)` and `StreamSocketPeekless(sock, MultiFD)` speak it. Ports other than
49152 are bound by `bind_layers(TCP, MultiFD, dport=PORT)`, and other page sizes than 4096 told by
`MultiFDPacket(page_size=65536)` or `conf.contribs["multifd"]["page_size"]`.
"""

from scapy.config import conf

from multifd_proto.views import scapy_layers, scapy_main, scapy_origin
from multifd_proto.views.scapy_layers import (
    MultiFD,
    MultiFDDeviceData,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketBefore9,
    MultiFDPacketDeviceState,
    MultiFDPages,
)
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_origin import MultiFDGap, Origin
from multifd_proto.views.scapy_session import MultiFDSession, multifd_packets

__all__ = [
    "QEVM",
    "MultiFD",
    "MultiFDDeviceData",
    "MultiFDGap",
    "MultiFDInit",
    "MultiFDPacket",
    "MultiFDPacketBefore9",
    "MultiFDPacketDeviceState",
    "MultiFDPages",
    "MultiFDSession",
    "Origin",
    "multifd_packets",
]

# explore() looks for layers under the name of the module that was loaded
conf.layers.ldict.setdefault(__name__, []).extend(
    layer
    for module in (scapy_layers, scapy_main, scapy_origin)
    for layer in conf.layers.ldict.pop(module.__name__, [])
)
