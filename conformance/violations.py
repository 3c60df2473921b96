"""One miniature for each requirement that shows on the wire: it violates that one alone.

Written in the order of the catalogue. Where a fault would break more than one requirement, the
miniature is built so that it does not: a packet number that goes missing is the last but one, a
page too many is in a packet whose offsets are in order, and so on.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace

from multifd_proto.wire.main_records import (
    Footer,
    MainHeader,
    MainRecord,
    SectionEnd,
    SectionPart,
)
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamFlush,
    RamPage,
    RamSetup,
    RamZero,
)
from multifd_proto.wire.schema import MultiFDPacket

from .miniatures import (
    BLOCK,
    COUNT,
    FOOTER,
    LENGTH,
    METHOD,
    PAGE_SIZE,
    SETUP,
    START,
    ZERO,
    Packet,
    Sender,
    Session,
    base,
    legacy,
    main_stream,
    pages,
    sync,
    with_device_state,
)

VIOLATIONS: dict[str, Callable[[], Session]] = {}
"""By requirement: the session that violates it."""
_Make = Callable[[], Session]


def violates(requirement: str) -> Callable[[_Make], _Make]:
    """Register the miniature of a requirement."""

    def register(make: _Make) -> _Make:
        assert requirement not in VIOLATIONS, requirement
        VIOLATIONS[requirement] = make
        return make

    return register


def _is(requirement: str, session: _Make) -> None:
    violates(requirement)(session)


def _cut(session: Session, channel: int, cut: int) -> Session:
    return session.with_sender(channel, replace(session.channels[channel], cut=cut))


def _appended(session: Session, channel: int, *packets: Packet) -> Session:
    sender = session.channels[channel]
    return session.with_sender(channel, replace(sender, packets=(*sender.packets, *packets)))


# ---- connections -----------------------------------------------------------------------------

_is("CHAN-1", lambda: _cut(base(), 1, 100))
_is("CHAN-2", lambda: base().with_sender(0, replace(base().channels[0], reverse=8)))


@violates("CHAN-3")
def one_channel_too_few() -> Session:
    return replace(base(), parameters=replace(base().parameters, channels=3))


_is("CHAN-4", lambda: replace(base(), main_opened=9))
_is("TLS-1", lambda: replace(base(), tls=1))

# ---- init ------------------------------------------------------------------------------------

_is("INIT-1", lambda: base().with_init(1, magic=0))
_is("INIT-2", lambda: base().with_init(1, version=2))
_is("INIT-3", lambda: base().with_init(1, uuid=b"\xff" * 16))
_is("INIT-4", lambda: base().with_init(0, uuid=bytes(16)).with_init(1, uuid=bytes(16)))
_is("INIT-5", lambda: base().with_init(1, id=2))
_is("INIT-6", lambda: base().with_init(1, id=0))
_is("INIT-7", lambda: base().with_init(1, unused2=bytes(31) + b"\x01"))
_is("INIT-8", lambda: base().with_sender(1, Sender(base().channels[1].init, (), cut=10)))

# ---- packets ---------------------------------------------------------------------------------

_is("PKT-1", lambda: base().with_head(1, 2, magic=0xFFFFFFFF))
_is("PKT-2", lambda: base().with_head(1, 2, version=2))
_is("PKT-3", lambda: base().with_head(1, 2, flags=0x81))
_is("PKT-4", lambda: base().with_head(1, 1, pages_alloc=COUNT + 1))
_is("PKT-5", lambda: base().with_head(1, 1, pages_alloc=COUNT - 1))


@violates("PKT-6")
def more_normal_pages_than_room() -> Session:
    full = pages(3, tuple(range(COUNT))).head
    assert isinstance(full, MultiFDPacket)
    packet = replace(full, normal_pages=COUNT + 1, next_packet_size=(COUNT + 1) * PAGE_SIZE)
    return base().with_packet(1, 1, Packet(packet, bytes((COUNT + 1) * PAGE_SIZE)))


@violates("PKT-7")
def more_zero_pages_than_room() -> Session:
    packet = pages(3, (8,), tuple(range(9, 16)))
    return base().with_packet(1, 1, packet).with_head(1, 1, zero_pages=COUNT)


_is("PKT-8", lambda: base().with_head(1, 1, unused64=b"\x01" + bytes(23)))
_is("PKT-9", lambda: base().with_head(1, 1, ramblock=b"r" * 256))
_is("PKT-10", lambda: base().with_head(1, 1, ramblock=(BLOCK + b"\0old").ljust(256, b"\0")))
_is("PKT-11", lambda: base().with_head(1, 1, ramblock=b"ram9".ljust(256, b"\0")))


@violates("PKT-12")
def a_page_of_a_rom() -> Session:
    return (
        base().with_packet(1, 1, pages(3, (0,))).with_head(1, 1, ramblock=b"rom".ljust(256, b"\0"))
    )


_is("PKT-13", lambda: base().with_packet(1, 1, pages(3, (LENGTH // PAGE_SIZE,))))
_is("PKT-14", lambda: base().with_head(1, 1, offset=(0x81000, 0x90000, 0xA0000, 0, 0, 0, 0, 0)))
_is("PKT-15", lambda: base().with_packet(1, 1, pages(3, (8, 9, 8))))
_is("PKT-16", lambda: base().with_head(1, 1, next_packet_size=77))
_is("PKT-17", lambda: base().with_head(1, 2, next_packet_size=4096))
_is("PKT-18", lambda: base().with_head(1, 2, offset=(0,) * 7 + (0x10000,)))


@violates("PKT-19")
def an_empty_packet() -> Session:
    empty = MultiFDPacket(pages_alloc=COUNT, packet_num=9, offset=(0,) * COUNT)
    session = _appended(base(), 1, Packet(empty), sync(10))
    session = _appended(session, 0, sync(11))
    return replace(session, main=_with_a_fourth_mark(session))


def _with_a_fourth_mark(session: Session) -> tuple[MainRecord, ...]:
    return (*session.main[:-5], SectionPart(1), RamFlush(), RamEos(), FOOTER, *session.main[-5:])


_is("PKT-20", lambda: base().with_head(0, 1, packet_num=4).with_head(0, 2, packet_num=2))


@violates("PKT-21")
def one_number_on_two_channels() -> Session:
    # 3 on both: channel 1 leaves 3, channel 0 takes 3 instead of 2, and 2 is used by neither
    session = base().with_head(0, 1, packet_num=3)
    return session.with_packet(1, 1, pages(2, (8, 9))).with_sender(
        1,
        replace(
            session.channels[1],
            packets=(sync(1), pages(2, (8, 9)), pages(3, (10,)), sync(5), sync(8)),
        ),
    )


_is("PKT-22", lambda: base().with_head(1, 3, packet_num=9))


@violates("PKT-23")
def a_later_round_with_a_lower_number() -> Session:
    # 5 ends round 1 on channel 1, 6 and 7 are of round 2 on channel 0: swap 5 and 6
    return base().with_head(1, 2, packet_num=6).with_head(0, 3, packet_num=5)


# ---- payload ---------------------------------------------------------------------------------


_is("PAY-1", lambda: base().with_head(1, 1, flags=0x6))


@violates("PAY-2")
def another_method() -> Session:
    zlib_page = pages(3, (8,), (), ("zlib", METHOD["zlib"].encoder()))
    return base().with_packet(1, 1, zlib_page)


def _payload(method: str, payload: bytes, normal: int = 1) -> Session:
    """Put another payload into the first packet of the second channel, for so many pages."""
    packet = pages(3, tuple(range(8, 8 + normal)), (), (method, METHOD[method].encoder()))
    head = replace(packet.head, next_packet_size=len(payload))
    return base(method).with_packet(1, 1, Packet(head, payload))


def _deflated(data: bytes, wbits: int, finish: int) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return stream.compress(data) + stream.flush(finish)


_PAGE = b"page" * (PAGE_SIZE // 4)


def _lengths(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") for part in parts) + b"".join(parts)


_is("PAY-3", lambda: _payload("zlib", _deflated(_PAGE[:-1], 15, zlib.Z_SYNC_FLUSH)))
_is("PAY-4", lambda: _payload("zlib", b"not a zlib stream"))
_is("PAY-5", lambda: _payload("zlib", _deflated(_PAGE, 15, zlib.Z_SYNC_FLUSH) + b"\0"))
_is("PAY-6", lambda: _payload("zstd", b"not a zstd frame"))
_is("PAY-7", lambda: _payload("qpl", bytes(4) + _deflated(_PAGE, -12, zlib.Z_FINISH)))
_is("PAY-8", lambda: _payload("qpl", _lengths(b"\xff" * 16)))
_is("PAY-9", lambda: _payload("uadk", _lengths(b"\xff" * 16)))
_is("PAY-10", lambda: _payload("qatzip", b"\x1f\x8b" + bytes(30)))


@violates("PAY-11")
def a_payload_beyond_the_limit() -> Session:
    # whole gzip members without content make it long, the last one has the page
    empty, page = gzip.compress(b"", mtime=0), gzip.compress(_PAGE, mtime=0)
    limit = METHOD["qatzip"].limit or 0
    return _payload("qatzip", empty * (limit // len(empty) + 1) + page)


# ---- SYNC ------------------------------------------------------------------------------------


@violates("SYNC-1")
def pages_before_the_first_sync() -> Session:
    session = base()
    sender = session.channels[1]
    packets = (pages(1, (20,)), sync(2), sync(5), sync(8))
    session = session.with_sender(1, replace(sender, packets=packets))
    return session.with_head(0, 1, packet_num=3)


@violates("SYNC-2")
def pages_in_a_sync() -> Session:
    packet = pages(5, (30,))
    return base().with_packet(1, 2, replace(packet, head=replace(packet.head, flags=1)))


_is("SYNC-3", lambda: base("zlib").with_head(1, 2, flags=0x3))
_is("SYNC-4", lambda: base().with_head(1, 2, pages_alloc=COUNT))


@violates("SYNC-5")
def one_sync_too_few() -> Session:
    sender = base().channels[1]
    return base().with_sender(1, replace(sender, packets=sender.packets[:-1]))


_is("SYNC-6", lambda: replace(base(), main=_with_a_fourth_mark(base())))
_is("SYNC-7", lambda: base().with_packet(1, 1, pages(3, (8, 9, 1))))
_is("SYNC-8", lambda: _appended(base(), 1, pages(9, (30,))))

# ---- main stream -----------------------------------------------------------------------------


@violates("MAIN-1")
def another_stream_version() -> Session:
    return base().with_main((MainHeader(), MainHeader(version=2)))


def _main_bytes(session: Session, old: bytes, new: bytes) -> Session:
    data = b"".join(record.build() for record in session.main)
    assert old in data
    return replace(session, main_tail=data.replace(old, new, 1))


_PART = SectionPart(1).build()
_is(
    "MAIN-2",
    lambda: _main_bytes(base(), FOOTER.build() + _PART, FOOTER.build() + b"\x55" + _PART[1:]),
)
_is("MAIN-3", lambda: _main_bytes(base(), FOOTER.build(), Footer(9).build()))
_is("MAIN-4", lambda: base().with_main((START, replace(START, version_id=3))))
_is(
    "MAIN-5",
    lambda: _main_bytes(base(), _PART + RamFlush().build(), _PART + (0x40).to_bytes(8, "big")),
)


@violates("MAIN-6")
def a_block_twice() -> Session:
    blocks = (*SETUP.blocks, RamBlockEntry(BLOCK, PAGE_SIZE))
    return base().with_main((SETUP, RamSetup(SETUP.total + PAGE_SIZE, blocks)))


@violates("MAIN-7")
def a_zero_page_of_no_block() -> Session:
    return replace(legacy(), main=main_stream(None, RamZero(b"ram9", (0,))))


@violates("MAIN-8")
def a_page_on_the_main_stream() -> Session:
    # of the default target page size, as nothing in the stream says another
    return replace(legacy(), main=main_stream(None, RamPage(b"rom", 0, 4096)))


_is("MAIN-9", lambda: replace(legacy(), main=main_stream(None, replace(ZERO, fill=0xAA))))


@violates("MAIN-10")
def flush_words_before_their_time() -> Session:
    return replace(legacy(), main=main_stream())


@violates("MAIN-11")
def an_end_inside_a_record() -> Session:
    session = base()
    end = session.main.index(SectionEnd(1))
    data = b"".join(record.build() for record in session.main[:end])
    return replace(session, main_tail=data + SectionEnd(1).build()[:3])


# ---- device state ----------------------------------------------------------------------------


def _device(**values: object) -> Session:
    return with_device_state().with_head(1, 3, **values)


_is("DEV-1", lambda: _device(idstr=b"v" * 256))
_is("DEV-2", lambda: _device(flags=0x41))


@violates("DEV-3")
def empty_device_state() -> Session:
    session = _device(next_packet_size=0)
    return session.with_packet(1, 3, replace(session.channels[1].packets[3], payload=b""))


_is("DEV-4", lambda: _device(flags=0x42))
