"""What differs between QEMU releases, as data.

A `Dialect` is a line of releases that behave alike on the wire; each row but the first says only
what it changed against the one before. Adding a release is a row here and a paragraph in `spec/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from multifd_proto.wire.schema import MultiFDPacket, MultiFDPacketBefore9

FLAG_SYNC = 0x01
"""The packet ends a round on its channel (QEMU: `MULTIFD_FLAG_SYNC`)."""
FLAG_DEVICE_STATE = 0x40
"""The packet is a `MultiFDPacketDeviceState_t` (QEMU: `MULTIFD_FLAG_DEVICE_STATE`, 10.0)."""


@dataclass(frozen=True)
class Change:
    """One difference that a release line brought, and where it was read (commit or function)."""

    what: str
    source: str


@dataclass(frozen=True)
class Dialect:
    """A line of QEMU releases that behave alike on the wire."""

    name: str
    """First release of the line, or `seed` for the commit the specification began with."""
    releases: str
    """The releases it covers, as text."""
    date: str
    """Date of its first release, or of the commit for `seed`; ISO 8601."""
    method_mask: int
    """Bits of `flags` that hold the payload method; 0 where there is none but `none`."""
    packet: type[MultiFDPacket | MultiFDPacketBefore9]
    """Layout of the RAM packet: with `zero_pages` since 9.0."""
    alloc_bound: int
    """Receivers refuse `pages_alloc` above this multiple of page_count."""
    sync_alloc: bool
    """SYNC packets carry page_count in `pages_alloc` (0 since 9.2)."""
    device_state: bool
    """Device-state packets exist."""
    flush_mark: bool
    """Modern machine types mark rounds with MULTIFD_FLUSH words on the main stream."""
    first_connection: str
    """How a receiver tells the main connection from the channels."""
    peeks: bool
    """Receivers tell them by their first bytes; by order if not, and always inside TLS."""
    switchover_ack: bool
    """Receivers answer SWITCHOVER_ACK when the return path is opened and no device wants it
    later, which a source without that capability ignores."""
    close_notify: bool
    """Inside TLS, channels end with close_notify, which receivers demand."""
    changes: tuple[Change, ...]
    """What this line changed against the one before it."""

    @property
    def flags(self) -> int:
        """All bits of `flags` that have a meaning in this dialect."""
        return FLAG_SYNC | self.method_mask | (FLAG_DEVICE_STATE if self.device_state else 0)

    @property
    def index(self) -> int:
        """Position in `DIALECTS`, oldest first."""
        return DIALECTS.index(self)


_ORDER = "the first accepted is the main stream"
_PEEK = "peeks at 4 bytes: QEVM is the main stream, anything else a channel; by order under TLS"
_PEEK_STRICT = "peeks at 4 bytes: QEVM or the multifd magic, else refused; by order under TLS"

_4_0 = Dialect(
    name="4.0",
    releases="4.0 to 4.2",
    date="2019-04-23",
    method_mask=0,
    packet=MultiFDPacketBefore9,
    alloc_bound=100,
    sync_alloc=True,
    device_state=False,
    flush_mark=False,
    first_connection=_ORDER,
    peeks=False,
    switchover_ack=False,
    close_notify=False,
    changes=(
        Change("first stable form: 64-byte init, 320-byte packet head", "ram.c:MultiFDInit_t"),
        Change("3.0 and 3.1 (x-multifd) sent other structures", "ram.c:MultiFDPacket_t @3.0"),
    ),
)
_5_0 = replace(
    _4_0,
    name="5.0",
    releases="5.0 to 6.2",
    date="2020-04-28",
    method_mask=0x0E,
    changes=(
        Change("payload methods zlib and zstd; method bits in flags", "multifd.h"),
        Change("reserved bytes of the init are zeroed", "d069bcca6c"),
        Change("TLS on multifd channels (5.2)", "multifd.c:multifd_tls_channel_connect"),
    ),
)
_7_0 = replace(
    _5_0,
    name="7.0",
    releases="7.0 to 8.0",
    date="2022-04-19",
    alloc_bound=1,
    first_connection=_ORDER + " (7.x); " + _PEEK + " (8.0)",
    changes=(
        Change("pages_used is named normal_pages", "multifd.h:MultiFDPacket_t"),
        Change("receivers refuse pages_alloc above page_count", "cf2d4aa8a2"),
        Change("zero-copy-send (7.1)", "multifd.c:multifd_send_thread"),
        Change("receivers peek at the magic of a connection (8.0)", "6720c2b327"),
        Change("no page is sent twice in a round (8.0)", "ddbe628c97"),
    ),
)
_8_1 = replace(
    _7_0,
    name="8.1",
    releases="8.1",
    date="2023-08-22",
    flush_mark=True,
    first_connection=_PEEK,
    peeks=True,
    switchover_ack=True,
    changes=(
        Change(
            "machine types newer than 8.0 mark a round by MULTIFD_FLUSH instead of each EOS",
            "ram.c:RAM_SAVE_FLAG_MULTIFD_FLUSH",
        ),
        Change("FLUSH words are written even without multifd", "d4f34485ca"),
        Change("SWITCHOVER_ACK on the return path", "migration.c:MIG_RP_MSG_SWITCHOVER_ACK"),
    ),
)
_8_2 = replace(
    _8_1,
    name="8.2",
    releases="8.2",
    date="2023-12-20",
    changes=(
        Change("next_packet_size is 0 where no payload follows", "1618f55221"),
        Change("FLUSH words only with multifd", "d4f34485ca"),
    ),
)
_SEED = replace(
    _8_2,
    name="seed",
    releases="commit 1a6e217c35, between 8.2 and 9.0",
    date="2024-03-04",
    changes=(
        Change("SYNC packets never carry pages; no empty packets", "f5f48a7891"),
        Change("packet_num is unique and without gaps over all channels", "98ea497d8b"),
        Change("the main stream starts when all channels are connected", "93fa9dc2e0"),
        Change("receivers name a channel id that is too large", "c77b40859a"),
        Change("mapped-ram files", "multifd.c:multifd_file_recv_data"),
    ),
)
_9_0 = replace(
    _SEED,
    name="9.0",
    releases="9.0",
    date="2024-04-23",
    packet=MultiFDPacket,
    changes=(
        Change("zero_pages: pages of zeros travel in packets, without payload", "303e6f54f9"),
    ),
)
_9_1 = replace(
    _9_0,
    name="9.1",
    releases="9.1",
    date="2024-09-03",
    method_mask=0x1E,
    changes=(
        Change("payload methods qpl and uadk", "multifd.h"),
        Change("the last SYNC of each channel has no mark", "637280aeb2"),
        Change("receivers take memory to be zero until its first page", "multifd-zero-page.c"),
    ),
)
_9_2 = replace(
    _9_1,
    name="9.2",
    releases="9.2",
    date="2024-12-10",
    method_mask=0x3E,
    sync_alloc=False,
    changes=(
        Change("payload method qatzip", "multifd.h"),
        Change(
            "packets are zeroed before use: no stale bytes, SYNC has pages_alloc 0", "87bb9e953e"
        ),
        Change("receivers of 9.2.0 skip the pages of a SYNC packet", "d7e58f412c, b93d897ea2"),
    ),
)
_10_0 = replace(
    _9_2,
    name="10.0",
    releases="10.0",
    date="2025-04-22",
    device_state=True,
    close_notify=True,
    changes=(
        Change("device-state packets; receivers read 12 bytes, then decide", "8050c435b7"),
        Change("a FLUSH word for every SYNC again", "1d457daf86"),
        Change("packets of zero pages alone are sent under compression too", "cdc3970f85"),
        Change("TLS: channels end with close_notify", "48796f6b44"),
    ),
)
_10_1 = replace(
    _10_0,
    name="10.1",
    releases="10.1 to 10.2",
    date="2025-08-26",
    first_connection=_PEEK_STRICT,
    changes=(
        Change("receivers refuse a connection of unknown magic", "00f3fcef19"),
        Change("postcopy after a multifd precopy", "e274188612"),
        Change("TLS: close_notify only after success (10.2)", "82f038d596"),
    ),
)
_11_0 = replace(
    _10_1,
    name="11.0",
    releases="11.0",
    date="2026-04-21",
    changes=(Change("COLO over multifd", "dd67c149e2"),),
)
_11_1 = replace(
    _11_0,
    name="11.1",
    releases="11.1",
    date="2026-08-11",
    switchover_ack=False,
    changes=(
        Change("receivers refuse id == channels", "810bf31a1b"),
        Change("SWITCHOVER_ACK is asked for in another way", "13a9616805"),
        Change("receivers bound next_packet_size (11.1.1, 10.0.13)", "work item 3737"),
    ),
)


DIALECTS = (
    _4_0, _5_0, _7_0, _8_1, _8_2, _SEED, _9_0, _9_1, _9_2, _10_0, _10_1, _11_0, _11_1,
)  # fmt: skip
"""All dialects, oldest first."""

EVERY = frozenset(DIALECTS)
"""All dialects, as a set."""


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def dialect_of(release: str) -> Dialect:
    """Return the dialect that a QEMU release speaks: `"7.2"`, `"10.0.13"`, `"seed"`.

    Raises:
        ValueError: the release is not a number, or older than 4.0.
    """
    if release == _SEED.name:
        return _SEED
    try:
        wanted = _numbers(release)
    except ValueError:
        wanted = ()
    older = [d for d in DIALECTS if d is not _SEED and _numbers(d.name) <= wanted]
    if not older:
        raise ValueError(f"{release!r} is no QEMU release from 4.0 on, nor 'seed'")
    return older[-1]


@cache
def span(first: str, last: str = DIALECTS[-1].name) -> frozenset[Dialect]:
    """Return the dialects from one release to another, both included."""
    return frozenset(DIALECTS[dialect_of(first).index : dialect_of(last).index + 1])


def where(condition: Callable[[Dialect], bool]) -> frozenset[Dialect]:
    """Return the dialects for which a condition holds."""
    return frozenset(d for d in DIALECTS if condition(d))


def describe(dialects: frozenset[Dialect]) -> str:
    """Say a set of dialects as runs: `4.0 to 8.2`, `9.1, 9.2`."""
    names, run = [], list[Dialect]()
    for d in (*DIALECTS, None):
        if d is not None and d in dialects:
            run.append(d)
        elif run:
            ends = (run[0].name, run[-1].name)
            names.append(" to ".join(ends) if len(run) > 2 else ", ".join(r.name for r in run))
            run = []
    return ", ".join(names)
