"""The fuzzer's target for code of ours that takes bytes from others, in this very process.

    multifd fuzz decoder channel
    multifd fuzz decoder all

What is found: an exception that is not one of ours, a result that depends on how the bytes were
cut, time and memory that nothing announces, descriptors and threads that are left behind. Kinds of
findings: `raises`, `differs`, `slow`, `grows`, `leaves`, `hangs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from multifd_proto import __version__
from multifd_proto.errors import PeerError

from .decoder_captures import CaptureSubject
from .decoder_channel import ChannelSubject
from .decoder_files import MappedRamSubject
from .decoder_machine import Arranged, MachineSubject
from .decoder_main import MainSubject
from .decoder_payloads import PayloadSubject
from .decoder_subjects import NEWEST, Bytes, InputError, Subject
from .guard import guarded
from .proxies import ProxySubject
from .target import Result

ALL = "all"
"""Name of the target that is all subjects in turn."""
_SUBJECTS: tuple[type[Subject[Any]], ...] = (
    ChannelSubject, MainSubject, CaptureSubject, PayloadSubject, MappedRamSubject, MachineSubject,
    ProxySubject,
)  # fmt: skip
NAMES = tuple(subject.name for subject in _SUBJECTS)
"""What can be fuzzed."""
Input = Bytes | Arranged


class DecoderTarget:
    """A `Target`: one of our own parts, or all of them.

    Args:
        name: of `NAMES`, or `all`.

    Raises:
        PeerError: there is no such part.
    """

    name = "decoder"

    def __init__(self, name: str) -> None:
        if name != ALL and name not in NAMES:
            raise PeerError(f"decoder is {name!r}, must be one of {', '.join((*NAMES, ALL))}")
        self.peer = name
        self._subjects: dict[str, Subject[Any]] = {
            subject.name: subject() for subject in _SUBJECTS if name in (ALL, subject.name)
        }

    def strategy(self) -> SearchStrategy[Input]:
        """Return what inputs are drawn from."""
        strategies = {name: subject.strategy() for name, subject in self._subjects.items()}
        return st.sampled_from([*strategies]).flatmap(strategies.__getitem__)

    def run(self, value: Input, *, patient: bool = False) -> Result:
        """Run an input."""
        subject = self._subjects[value.subject]
        limits = subject.patient if patient else subject.limits
        return guarded(partial(subject.check, value), limits, subject.name)

    def to_json(self, value: Input) -> dict[str, object]:
        """Return the readable form of an input."""
        return self._subjects[value.subject].to_json(value)

    def from_json(self, data: Mapping[str, object]) -> Input:
        """Read it back. Raises MultiFDError if it is none."""
        name = data.get("subject", self.peer)
        if name not in self._subjects:
            known = ", ".join(self._subjects)
            raise InputError(f"subject is {name!r}, must be one of {known}")
        read: Input = self._subjects[str(name)].from_json(data)
        return read

    def smaller(self, value: Input) -> Iterator[Input]:
        """Yield inputs that are a little smaller or plainer, the boldest first."""
        return self._subjects[value.subject].smaller(value)

    def describe(self) -> Mapping[str, str]:
        """Return what is under test."""
        return {"product": "multifd-proto", "version": __version__, "dialect": NEWEST.name}

    def close(self) -> None:
        """Do nothing: nothing outlives a run."""
