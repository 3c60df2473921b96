"""The map of the guest's memory, as figures and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from multifd_proto.views.page.drawing import Figure
from multifd_proto.views.page.facts import Facts
from multifd_proto.views.page.memory import BlockMap, Cell
from multifd_proto.views.summary import size

KINDS = (
    "never sent",
    "zeros only",
    "sent once",
    "up to 2 times on average",
    "up to 5 times",
    "more often",
)
"""What a cell can be; the colour of the Nth is `--mN`."""
_WIDE = 64  # cells a row
_DRAWN = 4  # blocks that get a map; the table has all
_SMALL = 64  # pages of a block that needs no map


@dataclass(frozen=True)
class Block:
    """One RAM block, as the table has it."""

    name: str
    length: int | None
    """Bytes, if known."""
    total: Cell
    never: int | None
    figure: Figure | None


def blocks(facts: Facts) -> list[Block]:
    """Return all blocks, the largest first."""
    found = list(_blocks(facts))
    found.sort(key=lambda b: -(b.length or b.total.distinct))
    drawn = [b.name for b in found if b.total.distinct >= _SMALL or (b.never or 0) >= _SMALL]
    return [b if b.name in drawn[:_DRAWN] else _undrawn(b) for b in found]


def _undrawn(block: Block) -> Block:
    return Block(block.name, block.length, block.total, block.never, None)


def _blocks(facts: Facts) -> Iterator[Block]:
    known = facts.session.checker.migration.blocks or {}
    seen = facts.collected.memory.blocks
    for name in [*seen, *(n for n in list(known)[: len(seen) + 64] if n not in seen)]:
        length = known[name].used_length if name in known else None
        map_ = seen.get(name) or BlockMap(facts.page_size, facts.page_size)
        total = map_.total
        never = max(0, length // map_.page_size - total.distinct) if length else None
        said = name.decode("utf-8", "backslashreplace")
        yield Block(said, length, total, never, _map(map_, length) if name in seen else None)


def _map(map_: BlockMap, length: int | None) -> Figure:
    """Return a block as rows of cells, each coloured for how often its pages were sent."""
    count = -(-length // map_.span) if length else max(map_.cells) + 1
    count = min(count, max(max(map_.cells) + 1, 1024))
    wide = min(_WIDE, count)
    rows = range(0, count, wide)
    cells = [list(range(row, min(row + wide, count))) for row in rows]
    return {
        "data": [
            {
                "type": "heatmap",
                "z": [[_kind(map_.cells.get(n)) for n in row] for row in cells],
                "text": [[_text(map_, n, length) for n in row] for row in cells],
                "y": [f"{size(row * map_.span)}" for row in rows],
                "hovertemplate": "%{text}<extra></extra>",
                "colorscale": list(_steps()),
                "zmin": 0,
                "zmax": len(KINDS),
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
            }
        ],
        "layout": {
            "height": 60 + 20 * len(cells),
            "xaxis": {"visible": False},
            "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        },
    }


def _steps() -> Iterator[tuple[float, str]]:
    """Yield a scale without passages: each kind has a colour of its own."""
    for n in range(len(KINDS)):
        yield n / len(KINDS), f"var(--m{n})"
        yield (n + 1) / len(KINDS), f"var(--m{n})"


def _kind(cell: Cell | None) -> float:
    """Return the kind of a cell, in the middle of its colour's range."""
    if cell is None or not cell.distinct:
        return 0.5
    if not cell.normal:
        return 1.5
    times = (cell.normal + cell.zero) / cell.distinct
    return next((n for n, most in ((2.5, 1), (3.5, 2), (4.5, 5)) if times <= most), 5.5)


def _text(map_: BlockMap, n: int, length: int | None) -> str:
    start, end = n * map_.span, (n + 1) * map_.span
    where = f"<b>{start:#x} to {min(end, length or end):#x}</b>"
    cell = map_.cells.get(n)
    if cell is None:
        return f"{where}<br>never sent"
    times = (cell.normal + cell.zero) / max(1, cell.distinct)
    return (
        f"{where}<br>{cell.distinct} pages, each sent {times:.1f} times"
        f"<br>{cell.normal} x normal, {cell.zero} x zero"
    )
