"""PAY-: payload methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from multifd_proto.machine.events import PacketReceived, PayloadReceived
from multifd_proto.machine.migration import ChannelInfo, Migration
from multifd_proto.machine.rule import Condition, Fault, Found, Judge, rule
from multifd_proto.machine.rules.packet import has_pages
from multifd_proto.wire.payload import METHOD_MASK, METHODS, PayloadFaultKind, method_of

if TYPE_CHECKING:
    from multifd_proto.machine.batch import PacketBatch
    from multifd_proto.machine.bulk import Scene

_K = PayloadFaultKind
FAULTS: dict[str, tuple[tuple[str, ...], tuple[PayloadFaultKind, ...]]] = {
    "PAY-3": (("zlib", "zstd", "qpl", "uadk", "qatzip"), (_K.SHORT, _K.SURPLUS)),
    "PAY-4": (("zlib",), (_K.CORRUPT, _K.ENDED)),
    "PAY-5": (("zlib",), (_K.UNFLUSHED,)),
    "PAY-6": (("zstd",), (_K.CORRUPT, _K.ENDED)),
    "PAY-7": (("qpl", "uadk"), (_K.LENGTHS,)),
    "PAY-8": (("qpl",), (_K.CORRUPT, _K.ENDED, _K.UNFINISHED, _K.TRAILING)),
    "PAY-9": (("uadk",), (_K.CORRUPT, _K.ENDED, _K.UNFINISHED, _K.TRAILING)),
    "PAY-10": (("qatzip",), (_K.CORRUPT, _K.ENDED, _K.UNFINISHED, _K.TRAILING)),
}
"""Which faults of which methods' decoders violate which requirement."""


@rule(
    "PAY-1",
    on=PacketReceived,
    when=has_pages,
    bulk=lambda _b, s: Found(~s.one_method, s.has_pages),
)
def one_method(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    if method_of(e.packet.flags) is None:
        allowed = ", ".join(f"{m.flag:#x} {m.name}" for m in METHODS)
        yield Fault(
            "method field of flags", f"{e.packet.flags & METHOD_MASK:#x}", f"one of {allowed}"
        )


def _same_method(_b: PacketBatch, s: Scene) -> Found:
    method = s.migration.method
    assert method is not None
    return Found(s.one_method & (s.method != method.flag), s.has_pages)


@rule(
    "PAY-2",
    on=PacketReceived,
    needs="method",
    when=has_pages,
    bulk=_same_method,
)
def same_method(m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    assert m.method is not None
    method = method_of(e.packet.flags)
    if method not in (None, m.method):
        yield Fault("payload method", method.name, f"{m.method.name}, as before")


def _decoded_as(methods: tuple[str, ...]) -> Condition:
    def decoded(_m: Migration, _c: ChannelInfo, e: PayloadReceived) -> bool:
        return e.decoded and e.method is not None and e.method.name in methods

    return decoded


def _has_fault(kinds: tuple[PayloadFaultKind, ...]) -> Judge:
    def judge(_m: Migration, _c: ChannelInfo, e: PayloadReceived) -> Iterator[Fault]:
        if e.fault and e.fault.kind in kinds:
            yield Fault("payload", e.fault.seen, e.fault.demanded)

    return judge


for _requirement, (_methods, _kinds) in FAULTS.items():
    rule(
        _requirement,
        on=PayloadReceived,
        when=_decoded_as(_methods),
        bulk=lambda _b, _s: Found(False, False),  # what was decoded is told by events
    )(_has_fault(_kinds))


def _is_limited(m: Migration, c: ChannelInfo, e: PacketReceived) -> bool:
    method = method_of(e.packet.flags)
    return has_pages(m, c, e) and e.packet.normal_pages > 0 and bool(method and method.limit)


def _bounded_size(b: PacketBatch, s: Scene) -> Found:
    of = [(s.method == m.flag, m.limit) for m in METHODS if m.limit and m.flag in s.methods]
    above = [which & (b.next_packet_size > limit) for which, limit in of]
    return Found(sum(above), sum(which & (b.normal_pages > 0) for which, _ in of))


@rule("PAY-11", on=PacketReceived, when=_is_limited, bulk=_bounded_size)
def bounded_size(_m: Migration, _c: ChannelInfo, e: PacketReceived) -> Iterator[Fault]:
    method = method_of(e.packet.flags)
    assert method is not None
    assert method.limit is not None
    if e.packet.next_packet_size > method.limit:
        limit = f"at most {method.limit} with {method.name}"
        yield Fault("next_packet_size", str(e.packet.next_packet_size), limit)
