"""Scripts and findings in the forms of other tools.

    python -m multifd_proto.fuzz.export FILE... --as pcap|aflnet|libfuzzer|python -o OUT

`pcap` is pcapng of what is sent, which every dissector reads. `aflnet` is the messages of each
connection, one file a connection, each behind its length (4 bytes, little-endian), as AFLNet's
replayer takes them. `libfuzzer` is the bytes of each connection, one file a connection: seeds.
`python` is a script that needs nothing of this project, to attach to a bug report.

What the bytes are depends on the receiver: its dialect, RAM blocks and devices. `--peer` names it;
without, it is that of the finding, or `builtin:`.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from multifd_proto.conformance.observation import Exchange
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.recording import record as record_capture
from multifd_proto.conformance.script import (
    Absent,
    Arrive,
    Complete,
    DeviceState,
    Ended,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Reset,
    Script,
    Step,
    Sync,
    completion,
    load_script,
)
from multifd_proto.conformance.stage import Stage
from multifd_proto.conformance.target import MACHINE, Description

from multifd_proto.errors import MultiFDError

from .again import is_finding
from .findings import Record, read
from .program import APART, program

_REACTS = 0.5
"""Seconds that a receiver is given, where the script waits for its reaction."""
_DEFAULT = "builtin:"


@dataclass(frozen=True)
class Export:
    """One input, ready to be written."""

    name: str
    """Of the file that it comes from, without its suffix."""
    script: Script
    peer: Description
    exchanges: tuple[Exchange, ...]
    record: Record | None
    """The finding, if it is one."""

    def wires(self) -> dict[str, list[bytes]]:
        """Return the messages of each connection."""
        wires: dict[str, list[bytes]] = {}
        for exchange in self.exchanges:
            if exchange.kind == "sent":
                wires.setdefault(exchange.wire, []).append(exchange.data)
        return wires


def exchanges(script: Script, peer: Description, uuid: bytes = MACHINE) -> Iterator[Exchange]:
    """Yield what is sent on which connection, as if a receiver took it all.

    Raises:
        ScriptError: a message of the script cannot be made.
    """
    stage, now = Stage(script, peer, uuid), 0.0
    open_: list[str] = []
    steps = list(script.steps)
    while steps:
        step = steps.pop(0)
        now += _lasts(step)
        match step:
            case Open():
                open_.append(step.wire)
                yield Exchange(now, step.wire, "open", "connect")
            case Fin() | Reset() if step.wire in open_:
                open_.remove(step.wire)
                kind = "fin" if isinstance(step, Fin) else "broken"
                yield Exchange(now, step.wire, kind, "the end of what is sent")
            case Complete():
                steps = completion(step, open_) + steps
            case Init() | Sync() | Pages() | DeviceState() | Main() | Raw() if step.wire in open_:
                built = stage.build(step)
                yield Exchange(now, step.wire, "sent", built.what, built.data, len(built.data))


def _lasts(step: Step) -> float:
    """Return the seconds after which a step is done."""
    match step:
        case Pause() | Absent():
            return float(step.seconds)
        case Arrive() | Ended():
            return _REACTS
        case _:
            return APART


def load(path: Path, uri: str | None = None) -> Export:
    """Read a script or a finding.

    Args:
        path: of the file.
        uri: of the receiver that it is for, if not the finding's own.

    Raises:
        FindingError: it is a finding, and malformed.
        PeerError: the receiver cannot be asked what it is.
        ScriptError: it is neither.
    """
    text = path.read_text("utf-8", "replace")
    script = load_script(text)
    record = read(text) if is_finding(str(path)) else None
    peer = parse_receiver(uri or (record.facts["peer"].split()[0] if record else _DEFAULT))
    try:
        description = peer.describe()
    finally:
        peer.close()
    return Export(path.stem, script, description, tuple(exchanges(script, description)), record)


# ---- the forms -----------------------------------------------------------------------------------


def _pcap(export: Export, folder: Path) -> None:
    what = export.record.finding.signature if export.record else export.name
    record_capture(export.exchanges, folder / f"{export.name}.pcapng", what)


def _aflnet(export: Export, folder: Path) -> None:
    for wire, messages in export.wires().items():
        framed = b"".join(struct.pack("<I", len(message)) + message for message in messages)
        (folder / f"{export.name}-{wire}.aflnet").write_bytes(framed)


def _libfuzzer(export: Export, folder: Path) -> None:
    for wire, messages in export.wires().items():
        (folder / f"{export.name}-{wire}.bin").write_bytes(b"".join(messages))


def _python(export: Export, folder: Path) -> None:
    text = program(export.script, export.peer, export.exchanges, export.record)
    (folder / f"{export.name}.py").write_text(text)


FORMS: dict[str, Callable[[Export, Path], None]] = {
    "pcap": _pcap, "aflnet": _aflnet, "libfuzzer": _libfuzzer, "python": _python,
}  # fmt: skip
"""What writes an export into a folder, by the name of its form."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export files, and return the exit status: 0, or 3 if one could not be."""
    parser = argparse.ArgumentParser(prog="python -m multifd_proto.fuzz.export")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--as", dest="form", choices=FORMS, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a folder")
    parser.add_argument("--peer", help="URI of the receiver that they are for")
    given = parser.parse_args(arguments)
    status = 0
    given.output.mkdir(parents=True, exist_ok=True)
    for path in given.files:
        try:
            FORMS[given.form](load(path, given.peer), given.output)
        except (MultiFDError, OSError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            status = 3
    return status


if __name__ == "__main__":
    sys.exit(main())
