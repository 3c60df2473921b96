# SPDX-License-Identifier: GPL-2.0-or-later
"""Scapy layers of multifd channels, derived from `multifd_proto.wire.schema`.

A channel is `MultiFDInit`, then packets: `MultiFDPacket` / `MultiFDPages`, or
`MultiFDPacketDeviceState` / `MultiFDDeviceData`. `MultiFD` dissects whichever it is, and is the
class for `StreamSocket` and `bind_layers`. Counts and sizes that are None are worked out when a
packet is built, as the newest QEMU with the packet's layout does.

A packet does not tell its page size, on which the length of its offset array depends. It is taken
from `page_size=` where a packet is made or dissected, or `conf.contribs["multifd"]["page_size"]`,
or `pages_alloc`, or what follows the packet; else it is 4096.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, ClassVar

from scapy.config import conf
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw, bind_bottom_up, bind_top_down

from multifd_proto.machine.resync import PEEK, infer_page_count, starts_with_packet
from multifd_proto.views.scapy_fields import DEFAULT_PAGE_SIZE, LoadField, wire_fields
from multifd_proto.views.scapy_main import QEVM
from multifd_proto.views.scapy_origin import _Message
from multifd_proto.views.scapy_stream import Place, payload_size
from multifd_proto.wire import schema
from multifd_proto.wire.dialect import DIALECTS, FLAG_DEVICE_STATE, FLAG_SYNC, Dialect
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.payload import METHODS, method_of
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE, page_count

PORT = 49152
"""The first port that libvirt migrates to; QEMU itself has no default."""

conf.contribs.setdefault("multifd", {"page_size": None})


class MultiFDPages(Packet):
    """Payload of a RAM packet: the normal pages, one after the other, or compressed."""

    name = "multifd pages"
    fields_desc = [LoadField("load", b"")]


class MultiFDDeviceData(Packet):
    """Payload of a device-state packet: what only the device can read."""

    name = "multifd device data"
    fields_desc = [LoadField("load", b"")]


class MultiFD(_Message):
    """Any message of a multifd channel, or of a main stream: the layer for sockets and ports.

    Init and packet begin alike; without a stream around it, a message is taken for what it
    looks like.
    """

    name = "multifd message"
    fields_desc = [*wire_fields(schema.MultiFDPacketHdr)][:2]

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *_args: Any, **_kargs: Any) -> type[Packet]:
        """Return the layer of a message; `Raw` where it is none."""
        layer: type[Packet] = cls
        if not _pkt:
            return layer
        if _pkt[:4] == STREAM_MAGIC:
            layer = QEVM
        elif _pkt[:4] != schema.CHANNEL_MAGIC:
            layer = Raw
        elif not starts_with_packet(_pkt[:PEEK]):
            layer = MultiFDInit
        elif int.from_bytes(_pkt[8:12], "big") & FLAG_DEVICE_STATE:
            layer = MultiFDPacketDeviceState
        else:
            layer = MultiFDPacket
        return layer

    @classmethod
    def tcp_reassemble(
        cls, data: bytes, metadata: dict[str, Any], session: dict[str, Any]
    ) -> Packet | None:
        """Return the first message of a stream once it is whole; see `scapy_stream`."""
        if "main" in session or data[:4] == STREAM_MAGIC:
            return QEVM.tcp_reassemble(data, metadata, session)
        if not data:
            return None
        ram = cls if issubclass(cls, _RamPacket) else MultiFDPacket
        if "multifd" not in session:
            size = conf.contribs["multifd"]["page_size"]
            session["multifd"] = Place(size, ram.layout, ram.dialect.device_state)
        place: Place = session["multifd"]
        found = place.measure(data, ended=metadata.get("tcp_end", False))
        if not found:
            return Raw(data)
        layout, size = found
        if len(data) < size:
            metadata["tcp_min_len"] = size
            return None
        place.begun = True
        if layout is ram.layout:
            return ram(data, page_size=place.page_size)
        return LAYERS[layout](data)

    def payload_size(self) -> int:
        """Return how many bytes of payload follow, as a receiver reads the fields."""
        return 0

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        """Tell the payload from what follows it."""
        size = self.payload_size()
        return s[:size], s[size:]


class MultiFDInit(MultiFD):
    """The preamble of a channel (QEMU: `MultiFDInit_t`)."""

    name = "multifd init"
    fields_desc = [*wire_fields(schema.MultiFDInit)]

    def mysummary(self) -> str:
        """Say which channel of which machine."""
        return f"MultiFDInit channel {self.id} of {self.uuid}"


class MultiFDPacketDeviceState(MultiFD):
    """Head of a device-state packet (QEMU: `MultiFDPacketDeviceState_t`, 10.0)."""

    name = "multifd device state"
    fields_desc = [*wire_fields(schema.MultiFDPacketDeviceState, ("next_packet_size",))]

    def payload_size(self) -> int:
        """Return how many bytes of device data follow."""
        return self.next_packet_size or 0

    def guess_payload_class(self, _payload: bytes) -> type[Packet]:
        """Return the layer of the payload."""
        return MultiFDDeviceData

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the size of the payload."""
        return _filled(self, schema.MultiFDPacketDeviceState, pkt, next_packet_size=len(pay)) + pay

    def mysummary(self) -> str:
        """Say which device, and how much."""
        return f"MultiFDPacketDeviceState {_text(self.idstr)}/{self.instance_id}"


_COUNTS = ("pages_alloc", "normal_pages", "next_packet_size", "zero_pages")


class _RamPacket(MultiFD):
    """Base of the RAM packets; offsets that are not given are 0."""

    __slots__ = ["page_size_of_stream"]
    layout: ClassVar[type[schema.RamPacket]]
    dialect: ClassVar[Dialect]

    def __init__(
        self, _pkt: bytes = b"", *args: Any, page_size: int | None = None, **fields: Any
    ) -> None:
        self.page_size_of_stream = page_size or conf.contribs["multifd"]["page_size"]
        if page_size:
            fields["page_size"] = page_size
        super().__init__(_pkt, *args, **fields)

    # ---- reading ---------------------------------------------------------------------------------

    def do_dissect(self, s: bytes) -> bytes:
        """Dissect the head, without ever copying what follows it for each field."""
        if not self.page_size_of_stream:
            count = infer_page_count(s, ended=True)
            assert count, "what has ended has a page count"
            self.page_size_of_stream = MULTIFD_PACKET_SIZE // count
        size = self.layout.size(page_count(self.page_size_of_stream))
        super().do_dissect(s[:size])
        return s[size:]

    def payload_size(self) -> int:
        """Return how many bytes of pages follow; 0 where a receiver would refuse the packet."""
        return payload_size(
            int(self.flags or 0),
            self.normal_pages or 0,
            self.next_packet_size or 0,
            page_count(self.size_of_pages()),
        )

    def guess_payload_class(self, _payload: bytes) -> type[Packet]:
        """Return the layer of the payload."""
        return MultiFDPages

    def size_of_pages(self) -> int:
        """Return the target page size in bytes."""
        return int(self.page_size or self.page_size_of_stream or DEFAULT_PAGE_SIZE)

    def pages_used(self) -> int:
        """Return how many offsets name pages."""
        return (self.normal_pages or 0) + (self._zero_pages or 0)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of the normal pages, up to the first that is not all there.

        None of those that are compressed: a channel's payloads are one stream.
        """
        if self._plain and isinstance(self.payload, MultiFDPages):
            size, memory = self.size_of_pages(), self.payload.load
            for number, offset in enumerate(self.offset[: len(memory) // size]):
                yield offset, memory[number * size : (number + 1) * size]

    @property
    def _zero_pages(self) -> int | None:
        # scapy looks in the payload for what a layer does not have
        return self.getfieldval("zero_pages") if "zero_pages" in self.fieldtype else 0

    @property
    def _plain(self) -> bool:
        """The payload is the pages as they are."""
        return method_of(int(self.flags or 0)) is METHODS[0]

    # ---- building --------------------------------------------------------------------------------

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in counts and sizes."""
        normal = self.normal_pages
        if normal is None:
            normal = self._normal_pages(len(pay))
        count = page_count(self.size_of_pages())
        sync = int(self.flags or 0) & FLAG_SYNC
        built = _filled(
            self,
            self.layout,
            pkt,
            pages_alloc=0 if sync and not self.dialect.sync_alloc else count,
            normal_pages=normal,
            next_packet_size=len(pay),
            zero_pages=max(0, len(self.offset or ()) - normal),
        )
        return built + pay

    def _normal_pages(self, payload: int) -> int:
        """Return how many of the offsets have content in that many bytes of payload."""
        if self._plain or not payload:
            return payload // self.size_of_pages()
        return len(self.offset or ()) - (self._zero_pages or 0)

    def mysummary(self) -> str:
        """Say what the packet carries."""
        said = [type(self).__name__, str(self.packet_num), str(self.flags or "")]
        if self.pages_used():
            pages = f"{self.normal_pages or 0} normal {self._zero_pages or 0} zero pages"
            said.append(f"{pages} of {_text(self.ramblock)}")
        return " ".join(filter(None, said))


def _newest(layout: type[schema.RamPacket]) -> Dialect:
    return next(dialect for dialect in reversed(DIALECTS) if dialect.packet is layout)


class MultiFDPacket(_RamPacket):
    """Head of a RAM packet in QEMU 9.0 and newer (QEMU: `MultiFDPacket_t`)."""

    name = "multifd packet"
    layout = schema.MultiFDPacket
    dialect = _newest(layout)
    fields_desc = [*wire_fields(layout, _COUNTS)]


class MultiFDPacketBefore9(_RamPacket):
    """Head of a RAM packet in QEMU 4.0 to 8.2 (QEMU: `MultiFDPacket_t`): no `zero_pages`."""

    name = "multifd packet before 9.0"
    layout = schema.MultiFDPacketBefore9
    dialect = _newest(layout)
    fields_desc = [*wire_fields(layout, _COUNTS)]


def _filled(packet: Packet, layout: type[schema.Message], built: bytes, **values: int) -> bytes:
    """Write values into a built message, for those of its fields that are None."""
    out = bytearray(built)
    for row in layout.rows():
        if row.name in values and getattr(packet, row.name) is None:
            struct.pack_into(">I", out, row.offset, values[row.name])
    return bytes(out)


def _text(name: bytes | None) -> str:
    return (name or b"").partition(b"\0")[0].decode("utf-8", "backslashreplace")


LAYERS: dict[type[schema.Message], type[MultiFD]] = {
    schema.MultiFDInit: MultiFDInit,
    schema.MultiFDPacket: MultiFDPacket,
    schema.MultiFDPacketBefore9: MultiFDPacketBefore9,
    schema.MultiFDPacketDeviceState: MultiFDPacketDeviceState,
}
"""Layout -> layer."""

bind_bottom_up(TCP, MultiFD, dport=PORT)
for _layer in (*LAYERS.values(), QEVM):
    bind_top_down(TCP, _layer, dport=PORT)
