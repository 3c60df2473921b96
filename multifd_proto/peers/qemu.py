"""A real QEMU process as a peer: started, driven over QMP and qtest, and always killed."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from multifd_proto.errors import PeerError
from multifd_proto.peers.mortal import tied
from multifd_proto.peers.owner import Owner

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

SETTLED = ("completed", "failed", "cancelled")
"""States of `query-migrate` that a migration does not leave again."""

_T = TypeVar("_T")
_POLL = 0.005


class Qemu(Owner):
    """A running QEMU. Use it as a context manager: it is killed at the end, whatever happened.

    The constructor returns when QEMU answers over QMP. `NAME.trace` and `NAME.stderr` in
    `directory` take what QEMU's `multifd_*` trace events and QEMU itself print; they outlive it.
    QEMU is killed as well when the thread that made it ends, see `mortal`.

    Not for use inside a running asyncio event loop, nor from several threads at once.

    Args:
        binary: the command that runs QEMU.
        arguments: its command line, but for QMP, qtest and trace.
        directory: folder for the two files; None keeps them in memory, until QEMU is closed.
        name: what error messages and the two files call this QEMU.
        qtest: whether `memset` and `write` are wanted; the machine must have a CPU.
        environment: variables for it, besides those of this process.
        timeout: seconds that QEMU has for each answer.

    Raises:
        PeerError: QEMU could not be run, ended or does not answer; or qemu.qmp is not installed.
    """

    def __init__(
        self,
        binary: Path,
        *arguments: str,
        directory: Path | None,
        name: str = "qemu",
        qtest: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 20.0,
    ) -> None:
        self.name, self.timeout = name, timeout
        with ExitStack() as stack:
            self._trace = _output(f"{name}.trace", directory, stack)
            self._stderr = _output(f"{name}.stderr", directory, stack)
            command = [str(binary), *arguments, "-trace", "multifd_*", "-D", str(self._trace)]
            qmp, qmp_end = _socketpair(stack)
            self._qtest, qtest_end = _socketpair(stack)
            command += [*_chardev("qmp", qmp_end), "-qmp", "chardev:qmp"]
            if qtest:
                command += [*_chardev("qtest", qtest_end), "-qtest", "chardev:qtest"]
                command += ["-qtest-log", "none"]
            self._process = self._start(command, environment or {}, qmp_end, qtest_end)
            stack.callback(self._kill)
            qmp_end.close()
            qtest_end.close()
            self._runner = stack.enter_context(asyncio.Runner())
            self._qmp = _client()
            stack.callback(self._disconnect)
            self._await("the greeting", self._qmp.connect(qmp), timeout)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Kill QEMU and let go of everything but the two files."""
        self._open.close()

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal, or None while QEMU runs."""
        return self._process.poll()

    @property
    def trace(self) -> str:
        """What QEMU's `multifd_*` trace events have printed until now."""
        return self._trace.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What QEMU has said on its standard error until now."""
        return self._stderr.read_text(errors="replace")

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Execute a QMP command and return its answer.

        Args:
            command: QMP's name of it, such as "query-migrate".
            arguments: as QMP names them.
            timeout: seconds to wait for the answer; the QEMU's own `timeout` if None.

        Raises:
            PeerError: QEMU refused the command, did not answer in time, or is gone.
        """
        answer = self._qmp.execute(command, arguments)
        return self._await(f"{command!r}", answer, self.timeout if timeout is None else timeout)

    @cached_property
    def schema(self) -> Mapping[str, Mapping[str, Any]]:
        """What QMP knows: the entries of `query-qmp-schema` by their names.

        Raises:
            PeerError: as `execute` does.
        """
        return {entry["name"]: entry for entry in self.execute("query-qmp-schema")}

    def version(self) -> str:
        """Return the release and the package: "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"."""
        answer = self.execute("query-version")
        number = ".".join(str(answer["qemu"][part]) for part in ("major", "minor", "micro"))
        return f"{number} ({answer['package']})" if answer["package"] else number

    def set_capabilities(self, *names: str) -> None:
        """Switch migration capabilities on."""
        states = [{"capability": name, "state": True} for name in names]
        self.execute("migrate-set-capabilities", {"capabilities": states})

    def set_parameters(self, parameters: Mapping[str, object]) -> None:
        """Set migration parameters, as QMP names them: "multifd-channels", "max-bandwidth", ..."""
        self.execute("migrate-set-parameters", parameters)

    def listen(self, host: str = "127.0.0.1") -> int:
        """Await a migration (`-incoming defer`) on a free TCP port of `host`; return the port."""
        bracketed = f"[{host}]" if ":" in host else host
        return int(self.listen_uri(f"tcp:{bracketed}:0").rpartition(":")[2])

    def listen_uri(self, uri: str, *, survive: bool = False) -> str:
        """Await a migration (`-incoming defer`) and return the URI that a source has to dial.

        Args:
            uri: `tcp:127.0.0.1:0`, `tcp:[::1]:0`, `unix:PATH`; port 0 is any that is free.
            survive: do not exit when the migration fails; releases from 9.1 on can be told so.
        """
        stay: dict[str, object] = {"exit-on-error": False} if survive else {}
        self.execute("migrate-incoming", {"uri": uri, **stay})
        if not uri.startswith("tcp:"):
            return uri
        port = self.execute("query-migrate")["socket-address"][0]["port"]
        return f"{uri.rpartition(':')[0]}:{port}"

    def migrate(self, uri: str) -> None:
        """Start to migrate to `uri`; see `wait_migrated`."""
        self.execute("migrate", {"uri": uri})

    def wait_migrated(self, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until the migration completed, failed or was cancelled.

        Returns:
            `query-migrate`'s answer, on either side; its "status" says which of them it was.

        Raises:
            PeerError: none of them within `timeout` seconds, or QEMU is gone.
        """
        deadline = time.monotonic() + timeout
        while (status := self.execute("query-migrate")).get("status") not in SETTLED:
            if time.monotonic() > deadline:
                raise PeerError(
                    f"{self.name}: migration is {status.get('status')!r} after {timeout:g} s,"
                    f" must be one of {', '.join(SETTLED)}"
                )
            time.sleep(_POLL)
        return dict(status)

    def memset(self, address: int, length: int, byte: int) -> None:
        """Fill `length` bytes of guest-physical memory, marking their pages dirty."""
        self._qtest_command(f"memset {address:#x} {length:#x} {byte:#x}")

    def write(self, address: int, data: bytes) -> None:
        """Write to guest-physical memory, marking the pages dirty."""
        text = base64.b64encode(data).decode()
        self._qtest_command(f"b64write {address:#x} {len(data):#x} {text}")

    def _qtest_command(self, line: str) -> None:
        answer = b""
        try:
            self._qtest.settimeout(self.timeout)
            self._qtest.sendall(f"{line}\n".encode())
            while not answer.endswith(b"\n"):
                received = self._qtest.recv(4096)
                if not received:
                    raise self._gone()
                answer += received
        except TimeoutError:
            raise self._silent("qtest", self.timeout) from None
        except OSError:
            raise self._gone() from None
        if not answer.startswith(b"OK"):
            raise PeerError(f"{self.name}: qtest {line[:40]!r} gave {answer!r}, must be OK")

    def _start(
        self, command: list[str], environment: Mapping[str, str], *ends: socket.socket
    ) -> subprocess.Popen[bytes]:
        self._trace.touch()
        with self._stderr.open("wb") as stderr:
            try:
                return subprocess.Popen(
                    tied(command),
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    env={**os.environ, **environment},
                    pass_fds=[end.fileno() for end in ends],
                )
            except OSError as error:
                raise PeerError(f"{command[0]} cannot be run: {error.strerror}") from None

    def _await(self, what: str, answer: Awaitable[_T], timeout: float) -> _T:
        from qemu.qmp import ExecuteError, QMPError

        async def bounded() -> _T:
            return await asyncio.wait_for(answer, timeout)

        try:
            return self._runner.run(bounded())
        except TimeoutError:
            raise self._silent(what, timeout) from None
        except ExecuteError as error:
            raise PeerError(f"{self.name}: {what} is refused: {error}") from None
        except (QMPError, OSError, EOFError):
            raise self._gone() from None

    def _silent(self, what: str, timeout: float) -> PeerError:
        return PeerError(f"{self.name}: no answer to {what} within {timeout:g} s")

    def _gone(self) -> PeerError:
        """Describe a QEMU that has closed its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        said = self.stderr.strip().splitlines() or ["no message"]
        # QEMU signs its errors; it says other things too, such as where its VNC server is
        signed = [line for line in said if line.startswith("qemu-system-")] or said
        return PeerError(f"{self.name}: ended with status {self.returncode}: {signed[-1]}")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _disconnect(self) -> None:
        self._kill()
        with suppress(Exception):  # the connection's own end is of no interest any more
            self._runner.run(asyncio.wait_for(self._qmp.disconnect(), self.timeout))


def _output(name: str, directory: Path | None, stack: ExitStack) -> Path:
    """Return where QEMU is to write something: a file, or memory that is gone at the end."""
    if directory:
        return directory / name
    file = os.memfd_create(name)
    stack.callback(os.close, file)
    return Path(f"/proc/{os.getpid()}/fd/{file}")


def _socketpair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets: unlike a named one, QEMU's end needs no waiting for."""
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _chardev(name: str, end: socket.socket) -> tuple[str, str]:
    return "-chardev", f"socket,id={name},fd={end.fileno()}"


def _client() -> QMPClient:
    try:
        from qemu.qmp import QMPClient
    except ImportError:
        raise PeerError(
            "driving QEMU needs the qemu.qmp library: pip install 'multifd-proto[qemu]'"
        ) from None
    return QMPClient()
