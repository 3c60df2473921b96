"""Plays a script to a receiver, and says what was seen.

Silence is never acceptance: that takes a page in memory, or a peer that says it has completed. Nor
is a timeout a refusal: that takes the end of a connection or of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from multifd_proto.errors import PeerError
from multifd_proto.wire import return_path

from .image import compare
from .observation import Aftermath, Observation, Reaction
from .script import (
    MAIN,
    Absent,
    Arrive,
    Complete,
    Ended,
    Fin,
    Open,
    Pause,
    Reset,
    Script,
    Step,
    completion,
)
from .stage import Stage
from .target import Description, RunningReceiver, Sense, Setup, State
from .wires import Wires


@dataclass(frozen=True)
class Budgets:
    """How many seconds are waited for what; `scaled` for slow peers."""

    connect: float = 5.0
    """A connection, or the TLS handshake on it."""
    react: float = 2.0
    """A sign of acceptance or refusal: hundreds of times what real receivers take."""
    complete: float = 5.0
    """A migration that completes."""
    answer: float = 1.0
    """An answer to the question for the state."""
    death: float = 0.2
    """A process that dies, after its connections have ended."""
    afterwards: float = 0.5
    """A receiver that is done, after all connections are closed."""

    def scaled(self, factor: float) -> Budgets:
        """Return all of them so many times as long."""
        return Budgets(*(value * factor for value in vars(self).values()))


def play(
    running: RunningReceiver,
    peer: Description,
    script: Script,
    setup: Setup,
    budgets: Budgets | None = None,
) -> Observation:
    """Play a script to a receiver that listens, up to its end or to where it cannot go on.

    Args:
        running: the receiver, fresh.
        peer: what it is.
        script: what is played.
        setup: what the receiver was started for.
        budgets: how long is waited.

    Raises:
        ScriptError: a message of the script cannot be made.
        PeerError: the TLS credentials cannot be used.
    """
    budgets = budgets or Budgets()
    tls = setup.tls.client() if setup.tls else None
    with Wires(running.address, tls, budgets.connect) as wires:
        player = _Player(running, peer, Stage(script, peer, setup.uuid), wires, budgets)
        player.run(script.steps)
        return player.conclude()


class _Player:
    def __init__(
        self,
        running: RunningReceiver,
        peer: Description,
        stage: Stage,
        wires: Wires,
        budgets: Budgets,
    ) -> None:
        self._running, self._peer, self._stage = running, peer, stage
        self._wires, self._budgets = wires, budgets
        self._reaction = Reaction.UNREACHED
        self._stood = "the script waits for nothing"
        self._over = False
        self._sent = self._reacted = time.monotonic()
        self._early: list[str] = []
        self._image: tuple[str, ...] = ()

    def run(self, steps: tuple[Step, ...]) -> None:
        """Do all steps, or as many as can be done."""
        for number, step in enumerate(steps):
            try:
                self._do(step)
            except PeerError as error:
                self._decide(self._death() or Reaction.UNREACHED, f"step {number}: {error}")
                self._over = True
            except KeyError as error:
                self._decide(Reaction.UNREACHED, f"step {number}: wire {error} is not open")
                self._over = True
            if self._over:
                return

    def _do(self, step: Step) -> None:
        wires = self._wires
        if getattr(step, "wire", None) in wires.refused:
            return
        match step:
            case Open():
                wires.open(step.wire, refusable=step.refusable)
            case Fin():
                wires.finish(step.wire, notify=step.notify)
            case Reset():
                wires.reset(step.wire)
            case Pause():
                wires.wait(lambda: False, step.seconds)
            case Arrive():
                self._arrive(step)
            case Absent():
                self._absent(step)
            case Ended():
                self._ended(step.wires)
            case Complete():
                self._complete(step)
            case _:
                built = self._stage.build(step)
                wires.send(step.wire, built.data, built.what)
                self._sent = time.monotonic()

    # ---- what is waited for ----------------------------------------------------------------------

    def _arrive(self, step: Arrive) -> None:
        place = self._stage.place(step.page, step.block)
        wanted = self._stage.expected(step.page, step.salt)
        if Sense.MEMORY not in self._peer.senses:
            self._complete(Complete())
            return
        wire = self._stage.sent_on.get(place, MAIN)

        def look() -> Reaction | None:
            if self._running.read(*place, len(wanted)) == wanted:
                return Reaction.ACCEPTED
            return self._refusal(any, (wire, MAIN))

        self._await(look, f"page {step.page} in memory", self._budgets.react)

    def _absent(self, step: Absent) -> None:
        place = self._stage.place(step.page, step.block)
        wanted = self._stage.expected(step.page, step.salt)
        if self._wires.wait(
            lambda: self._running.read(*place, len(wanted)) == wanted, step.seconds
        ):
            self._early.append(f"page {step.page} is in memory before its time")

    def _ended(self, names: tuple[str, ...]) -> None:
        what = f"the end of {', '.join(names)}"
        refusal = Reaction.REJECTED
        self._await(lambda: self._refusal(all, names), what, self._budgets.react, hoped=refusal)

    def _complete(self, step: Complete) -> None:
        open_ = [wire.name for wire in self._wires.wires.values() if not wire.finished]
        for each in completion(step, open_):
            self._do(each)
        self._await(self._completion, "the completion", self._budgets.complete)

    def _completion(self) -> Reaction | None:
        """Tell whether the receiver has completed or failed, by whatever it can say."""
        answers = bytes(self._wires.wires[MAIN].answered)
        shut = return_path.shut_status(answers)
        if shut is not None:
            return Reaction.REJECTED if shut else Reaction.ACCEPTED
        state = self._running.state(self._budgets.answer)
        if state is State.COMPLETED:
            return Reaction.ACCEPTED
        if state is State.FAILED:
            return self._death() or Reaction.REJECTED
        dead = self._death()
        if dead or state is not State.UNKNOWN:
            return dead
        # who would have said SHUT, and closes instead, has refused
        closed = any(wire.ended for wire in self._wires.wires.values())
        if self._peer.return_path and closed and not self._soon_shut():
            return Reaction.REJECTED
        if Sense.MEMORY in self._peer.senses and not compare(self._running, self._stage).missing:
            return Reaction.ACCEPTED
        return None

    def _soon_shut(self) -> bool:
        """Tell whether SHUT comes, a little after the end of a channel."""
        main = self._wires.wires[MAIN]
        return self._wires.wait(
            lambda: return_path.shut_status(bytes(main.answered)) is not None, self._budgets.death
        )

    def _refusal(
        self, which: Callable[[list[bool]], bool], names: tuple[str, ...]
    ) -> Reaction | None:
        """Tell whether the process, or any or all of the wires, have ended."""
        dead = self._death()
        if dead:
            return dead
        wires = self._wires.wires
        ended = [bool(wires[name].ended) for name in names if name in wires]
        if not which(ended + [True for name in names if name in self._wires.refused]):
            return None
        # a process that dies closes its connections a little before
        self._wires.wait(lambda: self._death() is not None or self._answers(), self._budgets.death)
        return self._death() or Reaction.REJECTED

    def _answers(self) -> bool:
        """Tell whether the process is there, and says so."""
        return self._running.state(self._budgets.death) in (
            State.RUNNING,
            State.COMPLETED,
            State.FAILED,
        )

    def _death(self) -> Reaction | None:
        if self._running.crashed:
            return Reaction.CRASHED
        death = self._running.death
        if death is None:
            return None
        return Reaction.ACCEPTED if death == "exit status 0" else Reaction.REJECTED

    def _await(
        self,
        look: Callable[[], Reaction | None],
        what: str,
        seconds: float,
        hoped: Reaction = Reaction.ACCEPTED,
    ) -> None:
        """Wait for a reaction; the script goes on after acceptance, and after the hoped one."""
        found: list[Reaction] = []

        def done() -> bool:
            reaction = look()
            found.extend([reaction] if reaction else [])
            return reaction is not None

        if self._wires.wait(done, seconds):
            self._decide(found[0], what)
            self._over = found[0] not in (Reaction.ACCEPTED, hoped)
        else:
            self._decide(Reaction.HUNG, f"{what}, for {seconds:g} s")
            self._over = True

    def _decide(self, reaction: Reaction, stood: str) -> None:
        self._reaction, self._stood = reaction, stood
        self._reacted = time.monotonic()

    # ---- afterwards ------------------------------------------------------------------------------

    def conclude(self) -> Observation:
        """Look at memory, close everything, and see how the receiver takes it."""
        if self._running.crashed:
            self._reaction = Reaction.CRASHED
        if Sense.MEMORY in self._peer.senses:
            self._look_at_memory()
        ended = {w.name: w.ended for w in self._wires.wires.values() if w.ended}
        aftermath = self._part()
        wires = self._wires.wires
        return Observation(
            reaction=self._reaction,
            seconds=self._reacted - self._sent,
            stood=self._stood,
            ended={name: how for name, how in ended.items() if how != "broken by us"},
            opened=tuple(wires),
            answered={w.name: bytes(w.answered) for w in wires.values() if w.answered},
            image=self._image,
            seen=Sense.MEMORY in self._peer.senses,
            early=tuple(self._early),
            reason=self._running.reason(),
            death=self._running.death,
            aftermath=aftermath,
            log=self._running.log(),
            exchanges=tuple(self._wires.log),
        )

    def _look_at_memory(self) -> None:
        """Compare memory; what was accepted may still be on its way."""
        accepted = self._reaction is Reaction.ACCEPTED
        if accepted:
            self._wires.wait(
                lambda: not compare(self._running, self._stage).missing, self._budgets.react
            )
        found = compare(self._running, self._stage)
        self._image = (*found.collateral, *(found.missing if accepted else ()))

    def _part(self) -> Aftermath:
        """Close all connections, and wait until the receiver is done."""
        if self._reaction is Reaction.CRASHED:
            return Aftermath.CRASHED
        for name, wire in self._wires.wires.items():
            if not wire.finished:
                self._wires.finish(name)
        self._wires.close()
        deadline = time.monotonic() + self._budgets.afterwards
        state = State.UNKNOWN
        while time.monotonic() < deadline:
            if self._running.crashed:
                return Aftermath.CRASHED
            if self._running.death is not None:
                return Aftermath.CLEAN
            state = self._running.state(self._budgets.answer)
            if state in (State.COMPLETED, State.FAILED):
                return Aftermath.CLEAN
            if state is State.UNKNOWN and Sense.PROCESS not in self._peer.senses:
                break
            time.sleep(0.005)
        return Aftermath.WEDGED if state is State.SILENT else Aftermath.UNKNOWN
