"""Receivers of others, by `tcp:`, `run:` and `shim:`: those in `examples/`, and bad ones."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from uuid import UUID

import pytest

from multifd_proto.conformance.peers import external, json_lines, listening, parse_receiver, run
from multifd_proto.conformance.peers.command import parse_command
from multifd_proto.conformance.peers.listening import FreePort, is_listening
from multifd_proto.conformance.peers.options import NAMES, parse_options
from multifd_proto.conformance.target import MACHINE, MEMORY, Sense, Setup, State
from multifd_proto.errors import PeerError
from multifd_proto.machine.sending import SourceParameters
from multifd_proto.peers.address import Address
from multifd_proto.peers.lab import configure, guestless, outcome
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.wire.dialect import DIALECTS, dialect_of

EXAMPLES = Path(__file__).parents[2] / "examples"
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread")
ARGUMENTS = "--port {port} --channels {channels} --uuid {uuid} --memory {memory}"

needs_examples = pytest.mark.skipif(
    not EXAMPLES.exists() or not shutil.which("gcc") or not shutil.which("setpriv"),
    reason="needs a checkout, gcc and setpriv",
)


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    """The receiver in C, compiled."""
    binary = tmp_path_factory.mktemp("example") / "example-receiver"
    command = ["gcc", *FLAGS, "-o", str(binary), str(EXAMPLES / "receiver.c")]
    subprocess.run(command, check=True, timeout=60)
    return binary


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(MEMORY // 2) + bytes(MEMORY // 4) + os.urandom(MEMORY // 4))
    return path


@pytest.fixture
def free_port():
    with FreePort() as port:
        yield port


@pytest.fixture
def script(tmp_path):
    """Write a Python program, and return the command that runs it."""

    def write(code):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(code))
        return f"{sys.executable} -S {path}"

    return write


def send(address, image, *, dialect=DIALECTS[-1], channels=2, uuid=MACHINE):
    parameters = SourceParameters(dialect, channels=channels, uuid=uuid)
    with RamImages({b"ram0": [image]}, rounds=3) as ram:
        return Sender(address, parameters, ram, options=Options(timeout=5)).run()


def settle(running, state):
    """Wait until it says so: a process ends a little after its last word."""
    deadline = time.monotonic() + 5
    while running.state(1) is not state:
        assert time.monotonic() < deadline, running.state(1)
        time.sleep(0.002)


def first_reason(running):
    """Wait for its first word on why: its log may come a little after its state."""
    deadline = time.monotonic() + 5
    while not running.reason():
        assert time.monotonic() < deadline, "it says nothing"
        time.sleep(0.002)
    return running.reason()[0]


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def await_end(pid):
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def refused(uri, setup=None):
    """Return the message of the error."""
    with pytest.raises(PeerError) as caught:
        receive(uri, setup or Setup())
    assert str(caught.value).count("\n") == 0
    return str(caught.value).replace(f"peer {uri!r}", "peer URI")


def receive(uri, setup):
    peer = parse_receiver(uri)
    try:
        with peer.receive(setup):
            pytest.fail("it was started")
    finally:
        peer.close()


# ---- the example, by all schemes ---------------------------------------------------------------


@needs_examples
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_command_receives_a_migration(example, image, channels):
    peer = parse_receiver(f"run:{example} {ARGUMENTS}")
    with peer.receive(Setup(channels=channels)) as running:
        sent = send(running.address, image, channels=channels)
        assert (sent.error, sent.pong, sent.shut) == (None, True, 0)
        settle(running, State.COMPLETED)
        assert running.death == "exit status 0"
        assert not running.crashed
        assert first_reason(running) == "receiver: completed after 5 rounds"
        assert running.read(b"ram0", 0, MEMORY) == image.read_bytes()
        assert running.read(b"ram1", 0, 4096) is None
    assert not is_listening(running.address)


@needs_examples
@pytest.mark.parametrize("release", ["5.2", "7.2", "8.2", "9.0", "10.0"])
def test_the_example_speaks_older_dialects(example, image, release):
    peer = parse_receiver(f"run:{example} {ARGUMENTS} --dialect {{dialect}}?dialect={release}")
    assert peer.describe().dialect is dialect_of(release)
    with peer.receive(Setup()) as running:
        assert send(running.address, image, dialect=peer.describe().dialect).error is None
        settle(running, State.COMPLETED)
        assert running.read(b"ram0", 0, MEMORY) == image.read_bytes()


@needs_examples
def test_a_command_says_why_it_refuses(example, image):
    uuid = UUID("00112233-4455-6677-8899-aabbccddeeff").bytes
    with parse_receiver(f"run:{example} {ARGUMENTS}").receive(Setup(uuid=uuid)) as running:
        assert running.state(1) is State.RUNNING
        assert running.death is None
        assert send(running.address, image).error
        settle(running, State.FAILED)
        assert running.death == "exit status 1"
        assert not running.crashed
        assert first_reason(running) == "receiver: init: uuid is not that of this machine"
        assert running.log().endswith("receiver: init: uuid is not that of this machine\n")


@needs_examples
def test_a_command_is_described_by_its_options(example):
    uri = f"run:{example} {ARGUMENTS}?blocks=ram0:1M+bios:128K&methods=none+zlib&machine=q35"
    described = parse_receiver(uri + "&return_path=0&dialect=7.2&page_size=8192").describe()
    assert (described.product, described.version) == ("example-receiver", "")
    assert described.dialect is dialect_of("7.2")
    assert described.blocks == {b"ram0": 1 << 20, b"bios": 128 << 10}
    assert described.page_size == 8192
    assert described.methods == {"none", "zlib"}
    assert described.max_channels == 255
    assert not described.return_path
    assert not described.tls
    assert described.senses == set(Sense)
    assert described.around.prefix == b"QEVM\0\0\0\3\7\0\0\0\3q35"
    assert not described.around.modern


@needs_examples
@pytest.mark.parametrize("known", [True, False])
def test_the_suite_is_green_on_the_example_with_its_deviations(example, known):
    words = ["conformance", "receiver", f"run:{example} {ARGUMENTS}", "--jobs", "1"]
    words += ["--requirement", "PKT-31", "--strict"]
    words += ["--deviations", str(EXAMPLES / "deviations.toml")] if known else ["--no-deviations"]
    code = "from multifd_proto.cli import main; main()"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (0 if known else 1), done.stdout + done.stderr
    assert ("accepts-bad" in done.stdout) == (not known)


@needs_examples
def test_the_readme_names_all_that_can_be_said():
    text = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        assert f"`{name}`" in text
    for name in run.PLACES:
        assert f"`{{{name}}}`" in text


@pytest.mark.qemu
@needs_examples
@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
@pytest.mark.parametrize("capabilities", [(), ("return-path",)])
def test_real_qemu_migrates_into_the_example(qemu, example, image, tmp_path, release, capabilities):
    binary = qemu(release)
    peer = parse_receiver(f"run:{example} {ARGUMENTS} --dialect {{dialect}}?dialect={release}")
    with (
        peer.receive(Setup(channels=3)) as running,
        guestless(binary, image, size=MEMORY, directory=tmp_path) as source,
    ):
        configure(source, channels=3, capabilities=capabilities)
        source.migrate(str(running.address))
        assert outcome(source, 20).status == "completed"
        settle(running, State.COMPLETED)
        assert running.read(b"ram0", 0, MEMORY) == image.read_bytes()


@needs_examples
@pytest.mark.parametrize("name", ["shim.py", "shim.sh"])
def test_a_shim_receives_many_migrations(example, image, name):
    peer = parse_receiver(f"shim:{EXAMPLES / name} {example}")
    described = peer.describe()
    assert (described.product, described.version) == ("example-receiver", "1")
    assert described.blocks == {b"ram0": MEMORY}
    assert described.senses == set(Sense)
    for channels in (1, 3):
        with peer.receive(Setup(channels=channels)) as running:
            assert running.state(1) is State.RUNNING
            assert running.read(b"ram0", 4096, 4096) == bytes(4096)
            assert send(running.address, image, channels=channels).error is None
            settle(running, State.COMPLETED)
            assert running.read(b"ram0", 0, MEMORY) == image.read_bytes()
            assert not running.crashed
            assert running.death is None
        assert not is_listening(running.address)
    with peer.receive(Setup(uuid=bytes(16))) as running:
        assert send(running.address, image).error
        settle(running, State.FAILED)
        assert first_reason(running) == "receiver: init: uuid is not that of this machine"
    peer.close()


@needs_examples
def test_a_receiver_that_listens_is_used_as_it_is(example, image, tmp_path, free_port):
    port, memory = free_port.number, tmp_path / "memory"
    memory.write_bytes(bytes(MEMORY))
    command = [example, "--port", str(port), "--memory", memory, "--uuid", str(UUID(bytes=MACHINE))]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        while not is_listening(Address("tcp", "127.0.0.1", port)):
            assert process.poll() is None
        peer = parse_receiver(f"tcp:127.0.0.1:{port}?product=mine")
        assert peer.describe().product == "mine"
        assert peer.describe().senses == set()
        assert peer.describe().max_channels == 2
        with peer.receive(Setup()) as running:
            assert running.address == Address("tcp", "127.0.0.1", port)
            assert running.state(1) is State.UNKNOWN
            assert running.read(b"ram0", 0, 1) is None
            assert (running.death, running.crashed, running.reason()) == (None, False, ())
            assert send(running.address, image).shut == 0
    assert memory.read_bytes() == image.read_bytes()


@needs_examples
def test_a_receiver_can_be_restarted_for_each_migration(example, image, tmp_path, free_port):
    port, memory, pid = free_port.number, tmp_path / "memory", tmp_path / "pid"
    up = tmp_path / "up.sh"
    up.write_text(
        f"truncate -s 0 {memory}; truncate -s {MEMORY} {memory}; mkfifo {tmp_path}/fifo\n"
        f"{example} --port {port} --memory {memory} --channels $1 --uuid $2 >{tmp_path}/fifo &\n"
        f"echo $! >{pid}; read said <{tmp_path}/fifo; rm {tmp_path}/fifo\n"
    )
    restart = f"sh%20{up}%20{{channels}}%20{{uuid}}"
    peer = parse_receiver(f"tcp:127.0.0.1:{port}?restart={restart}")
    assert peer.describe().max_channels == 255
    for channels in (1, 3):
        with peer.receive(Setup(channels=channels)) as running:
            assert send(running.address, image, channels=channels).shut == 0
        assert memory.read_bytes() == image.read_bytes()
        await_end(int(pid.read_text()))


def test_a_restart_that_fails_or_hangs_is_reported(monkeypatch):
    assert refused("tcp:localhost:1?restart=false") == (
        "peer URI: restart ended with exit status 1, must be exit status 0"
    )
    monkeypatch.setattr(external, "_RESTART", 0.1)
    assert refused("tcp:localhost:1?restart=sleep%2030") == (
        "peer URI: restart has not ended after 0.1 s"
    )


# ---- setups that a peer is not there for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup(channels=3), "channels is 3, must be 2, as it was not told otherwise"),
        (Setup(method="zlib"), "method is zlib, must be none"),
        (
            Setup(uuid=bytes(16)),
            (
                "uuid is 00000000-0000-0000-0000-000000000000, must be "
                "6ba7b810-9dad-11d1-80b4-00c04fd430c8, as it was not told otherwise"
            ),
        ),
    ],
)
@pytest.mark.parametrize("uri", ["unix:/nowhere", "run:vmm {socket}"])
def test_what_a_peer_was_not_told_is_fixed(uri, setup, message):
    assert refused(uri, setup) == f"peer URI: {message}"


def test_more_channels_than_a_peer_takes_are_refused():
    uri = "run:vmm {port} {channels}?channels=4"
    assert parse_receiver(uri).describe().max_channels == 4
    assert refused(uri, Setup(channels=5)) == "peer URI: channels is 5, must be at most 4"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "colour=red",
            (
                "option is 'colour', must be one of product, version, dialect, page_size, "
                "channels, uuid, blocks, methods, machine, return_path"
            ),
        ),
        ("dialect=3.1", "dialect is '3.1', must be a QEMU release from 4.0 on, such as 10.0"),
        ("dialect=new", "dialect is 'new', must be a QEMU release from 4.0 on, such as 10.0"),
        (
            "page_size=4095",
            ("page_size is '4095', must be one of 1024, 2048, 4096, 8192, 16384, 32768, 65536"),
        ),
        ("channels=0", "channels is '0', must be 1 to 255"),
        ("channels=256", "channels is '256', must be 1 to 255"),
        ("uuid=1234", "uuid is '1234', must be a UUID"),
        (
            "blocks=ram0",
            (
                "blocks is 'ram0', must be NAME:SIZE, or several with + between, such as "
                "ram0:1M+pc.bios:128K"
            ),
        ),
        (
            "blocks=a:4K+a:4K",
            (
                "blocks is 'a:4K+a:4K', must be NAME:SIZE, or several with + between, "
                "such as ram0:1M+pc.bios:128K"
            ),
        ),
        ("blocks=a:5000", "a has 5000 bytes, must be a multiple of the page size, 4096"),
        (
            "methods=gzip",
            (
                "methods is 'gzip', must be some of none, zlib, zstd, qpl, uadk, qatzip "
                "with + between"
            ),
        ),
        ("machine=", "machine is '', must be the name of a machine type"),
        ("return_path=yes", "return_path is 'yes', must be 0 or 1"),
        ("version=\x1b[0m", "version is '\\x1b[0m', must be printable"),
    ],
)
def test_malformed_options_are_refused(option, message):
    name, _, value = option.partition("=")
    with pytest.raises(PeerError) as caught:
        parse_options("URI", {name: value})
    assert str(caught.value) == f"peer 'URI': {message}"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("run:", "peer URI: command is empty"),
        ("run:'vmm", "peer URI: command cannot be read: No closing quotation"),
        ("run:vmm", "peer URI: command must have either {port} or {socket}"),
        ("run:vmm {port} {socket}", "peer URI: command must have either {port} or {socket}"),
        (
            "run:vmm {port!r}",
            (
                "peer URI: placeholder is {port!r}, must be one of port, host, "
                "socket, channels, uuid, page_size, method, memory, dialect"
            ),
        ),
        ("shim:vmm {port}", "peer URI: placeholder is {port}, must be absent"),
        (
            "tcp:localhost",
            (
                "'tcp:localhost' is no migration URI, must be tcp:HOST:PORT, unix:PATH, "
                "vsock:CID:PORT or fd:N[,N...]"
            ),
        ),
        ("run:/nowhere/vmm {port}", "/nowhere/vmm cannot be run: No such file or directory"),
        ("shim:/nowhere/shim", "/nowhere/shim cannot be run: No such file or directory"),
    ],
)
def test_malformed_commands_are_refused(uri, message):
    assert refused(uri) == message


def test_braces_are_doubled_to_be_braces():
    command = parse_command("URI", "awk '{{print}}' {port}", "port")
    assert command.fill({"port": 7}) == ["awk", "{print}", "7"]
    assert command.places == {"port"}


def test_a_free_port_is_given_out_once(monkeypatch):
    with FreePort() as port:
        monkeypatch.setattr(listening, "_ports", lambda: range(port.number, port.number + 1))
        with pytest.raises(PeerError) as caught:
            FreePort()
    assert str(caught.value) == f"no free TCP port was found from {port.number} to {port.number}"
    with FreePort() as again:
        assert again.number == port.number


# ---- commands that go wrong --------------------------------------------------------------------


def test_a_command_that_never_listens_is_given_up(monkeypatch):
    monkeypatch.setattr(run, "_READY", 0.2)
    message = refused("run:sh -c 'echo starting; exec sleep 60' {port}")
    port = message.split(":")[3].split()[0]
    assert message == (f"peer URI: does not listen on tcp:127.0.0.1:{port} within 0.2 s: starting")


def test_a_command_that_dies_at_once_says_why():
    uri = "run:sh -c 'echo no licence >&2; echo sorry; exit 3' {port}"
    assert refused(uri) == ("peer URI: exit status 3 before it listened: no licence | sorry")


LISTENS = """
    import os, signal, socket, sys, time
    place = sys.argv[1]
    kind = socket.AF_UNIX if "/" in place else socket.AF_INET
    listener = socket.socket(kind)
    listener.bind(place if "/" in place else ("127.0.0.1", int(place)))
    listener.listen()
"""


@pytest.mark.parametrize(
    ("last", "death"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("os._exit(139)", "exit status 139"),
        (
            "print('==1==ERROR: AddressSanitizer: heap-use-after-free'); sys.exit(1)",
            "exit status 1",
        ),
        (
            "sys.stderr.write('thread main panicked at src/main.rs:7\\n'); sys.exit(101)",
            "exit status 101",
        ),
        ("print('Segmentation fault'); sys.exit(1)", "exit status 1"),
    ],
)
def test_a_crash_is_told_from_a_refusal(script, last, death):
    command = script(f"{textwrap.dedent(LISTENS)}\nlistener.accept()\n{last}")
    with parse_receiver(f"run:{command} {{port}}").receive(Setup()) as running:
        assert not running.crashed
        socket.create_connection(("127.0.0.1", running.address.port)).close()
        settle(running, State.FAILED)
        assert running.death == death
        assert running.crashed


def test_a_command_may_listen_on_a_unix_socket(script):
    with parse_receiver(f"run:{script(LISTENS + '    time.sleep(60)')} {{socket}}").receive(
        Setup()
    ) as running:
        assert running.address.scheme == "unix"
        assert is_listening(running.address)
        assert running.read(b"ram0", 0, 1) is None
    assert not Path(running.address.host).parent.exists()


def test_a_flood_of_output_is_kept_in_bounds(script):
    flood = LISTENS + "    while True: print('x' * 1000, file=sys.stderr)"
    begun = time.monotonic()
    with parse_receiver(f"run:{script(flood)} {{port}}").receive(Setup()) as running:
        time.sleep(0.1)
        assert 1000 < len(running.log()) <= 16 << 10
        assert len(running.reason()) == 8
    assert time.monotonic() - begun < 5


def test_what_a_command_has_started_ends_with_it(script, tmp_path):
    file = tmp_path / "pid"
    fork = f"""
    child = os.fork()
    if not child: time.sleep(60)
    open({str(file)!r}, "w").write(str(child))
    """
    command = script(LISTENS.replace("    place", f"{fork}\n    place", 1) + "    time.sleep(60)")
    with parse_receiver(f"run:{command} {{port}}").receive(Setup()):
        child = int(file.read_text())
        assert is_alive(child)
    await_end(child)


# ---- shims that go wrong -------------------------------------------------------------------------

SHIM = """
    import json, os, signal, sys, time
    described = {"product": "p", "version": "1", "dialect": "10.0", "blocks": {"ram0": 4096},
                 "memory": True, "state": True, "reason": False}
    answers = {"describe": described, "receive": {"address": "tcp:127.0.0.1:1"},
               "read": {"hex": "00" * 4096}, "state": {"state": "running"}, "stop": {}}
    for line in sys.stdin:
        do = json.loads(line)["do"]
        answer = json.dumps(answers.get(do, {"unsupported": True}))
        BEHAVE
        print(answer, flush=True)
"""


def shim(script, behaviour=""):
    """Return the URI of a shim that behaves, but for these lines."""
    return "shim:" + script(SHIM.replace("BEHAVE", behaviour.replace("\n", "\n        ")))


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (
            "answer = 'hello'",
            (
                "answer to 'multifd-no-such-question', line 1: 'hello', must be an "
                "object of JSON on one line"
            ),
        ),
        ("answer = '[1]'", "answer to 'multifd-no-such-question', line 1: [1], must be an object"),
        (
            "answer = '[' * 100000",
            "answer to 'multifd-no-such-question', line 1: '"
            + "[" * 59
            + "..., must be an object of JSON on one line",
        ),
        (
            "answer = '{}'",
            (
                "answer to 'multifd-no-such-question', line 1: unsupported is missing, "
                "must be true or false"
            ),
        ),
        (
            "answer = '{\"unsupported\": false}'",
            ("answer to 'multifd-no-such-question', line 1: unsupported is false, must be true"),
        ),
        (
            "if do == 'describe': answer = json.dumps(described | {'version': 7})",
            "answer to 'describe', line 2: version is 7, must be a string",
        ),
        (
            "if do == 'describe': answer = json.dumps(described | {'memory': 1})",
            "answer to 'describe', line 2: memory is 1, must be true or false",
        ),
        (
            "if do == 'describe': answer = json.dumps(described | {'channels': True})",
            "answer to 'describe', line 2: channels is True, must be a number",
        ),
        (
            "if do == 'describe': answer = json.dumps(described | {'colour': 'red'})",
            (
                "answer to 'describe', line 2: key is 'colour', must be one of product, version, "
                "dialect, blocks, memory, state, reason, page_size, methods, channels"
            ),
        ),
        (
            "if do == 'describe': del described['dialect']; answer = json.dumps(described)",
            "answer to 'describe', line 2: dialect is missing, must be a string",
        ),
        (
            "if do == 'describe': answer = json.dumps(described | {'blocks': {'a': 1.5}})",
            (
                "blocks is 'a:1.5', must be NAME:SIZE, or several with + between, such as "
                "ram0:1M+pc.bios:128K"
            ),
        ),
        (
            "if do == 'receive': answer = '{\"address\": 5}'",
            "answer to 'receive', line 3: address is 5, must be a string",
        ),
        (
            "if do == 'receive': answer = '{\"error\": \"no licence\"}'",
            "answer to 'receive', line 3: no licence",
        ),
        (
            "if do == 'receive': answer += '\\n{}'",
            "answer to 'receive', line 3: '{}' follows, must be one line",
        ),
        (
            "answer = 'x' * 300000",
            (
                "answer to 'multifd-no-such-question', line 1: a line of more "
                "than 262144 bytes, must be at most that"
            ),
        ),
        (
            "while True: sys.stdout.write('x' * 65536)",
            (
                "answer to 'multifd-no-such-question', "
                "line 1: a line of more than 262144 bytes, must be at most that"
            ),
        ),
        (
            "print('no disk', file=sys.stderr); sys.exit(4)",
            ("answer to 'multifd-no-such-question', line 1: none, exit status 4: no disk"),
        ),
        (
            "os.close(1); time.sleep(60)",
            ("answer to 'multifd-no-such-question', line 1: none, its stdout was closed"),
        ),
    ],
)
def test_a_shim_that_answers_wrong_gives_one_clear_error(script, behaviour, message):
    begun = time.monotonic()
    assert refused(shim(script, behaviour)) == f"peer URI: {message}"
    assert time.monotonic() - begun < 5


def test_a_shim_that_does_not_answer_is_killed(script, monkeypatch):
    monkeypatch.setattr(json_lines, "PATIENCE", 0.3)
    assert refused(shim(script, "time.sleep(60)")) == (
        "peer URI: answer to 'multifd-no-such-question', line 1: none after 0.3 s"
    )


def test_options_go_before_what_a_shim_says(script):
    peer = parse_receiver(shim(script) + "?dialect=7.2&machine=q35")
    described = peer.describe()
    peer.close()
    assert described.dialect is dialect_of("7.2")
    assert described.blocks == {b"ram0": 4096}
    assert described.senses == {Sense.MEMORY, Sense.PROCESS, Sense.STATE}


def test_a_shim_that_dies_is_the_case_s_and_is_started_anew(script):
    peer = parse_receiver(shim(script, "if do == 'read': os.kill(os.getpid(), signal.SIGSEGV)"))
    for _ in range(2):
        with peer.receive(Setup()) as running:
            assert (running.death, running.crashed) == (None, False)
            assert running.state(1) is State.RUNNING
            assert running.read(b"ram0", 0, 4096) is None
            assert (running.death, running.crashed) == ("signal SIGSEGV", True)
            assert running.state(1) is State.SILENT
    peer.close()


def test_a_shim_that_hangs_is_silent_and_is_started_anew(script):
    peer = parse_receiver(shim(script, "if do == 'state': time.sleep(60)"))
    for _ in range(2):
        begun = time.monotonic()
        with peer.receive(Setup()) as running:
            assert running.state(0.1) is State.SILENT
            assert (running.death, running.crashed) == (None, False)
        assert time.monotonic() - begun < 5
    peer.close()


def test_an_answer_that_comes_late_is_passed_over(script):
    peer = parse_receiver(shim(script, "if do == 'state': time.sleep(0.3)"))
    with peer.receive(Setup()) as running:
        assert running.state(0.05) is State.SILENT
        assert running.read(b"ram0", 0, 4096) == bytes(4096)
        assert running.state(5) is State.RUNNING
    peer.close()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (
            "if do == 'read': answer = '{\"hex\": \"00\"}'",
            "answer to 'read', line 4: hex is '00', must be 4096 bytes, two digits each",
        ),
        (
            "if do == 'read': answer = json.dumps({'hex': 'zz' * 4096})",
            f"answer to 'read', line 4: hex is '{'z' * 59}..., must be 4096 bytes, two digits each",
        ),
    ],
)
def test_memory_is_not_taken_for_what_it_is_not(script, behaviour, message):
    uri = shim(script, behaviour)
    peer = parse_receiver(uri)
    with peer.receive(Setup()) as running, pytest.raises(PeerError) as caught:
        running.read(b"ram0", 0, 4096)
    peer.close()
    assert str(caught.value) == f"peer {uri!r}: {message}"


def test_a_state_is_not_taken_for_what_it_is_not(script):
    uri = shim(script, "if do == 'state': answer = '{\"state\": \"fine\"}'")
    peer = parse_receiver(uri)
    with peer.receive(Setup()) as running, pytest.raises(PeerError) as caught:
        running.state(1)
    peer.close()
    assert str(caught.value) == (
        f"peer {uri!r}: answer to 'state', line 4: state is 'fine', must be "
        "running or completed or failed"
    )
