"""Chapter 9, device state: packets that are not of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case, Expect
from ..script import DeviceState, Ended, Pages
from .steps import BEGUN, PROOF, U32

REFUSES = Expect.REFUSES


def _unknown(slug: str, says: str, *, size: int = 12, idstr: str = "nosuchdevice", **fields: Any
             ) -> Case:  # fmt: skip
    fault = DeviceState(wire="0", idstr=idstr, size=size, fields=fields)
    return Case(f"DEV-5/{slug}", says, REFUSES, (*BEGUN, fault, *PROOF), since="10.0")


def _huge(slug: str, says: str, size: int) -> Case:
    """Announce so much, and send next to nothing."""
    fault = DeviceState(wire="0", fields={"next_packet_size": size})
    return Case(f"DEV-6/{slug}", says, REFUSES, (*BEGUN, fault, Ended(wires=("0",))), since="10.0")


CASES: tuple[Case, ...] = (
    _unknown("unknown", "state of a device that there is not"),
    _unknown("instance", "state of an instance of a device that there is not", instance_id=U32),
    _unknown("ram", "state of a device that takes none from channels", idstr="ram"),
    _unknown("without-nul", "state of a device whose name has 256 bytes and no NUL",
             idstr="n" * 256),
    _unknown("no-name", "state of a device without a name", idstr=""),
    _unknown("mebibyte", "1 MiB of state of a device that there is not", size=1 << 20),
    Case("DEV-5/empty", "no state of a device that there is not", REFUSES,
         (*BEGUN, DeviceState(wire="0", size=0), *PROOF), since="10.0"),
    Case("DEV-5/sync", "state of a device that there is not, with SYNC", REFUSES,
         (*BEGUN, DeviceState(wire="0", fields={"flags": 0x41}), *PROOF), since="10.0"),
    Case("DEV-5/packet-with-pages", "a packet with a page, and the flag of device state", REFUSES,
         (*BEGUN, Pages(wire="0", normal=(8,), fields={"flags": 0x40}, lands=False), *PROOF),
         since="10.0", reported="its counts of pages are a name now"),
    _huge("all-ones", "state of 2^32 - 1 bytes", U32),
    _huge("gibibyte", "state of 1 GiB", 1 << 30),
)  # fmt: skip


def test_device_state(multifd_case: Callable[[], None]) -> None:
    multifd_case()
