"""`multifd watch` on a terminal: it starts, ends, and leaves the terminal as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from multifd_proto.peers.address import parse_address
from multifd_proto.peers.endpoint import dial
from multifd_proto.tests.proxied import Sink, recorded, wait_for

_LEAVE = b"\x1b[?1049l"  # the alternate screen
_CURSOR = b"\x1b[?25h"
_MAIN = "from multifd_proto.cli import main; main()"


# pytest-xdist says how large its own terminal is, and that would count more than this one's size
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {
    "TERM": "xterm-256color"
}


class Terminal:
    """The verb on a pseudo terminal. Use it as a context manager."""

    def __init__(self, *arguments, code=_MAIN):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.output = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "watch", "tcp:127.0.0.1:0", *map(str, arguments)],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env=_ENVIRONMENT, cwd=Path(__file__).parent,
        )  # fmt: skip
        self._over = False
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self):
        os.set_blocking(self.master, False)
        while not self._over:
            with suppress(BlockingIOError):
                self.output += os.read(self.master, 1 << 16)
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._over = True
        self._thread.join()
        os.close(self.master)
        os.close(self.slave)

    def say(self, keys):
        os.write(self.master, keys.encode())

    def wait(self, text):
        wait_for(lambda: text.encode() in self.output, repr(text))

    def address(self):
        """Wait until it listens, and return where."""
        self.wait("waiting for a source")
        self.wait("→")
        found = re.search(rb"tcp:127\.0\.0\.1:\d+", self.output)
        assert found
        return parse_address(found[0].decode())

    def end(self):
        """Wait for its end; return the status, and what it said after the view."""
        status = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.before
        time.sleep(0.05)
        view, _, after = bytes(self.output).rpartition(_LEAVE)
        assert b"\x1b[?1049h" in view
        assert _CURSOR in view[-200:] + after
        return status, re.sub(r"\x1b\[[\d;?]*\w", "", after.decode())

    def children(self):
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def replayed(address, streams):
    """Open a connection a stream and send it; the connections are the caller's to close."""
    sockets = [dial(address, 0, 10) for _ in streams]
    for sock, stream in zip(sockets, streams, strict=True):
        sock.sendall(stream)
    return sockets


def close(sockets):
    time.sleep(0.2)  # a source closes when all has arrived
    for sock in sockets:
        sock.close()


def test_the_final_view_stays_until_q_and_the_report_follows():
    with Sink() as sink, Terminal(sink.address) as terminal:
        sockets = replayed(terminal.address(), recorded("q11_1-none"))
        terminal.wait("running")
        close(sockets)
        terminal.wait("went through")
        time.sleep(0.3)
        assert terminal.process.poll() is None
        terminal.say("q")
        status, said = terminal.end()
    assert status == 0
    assert "CONFORMING: " in said
    assert "│ main " in said
    assert said.rstrip().endswith("THROUGH")


def test_a_violation_is_told_by_the_status_and_exit_waits_for_no_key():
    streams = recorded("q11_1-none")
    streams[1] = streams[1][:4] + bytes(3) + b"\2" + streams[1][8:]
    with Sink() as sink, Terminal(sink.address, "--exit") as terminal:
        close(replayed(terminal.address(), streams))
        status, said = terminal.end()
    assert status == 1
    assert "VIOLATED: 1 requirements (INIT-2)" in said


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, "\3y", "\3\3"])
def test_whatever_ends_it_breaks_the_migration_and_restores_the_terminal(ending):
    with Sink() as sink, Terminal(sink.address) as terminal:
        sockets = replayed(terminal.address(), [b"QEVM\0\0\0\3"])
        terminal.wait("running")
        (judge,) = terminal.children()
        if isinstance(ending, str):
            terminal.say(ending[0])
            terminal.wait("Quit?")
            terminal.say(ending[1])
        else:
            terminal.process.send_signal(ending)
        status, said = terminal.end()
        assert sink.wait_end(0) == "reset"
        close(sockets)
    assert status == 130
    assert "NOT THROUGH: interrupted" in said
    assert not Path(f"/proc/{judge}").exists()


def test_a_source_that_dies_ends_the_migration_not_the_view():
    with Sink() as sink, Terminal(sink.address) as terminal:
        close(replayed(terminal.address(), [b"QEVM\0\0\0\3"]))
        terminal.wait("did not go through")
        terminal.say("q")
        status, said = terminal.end()
    assert status == 3
    assert said.rstrip().endswith("NOT THROUGH: the main stream stopped before its end")


def test_a_view_that_fails_does_not_break_the_migration():
    code = f"from multifd_proto.views import live; live.round_cells = None; {_MAIN}"
    streams = recorded("q11_1-none")
    with Sink() as sink, Terminal(sink.address, code=code) as terminal:
        sockets = replayed(terminal.address(), streams)
        terminal.wait("TypeError")
        assert sink.wait(0, len(streams[0])) == streams[0]
        assert terminal.process.poll() is None
        close(sockets)
        status, said = terminal.end()
    assert status == 0
    assert said.rstrip().endswith("THROUGH")


def test_a_terminal_that_changes_its_size_is_filled_anew():
    with Sink() as sink, Terminal(sink.address) as terminal:
        terminal.address()
        before = len(terminal.output)
        fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 130, 0, 0))
        terminal.process.send_signal(signal.SIGWINCH)
        wait_for(lambda: b"\x1b[40;1H" in terminal.output[before:], "the 40th line")
        terminal.say("q")
        status, _ = terminal.end()
    assert status == 130


def test_without_textual_it_says_what_to_install():
    code = f"import sys; sys.modules['textual'] = None; {_MAIN}"
    with Terminal("tcp:127.0.0.1:1", code=code) as terminal:
        assert terminal.process.wait(20) == 2
        terminal.wait("Error: watch needs textual: pip install 'multifd-proto[watch]'")
