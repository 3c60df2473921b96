"""Hypothesis strategies for messages, derived from the layouts: valid ones, and ones that are not.

    from multifd_proto.fuzz.strategies import packets, sessions

Fields come from the layouts' own rows, so that a new field is drawn without a line here. Where a
value has a bound, the values around it are given outright: a number of 32 bits that is right by
chance, or one above what is right, is never found by drawing bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from multifd_proto.conformance.script import DeviceState, Init, Pages, Sync
from multifd_proto.conformance.target import MACHINE, Description

from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, FLAG_SYNC, Dialect
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_VERSION,
    Message,
    MultiFDInit,
    MultiFDPacket,
    MultiFDPacketDeviceState,
    page_count,
)

Fields = Mapping[str, Any]
LAST_PAGE = 249
"""Highest page that valid packets have; those above are the oracle's."""


@dataclass(frozen=True)
class _Bounded:
    """What of a peer's description the bounds of fields come from."""

    page_size: int
    blocks: Mapping[bytes, int]
    dialect: Dialect


def numbers(size: int, *bounds: int) -> SearchStrategy[int]:
    """Return integers of so many bytes: those around the bounds often, any now and then."""
    top = (1 << 8 * size) - 1
    near = {value + step for value in (0, top, top >> 1, *bounds) for step in (-1, 0, 1)}
    often = st.sampled_from(sorted(value for value in near if 0 <= value <= top))
    return st.one_of(often, often, often, st.integers(0, top))


def junk(size: int, *values: bytes) -> SearchStrategy[str]:
    """Return so many bytes, as hex: some that mean something, all alike, or any."""
    likely = [value.ljust(size, b"\0")[:size] for value in (b"", *values)]
    alike = [bytes([byte]) * size for byte in (0xFF, 0x41, 0x01)]
    some = st.binary(max_size=8).map(lambda data: data.ljust(size, b"\0")[:size])
    return (st.sampled_from(likely + alike) | some).map(bytes.hex)


def bounds_of(peer: Description | _Bounded, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the numbers that mean something in a field, by its name."""
    count, length = page_count(peer.page_size), next(iter(peer.blocks.values()))
    limits = [method.limit for method in METHODS if method.limit]
    flags = (FLAG_SYNC, FLAG_DEVICE_STATE, peer.dialect.flags, *(m.flag for m in METHODS))
    return {
        "magic": (MULTIFD_MAGIC, int.from_bytes(MULTIFD_MAGIC.to_bytes(4, "big"), "little")),
        "version": (MULTIFD_VERSION, MULTIFD_VERSION << 24),
        "id": (channels,),
        "flags": flags,
        "pages_alloc": (count, count * 100),
        "normal_pages": (count,),
        "zero_pages": (count,),
        "next_packet_size": (peer.page_size, count * peer.page_size, *limits),
        "packet_num": (),
        "instance_id": (),
        "offset": (length, length - peer.page_size, length - peer.page_size + 1, peer.page_size),
    }


def field_values(
    layout: type[Message], peer: Description | _Bounded, channels: int
) -> dict[str, SearchStrategy[Any]]:
    """Return what to draw for each field of a layout: integers, hex of bytes, first offsets."""
    bounds = bounds_of(peer, channels)
    blocks = list(peer.blocks)
    strategies: dict[str, SearchStrategy[Any]] = {}
    for row in layout.rows(page_count=1):
        if row.name == "offset":
            strategies[row.name] = st.lists(numbers(8, *bounds["offset"]), min_size=1, max_size=3)
        elif row.name in bounds:
            strategies[row.name] = numbers(row.size, *bounds[row.name])
        else:
            strategies[row.name] = junk(row.size, *blocks, MACHINE, b"A" * row.size)
    return strategies


@cache
def _layout_of(kind: type) -> type[Message]:
    layouts: dict[type, type[Message]] = {Init: MultiFDInit, DeviceState: MultiFDPacketDeviceState}
    return layouts.get(kind, MultiFDPacket)


def changes(
    kind: type, peer: Description, channels: int, most: int = 2, names: tuple[str, ...] = ()
) -> SearchStrategy[Fields]:
    """Return changes to the fields of a message: at least one.

    Args:
        kind: the step's class: `Init`, `Sync`, `Pages` or `DeviceState`.
        peer: what the bounds come from.
        channels: number of channels of the migration.
        most: fields that are changed at once.
        names: of the fields to choose from; all if none is named.
    """
    blocks = tuple(peer.blocks.items())
    return _changes(kind, peer.page_size, blocks, peer.dialect, channels, most, names)


@lru_cache(maxsize=64)
def _changes(
    kind: type,
    page_size: int,
    blocks: tuple[tuple[bytes, int], ...],
    dialect: Dialect,
    channels: int,
    most: int,
    names: tuple[str, ...],
) -> SearchStrategy[Fields]:
    """Make the strategy once: Hypothesis takes longer to look at a new one than to draw from it."""
    peer = _Bounded(page_size, dict(blocks), dialect)
    values = field_values(_layout_of(kind), peer, channels)
    one = st.sampled_from(sorted(names or values)).flatmap(
        lambda name: st.tuples(st.just(name), values[name])
    )
    return st.lists(one, min_size=1, max_size=most).map(dict)


@cache
def page_numbers(most: int = 3) -> SearchStrategy[tuple[int, ...]]:
    """Return different pages of the first block."""
    return st.lists(st.integers(0, LAST_PAGE), min_size=1, max_size=most, unique=True).map(tuple)


_KINDS, _SALTS = st.sampled_from(("normal", "both", "zero")), st.integers(0, 3)


@st.composite
def packets(draw: st.DrawFn, wire: str, peer: Description) -> Pages:
    """Return valid packets with pages: few, as a packet with one shows most of what there is."""
    lists = "zero_pages" in {row.name for row in peer.dialect.packet.rows()}
    kind = draw(_KINDS if lists else st.just("normal"))
    pages = draw(page_numbers())
    cut = {"normal": len(pages), "both": len(pages) // 2, "zero": 0}[kind]
    return Pages(wire=wire, normal=pages[:cut], zero=pages[cut:], salt=draw(_SALTS))


@st.composite
def messages(draw: st.DrawFn, wire: str, peer: Description, channels: int) -> Any:
    """Return a message of a channel, of any kind, mostly with something wrong in it."""
    step = draw(
        st.one_of(
            packets(wire, peer),
            st.builds(Sync, wire=st.just(wire)),
            st.builds(DeviceState, wire=st.just(wire), size=st.integers(0, 16)),
            st.builds(Init, wire=st.just(wire)),
        )
    )
    if draw(st.booleans()):
        return replace(step, fields=draw(changes(type(step), peer, channels)))
    return step
