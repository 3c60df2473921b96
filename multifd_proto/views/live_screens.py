"""What a live view shows over itself: a requirement, a question, help."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from multifd_proto.views.live_values import Finding
from multifd_proto.wire.requirements import load

_BOX = """
%s { align: center middle; }
%s > VerticalScroll {
    width: 90%%; max-width: 90; height: auto; max-height: 90%%;
    border: round $primary; padding: 0 2; background: $surface;
}
"""


class Box(ModalScreen[None]):
    """A text in a box, closed by a key."""

    CSS = _BOX % ("Box", "Box")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark", "dismiss", "close")
    ]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        """Lay it out."""
        with VerticalScroll() as box:
            box.border_title, box.border_subtitle = self._title, "Esc closes"
            yield Static(self._text)


class Question(ModalScreen[bool]):
    """Asks whether to break a running migration."""

    CSS = _BOX % ("Question", "Question")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,ctrl+c", "answer(True)", "break the migration"),
        Binding("n,escape,q", "answer(False)", "keep on"),
    ]

    def compose(self) -> ComposeResult:
        """Lay it out."""
        with VerticalScroll() as box:
            box.border_title = "Quit?"
            yield Static(
                Text.assemble(
                    "A migration is running through this proxy.\n",
                    ("Quitting breaks all its connections: the migration fails.\n\n", "bold"),
                    ("y", "bold"), "  break it, and quit\n",
                    ("n", "bold"), "  keep watching",
                )
            )  # fmt: skip

    def action_answer(self, quits: bool) -> None:
        """Close, and tell what was answered."""
        self.dismiss(quits)


def requirement(finding: Finding) -> Box:
    """Return a box with all that is known of a requirement that does not hold."""
    found = load()[finding.id]
    text = Text()
    text.append(f"{found.level.value} · {found.role.value} · {found.dialect_text}\n\n", "dim")
    text.append(f"{found.text}\n\n")
    if finding.known:
        text.append(f"~ known deviation: {finding.known}\n\n", "yellow")
    text.append(f"seen {finding.count}x", "bold")
    for example in finding.examples:
        text.append(f"\n  {example}")
    if finding.count > len(finding.examples):
        text.append(f"\n  ... and {finding.count - len(finding.examples)} more", "dim")
    text.append(f"\n\nread spec/{found.anchor}, or: multifd spec {found.id}", "dim")
    return Box(f"{found.id} {found.slug}", text)


_HELP = """\
q, Ctrl-C  quit; asks first while a migration is running
p          pause the view; the migration goes on
Tab        the next table; arrows move in it
Enter      the text of the requirement under the cursor

✗ a MUST is violated   ! a SHOULD does not hold
~ known of the QEMU releases that fit

last     since the last byte; "! 5 s" is a stall: open, but silent
SYNCs    end the rounds of a channel; main: marks of their ends
normal   pages with content; zero: pages of zeros, without any
again    pages that an earlier round had sent: written to since

The verdict stands when all is over: a few requirements are on
the whole of it. Channels are counted by the proxy, at once;
rounds and findings by the judge, who may lag for a moment."""


def help_box() -> Box:
    """Return a box that says what is to be seen, and the keys."""
    return Box("multifd watch", Text(_HELP))
