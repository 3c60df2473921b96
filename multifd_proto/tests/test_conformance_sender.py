"""The suite for senders, against the reference and against senders that are wrong in one way."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import cache
from importlib.resources import files

import pytest

from multifd_proto.conformance.credentials import credentials
from multifd_proto.conformance.peers import parse_sender
from multifd_proto.conformance.peers.broken_sender import BROKEN
from multifd_proto.conformance.peers.builtin_sender import RunningBuiltinSender
from multifd_proto.conformance.sender.destination import Budgets
from multifd_proto.conformance.sender.judging import judge_heard, requirements_of
from multifd_proto.conformance.sender.scenarios import SCENARIOS, applicable
from multifd_proto.conformance.sender.session import hear
from multifd_proto.conformance.target import State
from multifd_proto.conformance.verdict import Failure, Verdict
from multifd_proto.errors import PeerError
from multifd_proto.wire.requirements import load

CAPTURES = files("multifd_proto.spec") / "captures"
REQUIREMENTS = [id_ for chapter in range(2, 11) for id_ in requirements_of(chapter)]
OLD_AND_NEW = ("7.2", "11.1")
QUICK = Budgets(connect=0.3, quiet=0.3, settled=0.2, linger=0.05, whole=2.0, size=4 << 20,
                connections=20)  # fmt: skip


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return credentials(tmp_path_factory.mktemp("tls") / "pki")


def verdicts(heard, peer):
    description = peer.describe()
    return {id_: judge_heard(id_, heard, description) for id_ in REQUIREMENTS}


def bad(heard, peer):
    """What is failed or inconclusive, with the reason."""
    return {
        id_: judgement.text
        for id_, judgement in verdicts(heard, peer).items()
        if judgement.verdict in (Verdict.FAILED, Verdict.INCONCLUSIVE)
    }


def play(peer, name="plain", **options):
    return hear(peer, SCENARIOS[name], peer.describe(), **options)


# ---- the reference -----------------------------------------------------------------------------


@cache
def heard_of(dialect, name, tls):
    return play(parse_sender(f"builtin:?dialect={dialect}"), name, credentials=tls)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("dialect", OLD_AND_NEW)
def test_the_reference_violates_nothing(dialect, name, tls):
    peer = parse_sender(f"builtin:?dialect={dialect}")
    if why := applicable(SCENARIOS[name], peer.describe()):
        assert why.startswith("the peer has no ")
        return
    heard = heard_of(dialect, name, tls)
    assert bad(heard, peer) == {}
    broken = SCENARIOS[name].behaviour.breaks
    assert heard.image == (None if broken else ())
    assert heard.connections == SCENARIOS[name].setup.channels + 1
    # without a return path, a little memory is sent before the loss of a channel shows
    over = {"dropped-channel": State.FAILED, "cancel": State.FAILED, "closed-before-init": None}
    assert heard.state is (over.get(name, State.COMPLETED) or heard.state)


def test_scenarios_exercise_every_requirement_that_shows(tls):
    passed = set()
    for dialect in OLD_AND_NEW:
        peer = parse_sender(f"builtin:?dialect={dialect}")
        for name, scenario in SCENARIOS.items():
            if not applicable(scenario, peer.describe()):
                found = verdicts(heard_of(dialect, name, tls), peer).items()
                passed |= {id_ for id_, judgement in found if judgement.verdict is Verdict.PASSED}
    # nobody has devices that send their state
    assert set(REQUIREMENTS) - passed == {"SYNC-9", "DEV-1", "DEV-2", "DEV-3", "DEV-4", "DEV-7"}


def test_chapters_hold_all_that_binds_senders():
    bound = {r.id for r in load().values() if r.role.value == "sender" and r.observable != "image"}
    assert set(REQUIREMENTS) == bound


# ---- the kill matrix ---------------------------------------------------------------------------


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_sender_fails_its_requirement_alone(broken, tls):
    peer = parse_sender(f"builtin:?broken={broken}")
    (name,) = [n for n, row in SCENARIOS.items() if not applicable(row, peer.describe())]
    heard = play(peer, name, credentials=tls)
    assert list(bad(heard, peer)) == ([] if broken == "none" else [broken])
    assert heard.waited == ""
    assert heard.seconds < 2


def test_every_requirement_that_shows_has_a_killer():
    shows = {id_ for id_ in REQUIREMENTS if load()[id_].observable != "none"}
    assert set(BROKEN) - {"none"} == shows


# ---- senders that are worse than wrong ---------------------------------------------------------


class Hostile:
    """A sender whose connections are handled by a function of the test."""

    uri = "hostile:"

    def __init__(self, act):
        self.act = act

    def describe(self):
        return parse_sender("builtin:").describe()

    def send(self, setup, to):
        return RunningHostile(self.act, to)

    def close(self):
        pass


class RunningHostile:
    death = None
    crashed = False

    def __init__(self, act, to):
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(act, (to.host, to.port)))
        self.thread.start()

    def run(self, act, to):
        with ExitStack() as stack, suppress(OSError):
            act(lambda: stack.enter_context(socket.create_connection(to)), self.stopped)
            self.stopped.wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stopped.set()
        self.thread.join()

    def read(self, block, offset, length):
        return None

    def state(self, timeout):
        return State.UNKNOWN

    def reason(self):
        return ()

    def log(self):
        return ""

    def cancel(self):
        return False

    def image(self, block):
        return None


def flood(connect, stopped):
    connection = connect()
    while not stopped.is_set():
        connection.sendall(bytes(range(256)) * 1024)


def flood_with_pages(connect, stopped):
    main, channel = connect(), connect()
    main.sendall(b"QEVM")
    channel.sendall(bytes.fromhex("1122334400000001") + bytes(56))
    while not stopped.is_set():
        channel.sendall(b"\x11\x22\x33\x44" + os.urandom(1 << 16))


def connect_often(connect, stopped):
    while not stopped.is_set():
        connect()


HOSTILE = {
    "never connects": (lambda connect, stopped: None, "a connection for 0.3 s"),
    "says nothing": (
        lambda connect, stopped: connect(),
        "the end of connection 0: no byte for 0.3 s",
    ),
    "stops in the middle": (
        lambda connect, stopped: connect().sendall(b"QEVM\0\0"),
        "the end of main: no byte for 0.3 s",
    ),
    "floods": (flood, "an end within 4194304 bytes"),
    "floods with pages": (flood_with_pages, "an end within 4194304 bytes"),
    "connects often": (connect_often, "an end within 20 connections"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sender_is_heard_for_a_bounded_time(name):
    act, waited = HOSTILE[name]
    peer, begun = Hostile(act), time.monotonic()
    heard = play(peer, budgets=QUICK)
    assert heard.waited == waited
    assert time.monotonic() - begun < 3
    found = verdicts(heard, peer)
    if heard.connections:
        assert found["CHAN-1"].failure is Failure.HANGS
        assert found["CHAN-1"].text == f"awaited in vain: {waited}"
    else:
        assert {j.verdict for j in found.values()} == {Verdict.INCONCLUSIVE}
    assert len(heard.exchanges) <= 400


def test_what_a_stuck_sender_did_not_show_is_inconclusive():
    peer = Hostile(lambda connect, stopped: connect().sendall(b"QEVM\0\0\0\3"))
    found = verdicts(play(peer, budgets=QUICK), peer)
    assert found["SYNC-8"].verdict is Verdict.INCONCLUSIVE
    assert found["MAIN-1"].verdict is Verdict.PASSED


def test_a_sender_that_crashes_fails(monkeypatch):
    monkeypatch.setattr(RunningBuiltinSender, "crashed", True)
    monkeypatch.setattr(RunningBuiltinSender, "death", "signal SIGSEGV")
    peer = parse_sender("builtin:")
    judgement = verdicts(play(peer), peer)["CHAN-1"]
    assert (judgement.verdict, judgement.failure) == (Verdict.FAILED, Failure.CRASHES)
    assert judgement.text == "crashed: signal SIGSEGV"


def test_a_sender_that_fails_by_itself_has_not_passed(monkeypatch):
    monkeypatch.setattr(RunningBuiltinSender, "state", lambda self, timeout: State.FAILED)
    monkeypatch.setattr(RunningBuiltinSender, "reason", lambda self: ("no memory",))
    peer = parse_sender("builtin:")
    judgement = verdicts(play(peer), peer)["PAY-4"]
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.text == "nothing showed it; the sender failed; it says: no memory"


def test_memory_that_arrives_otherwise_fails(monkeypatch):
    honest = RunningBuiltinSender.image

    def other(self, block):
        image = honest(self, block)
        return image and image[:8192] + bytes([image[8192] ^ 1]) + image[8193:]

    monkeypatch.setattr(RunningBuiltinSender, "image", other)
    peer = parse_sender("builtin:")
    judgement = verdicts(play(peer), peer)["SYNC-8"]
    assert (judgement.verdict, judgement.failure) == (Verdict.FAILED, Failure.WRONG_IMAGE)
    assert judgement.text == "memory differs: ram0 at 0x2000: the page came otherwise"


# ---- other peers -------------------------------------------------------------------------------

SEND = (
    f"trigger={sys.executable} -c 'from multifd_proto.cli import main; main()' send {{uri}}"
    " --no-return-path --channels {channels} --uuid {uuid} --dialect 10.0 --ram ram0="
)


def test_a_foreign_sender_is_triggered(tmp_path):
    image = tmp_path / "ram"
    image.write_bytes(bytes(range(256)) * 1024)
    peer = parse_sender(f"listen:tcp:127.0.0.1:0?dialect=10.0&{SEND}{image}")
    heard = play(peer)
    assert bad(heard, peer) == {}
    assert Counter(j.verdict for j in verdicts(heard, peer).values())[Verdict.PASSED] > 45
    assert "INIT-4" in {i for i, j in verdicts(heard, peer).items() if j.verdict is Verdict.PASSED}
    assert applicable(SCENARIOS["zlib"], peer.describe()) == (
        "the trigger does not tell the sender its method"
    )


def test_a_foreign_sender_is_given_credentials(tmp_path, tls):
    image = tmp_path / "ram"
    image.write_bytes(bytes(range(256)) * 1024)
    script = tmp_path / "send.sh"
    command = SEND.removeprefix("trigger=").format(uri="$1", channels=2, uuid="$2")
    script.write_text(f"exec {command}{image} ${{3:+--tls-creds $3}}")
    trigger = f"trigger=sh {script} {{uri}} {{uuid}} {{tls}}"
    peer = parse_sender(f"listen:tcp:127.0.0.1:0?dialect=10.0&{trigger}")
    assert applicable(SCENARIOS["tls"], peer.describe()) == ""
    heard = play(peer, "tls", credentials=tls)
    assert bad(heard, peer) == {}
    assert verdicts(heard, peer)["TLS-4"].verdict is Verdict.PASSED
    assert bad(play(peer), peer) == {}


def test_a_foreign_sender_that_fails_is_not_waited_for():
    peer = parse_sender("listen:tcp:127.0.0.1:0?trigger=sh -c 'echo no such machine; exit 3'")
    begun = time.monotonic()
    heard = play(peer)
    assert time.monotonic() - begun < 3
    text = verdicts(heard, peer)["INIT-1"].text
    assert text == (
        "awaited in vain: a connection, but the sender has ended; it ended: exit status 3; "
        "it says: no such machine"
    )


def test_without_a_trigger_the_user_is_asked(capsys):
    peer = parse_sender("listen:tcp:127.0.0.1:0?wait=0.2")
    heard = play(peer, budgets=QUICK)
    assert heard.connections == 0
    said = capsys.readouterr().err
    assert said.startswith("waiting 0.2 s for a migration to tcp:127.0.0.1:")
    assert said.endswith(", any number of channels\n")


def test_a_capture_is_judged_as_it_is():
    peer = parse_sender(f"pcap:{CAPTURES / 'q7_2-none.pcap.zst'}")
    heard = play(peer)
    assert list(bad(heard, peer)) == ["PKT-19", "PKT-17", "PKT-18", "SYNC-2", "PKT-20", "PKT-22"]
    assert bad(heard, peer)["PKT-17"].startswith("stale-next-packet-size: channel 0 @0x80ac0: ")
    assert [n for n, row in SCENARIOS.items() if not applicable(row, peer.describe())] == ["plain"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("builtin:x", "'x' follows the scheme, must be options"),
        ("builtin:?broken=NO-1", "broken is 'NO-1', must be one of CHAN-1, "),
        (
            "builtin:?broken=none&dialect=7.2",
            "dialect is that of the broken sender, must be absent",
        ),
        ("qemu-src:", "names no binary, must be BINARY or RELEASE"),
        ("qemu-src:10.0?mem=1M", "option is 'mem', must be one of machine"),
        ("pcap:", "names no file, must be pcap:FILE"),
        ("listen:fd:3", "address is fd:3, must be tcp:, unix: or vsock:"),
        ("listen:tcp:0:0?wait=x", "wait is 'x', must be seconds"),
        ("listen:tcp:0:0?trigger=./go {ports}", "placeholder is {ports}, must be one of host, "),
    ],
)  # fmt: skip
def test_a_uri_that_names_no_sender_is_refused(uri, message):
    with pytest.raises(PeerError) as caught:
        parse_sender(uri)
    assert str(caught.value).startswith(f"peer {uri!r}: {message}")


def test_a_capture_without_a_migration_is_refused(tmp_path):
    file = tmp_path / "text"
    file.write_text("none")
    peer = parse_sender(f"pcap:{file}")
    with pytest.raises(PeerError, match="starts with 6e 6f 6e 65, a pcap, "):
        peer.describe()
