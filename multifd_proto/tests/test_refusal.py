"""What a receiver refuses, message by message: one change to a good message, and its refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from multifd_proto.machine.events import (
    DeviceStateReceived,
    HeaderReceived,
    InitReceived,
    PacketReceived,
    PayloadReceived,
)
from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.machine.refusal import (
    MAX_DEVICE_STATE,
    Refusals,
    block_name,
    refuse_device_state,
    refuse_end,
    refuse_header,
    refuse_init,
    refuse_packet,
    refuse_payload,
)
from multifd_proto.tests.senders import METHOD, PAGE, parameters
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.payload import PayloadFault, PayloadFaultKind
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import (
    MultiFDInit,
    MultiFDPacketDeviceState,
    MultiFDPacketHdr,
    page_count,
)

COUNT = page_count(PAGE)
NAME = b"ram".ljust(256, b"\0")
BLOCKS = {b"ram": RamBlock(b"ram", 8 * PAGE), b"tiny": RamBlock(b"tiny", PAGE - 1)}
NEW = {d.name for d in DIALECTS if d.packet is dialect_of("9.0").packet}


def said(refusals: Refusals) -> str | None:
    """Return the first refusal in words."""
    for requirement, fault in refusals:
        must = load()[requirement].level.value.lower()
        return f"{requirement}: {fault.what} is {fault.seen}, {must} be {fault.demanded}"
    return None


def packet(dialect: str = "10.0", **values: Any) -> PacketReceived:
    """Return a packet with two normal pages, but for `values`."""
    offsets = values.pop("offset", (0, PAGE))
    fields: dict[str, Any] = {"pages_alloc": COUNT, "normal_pages": 2, "ramblock": NAME} | values
    fields["offset"] = (*offsets, *(0,) * (COUNT - len(offsets)))
    head = dialect_of(dialect).packet(**fields)
    return PacketReceived(64, 0, head, 1 << 30, 0, 0)


def judged(event: PacketReceived, method: str = "none", dialect: str = "10.0") -> str | None:
    return said(refuse_packet(event, parameters(dialect=dialect, method=method), BLOCKS))


# ---- init ----------------------------------------------------------------------------------------

OWN = UUID("00112233-4455-6677-8899-aabbccddeeff")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"magic": 0x44332211}, "INIT-9: magic is 0x44332211, must be 0x11223344"),
        ({"version": 0}, "INIT-10: version is 0, must be 1"),
        ({"uuid": bytes(16)}, f"INIT-11: uuid is {UUID(int=0)}, must be {OWN}"),
        ({"id": 2}, "INIT-12: id is 2, must be below 2"),
        ({"id": 255}, "INIT-12: id is 255, must be below 2"),
        ({"id": 1}, "INIT-13: id is 1, must be that of no other channel"),
        ({"id": 255, "magic": 0, "version": 9}, "INIT-9: magic is 0x00000000, must be 0x11223344"),
    ],
)
def test_a_wrong_init_is_refused(values: dict[str, Any], message: str) -> None:
    init = MultiFDInit(**{"uuid": OWN.bytes} | values)
    given = parameters(uuid=OWN.bytes)
    assert said(refuse_init(InitReceived(0, 0, init), given, {1})) == message


@pytest.mark.parametrize("given", [None, bytes(16)])
def test_a_good_init_is_not_refused(given: bytes | None) -> None:
    init = MultiFDInit(unused1=b"\xff" * 7, unused2=b"\xff" * 32)
    assert said(refuse_init(InitReceived(0, 0, init), parameters(uuid=given), {1})) is None


def test_without_a_uuid_any_is_taken() -> None:
    init = MultiFDInit(uuid=OWN.bytes)
    assert said(refuse_init(InitReceived(0, 0, init), parameters(), set())) is None


def test_the_uuid_of_a_machine_without_one_is_all_zero() -> None:
    init = MultiFDInit(uuid=OWN.bytes)
    message = said(refuse_init(InitReceived(0, 0, init), parameters(uuid=bytes(16)), set()))
    assert message == f"INIT-11: uuid is {OWN}, must be {UUID(int=0)}"


# ---- packets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"magic": 0}, "PKT-24: magic is 0x00000000, must be 0x11223344"),
        ({"version": 2}, "PKT-24: version is 2, must be 1"),
        ({"flags": 0xFFFFFFFF}, None),
    ],
)
def test_a_header(values: dict[str, int], message: str | None) -> None:
    assert said(refuse_header(HeaderReceived(64, 0, MultiFDPacketHdr(**values)))) == message


@pytest.mark.parametrize("dialect", [d.name for d in DIALECTS])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pages_alloc": 1}, "PKT-25: normal_pages is 2, must be at most 1"),
        ({"normal_pages": COUNT + 1}, f"PKT-25: normal_pages is {COUNT + 1}, must be at most 128"),
        ({"ramblock": bytes(256)}, "PKT-26: ramblock is '', must be one of ram, tiny"),
        ({"ramblock": b"x" * 256}, f"PKT-26: ramblock is '{'x' * 255}', must be one of ram, tiny"),
        ({"offset": (0, 8 * PAGE)}, "PKT-27: offset is 0x8000, must be at most 0x7000"),
        ({"offset": (0, 7 * PAGE + 1)}, "PKT-27: offset is 0x7001, must be at most 0x7000"),
        ({"offset": (2**64 - 1, 0)}, f"PKT-27: offset is {2**64 - 1:#x}, must be at most 0x7000"),
        (
            {"ramblock": b"tiny".ljust(256, b"\0")},
            "PKT-28: block is 4095 bytes long, must be at least 4096",
        ),
        ({"offset": (0, 512)}, "PKT-31: offset is 0x200, should be a multiple of 4096"),
        ({"offset": (0, 0)}, "PKT-31: an offset is listed twice, should be listed once"),
        ({"flags": 0x2}, "PAY-12: payload method is 0x2, must be 0x0 (none)"),
        ({"flags": 0x6}, "PAY-12: payload method is 0x6, must be 0x0 (none)"),
    ],
)
def test_a_wrong_packet_is_refused_in_every_dialect(
    dialect: str, values: dict[str, Any], message: str
) -> None:
    assert judged(packet(dialect, **values), dialect=dialect) == message


@pytest.mark.parametrize("dialect", [d.name for d in DIALECTS])
def test_pages_alloc_has_the_bound_of_the_dialect(dialect: str) -> None:
    bound = COUNT * (100 if dialect in {"4.0", "5.0"} else 1)
    assert judged(packet(dialect, pages_alloc=bound), dialect=dialect) is None
    message = f"PKT-25: pages_alloc is {bound + 1}, must be at most {bound}"
    assert judged(packet(dialect, pages_alloc=bound + 1), dialect=dialect) == message
    empty = packet(dialect, pages_alloc=bound + 1, normal_pages=0, flags=1)
    assert judged(empty, dialect=dialect) == message


@pytest.mark.parametrize("dialect", sorted(NEW))
def test_zero_pages_have_to_fit_too(dialect: str) -> None:
    assert (
        judged(packet(dialect, zero_pages=1, offset=(0, PAGE, 2 * PAGE)), dialect=dialect) is None
    )
    message = "PKT-25: zero_pages is 127, must be at most 126"
    assert judged(packet(dialect, zero_pages=127), dialect=dialect) == message
    message = "PKT-27: offset is 0x100000, must be at most 0x7000"
    assert (
        judged(packet(dialect, zero_pages=1, offset=(0, PAGE, 1 << 20)), dialect=dialect) == message
    )


def test_pages_before_the_block_list_are_refused() -> None:
    message = said(refuse_packet(packet(), parameters(), None))
    assert message == "SYNC-1: first packet is one with 2 pages, must be a SYNC packet"


@pytest.mark.parametrize("method", METHOD)
def test_next_packet_size_has_the_bound_of_the_method(method: str) -> None:
    limit, flag = METHOD[method].limit, METHOD[method].flag
    for size in (0, limit or 77):
        assert judged(packet(flags=flag, next_packet_size=size), method) is None
    message = f"PAY-13: next_packet_size is {2**32 - 1}, must be at most {limit}"
    found = judged(packet(flags=flag, next_packet_size=2**32 - 1), method)
    assert found == (message if limit else None)


@pytest.mark.parametrize("method", METHOD)
def test_zero_pages_alone_have_no_payload(method: str) -> None:
    values: dict[str, Any] = {"flags": METHOD[method].flag, "normal_pages": 0, "zero_pages": 1}
    assert judged(packet(**values, next_packet_size=0), method) is None
    message = "PAY-14: next_packet_size of zero pages is 9, must be 0"
    found = judged(packet(**values, next_packet_size=9), method)
    assert found == (None if method == "none" else message)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"offset": tuple(number * PAGE for number in (7, 3, 0))},
        {"flags": 0x1},
        {"flags": 0x80000080},
        {"packet_num": 2**64 - 1},
        {"next_packet_size": 2**32 - 1},
        {"unused32": b"\xff" * 4, "unused64": b"\xff" * 24},
        {"ramblock": b"ram\0" + b"\xff" * 252},
        {"offset": (0, PAGE, 2**64 - 1, 1, 1)},
        {"normal_pages": 0, "flags": 0x3F, "ramblock": b"\xff" * 256, "offset": (2**64 - 1,) * 9},
        {"normal_pages": 0, "pages_alloc": 0, "next_packet_size": 4096},
    ],
)
def test_what_real_senders_leave_there_is_not_refused(values: dict[str, Any]) -> None:
    assert judged(packet(**values)) is None


def test_a_block_is_looked_up_by_at_most_255_bytes() -> None:
    assert block_name(packet(ramblock=b"n" * 256)) == b"n" * 255
    assert block_name(packet()) == b"ram"


# ---- device state and payload --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("none", {}, None),
        ("none", {"next_packet_size": MAX_DEVICE_STATE}, None),
        (
            "none",
            {"idstr": b"\xff" * 256},
            f"DEV-1: idstr is '{chr(92)}xff"
            + f"{chr(92)}xff" * 31
            + "', must be a name that ends with NUL",
        ),
        ("none", {"idstr": bytes(256)}, "DEV-1: idstr is '', must be a name that ends with NUL"),
        ("none", {"flags": 0x41}, "DEV-2: flags word is 0x41, must be without SYNC"),
        ("none", {"next_packet_size": 0}, "DEV-3: next_packet_size is 0, must be at least 1"),
        ("none", {"flags": 0x42}, "DEV-4: flags word is 0x42, must be without method bits"),
        ("zlib", {}, "DEV-4: device state is sent with zlib, must be without"),
        (
            "none",
            {"next_packet_size": MAX_DEVICE_STATE + 1},
            "DEV-6: next_packet_size is 67108865, should be at most 67108864",
        ),
    ],
)
def test_device_state(method: str, values: dict[str, Any], message: str | None) -> None:
    fields: dict[str, Any] = {"idstr": b"vfio".ljust(256, b"\0"), "next_packet_size": 4}
    event = DeviceStateReceived(64, 0, MultiFDPacketDeviceState(**fields | values), 4, 0)
    assert said(refuse_device_state(event, parameters(method=method))) == message


def test_a_payload_with_a_fault_is_refused() -> None:
    good = PayloadReceived(64, 0, packet(), 9, 0, METHOD["zlib"], True, None)
    assert said(refuse_payload(good)) is None
    fault = PayloadFault(PayloadFaultKind.CORRUPT, "garbage", "a zlib stream")
    message = said(refuse_payload(replace(good, fault=fault)))
    assert message == "PAY-15: payload is garbage, must be a zlib stream"


@pytest.mark.parametrize(
    ("due", "message"),
    [(0, None), (5, "CHAN-11: end of the stream is 5 bytes early, must be between two packets")],
)
def test_the_end_of_a_channel(due: int, message: str | None) -> None:
    assert said(refuse_end(due)) == message


@pytest.mark.parametrize(("dialect", "refused"), [("9.2", False), ("10.0", True), (None, False)])
def test_the_end_of_a_channel_inside_tls(dialect: str | None, refused: bool) -> None:
    spoken = dialect_of(dialect) if dialect else None
    assert said(refuse_end(0, dialect=spoken)) is None
    message = said(refuse_end(0, ragged=True, dialect=spoken))
    assert (message is not None) is refused
    assert (message or "TLS-5: ").startswith("TLS-5: ")


def test_device_state_of_a_device_that_is_not_there() -> None:
    fields: dict[str, Any] = {"idstr": b"vfio".ljust(256, b"\0"), "next_packet_size": 4}
    event = DeviceStateReceived(64, 0, MultiFDPacketDeviceState(instance_id=7, **fields), 4, 0)
    assert said(refuse_device_state(event, parameters(), devices=False)) == (
        "DEV-5: device is 'vfio', instance 7, must be one that takes state from channels"
    )


def test_what_is_not_known_is_not_looked_at() -> None:
    nothing = MigrationParameters()
    assert said(refuse_init(InitReceived(0, 0, MultiFDInit(id=200)), nothing, set())) is None
    assert said(refuse_packet(packet(flags=0x2), nothing, BLOCKS)) is None
