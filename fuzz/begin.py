"""Makes a campaign ready: the peer is there, the corpus can be read, findings can be kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from multifd_proto.errors import MultiFDError

from .campaign import Campaign, Plan
from .redis_link import split_campaign
from .redis_store import RedisStore
from .store import DirectoryStore, Store
from .target import Target

TARGETS = {
    "receiver": "multifd_proto.fuzz.receivers:ReceiverTarget",
    "sender": "multifd_proto.fuzz.senders:SenderTarget",
    "decoder": "multifd_proto.fuzz.decoders:DecoderTarget",
}
"""Who makes the target, by role."""
NO_CORPUS = "none"
REMEMBERED = "hypothesis"
"""Folder, within that of the findings, of what Hypothesis remembers."""
_LARGEST = 1 << 20


class CorpusError(MultiFDError):
    """A corpus cannot be read: says where, and why."""


@dataclass(frozen=True)
class Wanted:
    """What somebody wants of a campaign."""

    role: str
    peer: str
    """URI of the peer; of a decoder, which one."""
    budget: float
    """Seconds."""
    workers: int
    seed: int
    findings: Path
    against: str | None = None
    """URI of a second receiver."""
    corpus: str | None = None
    """Folder of inputs; `NO_CORPUS` for none, None for those that are shipped."""
    campaign: str | None = None
    """URL of the Redis to share it through."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Return what the target is made with."""
        if self.role == "decoder":
            return {"name": self.peer}
        return {"uri": self.peer} | ({"against": self.against} if self.against else {})


def target_of(wanted: Wanted) -> Target[Any]:
    """Return the target.

    Raises:
        PeerError: the name of the peer is malformed.
    """
    module, _, name = TARGETS[wanted.role].partition(":")
    target: Target[Any] = getattr(import_module(module), name)(**wanted.arguments)
    return target


def begin(wanted: Wanted, target: Target[Any]) -> Campaign:
    """Return a campaign that is ready to run.

    Raises:
        PeerError: the peer, or Redis, cannot be used.
        StoreError: findings cannot be kept.
        CorpusError: the corpus cannot be read.
    """
    facts = {"peer": wanted.peer, **target.describe()}
    redis = _shared(wanted, facts)
    plan = Plan(
        role=wanted.role, target=TARGETS[wanted.role], arguments=wanted.arguments,
        seconds=wanted.budget, workers=wanted.workers, seed=wanted.seed, facts=facts,
        corpus=list(_corpus(wanted.corpus, target)), redis=redis,
        database=str(wanted.findings / REMEMBERED),
    )  # fmt: skip
    store: Store = DirectoryStore(wanted.findings)
    if redis:
        store = RedisStore(*split_campaign(redis), DirectoryStore(wanted.findings))
    return Campaign(plan, store)


def _shared(wanted: Wanted, facts: dict[str, str]) -> str:
    """Return the URL of the Redis, with the campaign's name, which is that of the peer if none."""
    if not wanted.campaign or "#" in wanted.campaign:
        return wanted.campaign or ""
    names = (wanted.role, facts.get("product", ""), facts.get("dialect", ""))
    return f"{wanted.campaign}#{'-'.join(filter(None, names))}"


def _corpus(folder: str | None, target: Target[Any]) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a folder that are for the target."""
    if folder == NO_CORPUS:
        return
    place = Path(folder) if folder else Path(str(files("multifd_proto.fuzz"))) / "corpus"
    if folder and not place.is_dir():
        raise CorpusError(f"corpus {folder}: no such folder, must be one with inputs, or 'none'")
    taken = 0
    for path in sorted(place.rglob("*.json")):
        try:
            data = json.loads(path.read_bytes()[:_LARGEST])
            target.from_json(data)
        except (OSError, ValueError, RecursionError, MultiFDError):
            continue  # for another role, or none at all
        taken += 1
        yield data
    if folder and not taken:
        raise CorpusError(f"corpus {folder}: holds no input for a {target.name}, must be *.json")
