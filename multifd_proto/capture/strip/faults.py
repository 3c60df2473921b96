"""Bytes that have a given fault of a main stream, and nothing else of what was at fault."""

from __future__ import annotations

from multifd_proto.wire.cursor import U8, U32, U64, build_name
from multifd_proto.wire.main_records import (
    STREAM_MAGIC,
    FaultKind,
    Footer,
    MainFault,
    SectionPart,
)
from multifd_proto.wire.ram_records import FLAG_MASK, RamFlag
from multifd_proto.wire.schema import MappedRamHeader


def fault_bytes(fault: MainFault) -> bytes:
    """Return bytes with the same fault; none where what was at fault need not be there.

    What was at fault can be anything, guest memory too: its numbers of few bits are kept, its names
    and addresses are not.
    """
    seen = fault.seen
    assert isinstance(seen, int) or fault.kind in (FaultKind.BLOCK_NAME, FaultKind.MAGIC)
    match fault.kind, seen:
        case FaultKind.VERSION, int():
            return STREAM_MAGIC + U32.pack(seen)
        case ((FaultKind.RECORD_TYPE | FaultKind.NO_FOOTER), int()):
            return U8.pack(seen)
        case FaultKind.SECTION, int():
            return SectionPart(seen).build()
        case FaultKind.FOOTER, int():
            return Footer(seen).build()
        case FaultKind.RAM_FLAGS, int():
            address = FLAG_MASK + 1 if seen > FLAG_MASK else 0
            return U64.pack(seen & FLAG_MASK | address)
        case FaultKind.CONTINUE, int():
            return U64.pack(seen)
        case FaultKind.BLOCK_NAME, _:
            return U64.pack(RamFlag.PAGE) + build_name(b"")
        case FaultKind.BLOCK_LIST, int():
            total = U64.pack(int(fault.demanded) | RamFlag.MEM_SIZE)
            rest = bytes(U64.size + MappedRamHeader.size())
            return total + build_name(b"") + U64.pack(seen) + rest
    return b""
