"""`multifd watch`: the proxy, with a live view of what goes through."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from threading import Event, Thread
from typing import Any, TypeVar

import click

from multifd_proto.cli.proxy_options import Result, Setup, proxy_options, proxying
from multifd_proto.errors import PeerError
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.proxy.proxy import Outcome, Served
from multifd_proto.views.live_checker import LiveChecker, concluded
from multifd_proto.views.live_values import Judged, LiveConnection, Snapshot, State

_ASKED = 0.25
_SWITCH = 0.0005  # seconds that threads that forward wait for the one that draws
_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@proxy_options
@click.option("--exit", "exits", is_flag=True, help="Leave when the migration is over.")
def command(exits: bool, **options: Any) -> None:
    """Forward one migration from LISTEN to TARGET, and show how it goes.

    \b
    multifd watch tcp:0:4444 tcp:10.0.0.2:4444
    multifd watch tcp:0:4444 tcp:10.0.0.2:4444 --record migration.pcapng

    It is `multifd proxy --check` with a view: channels, rounds, rates, stalls, and what does not
    hold, as soon as it is judged. LISTEN, TARGET and the options are as there.

    \b
    q      quit; while a migration is running this breaks it, so it asks first
    p      pause the view
    Enter  the text of a requirement
    ?      help

    When the migration is over the view stays until q; then the report of `proxy` is printed.

    \b
    Exit codes: 0 went through, and conforming, 1 a MUST is violated, 2 usage, no terminal, or FILE
                could not be written, 3 the migration did not go through, 4 a fault never found its
                place, 130 interrupted, or quit before it was over.
    """
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise click.UsageError(
            "watch needs a terminal; without one use: multifd proxy --check --json"
        )
    try:
        from multifd_proto.views.live import LiveApp
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("textual"):
            raise
        raise click.ClickException(
            "watch needs textual: pip install 'multifd-proto[watch]'"
        ) from None
    sys.setswitchinterval(_SWITCH)
    log = deque[str]()
    with proxying(options, log.append, check=True, live=LiveChecker) as setup:
        with Watched(setup, log) as watched:
            ends = f"{setup.proxy.address} → {options['target']}"
            app = LiveApp(ends, watched.snapshot, exits=exits)
            if not asyncio.run(_show(app.run_async, lambda: app.exit(True))):
                watched.wait()  # the view has failed: the migration goes on
        result = watched.result()
    result.print()
    raise SystemExit(result.status())


async def _show(run: Callable[[], Awaitable[_T]], leave: Callable[[], None]) -> _T:
    """Run a view; a signal ends it, so that the terminal is put right."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, leave)
    try:
        return await run()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class Watched(Owner):
    """A proxy at work in a thread, and what another thread learns from its judge.

    Use it as a context manager: what still runs at its end is interrupted.

    Args:
        setup: the proxy, with a judge whose checker is a `LiveChecker`.
        log: where the proxy says what happens.
    """

    def __init__(self, setup: Setup, log: deque[str]) -> None:
        self._setup, self._log = setup, log
        self._judged: Judged | None = None
        self._known = time.monotonic()
        self._outcome: Outcome | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._over = Event()
        self._threads = [Thread(target=self._serve), Thread(target=self._ask)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until the migration is over."""
        self._over.wait()

    def close(self) -> None:
        """Interrupt what still runs, and wait for its end."""
        if not self._over.is_set():
            self._setup.proxy.interrupt()
        for thread in self._threads:
            thread.join()

    def result(self) -> Result:
        """Return what came of it all, once it is closed.

        Raises:
            PeerError: the judge has died.
        """
        if self._error:
            raise self._error
        assert self._result
        return self._result

    def snapshot(self) -> Snapshot:
        """Return how things stand."""
        result, now = self._result, time.monotonic()
        connections = tuple(_connection(served) for served in self._setup.proxy.connections)
        lines = [self._log.popleft() for _ in range(len(self._log))]
        if result is None and self._error is None:
            state = State.RUNNING if connections else State.WAITING
            behind = now - self._known
            return Snapshot(now, state, connections, self._judged, behind, log=tuple(lines))
        problems = result.outcome.problems if result else [str(self._error)]
        return Snapshot(
            now, State.BROKEN if problems else State.THROUGH, connections, self._judged,
            problems=tuple(problems), log=tuple(lines),
        )  # fmt: skip

    # ---- the two threads -------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._outcome = self._setup.proxy.run()
        except BaseException as error:  # told by `result`, in the main thread
            self._error = error
        finally:
            self._over.set()

    def _ask(self) -> None:
        """Ask the judge now and then, and for its verdict at the end."""
        judge = self._setup.judge
        assert judge
        try:
            while not self._over.wait(_ASKED):
                asked = time.monotonic()
                self._judged = _so_far(judge)
                self._known = asked
            judged = _so_far(judge)
            report, migration = judge.conclude()
        except PeerError as error:
            self._log.append(f"{error}: nothing more is judged")
            self._over.wait()  # the migration goes on
            self._error = self._error or error
        else:
            if self._outcome:
                self._judged = concluded(judged, report)
                self._result = self._setup.result(self._outcome, (report, migration))


def _so_far(judge: JudgingProcess) -> Judged:
    judged = judge.ask()
    assert isinstance(judged, Judged)
    return judged


def _connection(served: Served) -> LiveConnection:
    counted = served.statistics
    return LiveConnection(
        number=served.number,
        kind=served.kind,
        id=served.id,
        sent=served.sent,
        packets=counted.packets + counted.device_state if counted else 0,
        syncs=counted.syncs if counted else 0,
        normal=counted.normal if counted else 0,
        zero=counted.zero if counted else 0,
        done=served.done,
        broken=served.broken.value if served.broken else "",
    )
