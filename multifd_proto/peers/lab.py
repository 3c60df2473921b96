"""Real QEMU as a migration peer without a guest: its memory is a file.

The machine never runs, and by default it has no CPU, devices or firmware either (machine type
`none`): what it migrates is its memory, which is a file that both QEMU and the caller see.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multifd_proto.errors import PeerError
from multifd_proto.peers.debian import BINARY, find_qemu
from multifd_proto.peers.qemu import SETTLED, Qemu

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
"""The machine's UUID, unless another one is wanted; a source puts it into each preamble."""
RAM = "ram0"
"""Name of the one RAM block, unless another one is wanted."""
UNBOUNDED = 64 << 30
"""Bytes a second that no machine reaches; QEMU's default of 128 MiB hides every speed."""

_CREDENTIALS = "tls0"
_POLL = 0.005
_GRACE = 1.0
_TRACED_ERROR = re.compile(r"multifd_\w+(?: error [1-9].*|_error .*)")


def qemu_of(release: str) -> Path:
    """Return the command that runs the QEMU of a release ("10.0").

    Raises:
        PeerError: it was not fetched.
    """
    binary = find_qemu(release)
    if not binary:
        raise PeerError(f"no QEMU {release}: python -m multifd_proto.peers.debian {release}")
    return binary


def guestless(
    binary: Path,
    memory: Path,
    *,
    size: int,
    directory: Path | None,
    name: str = "qemu",
    incoming: bool = False,
    machine: str = "none",
    qtest: bool = False,
    uuid: str = UUID,
    ram: str = RAM,
    tls_creds: Path | None = None,
    tls_priority: str | None = None,
    tls_keylog: Path | None = None,
    arguments: Sequence[str] = (),
) -> Qemu:
    """Start a QEMU that can migrate, or be migrated to, and whose guest never runs.

    Args:
        binary: the command that runs QEMU.
        memory: the file that is the guest's memory: what it holds is migrated, and what is
            migrated arrives in it. If it is missing, QEMU makes it, full of zeros.
        size: bytes of memory, which the file must have too; a multiple of 4096.
        directory: folder for QEMU's output, or None, see `Qemu`.
        name: what error messages call this QEMU.
        incoming: whether it waits to be migrated to; see `Qemu.listen_uri`.
        machine: machine type; one with a CPU, such as `pc`, for `qtest`.
        qtest: whether the memory is to be written while it migrates, which the file does not
            allow: QEMU would not know.
        uuid: the machine's UUID.
        ram: name of the RAM block.
        tls_creds: folder of X.509 credentials, in QEMU's layout; `configure` puts them to use.
        tls_priority: what GnuTLS may agree on, as `NORMAL:-VERS-TLS1.3`; its own choice if None.
        tls_keylog: file that takes the secrets of the TLS connections.
        arguments: more of QEMU's command line.

    Raises:
        PeerError: as `Qemu` does.
    """
    backend = f"memory-backend-file,id={ram},size={size},share=on,mem-path={memory}"
    command = ["-machine", f"{machine},memory-backend={ram}", "-accel", "tcg", "-S"]
    command += ["-m", f"{size >> 10}K", "-object", backend, "-uuid", uuid]
    command += ["-nodefaults", "-display", "none"]
    if tls_creds:
        endpoint = "server" if incoming else "client"
        settings = f"id={_CREDENTIALS},dir={tls_creds},endpoint={endpoint},verify-peer=on"
        settings += f",priority={tls_priority}" if tls_priority else ""
        command += ["-object", f"tls-creds-x509,{settings}"]
    if incoming:
        command += ["-incoming", "defer"]
    return Qemu(
        binary,
        *command,
        *arguments,
        directory=directory,
        name=name,
        qtest=qtest,
        environment={"SSLKEYLOGFILE": str(tls_keylog)} if tls_keylog else None,
    )


def configure(
    qemu: Qemu,
    *,
    channels: int = 2,
    compression: str = "none",
    zero_page_detection: str | None = None,
    tls: bool = False,
    max_bandwidth: int = UNBOUNDED,
    capabilities: Sequence[str] = (),
    parameters: Mapping[str, object] | None = None,
) -> None:
    """Switch multifd on; both ends have to be configured alike.

    Args:
        qemu: either end, before it listens or migrates.
        channels: `multifd-channels`, 1 to 255.
        compression: `multifd-compression`; see `knows`.
        zero_page_detection: `none`, `legacy` or `multifd`; None for the release's own. Releases
            before 9.0 know no other than `legacy`, nor a name for it.
        tls: whether to use the credentials that `guestless` was given. For a URI other than
            `tcp:` the source needs the parameter `tls-hostname` as well.
        max_bandwidth: bytes a second.
        capabilities: those to switch on besides `multifd`.
        parameters: more of them, as QEMU names them.

    Raises:
        PeerError: this QEMU refuses one of them.
    """
    settings: dict[str, object] = {
        "multifd-channels": channels,
        "multifd-compression": compression,
        "max-bandwidth": max_bandwidth,
    }
    if zero_page_detection == "legacy" and not knows(qemu, "zero-page-detection"):
        zero_page_detection = None
    if zero_page_detection:
        settings["zero-page-detection"] = zero_page_detection
    if tls:
        settings["tls-creds"] = _CREDENTIALS
    qemu.set_capabilities("multifd", *capabilities)
    qemu.set_parameters({**settings, **(parameters or {})})


def knows(qemu: Qemu, parameter: str, value: str | None = None) -> bool:
    """Tell whether a QEMU has a migration parameter, and takes that value of it.

    As an example, `knows(qemu, "multifd-compression", "zstd")` is False of a QEMU that was built
    without it. Only enumerations have values that can be asked for.
    """
    known = arguments_of(qemu, "migrate-set-parameters")
    return parameter in known and (value is None or value in known[parameter].get("values", ()))


def arguments_of(qemu: Qemu, command: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the arguments that a QMP command takes, and of each what the schema says of its type.

    Raises:
        PeerError: this QEMU has no such command, or does not answer.
    """
    schema = qemu.schema
    if command not in schema:
        raise PeerError(f"{qemu.name}: knows no command {command!r}")
    members = schema[schema[command]["arg-type"]]["members"]
    return {member["name"]: schema[member["type"]] for member in members}


@dataclass(frozen=True)
class Outcome:
    """How a migration went for one end."""

    status: str
    """`completed`, `failed` or `cancelled`, as QEMU says; or what it can no longer say:

    - `ended`: the process is gone. Destinations do so when the migration fails.
    - `pending`: none of these in time.
    - `silent`: the process is there, but does not answer over QMP.
    """
    returncode: int | None
    """Exit status of QEMU, negative for a signal; None while it runs."""
    errors: tuple[str, ...]
    """What QEMU gave as a reason: over QMP, on standard error, and as trace events of errors.

    Over TLS, destinations of 7.2 trace one for each channel even if all went well.
    """
    answer: Mapping[str, Any]
    """The last answer to `query-migrate`; empty if there was none."""

    @property
    def ram(self) -> Mapping[str, float]:
        """Counters of a source, as QEMU names them: `normal` (pages), `multifd-bytes`, ..."""
        return dict(self.answer.get("ram", {}))

    @property
    def seconds(self) -> float | None:
        """Seconds from the command `migrate` to the end, as a source counted them."""
        milliseconds = self.answer.get("total-time")
        return None if milliseconds is None else milliseconds / 1000


def outcome(qemu: Qemu, timeout: float = 60.0) -> Outcome:
    """Wait for the end of a migration, for `timeout` seconds, and tell how it went; never raises.

    Without a return path, a source says `completed` once everything was sent, whatever the
    destination makes of it.
    """
    deadline = time.monotonic() + timeout
    status, answer = "pending", dict[str, Any]()
    while status == "pending" and (left := deadline - time.monotonic()) > 0:
        try:
            answer = qemu.execute("query-migrate", timeout=max(left, _GRACE))
        except PeerError:
            status = "silent" if qemu.returncode is None else "ended"
        else:
            status = answer["status"] if answer.get("status") in SETTLED else status
            time.sleep(_POLL)
    return Outcome(status, qemu.returncode, reasons(qemu, answer), answer)


def reasons(qemu: Qemu, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what QEMU gave as a reason of a failure; see `Outcome.errors`.

    Args:
        qemu: either end; it may be gone.
        answer: the last answer to `query-migrate`; empty if there was none.
    """
    said = [answer["error-desc"]] if "error-desc" in answer else []
    said += [line.removeprefix(f"{BINARY}: ") for line in qemu.stderr.splitlines()]
    return tuple(dict.fromkeys(said + _TRACED_ERROR.findall(qemu.trace)))
