"""A script: who sends what on which connection, in which order. One value, and readable JSON.

A script holds messages, not bytes: what is not said in it (the machine's UUID, the name of the RAM
block, the layout of the dialect, the devices of the main stream) is taken from the peer that it
is played to, so that one script can be played to many peers. `Raw` sends bytes as they are.

    {"multifd-script": 1, "name": "INIT-12/id-equals-channels", "setup": {"channels": 2},
     "steps": [{"do": "open", "wire": "main"}, {"do": "main", "part": "start"},
               {"do": "open", "wire": "0"}, {"do": "init", "wire": "0", "fields": {"id": 2}}]}

Wires are named: `main`, and a channel by its number, which is the id in its init message unless
`fields` say otherwise; letters may follow the number (`0b`), so that two wires can have one id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeAlias

from multifd_proto.errors import MultiFDError

VERSION = 1
"""Of the JSON form."""
MAIN = "main"
"""Name of the main stream's wire."""


class ScriptError(MultiFDError):
    """A file is no script: says place, value seen and value demanded."""


@dataclass(frozen=True, kw_only=True)
class Open:
    """Open a connection."""

    do = "open"
    wire: str
    refusable: bool = False
    """The peer may refuse it: what the script says on it is left out then, and it has ended."""


@dataclass(frozen=True, kw_only=True)
class _Message:
    """What all messages have: they can be sent in parts."""

    wire: str
    first: int | None = None
    """Bytes of it that are sent, from its start; all if None."""
    skip: int = 0
    """Bytes at its start that are left out: they were sent before."""


@dataclass(frozen=True, kw_only=True)
class Init(_Message):
    """Send an init message."""

    do = "init"
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Values of its fields, under QEMU's names; bytes as hex."""


@dataclass(frozen=True, kw_only=True)
class Sync(_Message):
    """Send a SYNC packet."""

    do = "sync"
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pages(_Message):
    """Send a packet with pages of a RAM block, and their payload."""

    do = "pages"
    normal: tuple[int, ...] = ()
    """Numbers of the pages within the block."""
    zero: tuple[int, ...] = ()
    """Those of the pages that are zero: listed in the packet, or by zero pages of the main stream
    where the dialect's packets cannot list them."""
    salt: int = 0
    """Chooses the content of the normal pages."""
    block: str | None = None
    """Name of the RAM block; the peer's first one if None."""
    method: str | None = None
    """Payload method, if it is not that of the setup."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Values that replace those of the packet's fields; `offset` gives its first items."""
    payload: str | None = None
    """Hex of the payload, in place of the pages' own."""
    lands: bool = True
    """The pages have to arrive in memory."""


@dataclass(frozen=True, kw_only=True)
class DeviceState(_Message):
    """Send a device-state packet and its data."""

    do = "device-state"
    idstr: str = "vfio"
    size: int = 12
    """Bytes of data."""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Main(_Message):
    """Send a part of the main stream, of `machine.sending.MainWriter`."""

    do = "main"
    wire: str = MAIN
    part: str
    """`header` (the first 8 bytes), `start` (up to the list of RAM blocks, without what `header`
    sent), `mark`, `part`, `zeros`, `end`, `finish`."""
    pages: tuple[int, ...] = ()
    """Of `zeros`: numbers of pages."""
    block: str | None = None
    """Of `zeros`: name of the RAM block."""
    blocks: Mapping[str, int] | None = None
    """Of `start`: the RAM blocks to announce, if not the peer's own."""
    return_path: bool = False
    """Of `start`: the destination is told to answer."""


@dataclass(frozen=True, kw_only=True)
class Raw(_Message):
    """Send bytes."""

    do = "raw"
    hex: str


@dataclass(frozen=True, kw_only=True)
class Fin:
    """End the sending direction of a connection."""

    do = "fin"
    wire: str
    notify: bool = True
    """Inside TLS: with close_notify."""


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Break a connection."""

    do = "reset"
    wire: str


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wait."""

    do = "pause"
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Arrive:
    """Wait until a page that was sent is in memory, or the peer refuses.

    This is the hold point at which a refusal is expected, or the proof of acceptance. Where memory
    cannot be seen, the rest of the script has to prove it: see `Complete`.
    """

    do = "arrive"
    page: int
    salt: int = 0
    block: str | None = None


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Watch for so long that a page that was sent is not yet in memory."""

    do = "absent"
    page: int
    salt: int = 0
    seconds: float = 0.3
    block: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Wait until the peer ends these wires (the process may end instead)."""

    do = "ended"
    wires: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Complete:
    """Complete the migration: last section, a SYNC on each open channel, mark, end; then wait.

    The proof is what the peer says, or its SHUT on the return path, or the end of its process with
    status 0; or, if none of them can be seen, that all is in memory.
    """

    do = "complete"
    sync: bool = True
    """Send the last section, with its SYNC packets and mark."""
    finish: bool = True
    """Send the end of the main stream; if not, connections are ended and that is all."""


Message: TypeAlias = Init | Sync | Pages | DeviceState | Main | Raw
Step: TypeAlias = Open | Message | Fin | Reset | Pause | Arrive | Absent | Ended | Complete
STEPS: dict[str, type[Step]] = {
    kind.do: kind
    for kind in (Open, Init, Sync, Pages, DeviceState, Main, Raw, Fin, Reset, Pause, Arrive,
                 Absent, Ended, Complete)
}  # fmt: skip
"""All steps by the name that the JSON form gives them."""


@dataclass(frozen=True)
class Script:
    """What is played to a receiver."""

    steps: tuple[Step, ...]
    name: str = ""
    channels: int = 2
    """What the receiver is started for, as are `method` and `tls`."""
    method: str = "none"
    tls: bool = False
    expect: str = ""
    """Name of the `case.Expect` that keeps the requirement; empty if nothing is demanded."""

    def to_json(self) -> str:
        """Return the readable form: one line a step."""
        setup = {"channels": self.channels, "method": self.method, "tls": self.tls}
        head = json.dumps(
            {"multifd-script": VERSION, "name": self.name, "expect": self.expect, "setup": setup}
        )
        lines = ",\n  ".join(json.dumps(_row(step)) for step in self.steps)
        return f'{head[:-1]}, "steps": [\n  {lines}\n]}}\n'


def completion(step: Complete, wires: list[str]) -> list[Step]:
    """Return the steps that `Complete` stands for.

    Args:
        step: says which of them.
        wires: those that are open.
    """
    steps: list[Step] = []
    if step.sync:
        steps.append(Main(part="end"))
        steps += [Sync(wire=name) for name in wires if name != MAIN and name[:1].isdigit()]
        steps.append(Main(part="mark"))
    if step.finish:
        steps.append(Main(part="finish"))
    return steps + [Fin(wire=name) for name in wires]


def load_script(text: str) -> Script:
    """Read a script.

    Raises:
        ScriptError: it is no JSON, of another version, or a step is unknown or malformed.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ScriptError(f"no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("multifd-script") != VERSION:
        raise ScriptError(f"no script: 'multifd-script' must be {VERSION}")
    setup, rows = data.get("setup", {}), data.get("steps")
    if not isinstance(rows, list) or not isinstance(setup, dict):
        raise ScriptError("no script: 'steps' must be a list, and 'setup' an object")
    for name, value in setup.items():
        if name not in _SETUP:
            raise ScriptError(f"setup: {name!r} is unknown, must be channels, method or tls")
        if not _fits(value, _SETUP[name]):
            raise ScriptError(f"setup: {name} is {value!r}, must be {_SETUP[name]}")
    steps = tuple(_step(number, row) for number, row in enumerate(rows))
    name, expect = (str(data.get(key, "")) for key in ("name", "expect"))
    return Script(steps, name=name, expect=expect, **setup)


_SETUP = {"channels": "int", "method": "str", "tls": "bool"}


def _row(step: Step) -> dict[str, Any]:
    """Return a step without what is at its default."""
    row: dict[str, Any] = {"do": step.do}
    for item in fields(step):
        value = getattr(step, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if value != default:
            row[item.name] = value
    return row


def _step(number: int, row: Any) -> Step:
    place = f"step {number}"
    if not isinstance(row, dict) or row.get("do") not in STEPS:
        seen = row.get("do") if isinstance(row, dict) else row
        raise ScriptError(f"{place}: 'do' is {seen!r}, must be one of {', '.join(STEPS)}")
    kind: Any = STEPS[row["do"]]
    known = {item.name: item for item in fields(kind)}
    values = {name: value for name, value in row.items() if name != "do"}
    for name, value in values.items():
        if name not in known:
            raise ScriptError(f"{place}: {name!r} is unknown, must be one of {', '.join(known)}")
        if not _fits(value, str(known[name].type)):
            raise ScriptError(f"{place}: {name} is {value!r}, must be {known[name].type}")
    lacking = [n for n, item in known.items() if _demanded(item) and n not in values]
    if lacking:
        raise ScriptError(f"{place}: {lacking[0]!r} is missing")
    listed = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    step: Step = kind(**listed)
    return step


def _demanded(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


_KINDS: dict[str, Any] = {
    "str": str, "int": int, "bool": bool, "float": (int, float), "Mapping": dict, "tuple": list,
    "None": type(None),
}  # fmt: skip


def _fits(value: Any, annotation: str) -> bool:
    """Tell whether a JSON value is of an annotated type, such as `tuple[int, ...]`."""
    for part in annotation.split(" | "):
        name, _, inner = part.partition("[")
        # JSON's true is no number, although Python's is one
        if isinstance(value, _KINDS[name]) and isinstance(value, bool) == (name == "bool"):
            item = inner.rstrip("]").split(",")[0]
            return name != "tuple" or all(_fits(each, item) for each in value)
    return False
