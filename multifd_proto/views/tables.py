"""The specification's tables: Markdown, made of what the code says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multifd_proto.machine.transitions import TRANSITIONS
from multifd_proto.wire.dialect import (
    DIALECTS,
    FLAG_DEVICE_STATE,
    FLAG_SYNC,
    Dialect,
    describe,
    where,
)
from multifd_proto.wire.main_records import COMMANDS
from multifd_proto.wire.payload import METHOD_MASK, METHODS, PayloadMethod
from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import MULTIFD_PACKET_SIZE, PAGE_SIZES, Message, MultiFDPacket
from multifd_proto.wire.schema import page_count as pages_of


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a `|` within a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def code(text: object) -> str:
    """Return a Markdown code span."""
    return f"`{text}`"


def layout(message: type[Message]) -> str:
    """Return the fields of a message: offset and size in bytes, name, type, meaning."""
    each = f"{message.item_size} x page_count"
    rows = [
        (row.offset, row.size or each, code(row.name), row.type, row.meaning)
        for row in message.rows()
    ]
    size = f"{message.size()} bytes" + (f" + {each}" if message.item_size else "")
    fields = table(("offset", "size", "field", "type", "meaning"), rows)
    return f"{fields}\n\n{code(message.name)} has {size} in all."


def page_sizes() -> str:
    """Return what depends on the target page size."""
    heads = ("target page size", "page_count", "bytes of a RAM packet's head", "with all its pages")
    rows = []
    for size in PAGE_SIZES:
        head = MultiFDPacket.size(pages_of(size))
        rows.append((f"{size // 1024} KiB", pages_of(size), head, head + MULTIFD_PACKET_SIZE))
    return table(heads, rows)


def flags() -> str:
    """Return the bits of `flags`."""
    device = describe(where(lambda d: d.device_state)).split()[0]
    rows = [
        (code(f"0x{FLAG_SYNC:02x}"), "SYNC", DIALECTS[0].name, "ends a round on its channel"),
        *(
            (code(f"0x{m.flag:02x}"), m.name, m.since, f"payload method, mask {METHOD_MASK:#x}")
            for m in METHODS
            if m.flag
        ),
        (code(f"0x{FLAG_DEVICE_STATE:02x}"), "DEVICE_STATE", device, "another layout follows"),
    ]
    return table(("bits", "name", "since", "meaning"), rows)


def methods() -> str:
    """Return the payload methods."""
    heads = ("method", "bits", "since", "levels", "most bytes a packet", "how pages become payload")
    return table(heads, (_method(method) for method in METHODS))


def _method(m: PayloadMethod) -> Sequence[object]:
    levels = f"{m.levels[0]} to {m.levels[-1]}" if m.levels else "none"
    limit = m.limit or "`next_packet_size` is not looked at"
    return m.name, code(f"0x{m.flag:02x}"), m.since, levels, limit, m.summary


def dialects() -> str:
    """Return what differs between the dialects, then how they tell connections apart."""
    heads = (
        "dialect", "releases", "first release", "method bits", "zero pages in packets",
        "most `pages_alloc`", "`pages_alloc` of SYNC", "device state", "FLUSH marks",
    )  # fmt: skip
    connections = ((d.name, d.first_connection) for d in DIALECTS)
    return (
        f"{table(heads, (_dialect(d) for d in DIALECTS))}\n\n"
        f"{table(('dialect', 'how a receiver finds the main connection'), connections)}"
    )


def _dialect(d: Dialect) -> Sequence[object]:
    def said(fact: bool) -> str:
        return "yes" if fact else "no"

    most = "page_count" if d.alloc_bound == 1 else f"{d.alloc_bound} x page_count"
    return (
        d.name, d.releases, d.date, code(f"0x{d.method_mask:02x}"),
        said(d.packet is MultiFDPacket), most, "page_count" if d.sync_alloc else 0,
        said(d.device_state), said(d.flush_mark),
    )  # fmt: skip


def changes() -> str:
    """Return the differences that each dialect brought, with the places they were read from."""
    heads = ("dialect", "released", "change", "read in")
    return table(heads, ((d.name, d.date, c.what, c.source) for d in DIALECTS for c in d.changes))


def quirks() -> str:
    """Return the known deviations of real senders."""
    heads = ("quirk", "against", "dialects", "what happens", "loses data", "fixed by")
    rows = (
        (
            q.name,
            ", ".join(link(id_) for id_ in q.requirements),
            describe(q.dialects),
            q.reason,
            "yes" if q.defect else "no",
            q.source,
        )
        for q in QUIRKS
    )
    return table(heads, rows)


def link(requirement: str) -> str:
    """Return a link to a requirement's block."""
    return f"[{requirement}]({load()[requirement].anchor})"


def states() -> str:
    """Return the channel machine as a table and as a Mermaid diagram."""
    rows = (
        (
            code(state.name),
            state.meaning,
            "<br>".join(f"{event.__name__} → {code(to.name)}" for event, to in after.items()),
        )
        for state, after in TRANSITIONS.items()
    )
    first = next(iter(TRANSITIONS)).name
    edges = "\n".join(
        f"    {state.name} --> {to.name}: {event.__name__}"
        for state, after in TRANSITIONS.items()
        for event, to in after.items()
    )
    return (
        f"{table(('state', 'what it does', 'event → next state'), rows)}\n\n"
        f"```mermaid\nstateDiagram-v2\n    [*] --> {first}\n{edges}\n```"
    )


def commands() -> str:
    """Return the commands of the main stream."""
    return table(("number", "command"), ((n, code(name)) for n, name in COMMANDS.items()))


def requirements() -> str:
    """Return the index of all requirements."""
    heads = ("id", "what", "level", "binds", "dialects", "observable")
    rows = (
        (link(r.id), r.slug, r.level.value, r.role.value, r.dialect_text, r.observable)
        for r in load().values()
    )
    return table(heads, rows)
