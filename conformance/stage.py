"""The stage: a script's messages as bytes for one peer, and what memory has to be by then."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from multifd_proto.machine.sending import MainWriter
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC
from multifd_proto.wire.main_records import MainHeader
from multifd_proto.wire.payload import METHODS, Encoder
from multifd_proto.wire.ram_records import RamBlockEntry
from multifd_proto.wire.schema import (
    Message as Layout,
)
from multifd_proto.wire.schema import (
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

from .script import DeviceState, Init, Main, Message, Pages, Raw, Script, ScriptError, Sync
from .target import Description, Sense

_METHOD = {method.name: method for method in METHODS}
_FIELDS = {
    layout.name: frozenset(row.name for row in layout.rows())
    for layout in (MultiFDInit, MultiFDPacket, MultiFDPacketDeviceState)
}
_HEADER = len(MainHeader().build())
_FIRST_DIGITS = re.compile(r"\d*")

Place = tuple[bytes, int]
"""A page: name of its RAM block, and its offset in bytes."""


def content(page: int, salt: int, size: int) -> bytes:
    """Return the content that the suite gives a page: `size` bytes, none of them in doubt."""
    return struct.pack(">II", page + 1, salt + 0x5EED) * (size // 8)


@dataclass(frozen=True)
class Built:
    """A message."""

    data: bytes
    what: str
    """In words."""


class Stage:
    """Makes the messages of one script, in its order, for one peer."""

    def __init__(self, script: Script, peer: Description, uuid: bytes) -> None:
        self.peer, self._uuid = peer, uuid
        self._method = _METHOD[script.method]
        self._count = page_count(peer.page_size)
        self._numbers = count()
        self._encoders: dict[tuple[str, str], Encoder] = {}
        self._begun: dict[str, Built] = {}
        self._header_sent = False
        self._main = self._main_writer(None, return_path=False)
        self.landed: dict[Place, bytes] = {}
        """Pages that have to be in memory, with their content."""
        self.doubtful: set[Place] = set()
        """Pages that may hold anything, if the peer refuses: they were sent."""
        self.sent_on: dict[Place, str] = {}
        """Pages and the wire that they were sent on last."""

    def build(self, step: Message) -> Built:
        """Return the bytes of a message, in full or in the part that the step asks for.

        Raises:
            ScriptError: a field is unknown, or its value does not fit.
        """
        # the rest of a message is that of the message that was begun, whose number it has
        built = self._begun.pop(step.wire, None) if step.skip else None
        if built is None:
            built = self._build(step)
        elif isinstance(step, Pages):
            self._land(step)
        if step.first is None and not step.skip:
            return built
        if step.first is not None:
            self._begun[step.wire] = built
        end = len(built.data) if step.first is None else min(step.first, len(built.data))
        return Built(built.data[step.skip : end], f"{built.what}, bytes {step.skip} to {end}")

    def place(self, page: int, block: str | None) -> Place:
        """Return where a page is."""
        name = block.encode("latin-1") if block is not None else next(iter(self.peer.blocks))
        return name, page * self.peer.page_size

    def expected(self, page: int, salt: int) -> bytes:
        """Return the content of a page."""
        return content(page, salt, self.peer.page_size)

    def _build(self, step: Message) -> Built:
        match step:
            case Init():
                number = int(_FIRST_DIGITS.match(step.wire)[0] or 0)  # type: ignore[index]
                given = {"uuid": self._uuid, "id": number % 256}
                return self._layout(MultiFDInit, f"init of channel {number}", given, step.fields)
            case Sync():
                alloc = self._count if self.peer.dialect.sync_alloc else 0
                given = {"flags": FLAG_SYNC, "pages_alloc": alloc}
                return self._packet("SYNC", given, step.fields)
            case Pages():
                return self._pages(step)
            case DeviceState():
                return self._device_state(step)
            case Main():
                return Built(self._main_part(step), f"main stream: {step.part}")
            case Raw():
                return Built(_unhex("raw", step.hex), "raw bytes")

    def _pages(self, step: Pages) -> Built:
        size = self.peer.page_size
        method = _METHOD[step.method] if step.method else self._method
        name, _ = self.place(0, step.block)
        pages = [self.expected(number, step.salt) for number in step.normal]
        key = (step.wire, method.name)
        encoder = self._encoders.setdefault(key, method.encoder())
        payload = encoder.encode(pages) if pages else b""
        if step.payload is not None:
            payload = _unhex("payload", step.payload)
        given = {
            "flags": method.flag,
            "pages_alloc": self._count,
            "normal_pages": len(step.normal),
            "zero_pages": len(step.zero),
            "next_packet_size": len(payload),
            "ramblock": name.ljust(256, b"\0"),
            "offset": tuple(number * size for number in (*step.normal, *step.zero)),
        }
        what = f"packet of {len(step.normal)} normal and {len(step.zero)} zero pages"
        built = self._packet(what, given, step.fields)
        self._land(step)
        return Built(built.data + payload, built.what)

    def _land(self, step: Pages) -> None:
        """Note what memory has to be after a packet, or may be after a part of it."""
        for number in (*step.normal, *step.zero):
            place = self.place(number, step.block)
            self.sent_on[place] = step.wire
            if step.lands:
                self.doubtful.add(place)
            if step.lands and step.first is None:
                zero = bytes(self.peer.page_size)
                normal = number in step.normal
                self.landed[place] = self.expected(number, step.salt) if normal else zero

    def _device_state(self, step: DeviceState) -> Built:
        given = {
            "flags": FLAG_DEVICE_STATE,
            "idstr": step.idstr.encode().ljust(256, b"\0"),
            "next_packet_size": step.size,
        }
        what = f"device state of {step.idstr}"
        built = self._layout(MultiFDPacketDeviceState, what, given, step.fields)
        return Built(built.data + bytes(step.size), built.what)

    def _packet(self, what: str, given: dict[str, Any], changed: Mapping[str, Any]) -> Built:
        given["packet_num"] = next(self._numbers)
        values = dict(changed)
        offsets = (*values.pop("offset", ()),)
        given["offset"] = offsets + given.get("offset", ())[len(offsets) :]
        given["offset"] += (0,) * (self._count - len(given["offset"]))
        said = f"{what}, offset {offsets}" if offsets else what
        return self._layout(MultiFDPacket, f"{said}, number {given['packet_num']}", given, values)

    def _layout(
        self, layout: type[Layout], what: str, given: dict[str, Any], changed: Mapping[str, Any]
    ) -> Built:
        known = _FIELDS[layout.name]
        values = {}
        for name, value in changed.items():
            if name not in known:
                raise ScriptError(f"{what}: field {name!r} is unknown, must be of {layout.name}")
            values[name] = _unhex(name, value) if isinstance(value, str) else value
        said = "".join(f", {name} {value}" for name, value in changed.items())
        try:
            return Built(layout(**given | values).build(), what + said)
        except Exception as error:  # construct's own, of many kinds
            raise ScriptError(f"{what}{said}: {error}") from None

    def _main_writer(self, blocks: Mapping[str, int] | None, *, return_path: bool) -> MainWriter:
        own = self.peer.blocks
        named = {k.encode("latin-1"): v for k, v in blocks.items()} if blocks is not None else own
        entries = [RamBlockEntry(name, length) for name, length in named.items()]
        return MainWriter(self.peer.around, entries, return_path)

    def _main_part(self, step: Main) -> bytes:
        match step.part:
            case "header":
                self._header_sent = True
                return self._main.start()[:_HEADER]
            case "start":
                # a peer that says nothing else of its state tells it on the return path
                blind = Sense.STATE not in self.peer.senses and self.peer.return_path
                self._main = self._main_writer(step.blocks, return_path=step.return_path or blind)
                return self._main.start()[_HEADER if self._header_sent else 0 :]
            case "zeros":
                places = [self.place(page, step.block) for page in step.pages]
                for place in places:
                    self.landed[place] = bytes(self.peer.page_size)
                    self.doubtful.add(place)
                name, _ = self.place(0, step.block)
                return self._main.zeros(name, [offset for _, offset in places])
        parts = {
            "mark": self._main.mark,
            "part": self._main.part,
            "end": self._main.end,
            "finish": self._main.finish,
        }
        if step.part not in parts:
            known = ", ".join(("header", "start", "zeros", *parts))
            raise ScriptError(f"main: part is {step.part!r}, must be one of {known}")
        return parts[step.part]()


def _unhex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ScriptError(f"{name}: {text[:40]!r} must be hex") from None
