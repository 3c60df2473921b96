# SPDX-License-Identifier: GPL-2.0-or-later
"""Scapy layer of QEMU's main migration stream: its bytes, and the records that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scapy.packet import Packet

from multifd_proto.views.scapy_fields import LoadField, NoteField
from multifd_proto.views.scapy_origin import _Message
from multifd_proto.wire.main_records import STREAM_MAGIC, MainRecord
from multifd_proto.wire.main_stream import MainStream


def _records(_pkt: Packet, s: bytes) -> list[MainRecord]:
    """Return the records of a main stream, or of the part of one."""
    parser = MainStream(started=s.startswith(STREAM_MAGIC))
    parser.receive_data(s)
    return [record for _, _, record in parser.records()]


class _RecordsField(NoteField):
    islist = 1


class _DataField(LoadField):
    """The bytes of a stream; those of the records, where they are not given."""

    def addfield(self, pkt: Packet, s: bytes, val: bytes | None) -> bytes:
        """Add the bytes."""
        if val is None:
            val = b"".join(record.build() for record in pkt.records or ())
        return s + val


class QEVM(_Message):
    """A piece of QEMU's main migration stream.

    `records` are what ends in this piece, as values of `multifd_proto.wire.main_records` and
    `ram_records`; a packet without `data` is built of them.
    """

    name = "QEMU main migration stream"
    fields_desc = [_RecordsField("records", None, _records), _DataField("data", None)]

    def mysummary(self) -> str:
        """Name the records."""
        return "QEVM " + " ".join(type(record).__name__ for record in self.records or ())

    @classmethod
    def tcp_reassemble(
        cls, data: bytes, _metadata: dict[str, Any], session: dict[str, Any]
    ) -> Packet | None:
        """Return all that has come, with the records that end in it."""
        if not data:
            return None
        parser: MainStream = session.setdefault(
            "main", MainStream(started=data.startswith(STREAM_MAGIC))
        )
        parser.receive_data(data)
        records: Sequence[MainRecord] = [record for _, _, record in parser.records()]
        return cls(records=records, data=data)
