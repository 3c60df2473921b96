r"""`shim:CMD`: a small program that knows how to start an implementation, and to look into it.

    shim:./my-shim --verbose?machine=pc-i440fx-10.0

It is started once, and asked for many migrations: each question is one line of JSON on its stdin,
each answer one line on its stdout. What it prints on stderr goes into the log. It has ten seconds
for each answer; then it is killed, and started anew for the next migration.

- `{"do": "describe"}`: tell what is tested. The answer is an object with
  - `product`, `version` (strings): they select the known deviations;
  - `dialect` (string): the QEMU release whose protocol it speaks, such as `"10.0"`;
  - `blocks` (object): RAM blocks by name, with their bytes; the first is the one written to;
  - `memory`, `state` (booleans): whether it can be asked for these, see below;
  - `reason` (boolean): whether the reason of a failure can be seen: in the answer for the state, or
    in what was printed on stderr;
  - optionally `page_size` (number; 4096), `methods` (list of strings; `["none"]`), `channels`
    (number: the most that it takes; 255).
- `{"do": "receive", "channels": 2, "uuid": "6ba7b810-...", "method": "none"}`: await a migration,
  with a guest's memory that is all zero. `{"address": "tcp:127.0.0.1:4444"}`, or `"unix:PATH"`,
  answers that it listens.
- `{"do": "read", "block": "ram0", "offset": 0, "length": 4096}`, only with `memory`: bytes of the
  guest's memory as they are at this moment. `{"hex": "00ff..."}`: two digits a byte. Also asked
  while a migration runs; at most 65536 bytes at a time.
- `{"do": "state"}`, only with `state`: `{"state": "running"}`, `"completed"` or `"failed"`; there
  may be a `"reason": "..."` beside it.
- `{"do": "stop"}`: end that migration by force, whatever its state. `{}`. It comes after each
  `receive`, also when the implementation has died.
- Anything else: `{"unsupported": true}`. It is asked for something that does not exist, to make
  sure of that.
- Any question may be answered by `{"error": "TEXT"}`: that is reported as a fault of the harness.

A shim that ends while it is asked is taken for the implementation: many run it in their process.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from multifd_proto.errors import PeerError
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.owner import Owner

from ..target import Description, ReceiverPeer, RunningReceiver, Sense, Setup, State
from .command import Command, parse_command
from .json_lines import Conversation, LostError, short
from .options import Options, parse_options
from .process import describe_death
from .tail import crashed

_LAST_WORDS = 0.2
_CHUNK = 65536
_UNKNOWN = "multifd-no-such-question"
_STATES = {state.value: state for state in (State.RUNNING, State.COMPLETED, State.FAILED)}
_DESCRIBED = {
    "product": str, "version": str, "dialect": str, "blocks": dict,
    "memory": bool, "state": bool, "reason": bool,
}  # fmt: skip
_MORE = {"page_size": int, "methods": list, "channels": int}
_TOLD = frozenset({"channels", "uuid", "method"})


def receiver(rest: str, options: dict[str, str], uri: str) -> ReceiverPeer:
    """Return the receiver that a URI names."""
    parse_options(uri, options)
    return ShimReceiver(uri, parse_command(uri, rest), options)


class ShimReceiver(Owner):
    """An implementation behind a shim."""

    def __init__(self, uri: str, command: Command, options: dict[str, str]) -> None:
        self._uri, self._command, self._given = uri, command, options
        self._shim: Conversation | None = None
        self._described: tuple[Options, frozenset[Sense]] | None = None

    @property
    def uri(self) -> str:
        """What the user called it."""
        return self._uri

    def describe(self) -> Description:
        """Ask the shim what it is; options of the URI go before its answers.

        Raises:
            PeerError: it cannot be run, or answers what it must not.
        """
        options, senses = self._ask_what_it_is()
        return options.describe("shim", senses=senses)

    def receive(self, setup: Setup) -> RunningReceiver:
        """Have the shim await a migration.

        Raises:
            PeerError: it is not there for such a setup, or answers what it must not.
        """
        options, senses = self._ask_what_it_is()
        options.demand(self._uri, setup, _TOLD)
        shim = self._start()
        shim.tail.forget()
        question = {
            "do": "receive",
            "channels": setup.channels,
            "uuid": str(UUID(bytes=setup.uuid)),
            "method": setup.method,
        }
        address = shim.ask(question, {"address": str})["address"]
        return RunningShim(shim, parse_address(address), senses)

    def close(self) -> None:
        """End the shim."""
        if self._shim:
            self._shim.close()
            self._shim = None

    def _start(self) -> Conversation:
        """Return the shim, started anew if it was lost."""
        if not self._shim or not self._shim.alive:
            self.close()
            self._shim = Conversation(self._uri, self._command.fill({}))
            # one that answers to everything would hide what it does not know
            answer = self._shim.ask({"do": _UNKNOWN}, {"unsupported": bool})
            if not answer["unsupported"]:
                raise self._shim.fault("unsupported is false, must be true")
        return self._shim

    def _ask_what_it_is(self) -> tuple[Options, frozenset[Sense]]:
        if not self._described:
            answer = self._start().ask({"do": "describe"}, _DESCRIBED, _MORE)
            options = parse_options(self._uri, _as_options(answer) | self._given)
            senses = {sense for sense in Sense if answer.get(sense.name.lower(), True)}
            self._described = options, frozenset(senses)
        return self._described


class RunningShim(Owner):
    """A migration that a shim awaits, or that it takes part in."""

    def __init__(self, shim: Conversation, address: Address, senses: frozenset[Sense]) -> None:
        self._shim, self._address, self._senses = shim, address, senses

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def address(self) -> Address:
        """Where it says that it listens."""
        return self._address

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        """Ask for guest memory; None if that cannot be seen, or the shim is lost.

        Raises:
            PeerError: the shim answers what it must not.
        """
        if Sense.MEMORY not in self._senses:
            return None
        parts = []
        for at in range(offset, offset + length, _CHUNK):
            part = self._read(block, at, min(_CHUNK, offset + length - at))
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    def _read(self, block: bytes, offset: int, length: int) -> bytes | None:
        question = {"do": "read", "block": block.decode(), "offset": offset, "length": length}
        answer = self._ask(question, {"hex": str})
        if answer is None:
            return None
        try:
            data = bytes.fromhex(answer["hex"])
        except ValueError:
            data = b""
        if len(data) != length:
            hex_ = short(answer["hex"])
            raise self._shim.fault(f"hex is {hex_}, must be {length} bytes, two digits each")
        return data

    @property
    def death(self) -> str | None:
        """How the shim ended by itself, or None."""
        return None if self._shim.status is None else describe_death(self._shim.status)

    @property
    def crashed(self) -> bool:
        """It ended by a signal, or what it printed says that something crashed."""
        return crashed(self._shim.status, self.log())

    def state(self, timeout: float) -> State:
        """Ask for the state of the migration; SILENT if the shim does not answer in time.

        Raises:
            PeerError: the shim answers what it must not.
        """
        return self._ask_state(timeout)[0]

    def reason(self) -> tuple[str, ...]:
        """Return what the shim gives as the reason of a failure, then its last lines."""
        given = self._ask_state(None)[1] if Sense.REASON in self._senses else ""
        return (*([given] if given else []), *self._shim.tail.lines())

    def log(self) -> str:
        """Return the end of what the shim has printed on stderr."""
        return self._shim.tail.text(0.0 if self._shim.alive else _LAST_WORDS)

    def close(self) -> None:
        """Have the shim end it; end the shim if it does not."""
        try:
            if self._shim.answers:
                self._shim.ask({"do": "stop"}, {})
                return
        except PeerError:
            pass
        self._shim.close()

    def _ask_state(self, timeout: float | None) -> tuple[State, str]:
        if Sense.STATE not in self._senses:
            return State.UNKNOWN, ""
        answer = self._ask({"do": "state"}, {"state": str}, {"reason": str}, timeout)
        if answer is None:
            return State.SILENT, ""
        if answer["state"] not in _STATES:
            state = short(answer["state"])
            raise self._shim.fault(f"state is {state}, must be {' or '.join(_STATES)}")
        return _STATES[answer["state"]], answer.get("reason", "")

    def _ask(self, question: dict[str, object], *demanded: Any) -> dict[str, Any] | None:
        """Ask the shim, as `Conversation.ask` does; None if it is lost."""
        try:
            return self._shim.ask(question, *demanded) if self._shim.alive else None
        except LostError:
            return None


def _as_options(answer: dict[str, Any]) -> dict[str, str]:
    """Return a shim's description in the form in which a user would give it."""
    blocks = (f"{name}:{size}" for name, size in answer["blocks"].items())
    options = {
        "product": answer["product"],
        "version": answer["version"],
        "dialect": answer["dialect"],
        "blocks": "+".join(blocks),
    }
    if "methods" in answer:
        options["methods"] = "+".join(map(str, answer["methods"]))
    return options | {
        name: str(answer[name]) for name in ("page_size", "channels") if name in answer
    }
