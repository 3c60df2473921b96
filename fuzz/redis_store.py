"""Findings that several machines share: in a Redis, and in a directory on each of them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from multifd_proto import __version__

from .redis_link import RedisLink
from .store import Data, DirectoryStore, StoreError, Tell, rank, read_finding, signed, to_stderr

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

_MERGE = 5.0
"""Seconds between two looks at what the other machines have found."""
_ALIVE = 60.0
"""Seconds after its last sign of life when a worker is counted as lost."""
_YEAR = 365 * 24 * 3600
"""Seconds that Redis keeps a campaign which nobody goes on with."""


@dataclass(frozen=True)
class Member:
    """A worker of a campaign, as it last said of itself."""

    machine: str
    """Host, and the directory that it keeps findings in."""
    worker: str
    peer: str
    seed: int
    suite: str
    """Version of this package."""
    executions: int
    seconds: float
    """That it has worked."""
    silent: float
    """Seconds since its last sign of life."""

    @property
    def alive(self) -> bool:
        """Whether it has been heard of lately."""
        return self.silent < _ALIVE


@dataclass(frozen=True)
class Totals:
    """A campaign, over all machines and since its start."""

    executions: int
    findings: int
    machines: int
    """With a worker that is alive."""
    workers: int
    """That are alive."""


class RedisStore:
    """Findings of a campaign. A worker, a machine or the Redis may go at any time.

    What is found is written to the local directory first. What Redis lacks, because it was away or
    has lost its data, it gets when it is back; what others have found comes into the directory.

    Args:
        url: of the Redis: see `RedisLink`.
        campaign: its name. All who take part in it have the same peer under test.
        local: where this machine keeps findings.
        tell: takes a message for the user.

    Raises:
        PeerError: the Redis cannot be reached now, the URL is none, or redis-py is not installed.
        StoreError: the directory cannot be written to.
    """

    def __init__(
        self, url: str, campaign: str, local: DirectoryStore, tell: Tell = to_stderr
    ) -> None:
        self.local = local
        self._findings = f"multifd:{campaign}:findings"
        self._members = f"multifd:{campaign}:workers"
        # of this run: one that is resumed counts on from zero
        self._run = token_hex(8)
        self._counts: dict[str, tuple[int, int]] = {}
        self._link = RedisLink(url, tell, f"findings are kept in {local.path}, and sent later")
        self._link.demand()
        self._merged = 0.0
        self._behind = False
        self._merge()

    def add(self, signature: str, data: Mapping[str, Any]) -> bool:
        """See `Store`. While Redis is away, what is new to this machine is new."""
        if not self.local.add(signature, data):
            return False
        first = self._link.reach(
            lambda redis: redis.hsetnx(self._findings, signature, _line(signature, data))
        )
        self._note(first is not None)
        return first is None or bool(first)

    def replace(self, signature: str, data: Mapping[str, Any]) -> None:
        """See `Store`."""
        self.local.replace(signature, data)
        put = self._link.reach(lambda redis: self._put(redis, signature, data))
        self._note(put is not None)

    def all(self) -> dict[str, Data]:
        """See `Store`: those of all machines, as far as Redis can be reached."""
        self._merge()
        return self.local.all()

    def beat(self, worker: str, *, peer: str, seed: int, executions: int, seconds: float) -> None:
        """Say that a worker is alive, and what it has done; now and then, merge.

        Args:
            worker: its name, unique in this store.
            peer: URI of what it works on.
            seed: of its inputs.
            executions: it has made. If they are fewer than before, it was started anew.
            seconds: it has worked.
        """
        before, last = self._counts.get(worker, (0, 0))
        before += last if executions < last else 0
        self._counts[worker] = before, executions
        member = {
            "machine": f"{socket.gethostname()}:{self.local.path.absolute()}",
            "worker": worker, "peer": peer, "seed": seed, "suite": __version__,
            "executions": before + executions, "seconds": round(seconds, 1),
        }  # fmt: skip
        sent = self._link.reach(lambda redis: self._say(redis, f"{self._run}:{worker}", member))
        self._note(sent is not None)
        if time.monotonic() - self._merged > _MERGE:
            self._merge()

    def members(self) -> list[Member]:
        """Return all workers that have taken part; none while Redis is away."""
        seen = self._link.reach(lambda redis: (redis.hvals(self._members), redis.time()[0]))
        rows, now = seen or ([], 0)
        members = []
        for row in rows:
            try:
                said = json.loads(row)
                members.append(Member(silent=max(0.0, now - said.pop("beat")), **said))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # of a version that says other things
        return members

    def totals(self) -> Totals:
        """Return what has been done and found so far, as far as it can be seen."""
        members = self.members()
        alive = [member for member in members if member.alive]
        return Totals(
            executions=sum(member.executions for member in members),
            findings=len(self.local.all()),
            machines=len({member.machine for member in alive}),
            workers=len(alive),
        )

    def close(self) -> None:
        """Merge for the last time, and close the connections."""
        self._link.hurry()
        self._merge()
        self._link.close()
        self.local.close()

    def _note(self, reached: bool) -> None:
        """After Redis was away, merge as soon as it is back."""
        if not reached:
            self._behind = True
        elif self._behind:
            self._merge()

    def _merge(self) -> None:
        """Give Redis what it lacks, and take from it what is lacking here."""
        kept = self._link.reach(lambda redis: redis.hgetall(self._findings))
        self._behind = kept is None
        if kept is None:
            return
        self._merged = time.monotonic()
        ours = self.local.all()
        theirs = dict(filter(None, map(_finding, kept.values())))
        for signature, data in theirs.items():
            if signature not in ours or rank(data) < rank(ours[signature]):
                self.local.replace(signature, data)
        for signature, data in ours.items():
            if signature not in theirs or rank(data) < rank(theirs[signature]):
                put = self._link.reach(partial(self._put, signature=signature, data=data))
                self._behind |= put is None

    def _put(self, redis: Redis, signature: str, data: Mapping[str, Any]) -> bool:
        """Write a finding, unless Redis has a lower one. Nobody else's is lost in between."""

        def write(pipe: Pipeline) -> None:
            kept = _finding(pipe.hget(self._findings, signature))
            pipe.multi()
            if kept is None or rank(signed(signature, data)) < rank(kept[1]):
                pipe.hset(self._findings, signature, _line(signature, data))

        redis.transaction(write, self._findings)
        return True

    def _say(self, redis: Redis, field: str, member: dict[str, Any]) -> bool:
        # the clocks of the machines may differ: that of Redis counts
        member["beat"] = redis.time()[0]
        pipe = redis.pipeline(transaction=False)
        pipe.hset(self._members, field, json.dumps(member))
        for key in (self._members, self._findings):
            pipe.expire(key, _YEAR)
        pipe.execute()
        return True


def _line(signature: str, data: Mapping[str, Any]) -> str:
    return json.dumps(signed(signature, data))


def _finding(value: Any) -> tuple[str, Data] | None:
    """Return a finding that Redis holds, or None if it is none."""
    try:
        return read_finding(value) if value is not None else None
    except StoreError:
        return None
