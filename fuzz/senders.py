"""Senders as targets: what one does when its destination misbehaves.

target = SenderTarget("qemu-src:10.0")
result = target.run(target.from_json(json.load(file)))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from hypothesis.strategies import SearchStrategy
from multifd_proto.conformance.peers import parse_sender
from multifd_proto.conformance.sender.session import Fixed, Informed, Recording, compare, known
from multifd_proto.conformance.sender.streams import Hearing
from multifd_proto.conformance.target import Description, RunningSender, SourceSetup
from multifd_proto.conformance.trial import Tried
from multifd_proto.conformance.verdict import Failure, Judgement, Verdict

from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.owner import Owner

from .misbehaving import PATIENT, QUICK, Misbehaving, Patience
from .mischief import misdeeds, why_not
from .misdeeds import Misdeeds, load_misdeeds, smaller
from .sender_oracle import Seen, judge, reached, scores, told
from .target import Result

_RETRIES = 3
_RACES = 2.0
"""Seconds that a patient observer gives to a race."""


@runtime_checkable
class Monitored(Protocol):
    """A sender that is a process, with a monitor."""

    @property
    def status(self) -> str:
        """What it calls the state of its migration."""

    def answers(self, timeout: float) -> bool:
        """Tell whether the monitor answers within so many seconds."""

    def resident(self) -> int:
        """Return the bytes of memory that it has beside the guest's."""


class SenderTarget(Owner):
    """A sender, started anew for each input; see `target.Target`."""

    name = "sender"

    def __init__(self, uri: str) -> None:
        """Name the sender.

        Raises:
            PeerError: the URI is malformed, or what it names sends only once.
        """
        self.peer = uri
        self._sender = parse_sender(uri)
        if isinstance(self._sender, Recording):
            raise PeerError(f"peer {uri!r}: has sent already, must be a sender that can be started")

    @cached_property
    def description(self) -> Description:
        """What the sender is. Raises PeerError if it cannot be used at all."""
        return self._sender.describe()

    def strategy(self) -> SearchStrategy[Misdeeds]:
        """Return what inputs are drawn from."""
        return misdeeds(self.description)

    def run(self, value: Misdeeds, *, patient: bool = False) -> Result:
        """Do misdeeds to a fresh sender.

        What comes of them is often for the sender's own threads to race for. So to be patient is
        to do them to further senders too, for some seconds, until something is wrong with one.

        Raises:
            PeerError: the sender cannot be started, or not for this.
        """
        until = time.monotonic() + (_RACES if patient else 0)
        while True:
            seen = self.see(value, PATIENT if patient else QUICK)
            finding = judge(seen)
            if finding or time.monotonic() >= until:
                return Result(finding, reached(seen), scores(seen))

    def see(self, value: Misdeeds, patience: Patience) -> Seen:
        """Return what a fresh sender does. Raises PeerError as `run` does."""
        if why := why_not(value.source, self.description):
            raise PeerError(f"peer {self.peer!r}: {why}")
        hearing, at = Hearing(self._known(value.source)), Address("tcp", "127.0.0.1")
        if isinstance(self._sender, Fixed):
            at = self._sender.goes_to
            patience = replace(patience, connect=max(patience.connect, self._sender.patience))
        with (
            Misbehaving(at, hearing, value, patience) as destination,
            self._start(value.source, destination.address) as sender,
        ):
            return _watch(value, hearing, destination, sender, patience)

    def to_json(self, value: Misdeeds) -> dict[str, object]:
        """Return the readable form of an input."""
        return value.to_json()

    def from_json(self, data: Mapping[str, object]) -> Misdeeds:
        """Read it back. Raises MisdeedsError if it is none."""
        return load_misdeeds(data)

    def smaller(self, value: Misdeeds) -> Iterator[Misdeeds]:
        """Yield inputs that are a little smaller or plainer, the boldest first."""
        return (v for v in smaller(value) if not why_not(v.source, self.description))

    def describe(self) -> Mapping[str, str]:
        """Return `product`, `version` and `dialect` of the sender."""
        peer = self.description
        return {"product": peer.product, "version": peer.version, "dialect": peer.dialect.name}

    def close(self) -> None:
        """Let go of the sender."""
        self._sender.close()

    def _known(self, setup: SourceSetup) -> MigrationParameters:
        parameters: MigrationParameters
        if isinstance(self._sender, Informed):
            parameters = self._sender.known(setup)
        else:
            parameters = known(setup, self.description)
        return parameters

    def _start(self, setup: SourceSetup, to: Address) -> RunningSender:
        for _ in range(_RETRIES - 1):
            with suppress(PeerError):
                return self._sender.send(setup, to)
            time.sleep(0.1)
        return self._sender.send(setup, to)


def _watch(
    value: Misdeeds,
    hearing: Hearing,
    destination: Misbehaving,
    sender: RunningSender,
    patience: Patience,
) -> Seen:
    begun = time.monotonic()
    monitored = sender if isinstance(sender, Monitored) else None
    before = monitored.resident() if monitored else 0
    ending = destination.run(sender)
    state = sender.state(patience.end)
    seconds = time.monotonic() - begun
    growth = monitored.resident() - before if monitored else 0
    return Seen(
        misdeeds=value,
        ending=ending,
        report=hearing.checker.conclude(),
        broken=destination.broken,
        said=destination.said,
        left_open=destination.left_open,
        state=state,
        status=monitored.status if monitored else "",
        answers=sender.death is not None or not monitored or monitored.answers(patience.answer),
        death=sender.death,
        # whoever serves a monitor has no reason to end
        crashed=sender.crashed or (monitored is not None and sender.death is not None),
        growth=growth,
        image=() if destination.broken else compare(hearing, sender) or (),
        log=sender.log(),
        exchanges=hearing.log.exchanges,
        reason=sender.reason(),
        taken=destination.taken,
        seconds=seconds,
    )


def try_misdeeds(data: Mapping[str, object], uri: str) -> Tried:
    """Do the misdeeds of a finding to a sender once more, and let the oracle judge.

    It has failed if anything is wrong, be it something else than what was found.

    Args:
        data: JSON object of the finding's file.
        uri: of the sender.

    Raises:
        MisdeedsError: it is none.
        PeerError: the sender cannot be used.
    """
    with SenderTarget(uri) as target:
        seen = target.see(target.from_json(data), PATIENT)
    found, text = judge(seen), told(seen)
    if found is None:
        return Tried(Judgement(Verdict.PASSED, text), seen.exchanges)
    failure = next((one for one in Failure if one.value == found.kind), None)
    said = f"{found.signature}: {found.observed}"
    return Tried(Judgement(Verdict.FAILED, said, failure), seen.exchanges)
