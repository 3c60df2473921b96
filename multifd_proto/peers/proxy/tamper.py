"""Puts faults into what a connection carries, message by message.

While there are faults, a message goes on when its head is whole, not byte by byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Lock

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.events import (
    ChannelState,
    DeviceStateReceived,
    Event,
    InitReceived,
    PacketReceived,
)
from multifd_proto.peers.proxy.faults import Action, Fault, set_field
from multifd_proto.peers.proxy.relay import BUFFER, BrokenError, Relay, Side
from multifd_proto.wire.main_records import STREAM_MAGIC
from multifd_proto.wire.schema import (
    CHANNEL_MAGIC,
    Message,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
)

REPEATABLE = 64 << 20
"""Bytes of a message with its payload that can be held to go on twice."""
_SHOWN = 3


class Faults:
    """The rules of a migration, and what came of each. Its connections share them."""

    def __init__(
        self,
        rules: Sequence[Fault],
        *,
        page_size: int = 4096,
        log: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Take the rules.

        Args:
            rules: applied in this order where several fit a message.
            page_size: target page size in bytes, which tells how long packets are.
            log: is told the first times that each was applied, and where.
        """
        self.rules, self.page_size = tuple(rules), page_size
        self.applied: Counter[Fault] = Counter()
        """How often each was applied."""
        self._log, self._lock = log, Lock()

    @property
    def idle(self) -> list[Fault]:
        """Rules that never found their place."""
        return [rule for rule in self.rules if not self.applied[rule]]

    def note(self, rule: Fault, where: str) -> None:
        """Take note that a rule was applied."""
        with self._lock:
            self.applied[rule] += 1
            if self.applied[rule] <= _SHOWN:
                self._log(f"fault {rule.text}: {where}")


@dataclass
class _Arrived:
    """A message of a channel, and where it is."""

    name: str
    """`init` or `packet`."""
    layout: type[Message]
    head: bytearray
    """The message, without its payload."""
    payload: int
    """Bytes that follow it."""
    id: int
    number: int = 0
    sync: int | None = None
    """Its number among the SYNC packets, if it is one."""

    def fits(self, rule: Fault) -> bool:
        """Tell whether it is what a rule is for."""
        place = rule.place
        if place.id not in (None, self.id):
            return False
        if place.message == "sync":
            return self.sync is not None and place.number in (None, self.sync)
        return place.message == self.name and place.number in (None, self.number)

    def __str__(self) -> str:
        number = "" if self.name == "init" else f" {self.number}"
        return f"channel {self.id} {self.name}{number}"


class _StreamEnded(Exception):
    """A fault has ended the stream onward."""


class Tamper:
    """Forwards one connection onward, with the faults of the rules."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._relay: Relay

    def pump(self, relay: Relay) -> None:
        """Forward until the stream of the source ends.

        Raises:
            BrokenError: the connection is broken, by a side or by a rule.
        """
        self._relay = relay
        head = b""
        while (lacking := len(CHANNEL_MAGIC) - len(head)) and (data := relay.receive(lacking)):
            head += data
        try:
            if head == CHANNEL_MAGIC:
                self._pump_channel(head)
            elif head == STREAM_MAGIC:
                self._pump_main(head)
            else:
                relay.send(head)
            while data := relay.receive(BUFFER):
                relay.send(data)
        except _StreamEnded:
            relay.end()
            while relay.receive(BUFFER):  # the source learns of it from the target alone
                pass

    # ---- the main stream -----------------------------------------------------------------------

    def _pump_main(self, held: bytes) -> None:
        """Forward up to the last place of a rule; `held` has been received and not sent yet."""
        relay, place = self._relay, 0
        rules = [rule for rule in self._faults.rules if rule.place.message == "main"]
        for rule in sorted(rules, key=lambda rule: rule.place.offset):
            offset = rule.place.offset
            while place + len(held) <= offset:
                relay.send(held)
                place += len(held)
                held = bytes(relay.receive(min(offset - place + 1, BUFFER)))
                if not held:
                    return
            relay.send(held[: offset - place])
            held, place = held[offset - place :], offset
            where = f"main stream @{offset:#x}"
            if rule.action.name == "byte":
                value = int(rule.action.value or 0)
                self._faults.note(rule, f"{where}: {held[0]:#x} -> {value:#x}")
                held = bytes([value]) + held[1:]
            else:
                self._faults.note(rule, where)
                self._interrupt(rule.action)
        relay.send(held)

    # ---- a channel -----------------------------------------------------------------------------

    def _pump_channel(self, begun: bytes) -> None:
        """Forward message by message, as long as they can be told apart."""
        channel = Channel(page_size=self._faults.page_size)
        channel.receive_data(begun)
        head = bytearray(begun)
        teller = _Teller()
        while (want := channel.wanted()) and (data := self._relay.receive(min(want, BUFFER))):
            head += data
            channel.receive_data(data)
            for event in list(channel.events()):
                arrived = teller.tell(event, head)
                if arrived:
                    if channel.state is ChannelState.FAILED:
                        arrived.payload = 0  # nobody knows what follows
                    channel.receive_skipped(arrived.payload)
                    self._forward(arrived)
                    head = bytearray()
        self._relay.send(head)

    def _forward(self, arrived: _Arrived) -> None:
        """Forward one message with its payload, the rules applied."""
        plan: dict[str, int] = {}
        patches: dict[int, int] = {}
        for rule in self._faults.rules:
            if arrived.fits(rule):
                self._apply(rule, arrived, plan, patches)
        limit = plan.get("truncate")
        kept = bytearray()
        for data in chain([memoryview(arrived.head)], self._payload(arrived.payload, patches)):
            if "drop" in plan:
                continue
            self._relay.send(data[:limit])
            if limit is not None:
                limit -= len(data[:limit])
                if not limit:
                    break
            if "repeat" in plan:
                kept += data
        self._relay.send(kept)
        if limit is not None:
            raise _StreamEnded

    def _apply(
        self, rule: Fault, arrived: _Arrived, plan: dict[str, int], patches: dict[int, int]
    ) -> None:
        """Apply a rule to a message, or plan to, when it goes on."""
        action, said = rule.action, ""
        if action.is_field:
            changed = set_field(arrived.head, arrived.layout, action)
            if changed is None:
                return
            said = f": {changed}"
        elif action.name == "payload":
            if action.index >= arrived.payload:
                return
            patches[action.index] = int(action.value or 0)
        elif action.name in ("drop", "repeat", "truncate"):
            if action.name == "repeat" and len(arrived.head) + arrived.payload > REPEATABLE:
                return
            plan[action.name] = int(action.value or 0)
        self._faults.note(rule, f"{arrived}{said}")
        self._interrupt(action)

    def _interrupt(self, action: Action) -> None:
        """Do what does not concern the content."""
        match action.name:
            case "stall" | "delay":
                seconds = action.value if isinstance(action.value, float) else None
                if self._relay.over.wait(seconds):
                    raise BrokenError(Side.PROXY)
            case "close":
                raise _StreamEnded
            case "reset":
                raise BrokenError(Side.PROXY)

    def _payload(self, size: int, patches: dict[int, int]) -> Iterator[memoryview]:
        done = 0
        while done < size and (data := self._relay.receive(min(size - done, BUFFER))):
            for index, value in patches.items():
                if done <= index < done + len(data):
                    data[index - done] = value
            done += len(data)
            yield data


class _Teller:
    """Tells which message of its channel an event is about."""

    def __init__(self) -> None:
        self._id = self._packets = self._syncs = 0

    def tell(self, event: Event, head: bytearray) -> _Arrived | None:
        """Return the message; None for an event that is about something else."""
        match event:
            case InitReceived():
                self._id = event.init.id
                return _Arrived("init", MultiFDInit, head, 0, self._id)
            case PacketReceived():
                layout: type[Message] = MultiFDPacket
                sync = event.sync
            case DeviceStateReceived():
                layout, sync = MultiFDPacketDeviceState, False
            case _:
                return None
        self._packets += 1
        self._syncs += sync
        return _Arrived(
            "packet", layout, head, event.payload, self._id,
            self._packets - 1, self._syncs - 1 if sync else None,
        )  # fmt: skip
