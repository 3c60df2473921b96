"""The reference receiver as a machine: connections in, refusal, guest memory and answers out.

It is what a conforming receiver does, without a socket, a thread or a clock. Bytes are handed in
in any order of connections and in any cut; a channel that is parked keeps its bytes until its mark
has passed, as TCP would. The first refusal ends the migration, and says by which requirement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    DeviceStateReceived,
    Ended,
    Event,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.receiving import Receiving, refuse_record, violation
from multifd_proto.machine.refusal import (
    Refusals,
    block_name,
    refuse_device_state,
    refuse_end,
    refuse_header,
    refuse_init,
    refuse_packet,
    refuse_payload,
)
from multifd_proto.machine.rule import Fault
from multifd_proto.machine.tolerance import tolerances, unspecified
from multifd_proto.machine.verdict import Violation
from multifd_proto.wire.decoders import PayloadFaultKind
from multifd_proto.wire.main_records import STREAM_MAGIC, MainRecord, StreamEnd
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.ram_records import RamZero
from multifd_proto.wire.schema import CHANNEL_MAGIC, MultiFDInit

_MAGIC = len(STREAM_MAGIC)
_REFUSED = {PayloadFaultKind.CORRUPT, PayloadFaultKind.SHORT, PayloadFaultKind.LENGTHS}
"""Payloads that a receiver has to refuse (PAY-15); the rest only a sender has to avoid."""


@dataclass
class _Connection:
    """One connection, and what of it has not been dealt with."""

    number: int
    pending: bytearray = field(default_factory=bytearray)
    ended: bool = False
    over: bool = False
    """Nothing more of it is looked at."""
    channel: Channel | None = None
    id: int | None = None
    sink: _Pages | None = None
    synced: bool = False
    loose: bool = False
    """Pages have come since the last SYNC."""
    next_number: int = 0
    """The lowest `packet_num` that is higher than all before it."""


class _Pages:
    """Takes the guest memory of one channel's packets, and keeps it until they are whole."""

    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, _packet: PacketReceived) -> None:
        """Forget the packet before."""
        self.data.clear()

    def write(self, data: bytes | memoryview) -> None:
        """Keep guest memory."""
        self.data += data

    def end(self, payload: PayloadReceived) -> None:
        """Do nothing: the event says it all."""


class ReceiverMachine:
    """One migration as its receiver sees it.

    Args:
        parameters: what the receiver is configured for; all but `uuid` has to be known, the RAM
            blocks too: they are its machine's.
    """

    def __init__(self, parameters: MigrationParameters) -> None:
        assert parameters.page_size
        assert parameters.ramblocks is not None
        self.state = Receiving(parameters)
        """Who has arrived, which round is on."""
        self.memory = {block.name: bytearray(block.used_length) for block in parameters.ramblocks}
        """Guest memory, by the name of the RAM block."""
        self.refusal: Violation | None = None
        """Why the migration has failed."""
        self.unspecified = ""
        """What happened that a receiver may also fail the migration for; empty if nothing."""
        self.answers = b""
        """Bytes for the source, on the main stream's connection."""
        self.begun: set[tuple[bytes, int]] = set()
        """RAM block and offset of the pages that may have been written to, also in part."""
        self.denied: Set[tuple[bytes, int]] = frozenset()
        """Those of the packet that was refused."""
        self.tolerated: set[str] = set()
        """Ids of the requirements by which something odd was taken."""
        self.turned_away: dict[int, str] = {}
        """Connections that a receiver has to close, and by which requirement."""
        self._parameters, self._page_size = parameters, parameters.page_size
        self._connections: list[_Connection] = []
        self._leader: _Connection | None = None
        self._main = MainStream(page_size=self._page_size)
        self._latest: frozenset[tuple[bytes, int]] = frozenset()
        self._unfinished: dict[int, frozenset[tuple[bytes, int]]] = {}
        self._short: tuple[_Connection, int] | None = None
        self._main_ended = False
        self._records: deque[tuple[int, MainRecord]] = deque()

    @property
    def complete(self) -> bool:
        """The main stream has come to its orderly end."""
        return self.state.over and self.refusal is None

    @property
    def meeting(self) -> bool:
        """It waits at a mark for the SYNC packets of its round."""
        return self.state.meeting

    @property
    def waits(self) -> str:
        """What it waits for, in words."""
        if not self.state.complete:
            seen = len(self.state.arrived)
            return f"{self.state.channels} channels, of which {seen} are set up"
        return self.state.awaited

    @property
    def unknown(self) -> tuple[int, ...]:
        """Connections of which too few bytes came to know what they are, or which channel."""
        return tuple(
            each.number
            for each in self._connections
            if each is not self._leader and each.id is None and not each.over
        )

    @property
    def channels(self) -> dict[int, int]:
        """Connections that are channels, with their ids."""
        return {each.number: each.id for each in self._connections if each.id is not None}

    def parks(self, number: int) -> bool:
        """Tell whether a connection is a channel that waits for a mark."""
        id_ = self._connections[number].id
        return id_ is not None and self.state.parked(id_)

    def open(self) -> int:
        """Take a connection, and return its number."""
        connection = _Connection(len(self._connections))
        self._connections.append(connection)
        if self._leader and self.state.complete:
            self._close(connection, "CHAN-9")
        return connection.number

    def receive_data(self, number: int, data: bytes) -> None:
        """Take bytes of a connection."""
        self._connections[number].pending += data
        self._settle()

    def receive_eof(self, number: int, *, reset: bool = False) -> None:
        """Take the end of a connection; if by a reset, a receiver may fail where it need not."""
        if reset:
            self.unspecified = "a connection that was reset"
        self._connections[number].ended = True
        self._settle()

    def _settle(self) -> None:
        """Deal with all that can be dealt with."""
        while self.refusal is None and any(map(self._advance, self._connections)):
            pass

    def _advance(self, connection: _Connection) -> bool:
        """Deal with some bytes of a connection, and tell whether there were any."""
        if connection.over or self.refusal:
            return False
        if connection is self._leader:
            return self._lead(connection)
        if connection.channel is None:
            return self._identify(connection)
        if connection.id is not None and self.state.parked(connection.id):
            return False
        if connection.pending:
            need = connection.channel.wanted() or len(connection.pending)
            part = bytes(connection.pending[:need])
            del connection.pending[:need]
            connection.channel.receive_data(part)
        elif connection.ended:
            connection.over = True
            connection.channel.receive_eof()
        else:
            return False
        for event in connection.channel.events():
            self._take(connection, event)
        return True

    def _identify(self, connection: _Connection) -> bool:
        dialect = self._parameters.dialect
        head = bytes(connection.pending[:_MAGIC])
        if dialect is not None and not dialect.peeks:
            main = self._connections[0] is connection
            magic = STREAM_MAGIC if main else CHANNEL_MAGIC
            short = main or len(connection.pending) < MultiFDInit.size()
            if short and not magic.startswith(head):
                self.unspecified = "a connection that does not begin as it has to"
        elif len(head) < _MAGIC:
            return False
        else:
            main = head == STREAM_MAGIC
            if not main and head != CHANNEL_MAGIC:
                return self._estrange(connection)
        if main and self._leader is None:
            self._leader = connection
            self.tolerated |= {"CHAN-5"} if connection.number else set()
        elif main:
            return self._close(connection)  # what becomes of a second one is open
        elif self.state.complete:
            # before its init is whole, nobody has to know that it is one too many
            whole = len(connection.pending) >= MultiFDInit.size()
            return self._close(connection, "CHAN-9" if whole else "")
        else:
            connection.sink = _Pages()
            connection.channel = Channel(
                page_size=self._page_size, dialect=dialect, sink=connection.sink
            )
        return True

    def _estrange(self, connection: _Connection) -> bool:
        """Close a connection that begins with neither magic: a channel's, if it goes on as one."""
        init = len(connection.pending) >= MultiFDInit.size()
        return self._close(connection, "INIT-9" if init else "CHAN-6")

    def _close(self, connection: _Connection, requirement: str = "") -> bool:
        """Close a connection that is none of the migration's, without harm to the others."""
        connection.over = True
        self.unspecified = "a connection more than there are to be"
        self.tolerated.add("CHAN-9")
        if requirement:
            self.turned_away[connection.number] = requirement
        return True

    # ---- channels ----------------------------------------------------------------------------

    def _take(self, connection: _Connection, event: Event) -> None:
        if self.refusal:
            return
        match event:
            case InitReceived():
                self._refuse(refuse_init(event, self._parameters, self.state.arrived), connection)
                if self.refusal is None:
                    connection.id = event.init.id
                    self.state.admit(event.init.id)
                    odd = any(event.init.unused1 + event.init.unused2)
                    self.tolerated |= {"INIT-14"} if odd else set()
            case HeaderReceived():
                self._refuse(refuse_header(event), connection)
            case PacketReceived():
                blocks = self.state.blocks if connection.synced else None
                self._refuse(refuse_packet(event, self._parameters, blocks), connection)
                self._look(connection, event)
                self._begin_payload(connection, event.payload)
            case DeviceStateReceived():
                refusals = refuse_device_state(event, self._parameters, devices=False)
                self._refuse(refusals, connection)
                self._begin_payload(connection, event.payload)
            case PayloadReceived():
                self._end_payload(connection, event)
            case Ended():
                self._refuse(refuse_end(event.due), connection)
                self.tolerated |= set() if event.due else {"CHAN-10"}
                self.state.ended |= {connection.id} if connection.id is not None else set()

    def _end_payload(self, connection: _Connection, event: PayloadReceived) -> None:
        self._unfinished.pop(connection.number, None)
        if event.fault and event.fault.kind not in _REFUSED:
            self.unspecified = "a payload whose pages are there, and more"
        self._refuse(refuse_payload(event), connection)
        if self.refusal is None and isinstance(event.head, PacketReceived):
            self._finish(connection, event.head)

    def _begin_payload(self, connection: _Connection, size: int) -> None:
        if self.refusal is None:
            self._unfinished[connection.number] = self._latest
        else:
            self._short = connection, size

    @property
    def unfinished(self) -> frozenset[tuple[bytes, int]]:
        """Pages of packets whose payload has not come to its end: they may be there in part."""
        return frozenset().union(*self._unfinished.values())

    @property
    def loose(self) -> bool:
        """Pages have come that no SYNC follows: a receiver may miss it, or not."""
        return any(connection.loose for connection in self._connections)

    @property
    def short(self) -> bool:
        """The payload behind the packet that is refused is not whole: it may be waited for."""
        return self._short is not None and len(self._short[0].pending) < self._short[1]

    def _look(self, connection: _Connection, event: PacketReceived) -> None:
        """Take note of what is odd in the head of a packet, and of where it may write."""
        self.unspecified = unspecified(event, self._parameters) or self.unspecified
        name = block_name(event)
        unannounced = name in self.memory and name not in (self.state.blocks or {})
        if event.pages and unannounced:
            self.unspecified = "pages of a block that was not announced"
        self._latest = places = frozenset((name, offset) for offset in event.page_offsets)
        if self.refusal is None or unannounced:
            self.tolerated |= set(tolerances(event, self._parameters, connection.next_number))
            self.begun |= places
        else:
            self.denied = places
        connection.next_number = max(connection.next_number, event.packet.packet_num + 1)

    def _finish(self, connection: _Connection, head: PacketReceived) -> None:
        """Write the pages of a packet that is whole."""
        size, normal = self._page_size, head.packet.normal_pages
        if head.pages and connection.sink:
            memory = self.memory[block_name(head)]
            for number, offset in enumerate(head.page_offsets):
                begin = number * size
                data = (
                    connection.sink.data[begin : begin + size] if number < normal else bytes(size)
                )
                if number >= normal and any(memory[offset : offset + size]):
                    self.tolerated.add("PAY-16")
                memory[offset : offset + size] = data
        connection.loose = not head.sync and (connection.loose or head.pages > 0)
        if head.sync and connection.id is not None:
            connection.synced = True
            self.state.arrive(connection.id)

    # ---- the main stream ---------------------------------------------------------------------

    def _lead(self, connection: _Connection) -> bool:
        """Deal with the main stream, once all channels are there."""
        if not self.state.complete:
            return False
        if self._records:
            return self._take_record(connection)
        if connection.pending:
            self._main.receive_data(bytes(connection.pending))
            connection.pending.clear()
        elif connection.ended and not self._main_ended:
            self._main_ended = True
            self._main.receive_eof()
        elif connection.ended:
            connection.over = True
            if not self.state.over:
                fault = Fault("end of the stream", "early", "after the last section")
                self._refuse([("MAIN-11", fault)], connection)
        else:
            return False
        self._records.extend((offset, record) for offset, _, record in self._main.records())
        return True

    def _take_record(self, connection: _Connection) -> bool:
        _, record = self._records[0]
        state = self.state
        if not state.meeting:
            self._refuse(refuse_record(record, state, self._page_size), connection)
            if self.refusal:
                return False
            self.answers += state.take(record)
            if isinstance(record, RamZero) and record.block is not None:
                for offset in record.offsets:
                    end = offset + self._page_size
                    self.begun.add((record.block, offset))
                    self.memory[record.block][offset:end] = bytes(self._page_size)
            if isinstance(record, StreamEnd):
                self.answers += state.farewell()
            state.meeting = state.is_mark(record)
        if state.meeting and not self._meet(connection):
            return False
        self._records.popleft()
        return True

    def _meet(self, connection: _Connection) -> bool:
        """Pass a mark, if every channel has arrived."""
        never = self.state.never()
        if never:
            seen = f"ended after {self.state.arrived[never[0]]} of them"
            fault = Fault(f"channel {never[0]}", seen, f"open for SYNC {self.state.passed + 1}")
            self._refuse([("SYNC-13", fault)], connection)
        elif not self.state.missing():
            self.state.pass_mark()
            return True
        return False

    def _refuse(self, refusals: Refusals, connection: _Connection) -> None:
        """Fail the migration by the first of some refusals."""
        if self.refusal is None:
            self.refusal = violation(refusals, connection.number, connection.id, None)


def configured(parameters: MigrationParameters, blocks: Mapping[bytes, int]) -> MigrationParameters:
    """Return parameters with the RAM blocks of the receiver's machine, by name, in bytes."""
    own = tuple(RamBlock(name, length) for name, length in blocks.items())
    return replace(parameters, ramblocks=own)
