"""A receiver's joint state: who has arrived, which round is on, what the source wants answered.

Theory of operation. The main stream and the channels meet at the sync points. A channel that has
taken in a SYNC packet has arrived, and is parked until that many marks have been passed; the main
stream passes a mark when every channel has arrived at it. Nothing here waits: `Receiving` says
whether somebody may go on, and the edge does the waiting.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.refusal import Refusals
from multifd_proto.machine.rule import Fault
from multifd_proto.machine.rules.main_stream import FAULTS
from multifd_proto.machine.verdict import Violation
from multifd_proto.wire.main_records import (
    COMMANDS,
    Command,
    Configuration,
    FaultKind,
    MainFault,
    MainRecord,
    SectionStart,
    StreamEnd,
)
from multifd_proto.wire.ram_records import RamEos, RamFlush, RamPage, RamSetup, RamZero
from multifd_proto.wire.requirements import load
from multifd_proto.wire.return_path import PONG, SHUT, SWITCHOVER_ACK, reply

_U32 = struct.Struct(">I")
_RAM = (0, 4)  # instance and version of the section
_FOLLOWED = frozenset({1, 2, 3, 11})  # opening, PING, POSTCOPY_ADVISE and SWITCHOVER_START


@dataclass
class Receiving:
    """The joint state of a migration that is being received."""

    parameters: MigrationParameters
    """What the receiver is configured for; `channels` has to be known."""
    blocks: dict[bytes, RamBlock] | None = None
    machine: bytes = b""
    """Machine type, as the source names it."""
    arrived: dict[int, int] = field(default_factory=dict)
    """Channel id -> SYNC packets taken in; a channel that is set up has an entry."""
    ended: set[int] = field(default_factory=set)
    """Channels whose stream is over."""
    passed: int = 0
    """Marks that the main stream has passed."""
    meeting: bool = False
    """The main stream has come to a mark that not all channels have arrived at."""
    modern: bool = False
    """Rounds are marked by FLUSH words: one was there before the first EOS."""
    over: bool = False
    """The main stream has come to its orderly end: no channel is parked any more."""
    return_path: bool = False
    """The source has opened the return path."""

    @property
    def channels(self) -> int:
        """Number of channels that the receiver is configured for."""
        return self.parameters.channels or 0

    @property
    def complete(self) -> bool:
        """All channels are set up."""
        return len(self.arrived) == self.channels

    # ---- channels --------------------------------------------------------------------------------

    def admit(self, channel: int) -> None:
        """Take note of a channel whose init was not refused."""
        self.arrived[channel] = 0

    def arrive(self, channel: int) -> None:
        """Take note of a SYNC packet, after its pages."""
        self.arrived[channel] += 1

    def parked(self, channel: int) -> bool:
        """Tell whether a channel has to wait for a mark."""
        return self.arrived[channel] > self.passed and not self.over

    # ---- the main stream -----------------------------------------------------------------------

    def is_mark(self, record: MainRecord) -> bool:
        """Tell whether a record of the main stream marks the end of a round."""
        if isinstance(record, RamFlush):
            self.modern = True
        return isinstance(record, RamFlush if self.modern else RamEos)

    def missing(self) -> list[int]:
        """Return the channels that have not arrived at the next mark."""
        return [id_ for id_, syncs in sorted(self.arrived.items()) if syncs <= self.passed]

    def never(self) -> list[int]:
        """Return those of them that never will."""
        return [id_ for id_ in self.missing() if id_ in self.ended]

    def pass_mark(self) -> None:
        """Let the channels go on to the next round."""
        self.passed += 1
        self.meeting = False

    @property
    def awaited(self) -> str:
        """What the migration waits for, in words, while all connections are silent."""
        if self.meeting:
            missing = ", ".join(map(str, self.missing()))
            return f"SYNC {self.passed + 1} of channel {missing} is awaited"
        return f"the main stream stands still after {self.passed} marks"

    def take(self, record: MainRecord) -> bytes:
        """Take note of a record that was not refused; return what to answer."""
        match record:
            case Configuration():
                self.machine = record.machine
            case RamSetup():
                self.blocks = {b.name: RamBlock(b.name, b.used_length) for b in record.blocks}
            case StreamEnd():
                self.over = True
            case Command():
                return self._answer(record)
        return b""

    def _answer(self, command: Command) -> bytes:
        name = COMMANDS.get(command.cmd)
        if name == "OPEN_RETURN_PATH":
            self.return_path = True
            dialect = self.parameters.dialect
            return reply(SWITCHOVER_ACK) if dialect and dialect.switchover_ack else b""
        if name == "PING" and self.return_path:
            return reply(PONG, command.data)
        return b""

    def farewell(self) -> bytes:
        """Return the last message on the return path; nothing if it was not opened."""
        return reply(SHUT, _U32.pack(0)) if self.return_path else b""


def refuse_record(record: MainRecord, receiving: Receiving, page_size: int) -> Refusals:
    """Yield what is wrong with a record of the main stream, for a receiver of precopy.

    Args:
        record: the record.
        receiving: the state before it.
        page_size: target page size in bytes.
    """
    dialect = receiving.parameters.dialect
    match record:
        case MainFault():
            yield _framing(record)
        case SectionStart(idstr=b"ram") if (record.instance_id, record.version_id) != _RAM:
            seen = f"of instance {record.instance_id}, version {record.version_id}"
            yield "MAIN-4", Fault("section ram", seen, "of instance 0, version 4")
        case RamSetup() if receiving.blocks is not None:
            yield "MAIN-6", Fault("block list", "sent twice", "sent once")
        case RamSetup():
            yield from _refuse_list(record, receiving.parameters)
        case RamZero():
            yield from _refuse_zero(record, receiving.blocks or {}, page_size)
        case RamFlush() if dialect and not dialect.flush_mark:
            yield "MAIN-10", Fault("word of the ram section", "MULTIFD_FLUSH", "none before 8.1")
        case RamPage():
            yield "MAIN-8", Fault("page", "on the main stream", "on a channel")
        case Command() if record.cmd not in _FOLLOWED:
            name = COMMANDS.get(record.cmd, str(record.cmd))
            yield "MAIN-2", Fault("command", name, "one of a precopy migration")


def _framing(record: MainFault) -> tuple[str, Fault]:
    requirement = next(id_ for id_, kinds in FAULTS.items() if record.kind in kinds)
    seen, demanded = record.seen, record.demanded
    if record.kind is FaultKind.ENDED:
        least = f"at least {demanded} bytes" if isinstance(demanded, int) else demanded
        there = f"{seen!r} bytes after the start of a record"
        return requirement, Fault("end of the stream", there, f"{least} after it")
    there = f"{seen:#x}" if isinstance(seen, int) else repr(seen)
    right = f"{demanded:#x}" if isinstance(demanded, int) else demanded
    return requirement, Fault(f"{record.kind.value}, which", there, right)


def _refuse_list(setup: RamSetup, parameters: MigrationParameters) -> Refusals:
    names = [block.name for block in setup.blocks]
    own = {block.name: block.used_length for block in parameters.ramblocks or ()}
    for block in setup.blocks if own else ():
        if own.get(block.name) != block.used_length:
            seen = f"{block.used_length} bytes long"
            demanded = f"{own[block.name]} bytes long" if block.name in own else "none of the list"
            yield "MAIN-12", Fault(f"block {block.name!r}", seen, demanded)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield "MAIN-6", Fault(f"block {twice!r}", "listed twice", "listed once")
    if not all(names):
        yield "MAIN-6", Fault("name of a block", "empty", "at least 1 byte long")
    if any(block.in_file for block in setup.blocks):
        yield "MAIN-6", Fault("block list", "that of a mapped-ram file", "that of a stream")


def _refuse_zero(record: RamZero, blocks: dict[bytes, RamBlock], page_size: int) -> Refusals:
    block = blocks.get(record.block or b"")
    if block is None:
        yield "MAIN-12", Fault("ramblock", repr(record.block), "one of the list")
        return
    last = block.used_length - page_size
    if max(record.offsets) > last:
        yield "PKT-27", Fault("offset", f"{max(record.offsets):#x}", f"at most {last:#x}")
    if any(map((page_size - 1).__and__, record.offsets)):
        wrong = next(offset for offset in record.offsets if offset % page_size)
        yield "PKT-31", Fault("offset", f"{wrong:#x}", f"a multiple of {page_size}")
    if record.fill:
        yield "MAIN-9", Fault("fill byte", f"{record.fill:#04x}", "0")


def violation(
    refusals: Refusals, stream: int, channel: int | None, offset: int | None
) -> Violation | None:
    """Return the first of some refusals, with its place; None if there is none."""
    for requirement, fault in refusals:
        return Violation(load()[requirement], stream, channel, offset, 0, fault)
    return None
