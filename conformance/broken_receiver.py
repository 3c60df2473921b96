"""Receivers that are wrong in exactly one way, one for each requirement that the suite can test.

They prove the suite: on each, the cases of its requirement have to fail, and all others to pass.
Where two requirements are near each other, a class is careful to keep the other one: what it does
wrong shows as what its own requirement forbids, and in the sessions that break it alone.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import Any

from multifd_proto.machine.events import DeviceStateReceived, PacketReceived
from multifd_proto.machine.refusal import MAX_DEVICE_STATE, Refusals, block_name, refuse_packet
from multifd_proto.machine.rule import Fault
from multifd_proto.wire.dialect import FLAG_SYNC
from multifd_proto.wire.payload import method_of
from multifd_proto.wire.schema import RamPacket

from .broken_connections import (
    NEVER,
    SHORT,
    ClosesOne,
    DemandsZeroInInit,
    KeepsStrangers,
    KeepsSurplus,
    LoadsEarly,
    RefusesEnd,
    TakesAnyId,
    TakesAnyInitMagic,
    TakesAnyUuid,
    TakesCutForEnd,
    TakesFirstForMain,
    TakesIdTwice,
    TakesTurnedVersion,
    WaitsAfterFailure,
    WaitsForSilent,
    WritesOnChannel,
)
from .miniature_receiver import MiniatureReceiver
from .miniature_wire import Wire
from .target import Description, Setup

# ---- packets -------------------------------------------------------------------------------------


class TakesAnyPacketVersion(MiniatureReceiver):
    """PKT-24: takes a packet of another version; the magic has to be right."""

    def refuse(self, wire: Wire, refusals: Refusals, offset: int | None = None) -> None:
        """Let the version pass."""
        real = [each for each in refusals if (each[0], each[1].what) != ("PKT-24", "version")]
        super().refuse(wire, real, offset)


class TakesAnyCounts(MiniatureReceiver):
    """PKT-25: takes counts of pages that do not fit each other."""

    ignored = frozenset({"PKT-25"})


class TakesAnyBlock(MiniatureReceiver):
    """PKT-26: takes pages of a RAM block that it does not have; they go nowhere."""

    ignored = frozenset({"PKT-26"})


class TakesAnyOffset(MiniatureReceiver):
    """PKT-27: takes pages behind the end of a RAM block, if no other precedes them: to nowhere."""

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Look at the first page to see whether to look at all."""
        block = (self.joint.blocks or {}).get(block_name(event))
        first = event.page_offsets[0] if event.pages else 0
        inside = block is None or first <= block.used_length - self.page_size
        refusals = refuse_packet(event, self.parameters, self.joint.blocks)
        self.refuse(wire, [each for each in refusals if inside or each[0] != "PKT-27"])


class TakesPagesOfTinyBlock(MiniatureReceiver):
    """PKT-28: takes pages of a RAM block that is smaller than one; they go nowhere."""

    ignored = frozenset({"PKT-28"})


class DemandsZeroInPacket(MiniatureReceiver):
    """PKT-29: demands zeros wherever a packet has no meaning."""

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Look at what nobody has to look at."""
        super().check(wire, event)
        packet = event.packet
        named = event.pages or event.ramblock in (b"", *self.blocks)
        if any(packet.reserved) or not named or any(packet.offset[event.pages :]):
            self.refuse(wire, [("PKT-29", Fault("unused bytes", "not zero", "zero"))])


class WritesThenChecks(MiniatureReceiver):
    """PKT-30: of a packet whose later pages are out of bounds, writes the earlier ones."""

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Write what is in bounds, then refuse."""
        refusals = list(refuse_packet(event, self.parameters, self.joint.blocks))
        if [requirement for requirement, _ in refusals] == ["PKT-27"]:
            block = self.blocks[block_name(event)]
            last = block.used_length - self.page_size
            if list(takewhile(last.__ge__, event.page_offsets)):
                self.place(event, self.unpack(wire, event))
        super().check(wire, event)


class TakesOddOffsets(MiniatureReceiver):
    """PKT-31: takes offsets that are not aligned, or listed twice."""

    ignored = frozenset({"PKT-31"})


class DemandsRisingNumbers(MiniatureReceiver):
    """PKT-32: demands that `packet_num` rises on a channel, and is no vast number."""

    def __init__(self, setup: Setup, description: Description) -> None:
        """Start with no numbers seen."""
        super().__init__(setup, description)
        self._numbers: dict[int | None, int] = {}

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Look at what nobody has to look at."""
        super().check(wire, event)
        number, least = event.packet.packet_num, self._numbers.get(wire.channel, 0)
        if not least <= number < 1 << 63:
            fault = Fault("packet_num", str(number), f"{least} to {(1 << 63) - 1}")
            self.refuse(wire, [("PKT-32", fault)])
        self._numbers[wire.channel] = number + 1


# ---- payload -------------------------------------------------------------------------------------


class TakesAnyMethod(MiniatureReceiver):
    """PAY-12: takes pages as the packet says that they are compressed, or as they are."""

    ignored = frozenset({"PAY-12"})

    def payload_size(self, packet: RamPacket) -> int:
        """Let the packet name the method."""
        method = method_of(packet.flags) or self.method
        pages = min(packet.normal_pages, len(packet.offset))
        return method.payload_size(pages, packet.next_packet_size, self.page_size)

    def unpack(self, wire: Wire, event: PacketReceived) -> bytes:
        """Decode pages of another method by a decoder of their own."""
        method = method_of(event.packet.flags) or self.method
        if method is self.method or not event.packet.normal_pages:
            return super().unpack(wire, event)
        payload, size = wire.take(event.payload), event.packet.normal_pages * self.page_size
        if len(payload) == size:
            return payload
        decoder = method.decoder()
        decoder.start(event.packet.normal_pages, self.page_size, len(payload))
        return b"".join(bytes(part) for part in decoder.feed(payload)).ljust(size, b"\0")


class TakesAnyPayloadSize(MiniatureReceiver):
    """PAY-13: waits for a payload that is larger than what it has room for."""

    ignored = frozenset({"PAY-13"})


class TakesSizeOfNothing(MiniatureReceiver):
    """PAY-14: takes a payload size where there are zero pages alone."""

    ignored = frozenset({"PAY-14"})


class TakesBadPayload(MiniatureReceiver):
    """PAY-15: takes a payload that does not decode; what it lacks stays as it was."""

    ignored = frozenset({"PAY-15"})


class LeavesZeroPages(MiniatureReceiver):
    """PAY-16: takes the zero pages of a packet that lists several pages to be zero already."""

    def place(self, event: PacketReceived, memory: bytes) -> None:
        """Write the normal pages."""
        packet: Any = event.packet
        if packet.zero_pages and event.pages > 1:
            packet = replace(packet, zero_pages=0)
        super().place(replace(event, packet=packet), memory)


class TrustsPayloadSize(MiniatureReceiver):
    """PAY-17: reads `next_packet_size` bytes of payload, though nothing is compressed."""

    def payload_size(self, packet: RamPacket) -> int:
        """Trust the packet, if it has pages with content."""
        trusted = packet.normal_pages and not self.method.flag
        return packet.next_packet_size if trusted else super().payload_size(packet)


# ---- sync points ---------------------------------------------------------------------------------


class PassesMarks(MiniatureReceiver):
    """SYNC-10: passes a mark though channels have not arrived."""

    sync_limit = SHORT

    def miss_sync(self) -> None:
        """Go on."""

    def end_channel(self, wire: Wire) -> None:
        """Refuse the end of a channel that has not arrived at a mark that was passed."""
        super().end_channel(wire)
        channel = wire.channel
        if channel is not None and self.joint.arrived[channel] < self.joint.passed:
            fault = Fault(f"channel {channel}", "ended", f"open for SYNC {self.joint.passed}")
            self.refuse(wire, [("SYNC-13", fault)])


class ParksAtMark(MiniatureReceiver):
    """SYNC-11: goes on with a channel after a SYNC, unless the main stream is at the mark."""

    def stay(self, channel: int) -> None:
        """Wait, if the main stream waits too; else go on, once the RAM blocks are known."""
        joint = self.joint
        self.wait(lambda: joint.blocks is not None)
        if self.wait(lambda: joint.meeting or not joint.parked(channel), SHORT):
            super().stay(channel)


class SkipsSyncPages(MiniatureReceiver):
    """SYNC-12: takes a SYNC packet to have no pages; those that it has are dropped."""

    def place(self, event: PacketReceived, memory: bytes) -> None:
        """Write the pages of other packets."""
        if not event.packet.flags & FLAG_SYNC:
            super().place(event, memory)


class WaitsForEnded(MiniatureReceiver):
    """SYNC-13: waits at a mark for a channel that has ended."""

    ignored = frozenset({"SYNC-13"})
    sync_limit = NEVER


class DiesOfEarlyPage(MiniatureReceiver):
    """SYNC-14: dies of a page before the list of RAM blocks."""

    def check(self, wire: Wire, event: PacketReceived) -> None:
        """Look a page's block up in a list that is not there."""
        if event.pages and self.joint.blocks is None:
            self.crash(wire)
        super().check(wire, event)


# ---- main stream, device state, TLS --------------------------------------------------------------


class TakesAnyBlockList(MiniatureReceiver):
    """MAIN-12: takes a list with RAM blocks that it does not have, or with other lengths."""

    ignored = frozenset({"MAIN-12"})


class TakesAnyDevice(MiniatureReceiver):
    """DEV-5: takes the state of a device that it does not have."""

    ignored = frozenset({"DEV-5"})


class TakesAnyDeviceState(MiniatureReceiver):
    """DEV-6: makes room for device state of any size, and waits for it, before all else."""

    ignored = frozenset({"DEV-6"})

    def find_device(self, wire: Wire, event: DeviceStateReceived) -> None:
        """Read the data before it is known whose they are."""
        if event.payload > MAX_DEVICE_STATE:
            wire.take(event.payload)
        super().find_device(wire, event)


class TakesBareEnd(MiniatureReceiver):
    """TLS-5: takes the end of a channel without close_notify."""

    ignored = frozenset({"TLS-5"})


BROKEN: dict[str, type[MiniatureReceiver]] = {
    "CHAN-2": WritesOnChannel,
    "CHAN-5": TakesFirstForMain,
    "CHAN-6": KeepsStrangers,
    "CHAN-7": WaitsForSilent,
    "CHAN-8": LoadsEarly,
    "CHAN-9": KeepsSurplus,
    "CHAN-10": RefusesEnd,
    "CHAN-11": TakesCutForEnd,
    "CHAN-12": ClosesOne,
    "CHAN-13": WaitsAfterFailure,
    "INIT-9": TakesAnyInitMagic,
    "INIT-10": TakesTurnedVersion,
    "INIT-11": TakesAnyUuid,
    "INIT-12": TakesAnyId,
    "INIT-13": TakesIdTwice,
    "INIT-14": DemandsZeroInInit,
    "PKT-24": TakesAnyPacketVersion,
    "PKT-25": TakesAnyCounts,
    "PKT-26": TakesAnyBlock,
    "PKT-27": TakesAnyOffset,
    "PKT-28": TakesPagesOfTinyBlock,
    "PKT-29": DemandsZeroInPacket,
    "PKT-30": WritesThenChecks,
    "PKT-31": TakesOddOffsets,
    "PKT-32": DemandsRisingNumbers,
    "PAY-12": TakesAnyMethod,
    "PAY-13": TakesAnyPayloadSize,
    "PAY-14": TakesSizeOfNothing,
    "PAY-15": TakesBadPayload,
    "PAY-16": LeavesZeroPages,
    "PAY-17": TrustsPayloadSize,
    "SYNC-10": PassesMarks,
    "SYNC-11": ParksAtMark,
    "SYNC-12": SkipsSyncPages,
    "SYNC-13": WaitsForEnded,
    "SYNC-14": DiesOfEarlyPage,
    "MAIN-12": TakesAnyBlockList,
    "DEV-5": TakesAnyDevice,
    "DEV-6": TakesAnyDeviceState,
    "TLS-5": TakesBareEnd,
}
"""Requirement id -> the receiver that violates it alone."""
