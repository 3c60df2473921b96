"""A watched migration for tests: the proxy, its judge, and the view, in one process."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from textual.pilot import Pilot

from multifd_proto.cli.proxy_options import Setup, proxying
from multifd_proto.cli.watch import Watched
from multifd_proto.peers.address import Address
from multifd_proto.peers.endpoint import dial
from multifd_proto.tests.proxied import ANYWHERE, DEADLINE, replay
from multifd_proto.views.live import LiveApp
from multifd_proto.views.live_checker import LiveChecker
from multifd_proto.views.live_tables import LiveTable

_NOTHING = {
    "record": None, "rules": (), "timeout": 30.0, "max_connections": 257,
    "dialect": None, "page_size": None, "channels": None, "uuid": None,
}  # fmt: skip


class WatchedRun:
    """A watched migration to `target`."""

    def __init__(self, setup: Setup, log: deque[str], target: Address) -> None:
        assert setup.judge
        self.judge, self.proxy = setup.judge, setup.proxy
        self.address, self.target = setup.proxy.address, target
        self.watched = Watched(setup, log)
        self.app = LiveApp(f"{self.address} → {target}", self.watched.snapshot)

    @property
    def over(self) -> bool:
        """The proxy has returned."""
        return self.app.history.now.state.over

    def dial(self) -> socket.socket:
        """Connect to it."""
        sock = dial(self.address, 0, DEADLINE)
        sock.settimeout(DEADLINE)
        return sock

    def replay(self, streams: Sequence[bytes]) -> None:
        """Be a source."""
        replay(self, streams)


@contextmanager
def watched(target: Address, **options: Any) -> Iterator[WatchedRun]:
    """Watch a migration to a target, by options of the verb."""
    log = deque[str]()
    values = {**_NOTHING, "listen": ANYWHERE, "target": target, **options}
    with proxying(values, log.append, check=True, live=LiveChecker) as setup:
        run = WatchedRun(setup, log, target)
        with run.watched:
            yield run


def rows(app: LiveApp, table: str) -> list[dict[str, str]]:
    """Return what the rows of a table say, by heading."""
    shown = app.query_one(f"#{table}", LiveTable)
    names = [str(column.label).strip() for column in shown.ordered_columns]
    return [
        dict(zip(names, (str(cell).strip() for cell in shown.get_row_at(n)), strict=True))
        for n in range(shown.row_count)
    ]


def text(app: LiveApp) -> list[str]:
    """Return the lines of the whole screen, as they are drawn."""
    lines = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in line) for line in lines]


async def until(pilot: Pilot[bool], condition: Callable[[], object], what: str) -> None:
    """Wait until something is true of the view."""
    for _ in range(int(DEADLINE / 0.05)):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError(f"{what} has not come about")
