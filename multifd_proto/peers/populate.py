"""Mapped memory made ready many pages at a time, beside the other threads.

The first touch of a page costs a fault. One system call for all pages of a packet costs less, and
`ctypes` makes it while other threads of Python run, which `mmap.madvise` does not, nor a fault.
"""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Populate(IntEnum):
    """What the memory is made ready for (Linux 5.14: `MADV_POPULATE_*`)."""

    READ = 22
    WRITE = 23


class Populator:
    """Makes parts of a mapping ready; where the system cannot, it does nothing."""

    def __init__(self, mapping: mmap.mmap, kind: Populate) -> None:
        """Remember a mapping, which has to stay open as long as this is called.

        Args:
            mapping: of memory that may be written to, shared or private.
            kind: what its parts are made ready for.
        """
        self._kind = kind
        # nothing is kept that would keep the mapping from being closed
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))

    def __call__(self, begin: int, end: int) -> None:
        """Make the bytes from `begin` to `end` ready.

        Args:
            begin: a multiple of the system's page size.
            end: the same, or the end of the mapping.
        """
        _madvise(self._address + begin, end - begin, self._kind)
