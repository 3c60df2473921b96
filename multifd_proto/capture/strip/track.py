"""One direction of a connection while its segments are stripped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from multifd_proto.capture.events import Half
from multifd_proto.capture.strip.kept import Covered, Kept

_MODULUS = 1 << 32
_BEHIND = 1 << 30  # as in reassembly


@dataclass
class Track:
    """One direction of a connection, as its segments come by."""

    half: Half
    kept: Kept
    role: str
    covered: Covered = field(default_factory=Covered)
    position: int = 0

    def place(self, seq: int) -> int:
        """Return the offset in the stream of a sequence number."""
        ahead = (seq - self.half.origin - self.position) % _MODULUS
        return self.position + (ahead if ahead < _MODULUS - _BEHIND else ahead - _MODULUS)

    def stretches(self, seq: int, data: memoryview, missing: int) -> Iterator[tuple[int, bytes]]:
        """Yield place and bytes of what is kept of a payload.

        Args:
            seq: of its first byte.
            data: as much of it as was captured.
            missing: bytes behind `data`.
        """
        offset = self.place(seq)
        stop = offset + len(data)
        self.position = max(self.position, stop + missing)
        for first, last in self.covered.add(max(offset, 0), stop + missing):
            for start, end, begin in self.kept.find(first, min(last, stop)):
                content = self.kept.contents.get(begin)
                if content is None:
                    yield start - offset, bytes(data[start - offset : end - offset])
                else:
                    yield start - offset, content[start - begin : end - begin]
