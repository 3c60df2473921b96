"""Records short sessions of real QEMU releases for the corpus.

    python -m multifd_proto.fuzz.record_sessions RELEASE[:METHOD]... [-o FOLDER]

The guest's memory is zero but for two pages, so that a file stays small.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from multifd_proto.conformance.recorder import Recorder
from multifd_proto.conformance.script import Script
from multifd_proto.conformance.stage import content
from multifd_proto.conformance.target import MEMORY

from multifd_proto.peers.lab import configure, guestless, qemu_of
from multifd_proto.wire.dialect import dialect_of

from .findings import dump

_CHANNELS, _TIMEOUT = 2, 20.0
_PAGE, _PAGES = 4096, (3, 200)


def session(release: str, method: str) -> tuple[Script, str]:
    """Record a session, and return it with the version of the QEMU.

    Raises:
        PeerError: there is no such QEMU, or it does not complete.
    """
    with ExitStack() as stack:
        memory = os.memfd_create("guest")
        stack.callback(os.close, memory)
        os.ftruncate(memory, MEMORY)
        for page in _PAGES:
            os.pwrite(memory, content(page, 0, _PAGE), page * _PAGE)
        recorder = stack.enter_context(Recorder(_CHANNELS + 1))
        path = Path(f"/proc/{os.getpid()}/fd/{memory}")
        qemu = stack.enter_context(
            guestless(qemu_of(release), path, size=MEMORY, directory=None, name="source")
        )
        configure(qemu, channels=_CHANNELS, compression=method)
        qemu.migrate(str(recorder.address))
        return recorder.record(f"session-{release}-{method}", method, _TIMEOUT), qemu.version()


def text_of(script: Script, version: str) -> str:
    """Return the file of a session. Raises FindingError if it is too long for the corpus."""
    dialect = dialect_of(version.split()[0]).name
    said = {"says": f"a session of QEMU {version}", "outcomes": {dialect: "completes"}}
    return dump({**json.loads(script.to_json()), "corpus": said})


def main() -> None:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sessions", nargs="+", metavar="RELEASE[:METHOD]")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "corpus")
    given = parser.parse_args()
    for name in given.sessions:
        release, _, method = name.partition(":")
        script, version = session(release, method or "none")
        path = given.output / f"{script.name}.json"
        path.write_text(text_of(script, version))
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
