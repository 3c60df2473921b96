"""tshark with the dissector, for the tests: the one of the machine, and newer ones of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from multifd_proto.peers.debian import TSHARK, tshark_dir

NOBODY = 65534
FETCHED = [version for version in TSHARK.suites if version != "4.0"]
"""Releases that are run beside the machine's own, where they were fetched."""


class Shark:
    """A tshark and the dissector.

    From 4.2 on Wireshark runs no script as root: then it runs as nobody, on a copy of the capture
    beside the script, in a folder that all can read.
    """

    def __init__(self, program: str | Path, script: Path) -> None:
        self.program, self.script = str(program), script

    def run(self, capture: Path, *arguments: str) -> str:
        """Return what it printed."""
        user = None
        if os.geteuid() == 0:
            user = NOBODY
            capture = Path(shutil.copyfile(capture, self.script.with_name(capture.name)))
        done = subprocess.run(
            [self.program, "-X", f"lua_script:{self.script}", "-r", capture, "-n", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "HOME": str(self.script.parent), "LC_ALL": "C.UTF-8"},
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )
        assert (done.returncode, "Lua" in done.stderr) == (0, False), done.stderr
        return done.stdout

    def fields(
        self,
        capture: Path,
        *names: str,
        only: str = "multifd",
        options: tuple[str, ...] = (),
    ) -> Iterator[list[list[str]]]:
        """Yield the values of fields, frame by frame."""
        named = [argument for name in names for argument in ("-e", name)]
        form = ("-T", "fields", "-E", "aggregator=|", "-E", "separator=/t")
        printed = self.run(capture, "-Y", only, *form, *named, *options)
        for line in printed.splitlines():
            yield [cell.split("|") if cell else [] for cell in line.split("\t")]


def find(version: str) -> str | None:
    """Return the machine's own tshark (`own`), or a fetched release."""
    if version == "own":
        return shutil.which("tshark")
    path = tshark_dir() / version / TSHARK.binary
    return str(path) if os.access(path, os.X_OK) else None
