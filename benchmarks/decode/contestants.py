"""Who decodes: our verbs, and what people would use instead."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
DISSECTOR = HERE.parents[1] / "spec" / "multifd.lua"
MULTIFD = (sys.executable, "-c", "from multifd_proto.cli import main; main()")
BASELINE = "cat"

Count = Callable[[IO[bytes]], int]


def _lines(pattern: bytes) -> Count:
    """Count the lines that have a pattern."""
    search = re.compile(pattern).search
    return lambda printed: sum(1 for line in printed if search(line))


def _rows(printed: IO[bytes]) -> int:
    """Count the packets of a Parquet file."""
    import pyarrow.compute
    import pyarrow.parquet

    types = pyarrow.parquet.read_table(printed, columns=["type"])["type"]
    return int(pyarrow.compute.sum(pyarrow.compute.equal(types, "packet")).as_py() or 0)


def _summed(printed: IO[bytes]) -> int:
    return sum(json.loads(line)["packets"] for line in printed)


def _said(printed: IO[bytes]) -> int:
    return int(printed.read())


def _values(printed: IO[bytes]) -> int:
    """Count tshark's values: those of one frame are divided by commas."""
    return sum(line.count(b",") + 1 for line in printed)


@dataclass(frozen=True)
class Contestant:
    """A way to read a capture."""

    name: str
    command: tuple[str, ...]
    """The capture goes where it says FILE, what it is made into where it says OUT."""
    count: Count | None = None
    """Finds out, from what it prints, how many packets it has found."""
    ours: bool = False
    lacks: Callable[[], str | None] = lambda: None
    """Tells what is missing to run it."""

    def on(self, path: Path) -> list[str]:
        """Return the command for a capture."""
        names = {"FILE": str(path), "OUT": str(path.with_name("out"))}
        return [names.get(word, word) for word in self.command]


def _module(name: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(name) else f"pip install {name}"


def _tshark() -> str | None:
    if not shutil.which("tshark"):
        return "tshark is not installed"
    return None if DISSECTOR.exists() else f"no {DISSECTOR.name}"


@cache
def _help(verb: str) -> str:
    return subprocess.run(
        [*MULTIFD, verb, "--help"], capture_output=True, text=True, check=False
    ).stdout


def _ours(verb: str, *options: str, count: Count | None = None) -> Contestant:
    def lacks() -> str | None:
        said = _help(verb)
        unknown = [word for word in options if word.startswith("--") and word not in said]
        if not said:
            return f"multifd {verb} --help says nothing"
        return f"multifd {verb} has no {unknown[0]}" if unknown else None

    name = " ".join(word for word in (verb, *options) if word not in ("--output", "OUT"))
    return Contestant(name, (*MULTIFD, verb, *options, "FILE"), count, ours=True, lacks=lacks)


_TSHARK = (
    "tshark", "-r", "FILE", "-X", f"lua_script:{DISSECTOR}", "-d", "tcp.port==49152,multifd",
    "--disable-protocol", "thrift", "-Y", "multifd.packet_num",
    "-T", "fields", "-e", "multifd.packet_num",
)  # fmt: skip

CONTESTANTS = (
    Contestant(BASELINE, ("cat", "FILE")),
    _ours("decode", count=_lines(rb" packet \d")),
    _ours("decode", "--json", count=_lines(rb'"type": "packet"')),
    _ours("decode", "--format", "parquet", count=_rows),
    _ours("decode", "--json", "--hash", count=_lines(rb'"type": "packet"')),
    _ours("summary", "--json", count=_summed),
    _ours("check", "--json"),
    _ours("report", "--output", "OUT"),
    _ours("strip", "--output", "OUT"),
    Contestant("tshark with multifd.lua", _TSHARK, _values, lacks=_tshark),
    Contestant(
        "dpkt", (sys.executable, str(HERE / "with_dpkt.py"), "FILE"), _said,
        lacks=_module("dpkt"),
    ),
    Contestant(
        "scapy TCPSession", (sys.executable, str(HERE / "with_scapy.py"), "FILE"), _said,
        lacks=_module("scapy"),
    ),
    Contestant(
        "scapy MultiFDSession", (sys.executable, str(HERE / "with_scapy.py"), "FILE", "ours"),
        _said, lacks=_module("scapy"),
    ),
)  # fmt: skip
"""All of them; the first is the baseline."""


def chosen(text: str) -> Iterator[Contestant]:
    """Yield the baseline, and those with a text in their name."""
    return (c for c in CONTESTANTS if c.name == BASELINE or text in c.name)
