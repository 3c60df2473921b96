"""The tables of a live view: their columns, and what is in their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import DataTable

from multifd_proto.views.live_history import History
from multifd_proto.views.live_values import Finding, LiveConnection, LiveRound
from multifd_proto.views.summary import size

_WIDE = 100


@dataclass(frozen=True)
class Column:
    """A column: its heading, and how many characters it is wide, 0 for as many as are needed."""

    name: str
    width: int
    left: bool = False


class LiveTable(DataTable[Text]):
    """A table whose rows are shown anew several times a second; only what changed is drawn.

    Args:
        title: what stands above it.
        columns: they can be changed.
        id_: its name in the style sheet.
        follows: the cursor stays at the last row for as long as it is there.
    """

    def __init__(
        self, title: str, columns: Sequence[Column], id_: str, *, follows: bool = False
    ) -> None:
        super().__init__(id=id_, cursor_type="row", cell_padding=0)
        self.follows = follows
        self.border_title = title
        self.headings = tuple(columns)
        self._shown: dict[str, tuple[Text, ...]] = {}

    def on_mount(self) -> None:
        """Add the columns."""
        self._add_columns()

    def _add_columns(self) -> None:
        for column in self.headings:
            label = Text(column.name, justify="left" if column.left else "right")
            self.add_column(label, key=column.name, width=column.width or None)

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Have other columns; rows have to be shown again."""
        if tuple(columns) != self.headings:
            self.headings = tuple(columns)
            self._shown.clear()
            self.clear(columns=True)
            self._add_columns()

    def show(self, rows: Mapping[str, tuple[Text, ...]]) -> None:
        """Show rows by key; as long as no other order is asked for, they keep their place."""
        last = self.cursor_row >= self.row_count - 1
        for key in [key for key in self._shown if key not in rows]:
            self.remove_row(key)
            del self._shown[key]
        if list(self._shown) != list(rows)[: len(self._shown)]:
            self._shown.clear()
            self.clear()
        for key, cells in rows.items():
            shown = self._shown.get(key)
            if shown is None:
                self.add_row(*cells, key=key)
            elif shown != cells:
                self._update(key, shown, cells)
            self._shown[key] = cells
        if last and self.follows:
            self.move_cursor(row=self.row_count - 1)

    def _update(self, key: str, shown: tuple[Text, ...], cells: tuple[Text, ...]) -> None:
        for column, was, cell in zip(self.headings, shown, cells, strict=True):
            if was != cell or was.style != cell.style:
                self.update_cell(key, column.name, cell, update_width=not column.width)


def right(text: object, style: str = "") -> Text:
    """Return a cell whose text is at the right."""
    return Text(str(text), style, justify="right", no_wrap=True)


def left(text: object, style: str = "") -> Text:
    """Return a cell whose text is at the left."""
    return Text(str(text), style, no_wrap=True)


# ---- connections -------------------------------------------------------------------------------


def connection_columns(width: int) -> list[Column]:
    """Return the columns of the table of connections, for a width in characters."""
    columns = [
        Column("id", 5, left=True), Column("packets", 8), Column("SYNCs", 6), Column("normal", 9),
        Column("zero", 9), Column("sent", 11), Column("Mbit/s", 9), Column("share", 6),
        Column("last", 8),
    ]  # fmt: skip
    if width >= _WIDE:
        columns.insert(3, Column("round", 6))
    rest = width - sum(column.width for column in columns) - 3
    if rest > 0:
        columns.append(Column(" rate", rest, left=True))
    return columns


def connection_cells(
    connection: LiveConnection, history: History, columns: Sequence[Column]
) -> tuple[Text, ...]:
    """Return the row of a connection."""
    counted = connection.kind == "multifd"
    share = connection.sent / history.sent if history.sent else 0.0
    values: dict[str, Text] = {
        "id": left(connection.name, "bold"),
        "round": right(connection.syncs if counted else ""),
        "sent": right(size(connection.sent)),
        "Mbit/s": right(f"{history.rate(connection.number) / 1e6:,.1f}"),
        "share": right(f"{share:.0%}"),
        "last": _last(connection, history),
        "packets": right(connection.packets if counted else ""),
        "SYNCs": right(connection.syncs if counted else _marks(connection, history)),
        "normal": right(connection.normal if counted else ""),
        "zero": right(connection.zero if counted else ""),
    }
    bars = columns[-1]
    if bars.name == " rate":
        values[" rate"] = left(" " + history.bars(connection.number, bars.width - 1), "cyan")
    return tuple(values[column.name] for column in columns)


def _marks(connection: LiveConnection, history: History) -> str:
    judged = history.now.judged
    return str(judged.marks) if connection.kind == "main" and judged else ""


def _last(connection: LiveConnection, history: History) -> Text:
    if connection.broken:
        return right("BROKEN", "bold red")
    if connection.done:
        return right("ended", "dim")
    quiet = history.quiet(connection)
    if history.stalled(connection):
        return right(f"! {quiet:.0f} s", "bold reverse")
    return right(f"{quiet:.1f} s")


# ---- rounds, findings ----------------------------------------------------------------------------

ROUNDS = (
    Column("round", 6), Column("seconds", 9), Column("packets", 9), Column("normal", 9),
    Column("zero", 9), Column("again", 9), Column("payload", 11),
)  # fmt: skip
FINDINGS = (
    Column("", 3, left=True),
    Column("id", 9, left=True),
    Column("times", 7),
    Column("  first", 0, left=True),
)


def round_cells(part: LiveRound) -> tuple[Text, ...]:
    """Return the row of a round."""
    return (
        right(part.number, "bold"), right(f"{part.seconds:.3f}"), right(part.packets),
        right(part.normal), right(part.zero), right(part.resent), right(size(part.payload)),
    )  # fmt: skip


def finding_cells(finding: Finding) -> tuple[Text, ...]:
    """Return the row of a requirement that does not hold."""
    mark, style = ("~", "") if finding.known else ("✗", "bold red")
    if not finding.known and finding.level != "MUST":
        mark, style = "!", "yellow"
    first = finding.examples[0] if finding.examples else ""
    return (
        left(f" {mark}", style), left(finding.id, style or "dim"), right(f"{finding.count}x"),
        left(f"  {first}"),
    )  # fmt: skip
