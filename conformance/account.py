"""The part of the plugin that keeps a run's account, in the process that controls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from multifd_proto.errors import MultiFDError
from multifd_proto.wire.requirements import Role

from .catalogue import asks
from .deviations_file import written
from .ledger import NOTHING, Ledger
from .options import CASE, demands, targets
from .reports import read, render
from .result import Result
from .rows import Row, row_of
from .run import Run
from .verdict import Judgement, Verdict

if TYPE_CHECKING:
    import pytest

_OK, _FAILED, _INTERRUPTED, _INTERNAL, _NOTHING = 0, 1, 2, 3, 5
"""Exit codes of pytest."""


class Account:
    """Takes rows as they come, from this process and from xdist's workers.

    Raises:
        OSError: a report cannot be written.
    """

    def __init__(self, config: pytest.Config, run: Run, cases: list[str]) -> None:
        self._config, self._run = config, run
        self._suite = [case for role in Role for case in asks(role)]
        reports: list[Path] = config.getoption("multifd_report")
        journals = [path for path in reports if path.suffix == ".jsonl"]
        self._rendered = [path for path in reports if path.suffix in (".md", ".html")]
        self._folder = TemporaryDirectory(prefix="multifd-") if self._rendered else None
        if self._folder and not journals:
            journals = [Path(self._folder.name) / "run.jsonl"]
        self._journals = journals
        self._trouble = ""
        self.ledger = Ledger(run.settings.deviations, journals, **demands(config.getoption))
        roles = [role for role in Role if any(case in asks(role) for case in cases)]
        peers = list(self._peers(roles)) if journals else []
        names = " and ".join(role.value for role in roles)
        self.ledger.open(run.settings.counted.name, names, peers, cases)

    def _peers(self, roles: list[Role]) -> Iterator[dict[str, Any]]:
        for role in roles:
            for uri in targets(self._config.getoption, role.value):
                try:
                    peer = self._run.bench(role, uri).description
                except MultiFDError as error:
                    yield {"uri": uri, "role": role.value, "error": str(error)}
                    continue
                yield {
                    "uri": uri,
                    "role": role.value,
                    "product": peer.product,
                    "version": peer.version,
                    "dialect": peer.dialect.name,
                    "senses": sorted(sense.name.lower() for sense in peer.senses),
                    "methods": sorted(peer.methods),
                }

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row that a report carries."""
        row = getattr(report, "multifd_row", None)
        if row is None and report.when not in ("setup", "call", "teardown"):
            row = self._lost(report)
        if row is not None:
            self.ledger.add(row)

    def _lost(self, report: pytest.TestReport) -> Row | None:
        """Return the row of a case that took its worker with it, as xdist reports it."""
        found = CASE.search(report.nodeid)
        ask = found and next(
            (asks(r)[found["case"]] for r in Role if found["case"] in asks(r)), None
        )
        if not (found and ask):
            return None
        uri = found["peer"] or targets(self._config.getoption, ask.role.value)[0]
        result = Result(Judgement(Verdict.HARNESS_ERROR, str(report.longrepr)))
        return row_of(ask, uri, None, result, deviation=None, scored=True, seconds=0.0)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Close the account, and let a stale entry or a run of nothing fail."""
        if exitstatus == _INTERRUPTED:
            # a journal without a footer says that the run is incomplete
            self.ledger.close()
            return
        self.ledger.end(self._suite)
        self.ledger.close()
        if exitstatus == _OK:
            if self.ledger.stale(self._suite):
                session.exitstatus = _FAILED
            elif self.ledger.exit_code(self._suite) == NOTHING:
                session.exitstatus = _NOTHING
        update: Path | None = self._config.getoption("multifd_deviations_update")
        if update:
            update.write_text(written(self.ledger.new()), encoding="utf-8")
        try:
            for path in self._rendered:
                render(read(self._journals[:1]), path)
        except MultiFDError as error:
            self._trouble = str(error)
            session.exitstatus = _INTERNAL
        if self._folder:
            self._folder.cleanup()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what a reader of pytest's own figures cannot see."""
        say = terminalreporter.write_line
        terminalreporter.section("multifd conformance")
        for uri, counts in self.ledger.counts().items():
            say(f"{uri}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
        for entry, count in self.ledger.swallowed():
            say(f"{count:4} excused by {entry.place}: {entry.reason}")
        for text in self.ledger.stale(self._suite):
            say(f"stale: {text}", red=True)
        if self._trouble:
            say(f"no report: {self._trouble}", red=True)
