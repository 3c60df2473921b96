"""A receiver under test: played to, judged, kept honest by a valid migration now and then."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from multifd_proto.errors import PeerError
from multifd_proto.peers.tls import TlsCredentials

from .case import Case, Expect
from .catalogue import receiver_cases
from .control import control
from .credentials import credentials
from .judging import judge, words
from .observation import Observation, Reaction
from .player import Budgets, play
from .result import Ask, Evidence, Patience, Result, worst
from .script import Script
from .target import Description, ReceiverPeer, Setup
from .verdict import Judgement, Verdict

_Key = tuple[int, str, bool]


class ReceiverBench:
    """One receiver, and what is known of it so far; a worker of a run has one per receiver."""

    def __init__(self, peer: ReceiverPeer, patience: Patience) -> None:
        self._peer, self._patience = peer, patience
        self._budgets = Budgets().scaled(patience.timeout_scale)
        self._controls: dict[_Key, str] = {}
        self._bad_controls: dict[_Key, int] = {}
        self._dead = 0
        self._folder: TemporaryDirectory[str] | None = None

    @cached_property
    def description(self) -> Description:
        """What the receiver is. Raises PeerError if it cannot be used at all."""
        return self._peer.describe()

    def close(self) -> None:
        """Let go of the receiver."""
        self._peer.close()
        if self._folder:
            self._folder.cleanup()

    def judge(self, ask: Ask, reasons: Sequence[re.Pattern[str]] = ()) -> Result:
        """Play a case as often as it takes, and judge it.

        Args:
            ask: the case.
            reasons: what this receiver gives as its reason for the right refusal.

        Raises:
            PeerError: the receiver cannot be used.
            ScriptError: the case cannot be played to it.
        """
        case = receiver_cases()[ask.case]
        if why := case.not_applicable(self.description):
            return Result(Judgement(Verdict.NOT_APPLICABLE, why))
        bad = self._control(case)
        if bad and case.expect is not Expect.ACCEPTS:
            return Result(Judgement(Verdict.INCONCLUSIVE, f"a valid migration fails: {bad}"))
        results: list[Result] = []
        for _ in range(max(case.repeat, self._patience.repeat)):
            results.append(self._attempt(case, reasons))
            if results[-1].judgement.verdict is Verdict.FAILED:
                break
        return replace(worst(results), attempts=len(results))

    def _attempt(self, case: Case, reasons: Sequence[re.Pattern[str]]) -> Result:
        begun = time.time_ns()
        seen = self._play(case.script)
        if seen.reaction is not Reaction.UNREACHED:
            self._dead = 0
        if seen.reaction in (Reaction.CRASHED, Reaction.HUNG):
            self._controls.pop(_key(case.script), None)
        judgement = judge(case, self.description, seen, reasons)
        return Result(judgement, Evidence.of(seen), begun=begun)

    def _control(self, case: Case) -> str:
        """Return how the valid migration of the case's setup fails; empty if it does not.

        Raises:
            PeerError: it cannot even be begun.
        """
        key = _key(case.script)
        if key not in self._controls:
            seen = self._play(control(*key))
            if seen.reaction is Reaction.UNREACHED:
                self._dead += 1
                raise PeerError(f"not even a valid migration can be played: {seen.stood}")
            self._dead = 0
            good = seen.reaction is Reaction.ACCEPTED
            self._bad_controls[key] = 0 if good else self._bad_controls.get(key, 0) + 1
            if not good and self._bad_controls[key] < self._patience.max_dead:
                return words(seen)
            self._controls[key] = "" if good else words(seen)
        return self._controls[key]

    def _play(self, script: Script) -> Observation:
        """Play a script to a fresh receiver."""
        if self._dead >= self._patience.max_dead:
            raise PeerError(f"given up: {self._dead} times in a row it could not be used")
        setup = self._setup(script)
        try:
            running = self._peer.receive(setup)
        except PeerError:
            self._dead += 1
            raise
        with running:
            return play(running, self.description, script, setup, self._budgets)

    def _setup(self, script: Script) -> Setup:
        tls = self._tls if script.tls else None
        return Setup(script.channels, script.method, self.description.uuid, tls)

    @cached_property
    def _tls(self) -> TlsCredentials:
        self._folder = TemporaryDirectory(prefix="multifd-")
        return credentials(Path(self._folder.name) / "tls")


def _key(script: Script) -> _Key:
    return script.channels, script.method, script.tls
