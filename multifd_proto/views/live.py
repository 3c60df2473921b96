"""A terminal view of a running migration, made of plain snapshots; the library is Textual."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.widgets import DataTable, Footer, RichLog, Static

from multifd_proto.views.live_header import header
from multifd_proto.views.live_history import History
from multifd_proto.views.live_screens import Question, help_box, requirement
from multifd_proto.views.live_tables import (
    FINDINGS,
    ROUNDS,
    LiveTable,
    connection_cells,
    connection_columns,
    finding_cells,
    round_cells,
)
from multifd_proto.views.live_values import Finding, LiveConnection, Snapshot

TICK = 0.5
"""Seconds between two snapshots."""
_LINES = 1000
_FOUND = "what does not hold (Enter: its text)"
_NOTHING_FOUND = "what does not hold: nothing was found"


class LiveApp(App[bool]):
    """Shows a migration until the user quits; the result is True, or None if the view has failed.

    Args:
        ends: who migrates to whom, in words.
        snapshot: tells how things stand; called every `TICK`, always by the same thread.
        exits: leave as soon as the migration is over.
    """

    TITLE = "multifd watch"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (112, "-wide")]  # noqa: RUF012
    CSS = """
    #head { height: 3; padding: 0 1; }
    #body { height: 1fr; }
    LiveTable, #log { border-top: solid $primary; background: $background; scrollbar-size: 0 1; }
    LiveTable:focus, #log:focus { border-top: heavy $primary; }
    LiveTable > .datatable--header, LiveTable > .datatable--cursor {
        background: $background; color: $foreground; text-style: bold;
    }
    LiveTable > .datatable--cursor { text-style: none; }
    LiveTable:focus > .datatable--cursor { text-style: reverse; }
    #connections { height: auto; max-height: 50%; }
    .-narrow #rounds, .-narrow #findings { height: 5fr; }
    .-narrow #log { height: 4fr; }
    .-wide #body { layout: grid; grid-size: 2 3; grid-columns: 66 1fr; grid-rows: auto 1fr 1fr; }
    .-wide #connections { column-span: 2; max-height: 100%; }
    .-wide #rounds { row-span: 2; height: 100%; }
    .-wide #findings, .-wide #log { height: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "quit"),
        Binding("ctrl+c", "leave", "quit", show=False, priority=True),
        Binding("p", "pause", "pause"),
        Binding("question_mark", "help", "help", key_display="?"),
    ]

    def __init__(self, ends: str, snapshot: Callable[[], Snapshot], *, exits: bool = False) -> None:
        super().__init__()
        self.theme = "ansi-dark"  # the terminal's own colours, be they light or dark
        self.ends, self.exits = ends, exits
        self.history = History()
        self.paused = False
        self._snapshot = snapshot
        self._unsaid: list[str] = []
        self._findings: dict[str, Finding] = {}
        self._body = Container(id="body")
        self._head = Static(id="head")
        self._connections = LiveTable("connections", connection_columns(80), "connections")
        self._rounds = LiveTable("rounds", ROUNDS, "rounds", follows=True)
        self._found = LiveTable(_NOTHING_FOUND, FINDINGS, "findings")
        self._said = RichLog(id="log", max_lines=_LINES, wrap=True, min_width=0)
        self._said.border_title = "log"

    def compose(self) -> ComposeResult:
        """Lay it out."""
        yield self._head
        with self._body:
            yield self._connections
            yield self._rounds
            yield self._found
            yield self._said
        yield Footer()

    def on_mount(self) -> None:
        """Begin to show."""
        self._found.focus()
        self.tick()
        self.set_interval(TICK, self.tick)

    def on_resize(self, event: Resize) -> None:
        """Give the bars the room that is left."""
        self._connections.set_columns(connection_columns(event.size.width))
        self.show()

    def tick(self) -> None:
        """Take the next snapshot, and show it unless the view is paused."""
        if self.history.now.state.over:
            return
        self._unsaid += self.history.add(self._snapshot())
        self._unsaid += [f"NOT THROUGH: {text}" for text in self.history.now.problems]
        over = self.history.now.state.over
        self.paused &= not over
        if not self.paused:
            self.show()
        if over and self.exits:
            self.exit(True)

    def show(self) -> None:
        """Draw the last snapshot."""
        now, columns = self.history.now, self._connections.headings
        self._head.update(header(self.ends, self.history, self.size.width - 2, paused=self.paused))
        self._connections.show(
            {
                str(c.number): connection_cells(c, self.history, columns)
                for c in sorted(now.connections, key=_place)
            }
        )
        if now.judged:
            self._findings = {finding.id: finding for finding in now.judged.findings}
            self._rounds.show({str(r.number): round_cells(r) for r in now.judged.rounds})
            self._found.border_title = _FOUND if self._findings else _NOTHING_FOUND
            self._found.show({key: finding_cells(f) for key, f in self._findings.items()})
        for line in self._unsaid:
            self._said.write(Text(f"{self.history.elapsed:6.1f} s  {line}"))
        self._unsaid.clear()

    # ---- keys ------------------------------------------------------------------------------------

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the text of a requirement."""
        finding = self._findings.get(str(event.row_key.value))
        if event.data_table is self._found and finding:
            self.push_screen(requirement(finding))

    def action_leave(self) -> None:
        """Quit, after a question if that breaks a migration."""
        now = self.history.now
        if isinstance(self.screen, Question) or now.state.over or not now.connections:
            self.exit(True)
        else:
            self.push_screen(Question(), lambda quits: self.exit(True) if quits else None)

    def action_pause(self) -> None:
        """Hold the view still, or go on."""
        self.paused = not self.paused and not self.history.now.state.over
        self.show()

    def action_help(self) -> None:
        """Say what is to be seen."""
        self.push_screen(help_box())


def _place(connection: LiveConnection) -> tuple[bool, int, int]:
    """Return what sorts connections: the main stream, channels by id, the rest."""
    rank = connection.number if connection.id is None else connection.id
    return connection.kind != "main", connection.id is None, rank
