# SPDX-License-Identifier: GPL-2.0-or-later
"""Scapy fields for the layouts of `multifd_proto.wire.schema`, made from their rows.

A field of which not all bytes are there is None, and so are those behind it: what is not known is
never zero.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any

from scapy.fields import (
    ByteField,
    Field,
    FlagsField,
    IntField,
    LongField,
    StrField,
    StrFixedLenField,
    UUIDField,
    XIntField,
    XStrFixedLenField,
)
from scapy.packet import Packet
from scapy.volatile import RandField

from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import Message, Row, page_count

FLAGS = {
    FLAG_SYNC: "SYNC",
    **{method.flag: method.name for method in METHODS if method.flag},
    FLAG_DEVICE_STATE: "DEVICE_STATE",
}
"""Names of the bits of `flags`; each payload method is one bit."""
DEFAULT_PAGE_SIZE = 4096
"""Bytes of a page where nothing tells."""

_SHOWN = 24


class _Cut:
    """Makes a field None where its bytes are not all there."""

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, Any]:
        """Take the field from the front of `s`."""
        if len(s) < self.sz:  # type: ignore[attr-defined]
            return b"", None
        left, value = super().getfield(pkt, s)  # type: ignore[misc]
        return left, value


def _cut(kind: type[Field]) -> type[Field]:
    """Return a kind of field that may be cut, under the same name."""
    return type(kind.__name__, (_Cut, kind), {})


class NameField(_Cut, StrFixedLenField):
    """A name, without its padding; all bytes of the field where the padding is not only NUL."""

    def m2i(self, _pkt: Packet, x: bytes) -> bytes:
        """Return the name."""
        name, _, padding = x.partition(b"\0")
        return x if padding.strip(b"\0") else name


class NoteField(Field):
    """What is known besides the bytes: it has none on the wire."""

    __slots__ = ["learn"]

    def __init__(
        self,
        name: str,
        default: Any = None,
        learn: Callable[[Packet, bytes], Any] = lambda _pkt, _s: None,
    ) -> None:
        super().__init__(name, default, "0s")
        self.learn = learn

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, Any]:
        """Learn it from what is dissected."""
        return s, self.learn(pkt, s)

    def addfield(self, _pkt: Packet, s: bytes, _val: Any) -> bytes:
        """Add nothing."""
        return s

    def i2repr(self, _pkt: Packet, x: Any) -> str:
        """Return a text as it is, and anything else as Python would write it."""
        return x if isinstance(x, str) else repr(x)

    def randval(self) -> None:
        """There is nothing to fuzz."""


class LoadField(StrField):
    """Bytes that may be many: shown by their number and their beginning."""

    def i2repr(self, _pkt: Packet, x: Any) -> str:
        """Return the number of bytes, and the first of them in hex."""
        if not isinstance(x, bytes) or len(x) <= _SHOWN:
            return repr(x)
        return f"<{len(x)} bytes: {x[:_SHOWN].hex(' ')} ...>"


class RandOffsets(RandField):
    """Offsets of pages at random, as many as a packet has room for, or fewer."""

    def __init__(self, pages: int) -> None:
        self.pages = pages

    def _fix(self) -> list[int]:
        count = random.randint(0, self.pages)
        return [random.randrange(1 << 20) * DEFAULT_PAGE_SIZE for _ in range(count)]


class OffsetField(Field):
    """The offset array: read and written at once, filled up with 0 to the packet's page_count."""

    islist = 1

    def __init__(self, name: str) -> None:
        super().__init__(name, [], "Q")

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, Any]:
        """Take all offsets from the front of `s`."""
        form = _offsets(page_count(pkt.size_of_pages()))
        if len(s) < form.size:
            return b"", None
        return s[form.size :], list(form.unpack_from(s))

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        """Add the offsets, and zeros for those that are not given."""
        given = list(val or ())
        given += [0] * (page_count(pkt.size_of_pages()) - len(given))
        return s + _offsets(len(given)).pack(*given)

    def any2i(self, _pkt: Packet, x: Any) -> Any:
        """Take one offset, or several."""
        return [x] if isinstance(x, int) else list(x) if isinstance(x, tuple | range) else x

    def i2repr(self, pkt: Packet, x: Any) -> str:
        """Return the offsets that are in use, in hex, and how many there are besides."""
        if not isinstance(x, list):
            return repr(x)
        known = pkt is not None and pkt.normal_pages is not None
        used = min(pkt.pages_used(), len(x)) if known else len(x)
        shown = ", ".join(map(hex, x[:used]))
        return f"[{shown}]" + (f" + {len(x) - used} unused" if used < len(x) else "")

    def randval(self) -> RandOffsets:
        """Return offsets at random."""
        return RandOffsets(page_count(DEFAULT_PAGE_SIZE))


@cache
def _offsets(count: int) -> struct.Struct:
    return struct.Struct(f">{count}Q")


_Byte, _Int, _Long = _cut(ByteField), _cut(IntField), _cut(LongField)
_XInt, _Flags, _Uuid, _Bytes = map(_cut, (XIntField, FlagsField, UUIDField, XStrFixedLenField))
_Make = Callable[[str, Any, int], Field]
_MAKERS: dict[str, _Make] = {
    "magic": lambda name, default, _size: _XInt(name, default),
    "flags": lambda name, default, size: _Flags(name, default, 8 * size, FLAGS),
    "uuid": lambda name, default, _size: _Uuid(name, default.hex()),
    "ramblock": lambda name, _default, size: NameField(name, b"", length=size),
    "idstr": lambda name, _default, size: NameField(name, b"", length=size),
    "offset": lambda name, _default, _size: OffsetField(name),
    "u8": lambda name, default, _size: _Byte(name, default),
    "u32be": lambda name, default, _size: _Int(name, default),
    "u64be": lambda name, default, _size: _Long(name, default),
}
"""Makes the field of a row by its name, or else by its type; anything else is plain bytes."""


def wire_fields(message: type[Message], automatic: tuple[str, ...] = ()) -> Iterator[Field]:
    """Yield the fields of a message.

    Args:
        message: its layout.
        automatic: names of those that are None until the packet is built.
    """
    defaults = {f.name: f.default for f in dataclass_fields(message)}  # type: ignore[arg-type]
    for row in message.rows():
        default = None if row.name in automatic else defaults[row.name]
        if row.name == "offset":
            yield NoteField("page_size", learn=lambda pkt, _s: pkt.page_size_of_stream)
        yield _field(row, default)


def _field(row: Row, default: Any) -> Field:
    make = _MAKERS.get(row.name) or _MAKERS.get(row.type)
    return make(row.name, default, row.size) if make else _Bytes(row.name, default, length=row.size)
