"""Targets of our own for campaigns: quick, without a peer, and wrong in known ways."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from multifd_proto.errors import MultiFDError, PeerError
from multifd_proto.fuzz.target import Finding, Result

Numbers = tuple[int, ...]


class Planted:
    """Lists of numbers, some of which are bad."""

    name = "decoder"
    peer = "planted"

    def __init__(self, faults: Iterable[str] = (), delay: float = 0.0) -> None:
        self.faults, self.delay = set(faults), delay
        self.count = 0

    def strategy(self) -> SearchStrategy[Numbers]:
        return st.lists(st.integers(0, 255), max_size=6).map(tuple)

    def run(self, value: Numbers, *, patient: bool = False) -> Result:
        self.count += 1
        time.sleep(self.delay)
        if "unusable" in self.faults and self.count > 20:
            raise PeerError("planted: the peer is gone")
        if "dies" in self.faults and 7 in value:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hangs" in self.faults and 7 in value:
            time.sleep(600)
        if "raises" in self.faults and 7 in value:
            raise ZeroDivisionError("seven")
        reached = {"PKT-25"} if value else set()
        reached |= {"INIT-9"} if len(value) > 3 else set()
        finding = None
        if "sum" in self.faults and sum(value) > 600:
            finding = Finding("crashes", "PKT-25", f"the sum is {sum(value)}", "signal SIGSEGV")
        elif "fluke" in self.faults and len(value) > 1 and not patient:
            finding = Finding("hangs", "INIT-9", "no answer")
        return Result(finding, frozenset(reached), {"sum": float(sum(value))})

    def to_json(self, value: Numbers) -> dict[str, object]:
        return {"numbers": list(value)}

    def from_json(self, data: Mapping[str, object]) -> Numbers:
        if "numbers" not in data:
            raise MultiFDError("no list of numbers")
        numbers: list[int] = list(data["numbers"])  # type: ignore[call-overload]
        return tuple(numbers)

    def smaller(self, value: Numbers) -> Iterator[Numbers]:
        for place, number in enumerate(value):
            yield value[:place] + value[place + 1 :]
            if number:
                yield (*value[:place], number - 1, *value[place + 1 :])

    def describe(self) -> Mapping[str, str]:
        return {"product": "planted", "version": "1", "dialect": "10.0"}

    def close(self) -> None:
        pass


def broken() -> None:
    """Die at once, as a target that cannot even be imported."""
    os._exit(3)
