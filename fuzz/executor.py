"""Plays scripts to fresh receivers, and looks at all of their memory afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from multifd_proto.conformance.observation import Observation, Reaction
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.player import Budgets, play
from multifd_proto.conformance.script import Script
from multifd_proto.conformance.stage import content
from multifd_proto.conformance.target import Description, RunningReceiver, Sense, Setup

from multifd_proto.errors import PeerError
from multifd_proto.peers.owner import Owner

from .oracle import SALT, SENTINEL, Expected, Place, Prepared, judge, prepare, said
from .target import Finding

QUICK = Budgets(react=0.5, complete=1.0, answer=0.3, death=0.1, afterwards=0.1)
"""How long a campaign waits: real receivers react within milliseconds."""
PATIENT = Budgets(react=2.0, complete=4.0, answer=1.0, death=0.3, afterwards=0.5)
"""How long is waited before something is called a finding."""
_RETRIES = 3


class Executor(Owner):
    """One receiver, started anew for each script."""

    def __init__(self, uri: str) -> None:
        """Name the receiver.

        Raises:
            PeerError: the URI is malformed.
        """
        self._peer = parse_receiver(uri)
        self.uri = uri
        self.count = 0
        """Scripts played."""

    @cached_property
    def description(self) -> Description:
        """What the receiver is. Raises PeerError if it cannot be used at all."""
        return self._peer.describe()

    def close(self) -> None:
        """Let go of the receiver."""
        self._peer.close()

    def prepare(self, script: Script) -> Prepared:
        """Say what a conforming receiver does with a script. Raises ScriptError."""
        return prepare(script, self.description)

    def execute(self, prepared: Prepared, budgets: Budgets = QUICK) -> tuple[Observation, str]:
        """Play a script, and return what was seen, and where memory is not as it has to be.

        Raises:
            PeerError: no receiver could be started, several times in a row.
        """
        self.count += 1
        script = prepared.script
        setup = Setup(channels=script.channels, method=script.method)
        with self._start(setup) as running:
            seen = play(running, self.description, script, setup, budgets)
            seen = self._look_again(running, prepared, seen)
            return seen, self._stray(running, prepared, seen)

    def _look_again(
        self, running: RunningReceiver, prepared: Prepared, seen: Observation
    ) -> Observation:
        """Tell, of a receiver that did not refuse in time, whether it took the sentinel."""
        if prepared.expected is Expected.REFUSES and seen.reaction is Reaction.HUNG:
            size = self.description.page_size
            block = next(iter(self.description.blocks))
            page = running.read(block, SENTINEL * size, size)
            if page == content(SENTINEL, SALT, size):
                return replace(seen, reaction=Reaction.ACCEPTED, stood=f"page {SENTINEL} in memory")
        return seen

    def find(self, prepared: Prepared, budgets: Budgets = QUICK) -> Finding | None:
        """Play a script, and return what is wrong with the receiver, if anything."""
        return judge(prepared, *self.execute(prepared, budgets))

    def _start(self, setup: Setup) -> RunningReceiver:
        for _ in range(_RETRIES - 1):
            with suppress(PeerError):
                return self._peer.receive(setup)
            time.sleep(0.1)
        return self._peer.receive(setup)

    def _stray(self, running: RunningReceiver, prepared: Prepared, seen: Observation) -> str:
        """Return the first place of memory that is not as it has to be, in words."""
        if Sense.MEMORY not in self.description.senses:
            return ""
        whole = prepared.expected is Expected.ACCEPTS and seen.reaction is Reaction.ACCEPTED
        # who takes what is to be refused writes it too: that is one finding, not two
        taken = prepared.expected is Expected.REFUSES and seen.reaction is not Reaction.REJECTED
        lenient = taken or bool(seen.early) or not prepared.binds

        def excused(place: Place) -> bool:
            # to ask the machine again takes its time: only where there is something to excuse
            if whole:
                return place in prepared.contested
            machine = prepared.performance.machine
            if place in machine.begun or place in prepared.touched:
                return True
            # until it refuses, it may take in anything but what it has to refuse
            open_ = prepared.expected is Expected.REFUSES and place not in machine.denied
            return place in prepared.named and (open_ or lenient or not prepared.settled)

        stray = self._compare(running, prepared.memory, excused, whole=whole)
        deadline = time.monotonic() + (0.5 if whole else 0.0)
        while stray and time.monotonic() < deadline:
            time.sleep(0.005)
            stray = self._compare(running, prepared.memory, excused, whole=whole)
        return stray

    def _compare(
        self,
        running: RunningReceiver,
        image: Mapping[bytes, bytes | bytearray],
        excused: Callable[[Place], bool],
        *,
        whole: bool,
    ) -> str:
        size = self.description.page_size
        for block, final in image.items():
            memory = running.read(block, 0, len(final))
            wanted = final if whole else bytes(len(final))
            if memory is None or memory == wanted:
                continue
            for offset in range(0, len(wanted), size):
                seen, right = memory[offset : offset + size], wanted[offset : offset + size]
                if seen != right and not excused((block, offset)):
                    there = "zero" if not any(seen) else seen[:8].hex()
                    return f"{said((block, offset))}is {there}"
        return ""
