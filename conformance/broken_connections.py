"""Receivers that are wrong about connections and their init messages; see `broken_receiver`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from socket import socket

from multifd_proto.machine.rule import Fault
from multifd_proto.wire.schema import CHANNEL_MAGIC, MULTIFD_VERSION, MultiFDInit

from .miniature_receiver import MiniatureReceiver
from .miniature_wire import StoppedError, Wire
from .target import State

SHORT = 0.1
"""Seconds that one who should wait does wait: so that it harms no session in which nobody is late,
and is over long before a case stops to watch."""
NEVER = 86400.0
"""Seconds that no session lasts."""


# ---- connections ---------------------------------------------------------------------------------


class WritesOnChannel(MiniatureReceiver):
    """CHAN-2: greets the sender on its channel."""

    def take_init(self, wire: Wire, init: MultiFDInit) -> None:
        """Admit a channel, and say so."""
        super().take_init(wire, init)
        if wire.channel is not None:
            wire.connection.send(b"+")


class TakesFirstForMain(MiniatureReceiver):
    """CHAN-5: the first connection is the main stream, whatever it begins with."""

    def is_main(self, wire: Wire, first: bytes) -> bool:
        """Tell what is the first connection, if it is a multifd one at all."""
        early = wire.stream == 0 and first == CHANNEL_MAGIC
        return early or super().is_main(wire, first)


class KeepsStrangers(MiniatureReceiver):
    """CHAN-6: keeps a connection that begins with neither magic."""

    ignored = frozenset({"CHAN-6"})


class WaitsForSilent(MiniatureReceiver):
    """CHAN-7: accepts nobody before the connection before has said what it is."""

    patience = NEVER

    def accept(self, sock: socket) -> None:
        """Accept a connection, and wait for its first bytes."""
        super().accept(sock)
        self.wait(lambda: not self.pending, NEVER)


class LoadsEarly(MiniatureReceiver):
    """CHAN-8: goes on with the main stream though channels are missing."""

    def await_channels(self, wire: Wire) -> None:  # noqa: ARG002  # it does not look at it
        """Give the channels a moment."""
        self.wait(lambda: self.joint.complete, SHORT)


class KeepsSurplus(MiniatureReceiver):
    """CHAN-9: keeps connections that are too many."""

    def surplus(self, wire: Wire) -> None:  # noqa: ARG002  # all are kept
        """Keep it."""
        self.linger()


class RefusesEnd(MiniatureReceiver):
    """CHAN-10: takes the end of a plain channel in the first round for an error."""

    def end_channel(self, wire: Wire) -> None:
        """Refuse it."""
        super().end_channel(wire)
        if self.joint.passed <= 1 and not wire.connection.tls:
            fault = Fault("end of the stream", "between two packets", "none")
            self.refuse(wire, [("CHAN-10", fault)])


class TakesCutForEnd(MiniatureReceiver):
    """CHAN-11: takes an end inside a message for the end of the channel."""

    ignored = frozenset({"CHAN-11"})


class ClosesOne(MiniatureReceiver):
    """CHAN-12: for what one channel says, does not close those that it waits for bytes of."""

    def doomed(self, wire: Wire) -> Iterable[Wire]:
        """Spare the other channels, but for those that are parked."""
        wires = super().doomed(wire)
        if wire.main or wire.ended:
            return wires
        return [each for each in wires if each is wire or not self._spared(each.channel)]

    def _spared(self, channel: int | None) -> bool:
        return channel is not None and not self.joint.parked(channel)


class WaitsAfterFailure(MiniatureReceiver):
    """CHAN-13: at a mark, does not learn that a channel has failed."""

    _stuck = False

    def doomed(self, wire: Wire) -> Iterable[Wire]:
        """Forget about the main stream while it waits."""
        self._stuck = self.joint.meeting and not wire.main
        return [each for each in super().doomed(wire) if not (each.main and self._stuck)]

    def meet(self, wire: Wire, offset: int) -> None:
        """Wait at a mark, if need be for ever."""
        try:
            super().meet(wire, offset)
        except StoppedError:
            if self._stuck:
                self.linger()
            raise

    def state(self, timeout: float = 1.0) -> State:
        """Tell nothing while it waits."""
        return State.SILENT if self._stuck else super().state(timeout)

    def reason(self) -> tuple[str, ...]:
        """Tell nothing while it waits."""
        return () if self._stuck else super().reason()


# ---- the init message ----------------------------------------------------------------------------


class TakesAnyInitMagic(MiniatureReceiver):
    """INIT-9: takes an init message with another magic."""

    ignored = frozenset({"INIT-9"})


class TakesTurnedVersion(MiniatureReceiver):
    """INIT-10: takes an init message whose version has its bytes in the wrong order."""

    def take_init(self, wire: Wire, init: MultiFDInit) -> None:
        """Turn the version round."""
        turned = init.version.to_bytes(4, "little") == MULTIFD_VERSION.to_bytes(4, "big")
        super().take_init(wire, replace(init, version=MULTIFD_VERSION) if turned else init)


class TakesAnyUuid(MiniatureReceiver):
    """INIT-11: takes the channel of another machine."""

    ignored = frozenset({"INIT-11"})


class TakesAnyId(MiniatureReceiver):
    """INIT-12: takes a channel with an id out of range."""

    ignored = frozenset({"INIT-12"})


class TakesIdTwice(MiniatureReceiver):
    """INIT-13: takes two channels with one id."""

    ignored = frozenset({"INIT-13"})


class DemandsZeroInInit(MiniatureReceiver):
    """INIT-14: demands zeros where an init message is reserved."""

    def take_init(self, wire: Wire, init: MultiFDInit) -> None:
        """Look at what nobody has to look at."""
        if any(init.unused1 + init.unused2):
            self.refuse(wire, [("INIT-14", Fault("reserved bytes", "not zero", "zero"))])
        super().take_init(wire, init)
