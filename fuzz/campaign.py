"""A campaign: workers that fuzz one peer until its time is over, and what they find, kept.

    plan = Plan("receiver", "multifd_proto.fuzz.receivers:ReceiverTarget", {"uri": "qemu:10.0"}, 60)
    with Campaign(plan, DirectoryStore(folder)) as campaign:
        campaign.run()
    print(campaign.tally.findings)

What is found is in the store as soon as it is found; then the worker that found it confirms it and
makes its input small, while the others go on. A worker that dies or hangs is started anew, and the
input that it was running is a finding.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from multifd_proto.peers.owner import Owner

from .findings import Found, build
from .hand import Hand
from .link import Message
from .redis_store import RedisStore
from .store import Store
from .tally import Tally, worth_another_try
from .target import Finding
from .task import Task

KILLS, STALLS = "kills-the-worker", "stalls-the-worker"
"""Kinds of finding: the process that ran the input died of it, or did not come back from it."""
_TICK = 0.1
_SHARE = 1.0
_GRACE = 10.0
_LONGEST_MINIMISING = 60.0
_LABELS = 40
_DEATHS = 3
_LABEL = 60


@dataclass(frozen=True)
class Plan:
    """What a campaign is."""

    role: str
    """`receiver`, `sender` or `decoder`."""
    target: str
    """Who makes the target: `module:name`; each worker has one of its own."""
    arguments: Mapping[str, Any]
    """What it is made with."""
    seconds: float
    """How long the campaign takes."""
    workers: int = 1
    seed: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the peer is: `peer`, `product`, `version`, `dialect`; noted with each finding."""
    corpus: Sequence[dict[str, Any]] = ()
    """Inputs, in their JSON form, that are run first, and varied later."""
    database: str = ""
    """Folder for what Hypothesis remembers of inputs that scored well."""
    redis: str = ""
    """URL of the Redis over which other machines share it."""
    stall: float = 60.0
    """Seconds after which an input that is still being run has stalled its worker."""


class Campaign(Owner):
    """Runs a plan. Whatever ends it, no process of it is left, and nothing found is lost."""

    def __init__(self, plan: Plan, store: Store) -> None:
        """Make ready.

        Args:
            plan: what is to be done.
            store: where findings are kept, and may be already; closed with the campaign.
        """
        self.plan = plan
        self._store = store
        self.tally = Tally(plan.seconds, findings=dict(store.all()))
        self.tally.before = frozenset(self.tally.findings)
        self._hands: dict[int, Hand] = {}
        self._seeds = Random(plan.seed)
        self._selector = selectors.DefaultSelector()
        self._shared: dict[str, int] = {}
        self._sharing = time.monotonic()
        self._early_deaths = 0
        self._gone = ""
        self._tries: Counter[str] = Counter()

    def close(self) -> None:
        """Kill all workers, and close the store."""
        self.tally.ended = self.tally.elapsed
        for hand in self._hands.values():
            hand.close()
        self._hands.clear()
        self._selector.close()
        self._store.close()

    def run(self, watch: Callable[[Tally], None] = lambda _tally: None) -> None:
        """Run until the time is over, or there is nothing left to do.

        Args:
            watch: called several times a second, in between.

        Raises:
            StoreError: findings can no longer be kept.
        """
        for number in range(self.plan.workers):
            self._start(number, settle=self._unsettled()[number :: self.plan.workers])
        while self._hands:
            for key, _ in self._selector.select(_TICK):
                self._read(key.data)
            self._look_after()
            self._share()
            watch(self.tally)
        if self._gone and self.tally.left > 1:
            # nobody is left to go on
            self.tally.unusable = self._gone
        self.tally.findings = dict(self._store.all())

    # ---- workers ---------------------------------------------------------------------------------

    def _start(
        self, number: int, settle: Sequence[dict[str, Any]] = (), *, anew: bool = False
    ) -> None:
        plan = self.plan
        corpus = list(plan.corpus)
        hand = Hand(
            Task(
                target=plan.target, arguments=plan.arguments, number=number,
                seed=self._seeds.getrandbits(32), seconds=self.tally.left,
                minimising=min(_LONGEST_MINIMISING, plan.seconds / 10),
                first=[] if anew else corpus[number :: plan.workers], corpus=corpus,
                unsettled=list(settle), known=self._known(),
                reached=dict(self.tally.reached), database=plan.database, redis=plan.redis,
                dialect=plan.facts.get("dialect", ""),
            )
        )  # fmt: skip
        self._hands[number] = hand
        self._selector.register(hand, selectors.EVENT_READ, hand)

    def _unsettled(self) -> list[dict[str, Any]]:
        """Return findings that somebody has left before they were confirmed."""
        return [
            dict(data)
            for data in self.tally.findings.values()
            if data["finding"].get("confirmed") == [0, 0]
            and data["finding"].get("kind") not in _OURS
        ]

    def _known(self) -> list[str]:
        found = self.tally.findings.items()
        return [name for name, data in found if not worth_another_try(data, self._tries[name])]

    def _read(self, hand: Hand) -> None:
        said = hand.hear()
        for message in said or ():
            self._take(hand, message)
        if said is None:
            self._lose(hand)

    def _look_after(self) -> None:
        """Find out who hangs."""
        for hand in list(self._hands.values()):
            silent = time.monotonic() - hand.heard
            if silent > self.plan.stall:
                self._lose(hand, stalled=True)
            elif not self.tally.left and self.tally.elapsed > self.tally.seconds + _GRACE:
                self._forget(hand)

    def _lose(self, hand: Hand, *, stalled: bool = False) -> None:
        """Take leave of a worker that has ended, or does not come back; keep what it was at."""
        how, input_, said = hand.end()
        self._forget(hand)
        if hand.done:
            return
        self.tally.deaths += 1
        self._early_deaths = 0 if hand.executions or input_ else self._early_deaths + 1
        if input_:
            how = f"no answer for {self.plan.stall:.0f} s" if stalled else how
            finding = Finding(STALLS if stalled else KILLS, "", f"the worker ended: {how}", how)
            self._found(hand, input_, finding)
            self.tally.seen[finding.signature] += 1
        else:
            last = said.splitlines()[-1] if said else "it printed nothing"
            self.tally.note(f"a worker died: {how}: {last}")
        if self._early_deaths >= _DEATHS:
            self.tally.unusable = f"workers die before they have run anything: {how}: {said}"
        elif self.tally.left > 1:
            self._start(hand.number, anew=True)

    def _forget(self, hand: Hand) -> None:
        self._selector.unregister(hand)
        del self._hands[hand.number]
        hand.close()

    # ---- what they say ---------------------------------------------------------------------------

    def _take(self, hand: Hand, message: Message) -> None:
        match message["say"]:
            case "beat":
                hand.executions += message["executions"]
                self.tally.executions += message["executions"]
                self.tally.skipped += message["skipped"]
                self.tally.reached.update(message["reached"])
                self.tally.seen.update(message["seen"])
            case "finding":
                finding = Finding(**message["finding"])
                hand.tell(yours=self._found(hand, message["input"], finding))
            case "settled":
                self._settled(message)
            case "note":
                self.tally.note(message["text"])
            case "unusable":
                self._gone = message["text"]
                self.tally.note(self._gone)
            case "done":
                hand.done = True

    def _found(self, hand: Hand, input_: Mapping[str, Any], finding: Finding) -> bool:
        """Keep a finding; return whether the worker that found it is to settle it."""
        signature = finding.signature
        found = Found(
            round(self.tally.elapsed, 1), self.tally.executions, self.plan.seed, hand.number
        )
        data = build(input_, finding, self.plan.facts, found)
        if self._store.add(signature, data):
            self.tally.findings[signature] = data
            self._tell_others(hand, [signature])
            return True
        known = self.tally.findings.get(signature) or self._store.all()[signature]
        self.tally.findings[signature] = known
        return worth_another_try(known, self._tries[signature])

    def _settled(self, message: Message) -> None:
        """Keep what became of a finding: how often it showed again, and its smallest input."""
        signature = message["signature"]
        known = self.tally.findings[signature]["finding"]
        (old, before), (good, tried) = known["confirmed"], message["confirmed"]
        self._tries[signature] += tried
        data = self.tally.findings[signature]
        if not old and not good:
            data = {**data, "finding": {**known, "confirmed": [0, before + tried]}}
        elif good * before >= old * tried:
            # one that shows more surely takes the place of the one before
            about = {**known, "confirmed": [good, tried], "minimised": message["minimised"]}
            data = {**message["input"], "finding": about}
        self._store.replace(signature, data)
        self.tally.findings[signature] = data
        if worth_another_try(data, self._tries[signature]):
            for hand in self._hands.values():
                hand.tell(forget=[signature])

    # ---- sharing ---------------------------------------------------------------------------------

    def _share(self) -> None:
        """Tell every worker now and then what all have reached, and what is known."""
        now = time.monotonic()
        if now - self._sharing < _SHARE:
            return
        self._sharing = now
        news = [
            (label, count)
            for label, count in self.tally.reached.items()
            # twice as often as was said is news; a bit more is none
            if count >= 2 * self._shared.get(label, 0) and len(label) <= _LABEL
        ]
        self._shared.update(news)
        for begin in range(0, len(news), _LABELS):
            part = dict(news[begin : begin + _LABELS])
            for hand in self._hands.values():
                hand.tell(reached=part)
        if isinstance(self._store, RedisStore):
            self._share_with_machines(self._store)

    def _share_with_machines(self, store: RedisStore) -> None:
        for hand in self._hands.values():
            store.beat(
                str(hand.number), peer=self.plan.facts.get("peer", ""), seed=self.plan.seed,
                executions=hand.executions, seconds=self.tally.elapsed,
            )  # fmt: skip
        kept = store.local.all()
        new = [name for name in kept if name not in self.tally.findings]
        self.tally.findings.update({name: kept[name] for name in new})
        self._tell_others(None, new)

    def _tell_others(self, finder: Hand | None, signatures: Iterable[str]) -> None:
        for signature in signatures:
            for hand in self._hands.values():
                if hand is not finder:
                    hand.tell(known=[signature])


_OURS = (KILLS, STALLS)
