from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.script import (
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Reset,
    Script,
    Sync,
)
from multifd_proto.fuzz.export import exchanges, main
from multifd_proto.fuzz.findings import Found, build, dump
from multifd_proto.fuzz.program import literal, program
from multifd_proto.fuzz.target import Finding

SESSION = Script(
    (
        Open(wire="main"), Main(part="start"), Open(wire="0"), Init(wire="0"), Sync(wire="0"),
        Main(part="mark"), Pages(wire="0", normal=(3,)), Pause(seconds=0.25), Fin(wire="0"),
    ),
    channels=1,
)  # fmt: skip
AT_THE_BOUND = Script((Open(wire="1"), Init(wire="1", fields={"id": 2}), Pages(wire="1")))
CRASH = Finding("crashes", "INIT-12", 'crashed: """', "signal SIGSEGV")


def finding(script, peer="builtin:"):
    facts = {"peer": peer, "product": "QEMU", "version": "10.0.13", "dialect": "10.0"}
    return dump(build(json.loads(script.to_json()), CRASH, facts, Found(0.5, 3, 1, 0)))


def export(tmp_path, form, text, *more):
    path = tmp_path / "session.json"
    path.write_text(text)
    out = tmp_path / "out"
    status = main([str(path), "--as", form, "-o", str(out), *more])
    return status, {each.name: each for each in out.iterdir()}


def test_libfuzzer_gets_the_bytes_of_each_connection(tmp_path):
    status, made = export(tmp_path, "libfuzzer", SESSION.to_json())
    assert status == 0
    assert sorted(made) == ["session-0.bin", "session-main.bin"]
    data = made["session-0.bin"].read_bytes()
    # an init message, a SYNC packet, a packet and one page
    assert len(data) == 64 + 1344 + 1344 + 4096
    assert data[:8] == bytes.fromhex("1122334400000001")


def test_aflnet_gets_each_message_behind_its_length(tmp_path):
    _, made = export(tmp_path, "aflnet", SESSION.to_json())
    data, lengths = made["session-0.aflnet"].read_bytes(), []
    while data:
        lengths.append(int.from_bytes(data[:4], "little"))
        data = data[4 + lengths[-1] :]
    assert lengths == [64, 1344, 1344 + 4096]


def test_the_capture_is_a_migration_that_our_own_reader_understands(tmp_path):
    _, made = export(tmp_path, "pcap", SESSION.to_json())
    follower = Follower(decode=True)
    names = [
        type(event).__name__
        for _, event in follower.follow(CaptureReader([made["session.pcapng"]]))
    ]
    assert names.count("InitReceived") == 1
    assert names.count("PacketReceived") == 2


def test_a_script_for_another_release_has_its_layout(tmp_path):
    allocated = []
    for dialect in ("5.2", "9.2"):
        peer = f"builtin:?dialect={dialect}"
        _, made = export(tmp_path, "libfuzzer", SESSION.to_json(), "--peer", peer)
        sync = made["session-0.bin"].read_bytes()[64:]
        allocated.append(int.from_bytes(sync[12:16], "big"))
    assert allocated == [128, 0]  # `pages_alloc` of a SYNC


def test_what_cannot_be_exported_is_told_and_the_rest_is(tmp_path, capsys):
    good = tmp_path / "good.json"
    good.write_text(SESSION.to_json())
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    status = main([str(bad), str(good), "--as", "libfuzzer", "-o", str(tmp_path / "out")])
    assert status == 3
    assert capsys.readouterr().err == f"{bad}: no script: 'multifd-script' must be 1\n"
    assert (tmp_path / "out" / "good-0.bin").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", bytes(9), b"abc", bytes(range(256)), b"\1\2\3\4\5\6\7\x08" * 3,
        b"x" * 1000 + bytes(77) + b"y",
    ],
)  # fmt: skip
def test_a_literal_is_the_bytes(data):
    assert eval(literal(data) or "b''") == data


def test_zeros_and_repeated_content_stand_once():
    assert literal(bytes(4096)) == "bytes(4096)"
    assert literal(b"\1\2\3\4\5\6\7\x08" * 512) == 'bytes.fromhex("0102030405060708") * 512'


class Peer:
    """Accepts connections, and keeps what each has sent."""

    def __init__(self, connections):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.connections = connections

    def take(self):
        with self.server:
            return [self.read(sock) for sock in [self.accept() for _ in range(self.connections)]]

    def accept(self):
        sock, _ = self.server.accept()
        sock.settimeout(10)
        return sock

    def read(self, sock):
        data = b""
        with sock, suppress(ConnectionResetError):
            while piece := sock.recv(1 << 16):
                data += piece
        return data


def run(path, port):
    return subprocess.Popen(
        [sys.executable, "-I", str(path), "127.0.0.1", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_the_program_sends_the_same_bytes_without_us(tmp_path):
    steps = (*SESSION.steps, Open(wire="1x"), Init(wire="1x"), Reset(wire="1x"), Fin(wire="main"))
    script = Script(steps, channels=1)
    status, made = export(tmp_path, "python", finding(script))
    text = made["session.py"].read_text()
    assert status == 0
    assert "multifd_proto" not in text
    assert '"""QEMU: crashes INIT-12 signal SIGSEGV\n' in text
    assert "INIT-12: A receiver MUST close the channel when `id` is not smaller" in text
    assert "time.sleep(0.25)" in text
    peer = Peer(connections=3)
    process = run(made["session.py"], peer.server.getsockname()[1])
    taken = peer.take()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    sent = exchanges(script, parse_receiver("builtin:").describe())
    wanted = {"main": b"", "0": b"", "1x": b""}
    for each in sent:
        wanted[each.wire] += each.data
    assert taken[:2] == [wanted["main"], wanted["0"]]
    assert taken[2] in (wanted["1x"], b"")  # a reset may overtake the data
    assert said == "main: closed by the receiver\n0: closed by the receiver\n"


def test_the_program_is_short():
    peer = parse_receiver("builtin:").describe()
    text = program(AT_THE_BOUND, peer, list(exchanges(AT_THE_BOUND, peer)), None)
    assert len(text.splitlines()) < 60


@pytest.mark.qemu
def test_the_program_crashes_qemu_as_its_own_words_tell(qemu, tmp_path):
    text = finding(AT_THE_BOUND, "qemu:10.0")
    _, made = export(tmp_path, "python", text)
    told = made["session.py"].read_text()
    command = re.search(r"^    qemu-system-x86_64.*?\n\n", told, re.MULTILINE | re.DOTALL)
    monitor = re.findall(r"^    ({.*})$", told, re.MULTILINE)
    assert command
    assert len(monitor) == 4
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    destination = subprocess.Popen(
        [str(qemu("10.0")), *shlex.split(command[0])[1:]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert destination.stdin
        destination.stdin.write("\n".join(monitor).replace("4444", str(port)) + "\n")
        destination.stdin.flush()
        said = ""
        for _ in range(50):
            process = run(made["session.py"], port)
            said, _ = process.communicate(timeout=30)
            if process.returncode == 0:
                break
            time.sleep(0.1)  # it does not listen yet
        assert process.returncode == 0, said
        assert destination.wait(10) == -11, said
    finally:
        destination.kill()
        destination.communicate()
