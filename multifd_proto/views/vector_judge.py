"""What this implementation makes of test vectors: decoded fields, a result, requirements."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from multifd_proto.machine.channel import Channel
from multifd_proto.machine.check import Checker
from multifd_proto.machine.events import PacketReceived, PayloadReceived
from multifd_proto.machine.migration import MainReceived
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.verdict import Verdict
from multifd_proto.views.vector_form import Document, message_fields, pack, record_fields, unpack
from multifd_proto.wire.dialect import FLAG_DEVICE_STATE, Dialect, dialect_of
from multifd_proto.wire.main_records import MainFault
from multifd_proto.wire.main_stream import MainStream
from multifd_proto.wire.payload import METHODS, PayloadMethod
from multifd_proto.wire.schema import (
    Message,
    MultiFDInit,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    page_count,
)

VALID, ACCEPTABLE, INVALID = "valid", "acceptable", "invalid"
UNJUDGED = "not judged"
LONGEST_PAGES = 1024
"""Characters of run-length hex up to which decoded pages are given; beyond, their SHA-256."""


@dataclass(frozen=True)
class Judgement:
    """What a test comes to."""

    fields: dict[str, Any]
    result: str
    requirements: tuple[str, ...]
    """Those that it violates."""


def judge(suite: str, group: Document) -> Iterator[Judgement]:
    """Yield what each test of a group comes to."""
    kind = suite.partition("-")[0]
    if kind == "payload":
        yield from _judge_payloads(group)
    else:
        one = {"init": _judge_init, "packets": _judge_packet, "main": _judge_main}[kind]
        yield from (one(group, test) for test in group["tests"])


def disagreements(document: Document) -> Iterator[str]:
    """Yield where the tests of a file say something else than this implementation."""
    for group in document["groups"]:
        for test, seen in zip(group["tests"], judge(document["suite"], group), strict=True):
            said = (test["fields"], test["result"], test["requirement"])
            real = (seen.fields, seen.result, ", ".join(seen.requirements) or None)
            for what, a, b in zip(("fields", "result", "requirement"), said, real, strict=True):
                if a != b:
                    yield f"{test['id']}: {what} is {a}, judged {b}"


def _parameters(group: Document) -> MigrationParameters:
    uuid, blocks = group.get("uuid"), group.get("ramblocks")
    method = group.get("method")
    return MigrationParameters(
        dialect=dialect_of(group["dialect"]),
        page_size=group.get("page_size"),
        channels=group.get("channels"),
        uuid=None if uuid is None else unpack(uuid),
        ramblocks=None
        if blocks is None
        else tuple(RamBlock(unpack(b["name"]), b["used_length"], b["migratable"]) for b in blocks),
        compression=None if method is None else _method(method),
    )


def _method(name: str) -> PayloadMethod:
    return next(method for method in METHODS if method.name == name)


def _conclude(checker: Checker, fields: dict[str, Any]) -> Judgement:
    report = checker.conclude()
    against = [*report.of(Verdict.FAILED), *report.of(Verdict.DEVIATION)]
    result = INVALID if report.violated else ACCEPTABLE if against else VALID
    return Judgement(fields, result, tuple(r.requirement.id for r in against))


def _follow(checker: Checker, stream: int, data: bytes) -> None:
    """Let a checker see the bytes of a channel; one that ends inside its init message ends."""
    known = checker.migration.parameters
    channel = Channel(page_size=known.page_size, dialect=known.dialect)
    channel.receive_data(data)
    if len(data) < MultiFDInit.size():
        channel.receive_eof()
    checker.judge(checker.add_channel(stream), channel.events())


def _judge_init(group: Document, test: Document) -> Judgement:
    checker, data = Checker(_parameters(group)), unpack(test["hex"])
    for stream, other in enumerate(test.get("other_channels", []), 1):
        _follow(checker, stream, unpack(other))
    _follow(checker, 0, data)
    return _conclude(checker, _fields_of(MultiFDInit, data))


def _judge_packet(group: Document, test: Document) -> Judgement:
    checker, data = Checker(_parameters(group)), unpack(test["hex"])
    _follow(checker, 0, unpack(group["before"]) + data)
    flags = MultiFDPacketHdr.parse(data[: MultiFDPacketHdr.size()]).flags
    dialect = dialect_of(group["dialect"])
    device = dialect.device_state and flags & FLAG_DEVICE_STATE
    return _conclude(
        checker, _fields_of(MultiFDPacketDeviceState if device else dialect.packet, data)
    )


def _fields_of(message: type[Message], data: bytes) -> dict[str, Any]:
    return message_fields(message.parse(data)) if len(data) >= message.size() else {}


def payload_head(
    method: PayloadMethod, dialect: Dialect, page_size: int, normal_pages: int, size: int
) -> bytes:
    """Return the packet that a payload is judged behind."""
    count = page_count(page_size)
    offsets = tuple(n * page_size for n in range(count))
    return dialect.packet(
        flags=method.flag,
        pages_alloc=count,
        normal_pages=normal_pages,
        next_packet_size=size,
        ramblock=b"pc.ram".ljust(256, b"\0"),
        offset=offsets[:normal_pages] + (0,) * (count - normal_pages),
    ).build()


class _Memory:
    """Keeps the guest memory of one payload (a `PageSink`)."""

    def __init__(self) -> None:
        self.data = b""

    def begin(self, packet: PacketReceived) -> None:  # noqa: ARG002
        self.data = b""

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def end(self, payload: PayloadReceived) -> None:
        """Nothing is left to do."""


def _judge_payloads(group: Document) -> Iterator[Judgement]:
    given, memory = _parameters(group), _Memory()
    assert given.dialect is not None
    assert given.page_size is not None
    assert given.compression is not None
    channel = Channel(page_size=given.page_size, dialect=given.dialect, sink=memory)
    channel.receive_data(MultiFDInit().build())
    list(channel.events())
    for test in group["tests"]:
        fields = test["fields"]
        pages, size = fields["normal_pages"], fields["next_packet_size"]
        head = payload_head(given.compression, given.dialect, given.page_size, pages, size)
        channel.receive_data(head + unpack(test["hex"]))
        events = list(channel.events())
        checker = Checker(given)
        checker.judge(checker.add_channel(0, whole=False), events)
        seen = _conclude(checker, {"normal_pages": pages, "next_packet_size": size})
        if seen.result != INVALID:
            decoded = any(isinstance(e, PayloadReceived) and e.decoded for e in events)
            found = {**seen.fields, **_pages(memory.data)}
            seen = Judgement(found, seen.result if decoded else UNJUDGED, seen.requirements)
        yield seen


def _pages(memory: bytes) -> dict[str, str]:
    text = pack(memory)
    if len(text) <= LONGEST_PAGES:
        return {"pages": text}
    return {"pages_sha256": hashlib.sha256(memory).hexdigest()}


def _judge_main(group: Document, test: Document) -> Judgement:
    checker, stream = Checker(_parameters(group)), MainStream(page_size=group["page_size"])
    checker.add_channel(1)
    main = checker.add_main(0)
    stream.receive_data(unpack(test["hex"]))
    stream.receive_eof()
    followed, records = True, []
    for offset, size, record in stream.records():
        checker.judge(main, [MainReceived(offset, 0, size, record, 0)])
        followed &= not isinstance(record, MainFault)
        if followed:
            head = {"record": type(record).__name__, "offset": offset, "size": size}
            records.append({**head, **record_fields(record)})
    return _conclude(checker, {"records": records})
