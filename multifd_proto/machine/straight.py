"""The packets that nearly all of an uncompressed migration consists of, recognised at a glance.

A straight packet has pages, all of them normal, that lie one behind the other in a block, and no
flag. For it everything that a receiver refuses comes down to a few comparisons. Whatever else is
left to the channel machine and to `refusal`; tests hold both evaluations equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from multifd_proto.machine.parameters import MigrationParameters, RamBlock
from multifd_proto.wire.dialect import DIALECTS
from multifd_proto.wire.schema import (
    MULTIFD_MAGIC,
    MULTIFD_VERSION,
    page_count,
)

_START = (MULTIFD_MAGIC, MULTIFD_VERSION, 0)


class StraightPackets:
    """Recognises straight packets of one channel."""

    def __init__(self, parameters: MigrationParameters) -> None:
        """Make a recogniser.

        Args:
            parameters: of the receiver; `page_size` must be known.
        """
        assert parameters.page_size
        layout = (parameters.dialect or DIALECTS[-1]).packet
        self._page_size = parameters.page_size
        self._count = page_count(parameters.page_size)
        self._unpack = layout.compiled(self._count).unpack
        self.size = layout.size(self._count)
        """Bytes of a packet's head."""
        names = [row.name for row in layout.rows(self._count)]
        self._alloc, self._normal = names.index("pages_alloc"), names.index("normal_pages")
        # before 9.0 there are no zero pages: the field's place is reserved, and ignored
        self._zero = names.index("zero_pages") if "zero_pages" in names else None
        self._block, self._first = names.index("ramblock"), names.index("offset")

    def read(
        self, head: memoryview, blocks: Mapping[bytes, RamBlock]
    ) -> tuple[bytes, range] | None:
        """Return the block and the offsets of a packet's pages; None if it is not straight.

        Args:
            head: the packet's head, whole.
            blocks: the RAM blocks by name.
        """
        values = self._unpack(head)
        count = values[self._normal]
        if values[:3] != _START or not 0 < count <= values[self._alloc] <= self._count:
            return None
        if self._zero is not None and values[self._zero]:
            return None
        name = values[self._block].partition(b"\0")[0]
        block, first, page = blocks.get(name), values[self._first], self._page_size
        if block is None or len(name) > 255:
            return None
        run = range(first, first + count * page, page)
        if first % page or run.stop > block.used_length:
            return None
        return (name, run) if values[self._first : self._first + count] == tuple(run) else None
