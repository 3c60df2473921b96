"""A process that is asked in lines of JSON on its stdin, and answers so on its stdout."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from multifd_proto.errors import PeerError
from multifd_proto.peers.owner import Owner

from .process import describe_death, kill_group, spawn
from .tail import Tail, readable

PATIENCE = 10.0
"""Seconds that an answer may take; then the process is killed."""
_LIMIT = 256 << 10
_LAST_WORDS = 0.2
_SHOWN = 60
_KINDS = {
    str: "a string", int: "a number", bool: "true or false", dict: "an object", list: "a list",
}  # fmt: skip


class LostError(PeerError):
    """The process has died, or does not answer."""


class _Fault(Exception):
    """An answer is not what it must be."""


class Conversation(Owner):
    """A process that answers questions, one line each. It is killed when it does not."""

    def __init__(self, uri: str, command: Sequence[str]) -> None:
        """Start it.

        Args:
            uri: of the peer, for messages.
            command: program and arguments.

        Raises:
            PeerError: it cannot be run.
        """
        self._uri, self._line, self._what, self._killed = uri, 0, "", False
        self._buffer, self._owed, self._asked = b"", 0, 0.0
        with ExitStack() as stack:
            self.tail = stack.enter_context(Tail())
            pipe = subprocess.PIPE
            self._process = spawn(command, stdin=pipe, stdout=pipe, stderr=self.tail.writer)
            stack.callback(kill_group, self._process)
            self.tail.release()
            self._open = stack.pop_all()

    @property
    def status(self) -> int | None:
        """As `subprocess.Popen.returncode`, if it has ended by itself; None while it lives."""
        return None if self._killed else self._process.poll()

    @property
    def alive(self) -> bool:
        """It is there."""
        return self._process.poll() is None

    @property
    def answers(self) -> bool:
        """It is there, and owes no answer."""
        return self.alive and not self._owed

    def ask(
        self,
        question: Mapping[str, object],
        demanded: Mapping[str, type],
        optional: Mapping[str, type] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Ask, and return the answer.

        Args:
            question: what to ask; `do` names it.
            demanded: keys that it must have, and the types of their values.
            optional: those that it may have.
            timeout: seconds to wait for it; `PATIENCE` if None, after which the process is killed.

        Raises:
            LostError: there is none, as the process has ended or is silent.
            PeerError: it is none of those, or says that there was an `error`.
        """
        self._line += 1
        self._what = f"peer {self._uri!r}: answer to {question['do']!r}, line {self._line}"
        self._write(json.dumps(question).encode() + b"\n")
        try:
            answer = _object(self._read_answer(PATIENCE if timeout is None else timeout))
            if not isinstance(answer.get("error"), str):
                _check(answer, demanded, optional or {})
                return answer
        except _Fault as fault:
            raise self.fault(str(fault)) from None
        raise PeerError(f"{self._what}: {answer['error']}")

    def fault(self, what: str) -> PeerError:
        """Return an error about the last answer; who answers so is not trusted any more."""
        self.close()
        return PeerError(f"{self._what}: {what}")

    def close(self) -> None:
        """Kill it."""
        self._killed = self._killed or self.alive
        self._open.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin
        if not self._owed:
            self._asked = time.monotonic()
        self._owed += 1
        with suppress(OSError):  # the answer that does not come tells the same
            os.write(self._process.stdin.fileno(), line)

    def _read_answer(self, timeout: float) -> bytes:
        """Return the answer to the last question; those that come too late are passed over."""
        deadline = time.monotonic() + timeout
        while self._owed:
            line = self._read_line(deadline, timeout)
            self._owed -= 1
        if self._buffer:
            raise _Fault(f"{short(self._buffer.strip())} follows, must be one line")
        return line

    def _read_line(self, deadline: float, timeout: float) -> bytes:
        assert self._process.stdout
        stdout = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = min(deadline, self._asked + PATIENCE) - time.monotonic()
            if not readable(stdout, max(0.0, left)):
                raise self._silence(timeout)
            more = os.read(stdout, _LIMIT)
            if not more:
                raise self._ended()
            self._buffer += more
            if len(self._buffer) > _LIMIT:
                raise _Fault(f"a line of more than {_LIMIT} bytes, must be at most that")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _silence(self, timeout: float) -> LostError:
        if time.monotonic() >= self._asked + PATIENCE:
            self.close()
        return LostError(f"{self._what}: none after {timeout:g} s{self._end()}")

    def _ended(self) -> LostError:
        try:
            ended = describe_death(self._process.wait(_LAST_WORDS))
        except subprocess.TimeoutExpired:
            self.close()
            ended = "its stdout was closed"
        return LostError(f"{self._what}: none, {ended}{self._end()}")

    def _end(self) -> str:
        lines = self.tail.lines(0.0 if self.alive else _LAST_WORDS)
        return f": {' | '.join(reversed(lines))}" if lines else ""


def _object(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise _Fault(f"{short(line)}, must be an object of JSON on one line") from None
    if not isinstance(answer, dict):
        raise _Fault(f"{short(answer)}, must be an object")
    return answer


def _check(
    answer: dict[str, Any], demanded: Mapping[str, type], optional: Mapping[str, type]
) -> None:
    known = {**demanded, **optional}
    for key, value in answer.items():
        if key not in known:
            must = f"one of {', '.join(known)}" if known else "absent"
            raise _Fault(f"key is {short(key)}, must be {must}")
        # JSON's true is no number, although Python's is one
        if not isinstance(value, known[key]) or isinstance(value, bool) != (known[key] is bool):
            raise _Fault(f"{key} is {short(value)}, must be {_KINDS[known[key]]}")
    for key in demanded:
        if key not in answer:
            raise _Fault(f"{key} is missing, must be {_KINDS[demanded[key]]}")


def short(value: object) -> str:
    """Return a value for a message: so much of it as helps."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    said = repr(text)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
