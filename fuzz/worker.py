"""One process of a campaign: draws inputs, runs them, confirms and minimises what it finds.

The campaign starts it, as `python -m multifd_proto.fuzz.worker JOURNAL`, and speaks to it through
its standard streams: see `link.py`.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from hypothesis.database import ExampleDatabase
from hypothesis.errors import HypothesisException

from multifd_proto.errors import MultiFDError, PeerError

from .drawing import Rounds, Stop, draw
from .example_database import example_database
from .feedback import Feedback
from .link import Journal, Link, Message
from .minimise import TRIES, confirm, minimise
from .tally import CRASHES
from .target import Result, Target
from .task import Task
from .watched import Watched

_BEAT = 0.2
_REMEMBERED = 100_000
_BASES = 300
_MOST_TRIES = 10
_DRY = 20
"""Rounds without a new input after which there is nothing left to draw."""


class Worker:
    """Runs inputs until its time is over."""

    def __init__(self, task: Task, target: Target[Any], journal: Journal, link: Link) -> None:
        self._task, self._link = task, link
        self._target: Any = Watched(target, journal, self._count)
        self._feedback = Feedback(task.reached)
        self._known = set(task.known)
        self._results: dict[bytes, Result] = {}
        self._bases: list[Any] = []
        self._ends = time.monotonic() + task.seconds
        self._told = time.monotonic()
        self._executions = self._skipped = self._run_count = 0
        self._seen: dict[str, int] = {}
        link.listen(self._hear)

    def work(self) -> None:
        """Do all of it: old findings, the corpus, and then what is drawn.

        Raises:
            PeerError: the peer cannot be used any more.
        """
        with suppress(Stop):
            for data in self._task.unsettled:
                self._again(data)
            self._bases = list(self._read(self._task.corpus))
            for value in self._read(self._task.first):
                self.examine(value)
            self._draw()
        self._beat()

    def examine(self, value: Any) -> dict[str, float]:
        """Run an input, unless it was run before, and return its scores.

        Raises:
            Stop: the time is over.
            PeerError: the peer cannot be used any more.
        """
        if time.monotonic() >= self._ends:
            raise Stop
        try:
            key = blake2b(self._target.text(value).encode(), digest_size=16).digest()
        except MultiFDError:
            return {}  # it cannot be made: a message that no layout holds
        result = self._results.get(key)
        if result is None:
            result = self._run(value)
            if len(self._results) >= _REMEMBERED:
                self._results.pop(next(iter(self._results)))
            self._results[key] = result
        else:
            self._skipped += 1
        return self._feedback.scores(result)

    def _count(self, executions: int) -> None:
        """Count executions, and say so now and then: that we live."""
        self._executions += executions
        if time.monotonic() - self._told >= _BEAT:
            self._beat()

    def _run(self, value: Any) -> Result:
        self._run_count += 1
        result: Result = self._target.run(value)
        if self._feedback.take(result.reached) and len(self._bases) < _BASES:
            self._bases.append(value)
        if result.finding:
            signature = result.finding.signature
            self._seen[signature] = self._seen.get(signature, 0) + 1
            if signature not in self._known:
                self._known.add(signature)
                self._beat()
                told = asdict(result.finding)
                if self._link.ask("finding", input=self._target.to_json(value), finding=told):
                    self._settle(value, signature)
        return result

    def _draw(self) -> None:
        seeds = Random(self._task.seed)
        database = self._database()
        dry = 0
        while dry < _DRY:
            before = self._run_count
            rounds = Rounds(seeds.getrandbits(32), self._task.examples, database)
            try:
                draw(self._target, tuple(self._bases), self.examine, rounds)
            except HypothesisException as error:
                self._note(f"Hypothesis: {error}")
            dry = dry + 1 if self._run_count == before else 0
        self._note("nothing new is drawn any more")

    def _database(self) -> ExampleDatabase | None:
        task = self._task
        if not task.database:
            return None
        return example_database(Path(task.database), task.redis, task.dialect, self._note)

    def _settle(self, value: Any, signature: str) -> None:
        """Confirm a finding, and make its input as small as time allows."""
        confirmed, tries = self._confirm(value, signature)
        complete, runs = False, 0
        left = min(self._task.minimising, self._ends - time.monotonic())
        if confirmed and left > 0:
            small = minimise(self._target, value, signature, seconds=left)
            runs, again = small.runs, confirm(self._target, small.value, signature, tries)
            # what is small, but shows less surely, is of less use
            if again >= confirmed:
                value, complete, confirmed = small.value, small.complete, again
        self._link.say(
            "settled", signature=signature, input=self._target.to_json(value), runs=runs,
            confirmed=[confirmed, tries], minimised=complete,
        )  # fmt: skip

    def _confirm(self, value: Any, signature: str) -> tuple[int, int]:
        """Return how often a finding showed again, of how many tries."""
        confirmed, tries = confirm(self._target, value, signature, TRIES), TRIES
        # a crash has happened, whatever it takes to see it again: as it came, in haste
        while not confirmed and signature.startswith(CRASHES) and tries < _MOST_TRIES:
            if time.monotonic() >= self._ends:
                break
            finding = self._target.run(value).finding
            confirmed, tries = int(bool(finding and finding.signature == signature)), tries + 1
        return confirmed, tries

    def _again(self, data: dict[str, Any]) -> None:
        for value in self._read([data]):
            self._settle(value, str(data["finding"]["signature"]))

    def _read(self, inputs: list[dict[str, Any]]) -> Iterator[Any]:
        for data in inputs:
            try:
                yield self._target.from_json(data)
            except MultiFDError as error:
                self._note(f"{data.get('name') or 'an input'}: {error}")

    def _note(self, text: str) -> None:
        self._link.say("note", text=text)

    def _hear(self, message: Message) -> None:
        self._feedback.shared.update(message.get("reached", {}))
        self._known.update(message.get("known", ()))
        self._known.difference_update(message.get("forget", ()))

    def _beat(self) -> None:
        self._told = time.monotonic()
        self._link.say(
            "beat", executions=self._executions, skipped=self._skipped,
            reached=self._feedback.news(), seen=self._seen,
        )  # fmt: skip
        self._executions = self._skipped = 0
        self._seen = {}


def main() -> None:
    """Do what standard input says."""
    faulthandler.enable()
    # what a library prints must not get between the messages
    says = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    journal = Journal(int(sys.argv[1]))
    os.set_inheritable(journal.file, False)
    link = Link(sys.stdin.buffer, says)
    task = Task(**link.task())
    module, _, name = task.target.partition(":")
    try:
        with closing(getattr(import_module(module), name)(**task.arguments)) as target:
            Worker(task, target, journal, link).work()
    except PeerError as error:
        link.say("unusable", text=str(error))
    link.say("done")


if __name__ == "__main__":
    main()
