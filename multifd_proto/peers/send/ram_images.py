"""The memory that a sender sends: all RAM blocks of a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from multifd_proto.errors import PeerError
from multifd_proto.peers.owner import Owner
from multifd_proto.peers.send.ram_image import Batch, Order, RamImage
from multifd_proto.wire.ram_records import RamBlockEntry


class RamImages(Owner):
    """All RAM blocks of the machine that is sent. Use it as a context manager."""

    def __init__(
        self,
        files: Mapping[bytes, Sequence[Path]],
        page_size: int = 4096,
        *,
        rounds: int = 1,
        dirty: float = 0.1,
    ) -> None:
        """Map the memory of all blocks.

        Args:
            files: name of each block, and the file that holds its memory; further files are
                its memory in further rounds.
            page_size: target page size in bytes; blocks have a multiple of it.
            rounds: rounds to send blocks of one file each in: in all but the last, a share of the
                pages is sent with other content than they have.
            dirty: that share, above 0 and at most 1.

        Raises:
            PeerError: a file cannot be used, or both further files and rounds are wanted.
        """
        if not files:
            raise PeerError("no RAM block is given, must be one or more")
        with ExitStack() as stack:
            self.blocks: list[RamImage] = []
            for name, paths in files.items():
                self.blocks.append(RamImage(name, paths, page_size))
                stack.callback(self.blocks[-1].close)
            if rounds > 1:
                self._stir(rounds, dirty)
            self._open = stack.pop_all()

    def _stir(self, rounds: int, dirty: float) -> None:
        for image in self.blocks:
            if image.rounds > 1:
                name = _text(image.name)
                raise PeerError(f"RAM block {name} has {image.rounds} files, with rounds only 1")
            image.stir(rounds, dirty)

    @property
    def rounds(self) -> int:
        """Rounds in which something is sent."""
        return max(image.rounds for image in self.blocks)

    @property
    def size(self) -> int:
        """Bytes of memory in all blocks."""
        return sum(image.size for image in self.blocks)

    def entries(self) -> tuple[RamBlockEntry, ...]:
        """Return the list of blocks as a main stream announces it."""
        return tuple(RamBlockEntry(image.name, image.size) for image in self.blocks)

    def entries_of(self, recorded: Sequence[RamBlockEntry]) -> tuple[RamBlockEntry, ...]:
        """Return the list of blocks of a recorded main stream, if these are its blocks.

        Raises:
            PeerError: a block is missing, is one too many, or has another length; or the main
                stream is that of a mapped-ram file.
        """
        have = {image.name: image.size for image in self.blocks}
        want = {block.name: block.used_length for block in recorded}
        faults = [f"{_text(name)} is not in it" for name in have if name not in want]
        for name, length in want.items():
            if name not in have:
                faults.append(f"{_text(name)} of {length} bytes is missing")
            elif have[name] != length:
                faults.append(f"{_text(name)} has {have[name]} bytes, must have {length}")
        if any(block.mapped for block in recorded):
            faults.append("their pages are in a mapped-ram file")
        if faults:
            raise PeerError(f"RAM blocks of the recorded main stream: {', '.join(faults)}")
        return tuple(recorded)

    def batches(self, round_: int, per_packet: int, order: Order) -> Iterator[Batch]:
        """Yield what is sent in a round, block after block, a packet at a time."""
        for image in self.blocks:
            yield from image.batches(round_, per_packet, order)

    def close(self) -> None:
        """Unmap all files."""
        self._open.close()


def _text(name: bytes) -> str:
    return repr(name.decode("latin-1"))
