"""A sender under test: each scenario is heard once, and judged by all requirements."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from multifd_proto.errors import PeerError
from multifd_proto.peers.tls import TlsCredentials

from .credentials import credentials
from .result import Ask, Evidence, Patience, Result, worst
from .sender.destination import Budgets
from .sender.judging import judge_heard
from .sender.scenarios import SCENARIOS, Scenario, applicable
from .sender.session import Heard, hear
from .target import Description, SenderPeer
from .verdict import Judgement, Verdict


@dataclass(frozen=True)
class _Attempt:
    heard: Heard
    begun: int


class SenderBench:
    """One sender, and what was heard of it so far."""

    def __init__(self, peer: SenderPeer, patience: Patience) -> None:
        self._peer, self._patience = peer, patience
        self._budgets = _scaled(Budgets(), patience.timeout_scale)
        self._attempts: dict[str, list[_Attempt] | PeerError] = {}
        self._dead = 0
        self._folder: TemporaryDirectory[str] | None = None

    @cached_property
    def description(self) -> Description:
        """What the sender is. Raises PeerError if it cannot be used at all."""
        return self._peer.describe()

    def close(self) -> None:
        """Let go of the sender."""
        self._peer.close()
        if self._folder:
            self._folder.cleanup()

    def judge(self, ask: Ask, reasons: Sequence[re.Pattern[str]] = ()) -> Result:  # noqa: ARG002
        """Judge one requirement in one scenario, which is played if it was not yet.

        Args:
            ask: the case.
            reasons: of no use here; a sender gives none.

        Raises:
            PeerError: the sender cannot be used.
        """
        scenario = SCENARIOS[ask.group]
        if why := applicable(scenario, self.description):
            return Result(Judgement(Verdict.NOT_APPLICABLE, why))
        attempts = self._heard(scenario)
        results = [
            Result(
                judge_heard(ask.requirement.id, one.heard, self.description),
                Evidence(one.heard.reason, "", one.heard.exchanges, one.heard.log),
                len(attempts),
                one.begun,
            )
            for one in attempts
        ]
        return worst(results)

    def _heard(self, scenario: Scenario) -> list[_Attempt]:
        if scenario.name not in self._attempts:
            self._attempts[scenario.name] = self._play(scenario)
        found = self._attempts[scenario.name]
        if isinstance(found, PeerError):
            raise found
        return found

    def _play(self, scenario: Scenario) -> list[_Attempt] | PeerError:
        if self._dead >= self._patience.max_dead:
            return PeerError(f"given up: {self._dead} times in a row it could not be used")
        attempts = []
        for _ in range(self._patience.repeat):
            begun = time.time_ns()
            try:
                heard = hear(
                    self._peer, scenario, self.description,
                    credentials=self._tls if scenario.tls else None, budgets=self._budgets,
                )  # fmt: skip
            except PeerError as error:
                self._dead += 1
                return error
            self._dead = 0
            attempts.append(_Attempt(heard, begun))
        return attempts

    @cached_property
    def _tls(self) -> TlsCredentials:
        self._folder = TemporaryDirectory(prefix="multifd-")
        return credentials(Path(self._folder.name) / "tls")


def _scaled(budgets: Budgets, factor: float) -> Budgets:
    times = {name: factor * getattr(budgets, name) for name in ("connect", "quiet", "whole")}
    return replace(budgets, **times)
