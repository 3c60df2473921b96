"""What a conforming receiver makes of a script: the reference machine, fed with its bytes.

No connection is opened and nothing is waited for. Where the outcome depends on who is faster, the
machine takes the steps one after the other, as they stand.
"""

from __future__ import annotations

from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.receiver import ReceiverMachine, configured
from multifd_proto.wire.payload import METHODS

from .script import (
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
from .target import Description

_METHOD = {method.name: method for method in METHODS}


def predict(script: Script, peer: Description, uuid: bytes) -> ReceiverMachine:
    """Return the machine after the whole script.

    Args:
        script: what is played.
        peer: what the receiver is: its dialect, page size and RAM blocks count.
        uuid: that of its machine.

    Raises:
        ScriptError: a message of the script cannot be made, or a wire is not open.
    """
    parameters = MigrationParameters(
        dialect=peer.dialect,
        page_size=peer.page_size,
        channels=script.channels,
        uuid=uuid,
        compression=_METHOD[script.method],
    )
    machine = ReceiverMachine(configured(parameters, peer.blocks))
    _Player(machine, Stage(script, peer, uuid)).play(script)
    return machine


class _Player:
    def __init__(self, machine: ReceiverMachine, stage: Stage) -> None:
        self._machine, self._stage = machine, stage
        self._wires: dict[str, int] = {}
        self._finished: set[str] = set()

    def play(self, script: Script) -> None:
        """Do all steps."""
        for step in script.steps:
            self._do(step)

    def _do(self, step: Step) -> None:
        match step:
            case Open():
                self._wires[step.wire] = self._machine.open()
            case Fin() | Reset():
                self._finished.add(step.wire)
                self._machine.receive_eof(self._wires[step.wire], reset=isinstance(step, Reset))
            case Pause() | Arrive() | Absent() | Ended():
                pass
            case Complete():
                for each in completion(step, [w for w in self._wires if w not in self._finished]):
                    self._do(each)
            case _:
                data = self._stage.build(step).data
                if step.wire not in self._finished:
                    self._machine.receive_data(self._wires[step.wire], data)
