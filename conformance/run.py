"""A run of the suite as each of its processes sees it: peers by URI, cases in, rows out."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from multifd_proto.errors import MultiFDError
from multifd_proto.wire.requirements import Role

from .catalogue import file_cases
from .deviations import WEAK, Deviation, Deviations
from .peers import parse_receiver, parse_sender
from .receiver_bench import ReceiverBench
from .recording import record
from .releases import version_of
from .result import Ask, Patience, Result
from .rows import Row, row_of
from .sender_bench import SenderBench
from .sets import RequirementSet, load_set
from .target import Description
from .verdict import Judgement, Verdict

_FAILED = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.DEVIATION)


@dataclass(frozen=True)
class Settings:
    """What a run was asked for."""

    deviations: Deviations = field(default_factory=Deviations)
    counted: RequirementSet = field(default_factory=load_set)
    patience: Patience = field(default_factory=Patience)
    artifacts: Path = Path("multifd-artifacts")
    pcap: str = "none"
    """Of which cases the exchange is written as a capture: `none`, `failed` or `all`."""


class Bench(Protocol):
    """A peer under test."""

    @property
    def description(self) -> Description:
        """What the peer is. Raises PeerError if it cannot be used at all."""

    def judge(self, ask: Ask, reasons: Sequence[re.Pattern[str]]) -> Result:
        """Judge a case. Raises MultiFDError if the peer cannot be used."""

    def close(self) -> None:
        """Let go of the peer."""


class Run:
    """Judges cases; close it at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._benches: dict[tuple[Role, str], Bench] = {}

    def close(self) -> None:
        """Let go of all peers."""
        for bench in self._benches.values():
            bench.close()

    def bench(self, role: Role, uri: str) -> Bench:
        """Return the bench of a peer. Raises PeerError if the URI is malformed."""
        if (role, uri) not in self._benches:
            patience = self.settings.patience
            self._benches[role, uri] = (
                ReceiverBench(parse_receiver(uri), patience)
                if role is Role.RECEIVER
                else SenderBench(parse_sender(uri), patience)
            )
        return self._benches[role, uri]

    def judge(self, uri: str, ask: Ask) -> Row:
        """Ask a peer a case, and return the row of what came of it; peers' faults raise nothing."""
        begun = time.monotonic()
        peer: Description | None = None
        try:
            bench = self.bench(ask.role, uri)
            peer = bench.description
            version = version_of(peer.version, peer.dialect)
            texts = self.settings.deviations.texts(peer.product, version, ask.case)
            files = file_cases(ask.role)
            if ask.case in files:
                result = Result(files[ask.case].run(uri), attempts=1)
            else:
                result = bench.judge(ask, texts)
        except MultiFDError as error:
            result = Result(Judgement(Verdict.HARNESS_ERROR, str(error)))
        judgement, deviation = self._excuse(ask, peer, result.judgement)
        row = row_of(
            ask,
            uri,
            peer,
            replace(result, judgement=judgement),
            deviation=deviation,
            scored=ask.requirement.id in self.settings.counted.ids,
            seconds=time.monotonic() - begun,
        )
        if result.evidence.exchanges and self._wanted(result):
            row["pcap"] = str(self._record(uri, ask.case, result))
        return row

    def _excuse(
        self, ask: Ask, peer: Description | None, judgement: Judgement
    ) -> tuple[Judgement, Deviation | None]:
        """Return the verdict in the light of the known deviations."""
        how = judgement.failure.value if judgement.failure else None
        if judgement.verdict is Verdict.PASSED_WEAK:
            how = WEAK
        if peer is None or how is None:
            return judgement, None
        version = version_of(peer.version, peer.dialect)
        known = self.settings.deviations.excuse(peer.product, version, ask.role, ask.case, how)
        return (
            (replace(judgement, verdict=Verdict.DEVIATION), known) if known else (judgement, None)
        )

    def _wanted(self, result: Result) -> bool:
        """Tell whether a capture is to be written."""
        how = self.settings.pcap
        return how == "all" or (how == "failed" and result.judgement.verdict in _FAILED)

    def _record(self, uri: str, case: str, result: Result) -> Path:
        name = "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-") for part in (case, uri))
        self.settings.artifacts.mkdir(parents=True, exist_ok=True)
        path = self.settings.artifacts / f"{name}.pcapng"
        record(result.evidence.exchanges, path, f"{case}: {result.judgement.text}", result.begun)
        return path
