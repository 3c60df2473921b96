"""The judge's own process: takes frames from its parent, and answers with the verdict.

    python -m multifd_proto.peers.judge

is what `JudgingProcess` starts; standard input and output are pipes to it.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from enum import IntEnum, auto
from functools import partial
from typing import BinaryIO, Protocol, cast

from multifd_proto.machine.check import Checker
from multifd_proto.peers.watch import Watch

FRAME = struct.Struct("=BIQ")
"""Kind, number of the connection, length or value."""
LENGTH = struct.Struct("=I")
"""Bytes of what comes first: the pickled parameters, and the class of a live checker or None."""
PIPE = 1 << 20
"""Bytes that the pipe should hold."""
READY = b"!"
"""What is answered first."""
_LAG = 32 << 20  # heads of 12 GiB of memory
_STEP = 64 << 10
_QUIET = 0.1
_POLITE = 10


class Kind(IntEnum):
    """What a frame says of a connection."""

    OPEN = auto()
    """It was opened; the value is the time, in ns since the epoch."""
    DATA = auto()
    """As many bytes came, and follow the frame."""
    SKIP = auto()
    """As many bytes came, and do not follow."""
    END = auto()
    RESET = auto()
    BROKEN = auto()
    """The receiver has broken it off."""
    RETURNED = auto()
    """As many bytes have come from the receiver."""
    TIME = auto()
    """What follows came at that time, in ns since the epoch."""
    ASK = auto()
    """A live checker is to say what it knows; of no connection."""


class LiveChecker(Protocol):
    """A `Checker` that can tell what it has found while it judges."""

    def so_far(self) -> object:
        """Return that, as something that can be pickled, in less than a MiB."""


def _serve(pipe: int, answers: BinaryIO) -> None:
    """Judge what comes through the pipe, and answer with the verdict."""
    with open(pipe, "rb", buffering=0, closefd=False) as start:
        (length,) = LENGTH.unpack(start.read(LENGTH.size))
        parameters, live = pickle.loads(_exactly(start, length))  # from our own parent
    checker = (live or Checker)(parameters)
    if live:
        os.nice(_POLITE)
    _answer(answers, READY)
    watches: dict[int, Watch] = {}
    times: dict[int, int] = {}
    for kind, number, value, data in _frames(pipe, at_once=live is not None):
        if kind == Kind.TIME:
            times[number] = value
        elif kind == Kind.ASK:
            _answer(answers, pickle.dumps(cast("LiveChecker", checker).so_far()))
        elif kind == Kind.OPEN:
            clock = partial(times.__getitem__, number)
            watches[number] = Watch(
                number, follows=True, checker=checker, opened=value, clock=clock
            )
        else:
            _tell(watches[number], kind, value, data)
    report, migration = checker.conclude(), checker.migration
    migration.pages.clear()  # large, and judged
    _answer(answers, pickle.dumps((report, migration)))


def _answer(answers: BinaryIO, data: bytes) -> None:
    answers.write(data)
    answers.flush()


def _tell(watch: Watch, kind: int, value: int, data: bytes) -> None:
    if kind == Kind.DATA:
        watch.feed(data)
    elif kind == Kind.SKIP:
        watch.skip(value)
    elif kind == Kind.RETURNED:
        watch.set_reverse(value)
    else:
        watch.end(reset=kind != Kind.END, by_peer=kind == Kind.BROKEN)


def _exactly(pipe: BinaryIO, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += pipe.read(length - len(data))
    return data


def _frames(pipe: int, *, at_once: bool) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield what the parent said, with the data of the connection, when there is time for it."""
    late = bytearray()
    ended = quiet = False
    while late or not ended:
        if len(late) <= _LAG:
            patience = None if not late else 0 if quiet else _QUIET
            quiet = not select.select([pipe], [], [], patience)[0]
            if not quiet:
                data = os.read(pipe, PIPE)
                ended = not data
                late += data
        if quiet or ended or at_once or len(late) > _LAG:
            taken = yield from _whole(late)
            del late[:taken]
            quiet = (quiet or at_once) and taken > 0
            if ended and not taken:
                return  # the parent has gone in the middle of a frame


def _whole(late: bytearray) -> Generator[tuple[int, int, int, bytes], None, int]:
    """Yield the first whole frames, and return how many bytes they are."""
    taken = 0
    with memoryview(late) as view:
        while taken < _STEP and len(view) - taken >= FRAME.size:
            kind, number, value = FRAME.unpack_from(view, taken)
            end = taken + FRAME.size + (value if kind == Kind.DATA else 0)
            if end > len(view):
                break
            yield kind, number, value, bytes(view[taken + FRAME.size : end])
            taken = end
    return taken


def _main() -> None:
    with suppress(KeyboardInterrupt):
        _serve(sys.stdin.fileno(), sys.stdout.buffer)


if __name__ == "__main__":
    _main()
