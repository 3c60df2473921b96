"""What of a capture is structure: positively identified messages of migrations, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from multifd_proto.capture.events import Data, End, Gap, Half, Skipped, StreamEvent
from multifd_proto.capture.follow import Follower
from multifd_proto.capture.session import Connection
from multifd_proto.capture.streams import CaptureReader, Taken
from multifd_proto.capture.strip.faults import fault_bytes
from multifd_proto.capture.strip.kept import Kept
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    ChannelState,
    DeviceStateReceived,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
)
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.resync import PEEK, START
from multifd_proto.wire.main_records import (
    COMMANDS,
    Command,
    Configuration,
    MainFault,
    MainRecord,
    structure_size,
)
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MultiFDInit,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
)

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch

_LONGEST_COMMAND = 1024  # bytes of data; longer ones are none that QEMU sends
_LONGEST_BEGUN = 1024  # bytes of a record that is not whole; of a packet's head, all are kept


@dataclass
class Uuids:
    """New UUIDs for old ones: equal ones stay equal, different ones different."""

    first: UUID
    known: dict[bytes, bytes] = field(default_factory=dict)

    def new(self, old: bytes) -> bytes:
        """Return the UUID that takes the place of another one."""
        if old not in self.known:
            number = (self.first.int + len(self.known)) % 2**128
            self.known[old] = number.to_bytes(16, "big")
        return self.known[old]


class Outline:
    """Reads a capture, and tells which bytes of its streams are structure."""

    def __init__(self, reader: CaptureReader | Decrypted, uuids: Uuids | None = None) -> None:
        """Read the capture to its end.

        Raises:
            CaptureError: it cannot be read.
        """
        self.halves: dict[Half, Kept] = {}
        self.messages = 0
        self._uuids = uuids
        self.follower = Follower()
        stream = self._watch(reader.columns(self.follower))
        for piece in self.follower.pieces(stream, shown=False):
            if isinstance(piece, tuple):
                self._note(*piece)
            else:
                self._note_packets(piece)
        for connection in self.follower.connections.values():
            if connection.kind == "tls":
                self._keep_tls(connection)
        for kept in self.halves.values():
            kept.settle()

    # ---- messages that are whole -----------------------------------------------------------------

    def _note(self, connection: Connection, event: Event) -> None:
        kept = self.kept(connection.half)
        before = len(kept.starts)
        match event:
            case InitReceived(init=init):
                new = self._uuids and replace(init, uuid=self._uuids.new(init.uuid)).build()
                kept.add(event.offset, MultiFDInit.size(), new or None)
            case HeaderReceived() if not event.header.build().startswith(START):
                # nothing else of it follows; a header with another magic can be anything
                size = MultiFDPacketHdr.size()
                known = event.header.magic == MULTIFD_MAGIC
                kept.add(event.offset, size, None if known else bytes(size))
            case PacketReceived(packet=packet):
                kept.add(event.offset, packet.size(len(packet.offset)))
            case DeviceStateReceived():
                kept.add(event.offset, MultiFDPacketDeviceState.size())
            case MainReceived(record=record):
                content = self._main_content(record)
                size = structure_size(record) if content is None else len(content)
                kept.add(event.offset, size, content)
        self.messages += len(kept.starts) - before

    def _note_packets(self, batch: PacketBatch) -> None:
        size = batch.layout.size(batch.page_count)
        for stream, offset in zip(batch.stream.tolist(), batch.offset.tolist(), strict=True):
            kept = self.kept(self.follower.connections[stream].half)
            before = len(kept.starts)
            kept.add(offset, size)
            self.messages += len(kept.starts) - before

    def _main_content(self, record: MainRecord) -> bytes | None:
        """Return what takes a record's place; None: it stays as it is."""
        match record:
            case Configuration(uuid=bytes() as uuid) if self._uuids:
                return replace(record, uuid=self._uuids.new(uuid)).build()
            case Command(cmd, data) if cmd not in COMMANDS or len(data) > _LONGEST_COMMAND:
                return Command(cmd, bytes(len(data))).build()
            case MainFault():
                return fault_bytes(record)
        return None

    def _keep_tls(self, connection: Connection) -> None:
        """Keep what tells that a connection is encrypted: type and version of the first record."""
        for half in (connection.half, connection.reverse):
            head = connection.heads.get(half.forward, b"")
            if head[:2] == b"\x16\x03":
                self.kept(half).add(0, PEEK, head[:3] + bytes(PEEK - 3))

    # ---- messages that are not -------------------------------------------------------------------

    def _watch(self, events: Iterable[StreamEvent | Taken]) -> Iterator[StreamEvent | Taken]:
        """Pass events on to the follower, and look at its machines before what may upset them."""
        for event in events:
            if isinstance(event, list):
                for run in event:
                    self.kept(run.half).pass_to(run.stop)
            elif isinstance(event, Gap | End):
                connection = self.follower.connections[event.half.stream]
                if event.half is connection.half:
                    self._keep_begun(connection)
                if isinstance(event, Gap):
                    self._keep_init(connection, event.half)
                    self.kept(event.half).add_gap(event.offset)
            if isinstance(event, Data):
                self.kept(event.half).pass_to(event.offset + len(event.data))
            elif isinstance(event, Skipped):
                self.kept(event.half).pass_to(event.offset + event.length)
            yield event
        for connection in self.follower.connections.values():
            self._keep_begun(connection)

    def _keep_begun(self, connection: Connection) -> None:
        """Keep the structure of a message that may never become whole."""
        machine, kept = connection.machine, self.kept(connection.half)
        if isinstance(machine, Channel):
            place, head = machine.begun()
            good = head.startswith(START) or START.startswith(head)
            kept.add_begun(place, len(head), None if good else bytes(len(head)))
        elif isinstance(machine, MainStream):
            place, size = machine.begun()
            if size <= _LONGEST_BEGUN:
                kept.add_begun(place, size)

    def _keep_init(self, connection: Connection, half: Half) -> None:
        """Hold the place of an init message that is not whole: nothing of it will be read."""
        machine = connection.machine
        unknown = machine is None and connection.kind == "unknown" and half.anchored
        waits = isinstance(machine, Channel) and machine.state is ChannelState.AWAIT_INIT
        if unknown or (waits and half is connection.half):
            seen = len(machine.begun()[1]) if isinstance(machine, Channel) else 0
            left = MultiFDInit.size() - seen
            self.kept(half).add_begun(seen, left, bytes(left))

    def kept(self, half: Half) -> Kept:
        """Return what is kept of a direction."""
        return self.halves.setdefault(half, Kept())
