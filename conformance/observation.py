"""What was seen of a receiver while a script was played to it; nothing here judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Reaction(Enum):
    """What a receiver did about the script, the worst first."""

    CRASHED = "crashed"
    """The process died by a signal, or says that it did."""
    HUNG = "hung"
    """Neither a sign of acceptance nor of refusal within the time."""
    REJECTED = "rejected"
    """It closed the connection that was watched, or its process ended with a status."""
    ACCEPTED = "accepted"
    """What came after was seen in its memory, or it says that the migration completed."""
    UNREACHED = "unreached"
    """The script did not get as far as its fault: nothing can be said."""


class Aftermath(Enum):
    """What became of the receiver afterwards."""

    CLEAN = "clean"
    """It completed, failed or ended."""
    WEDGED = "wedged"
    """It neither ended nor answers, although all connections are closed."""
    CRASHED = "crashed later"
    UNKNOWN = "unknown"
    """It cannot be asked, or was not."""


@dataclass(frozen=True)
class Exchange:
    """One line of the wire log."""

    time: float
    """Seconds since the script began."""
    wire: str
    """Name of the connection."""
    kind: str
    """`open`, `refused`, `sent`, `received`, `ended` (by the peer), `reset` (by the peer), `fin`,
    `closed`, `broken` (the last three by us)."""
    what: str
    """The message or the event in words."""
    data: bytes = b""
    """The bytes that went; of long ones the first, see `size`."""
    size: int = 0
    """How many bytes went."""

    def lines(self, shown: int = 64) -> list[str]:
        """Return it as text: what it was, and the first bytes of it in hex."""
        head = f"{self.time:9.4f} s  {self.wire:>5}  {self.kind:<8} {self.what}"
        if not self.size:
            return [head]
        more = f" ... ({self.size} bytes)" if self.size > shown else ""
        return [head, f"{'':>28}{self.data[:shown].hex(' ', -4)}{more}"]


@dataclass(frozen=True)
class Observation:
    """All that was seen."""

    reaction: Reaction
    seconds: float
    """From the last message to the reaction."""
    stood: str = ""
    """What the script waited for when it ended, or why it was not reached, in words."""
    ended: Mapping[str, str] = field(default_factory=dict)
    """Wires that the receiver has ended, with how: `ended` or `reset`."""
    opened: tuple[str, ...] = ()
    """All wires of the script that were opened."""
    answered: Mapping[str, bytes] = field(default_factory=dict)
    """Bytes that the receiver wrote, by wire."""
    image: tuple[str, ...] = ()
    """Where memory is not what the script has made it: the first differences, in words."""
    seen: bool = False
    """Memory was compared."""
    early: tuple[str, ...] = ()
    """Pages that were in memory before their time."""
    reason: tuple[str, ...] = ()
    """What the receiver gave as its reason."""
    death: str | None = None
    """How its process ended by itself."""
    aftermath: Aftermath = Aftermath.UNKNOWN
    log: str = ""
    """End of the receiver's log."""
    exchanges: tuple[Exchange, ...] = ()
