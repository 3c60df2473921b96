"""The proxy: bytes, ends and resets pass as they come, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.images import Images, ImageSink
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.cli.proxy import command
from multifd_proto.errors import PeerError
from multifd_proto.machine.events import PacketReceived, PayloadReceived
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers.address import parse_address
from multifd_proto.peers.endpoint import dial
from multifd_proto.peers.judging import JudgingProcess
from multifd_proto.peers.lab import configure, guestless
from multifd_proto.peers.proxy.faults import parse_fault
from multifd_proto.peers.proxy.pcapng_writer import PcapngWriter
from multifd_proto.peers.proxy.proxy import Proxy
from multifd_proto.peers.proxy.relay import Side
from multifd_proto.peers.proxy.tamper import Faults
from multifd_proto.tests.captures import read
from multifd_proto.tests.proxied import (
    ANYWHERE,
    Sink,
    descriptors,
    recorded,
    replay,
    reset,
    running,
    wait_for,
)
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

MAIN = b"QEVM\0\0\0\3"
INIT = MultiFDInit(id=3).build()
SYNC = MultiFDPacket(flags=1, offset=(0,) * 128).build()
PACKET = MultiFDPacket(
    pages_alloc=128, normal_pages=2, next_packet_size=8192, packet_num=1,
    ramblock=b"ram".ljust(256, b"\0"), offset=(0, 4096) + (0,) * 126,
).build()  # fmt: skip
CHANNEL = INIT + SYNC + PACKET + bytes(range(256)) * 32 + SYNC
_REFUSED = pytest.raises((ConnectionResetError, PeerError), match="Connection reset by peer")
RECORD = "record.pcapng"
MODES = ["plain", "check", "record", "record check", "faults", "record check faults"]


@pytest.fixture(autouse=True)
def _nothing_is_left():
    files, threads = descriptors(), set(threading.enumerate())
    yield
    wait_for(lambda: descriptors() <= files and set(threading.enumerate()) <= threads, "an end")


@pytest.fixture
def make(tmp_path):
    """Make proxies of each mode; `record` is the file of those that record."""
    made: list[PcapngWriter | JudgingProcess] = []

    def make(mode: str, target, **options):
        if "record" in mode:
            options["recorder"] = PcapngWriter(tmp_path / RECORD)
            made.append(options["recorder"])
        if "check" in mode:
            options["judge"] = JudgingProcess(MigrationParameters())
            made.append(options["judge"])
        if "faults" in mode:
            options["faults"] = Faults([parse_fault("id=200,packet=9:drop")])
        return Proxy(options.pop("listen", ANYWHERE), target, **options)

    yield make
    for each in made:
        each.close()


def main_with_channel(run):
    """Connect as a source does: the main stream first."""
    main = run.dial()
    main.sendall(MAIN)
    return main, run.dial()


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_recorded_session_passes_byte_by_byte(mode, make):
    streams = recorded("q7_2-zlib")
    with Sink(answer=b"done") as sink, running(make(mode, sink.address)) as run:
        replay(run, streams)
        outcome = run.outcome()
        assert [bytes(data) for data in sink.received] == streams
    assert outcome.problems == []
    kinds = ["main"] + ["multifd"] * (len(streams) - 1)
    assert [c.kind for c in outcome.connections] == kinds
    assert [c.sent for c in outcome.connections] == [len(stream) for stream in streams]
    assert {c.returned for c in outcome.connections} == {4}
    assert {c.broken for c in outcome.connections} == {None}
    assert {c.id for c in outcome.connections} == {None, *range(len(streams) - 1)}


@pytest.mark.parametrize("name", ["q5_2-none", "q7_2-zlib", "q10_0-zstd", "q11_1-none"])
def test_it_judges_and_records_as_the_capture_is_judged(name, make, tmp_path):
    with Sink() as sink, running(make("record check", sink.address)) as run:
        replay(run, recorded(name))
        outcome = run.outcome()
        judge = run.proxy._judge
    assert outcome.problems == []
    assert judge
    live, _ = judge.conclude()
    follower = Follower(decode=True)
    events = list(follower.follow(CaptureReader([tmp_path / RECORD])))
    (session,) = follower.sessions
    report = session.checker.conclude()
    assert not live.violated
    # what is judged on the block list depends on which connection was read first
    skipped = {Verdict.NOT_EXERCISED}
    for seen, recorded_ in zip(live.results, report.results, strict=True):
        assert seen.verdict == recorded_.verdict or skipped & {seen.verdict, recorded_.verdict}
    assert live.of(Verdict.PASSED)
    packets = sum(isinstance(event, PacketReceived) for _, event in events)
    assert packets == sum(c.statistics.packets for c in outcome.connections if c.statistics)
    faults = {event.fault for _, event in events if isinstance(event, PayloadReceived)}
    assert faults == {None}


@pytest.mark.parametrize("mode", ["check", "record check"])
def test_check_finds_what_is_wrong(mode, make):
    wrong = INIT + SYNC + PACKET[:12] + (999).to_bytes(4, "big") + PACKET[16:] + bytes(8192)
    with Sink() as sink, running(make(mode, sink.address)) as run:
        replay(run, [MAIN, wrong])
        run.outcome()
        judge = run.proxy._judge
    assert judge
    failed = judge.conclude()[0].of(Verdict.FAILED)
    found = {result.requirement.id: str(result.violations[0]) for result in failed}
    place = f"channel 3 @{64 + len(SYNC):#x}"
    assert found["PKT-4"] == f"{place} PKT-4: pages_alloc is 999, must be at most 128"


@pytest.mark.parametrize("mode", ["plain", "check", "record", "record check"])
def test_every_byte_goes_on_at_once(mode, make):
    places = [1, 2, 4, 5, 63, 64, 65, 75, 76, 77, 200, 64 + len(SYNC), 70 + len(SYNC)]
    places += [64 + len(SYNC + PACKET), 65 + len(SYNC + PACKET), len(CHANNEL) - 1, len(CHANNEL)]
    with Sink() as sink, running(make(mode, sink.address)) as run:
        main, channel = main_with_channel(run)
        with main, channel:
            for start, stop in zip([0, *places], places, strict=False):
                channel.sendall(CHANNEL[start:stop])
                assert sink.wait(1, stop) == CHANNEL[:stop]


def test_connections_go_onward_in_the_order_of_acceptance(make):
    with Sink() as sink, running(make("plain", sink.address)) as run:
        sockets = [run.dial() for _ in range(60)]
        for number, sock in reversed(list(enumerate(sockets))):
            sock.sendall(MAIN + bytes([number]))
            sock.close()
        run.outcome()
        assert [data[-1] for data in sink.received] == list(range(60))


@pytest.mark.parametrize("mode", MODES)
def test_tls_is_forwarded_unseen(mode, make):
    hello = b"\x16\x03\x01\x02\x00" + bytes(range(256)) * 9
    with Sink() as sink, running(make(mode, sink.address)) as run:
        replay(run, [hello, hello])
        outcome = run.outcome()
        assert [bytes(data) for data in sink.received] == [hello, hello]
        judge = run.proxy._judge
    assert [c.kind for c in outcome.connections] == ["tls", "tls"]
    assert outcome.problems == []
    if judge:
        assert judge.conclude()[1].tls == {0, 1}


def test_unix_sockets_pass_and_are_recorded_under_stand_in_addresses(make, tmp_path):
    target, listen = (parse_address(f"unix:{tmp_path}/{name}") for name in ("target", "listen"))
    with Sink(target) as sink, running(make("record", target, listen=listen)) as run:
        replay(run, [MAIN, CHANNEL])
        run.outcome()
        assert [bytes(data) for data in sink.received] == [MAIN, CHANNEL]
    assert not (tmp_path / "listen").exists()
    seen, _ = read(tmp_path / RECORD)
    assert [half.data for half in seen if half.half.forward] == [MAIN, CHANNEL]
    assert {str(half.half.destination) for half in seen if half.half.forward} == {"192.0.2.2:4444"}
    assert [str(half.half.source) for half in seen if half.half.forward] == [
        "192.0.2.1:1024",
        "192.0.2.1:1025",
    ]


def test_what_cannot_be_spliced_is_copied(make, monkeypatch):
    def no_pipe():
        raise OSError(24, "Too many open files")

    with Sink() as sink, running(make("check", sink.address)) as run:
        monkeypatch.setattr(os, "pipe", no_pipe)
        replay(run, [MAIN, CHANNEL])
        run.outcome()
        monkeypatch.undo()
        assert [bytes(data) for data in sink.received] == [MAIN, CHANNEL]


def test_what_the_target_does_not_take_is_not_taken_from_the_source(make):
    with Sink(reading=False) as sink, running(make("plain", sink.address)) as run:
        with run.dial() as sock:
            sock.sendall(MAIN)
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                sock.sendall(bytes(256 << 20))
        assert run.proxy.forwarded < 64 << 20


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_half_closed_connections_carry_the_answer(mode, make):
    with Sink(answer=b"pong" * 1000) as sink, running(make(mode, sink.address)) as run:
        with run.dial() as sock:
            sock.sendall(MAIN)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while data := sock.recv(1 << 16):
                answer += data
        outcome = run.outcome()
    assert answer == b"pong" * 1000
    assert outcome.connections[0].returned == 4000
    assert outcome.connections[0].broken is None


def test_a_target_that_closes_first_can_still_be_sent_to(make):
    with Sink() as sink, running(make("plain", sink.address)) as run, run.dial() as sock:
        sock.sendall(MAIN)
        sink.wait(0, 8)
        sink.sockets[0].shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        sock.sendall(b"more")
        assert sink.wait(0, 12) == MAIN + b"more"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 8, 64, 100, 64 + len(SYNC) * 2 + 20])
def test_a_reset_by_the_source_is_one_at_the_target(mode, count, make, tmp_path):
    with Sink() as sink, running(make(mode, sink.address)) as run:
        main, channel = main_with_channel(run)
        channel.sendall(CHANNEL[:count])
        if mode != "faults" and "faults" not in mode:
            sink.wait(1, count)
        else:
            wait_for(lambda: len(sink.received) == 2)
            time.sleep(0.05)
        reset(channel)
        assert sink.wait_end(1) == "reset"
        main.close()
        outcome = run.outcome()
    assert outcome.connections[1].broken is Side.SOURCE
    if "record" in mode:
        halves, _ = read(tmp_path / RECORD)
        assert halves[2].end
        assert (halves[2].end.reset, halves[2].end.by_peer) == (True, False)


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_by_the_target_is_one_at_the_source(mode, make, tmp_path):
    with Sink(reading=False) as sink, running(make(mode, sink.address)) as run:
        main, channel = main_with_channel(run)
        with main, channel:
            channel.sendall(CHANNEL)
            wait_for(lambda: run.proxy.forwarded == len(MAIN + CHANNEL) and len(sink.sockets) == 2)
            reset(sink.sockets[1])
            with pytest.raises(ConnectionResetError):
                channel.recv(1)
        sink.sockets[0].close()
        outcome = run.outcome()
    assert outcome.connections[1].broken is Side.TARGET
    if "record" in mode:
        halves, _ = read(tmp_path / RECORD)
        assert halves[2].end
        assert (halves[2].end.reset, halves[2].end.by_peer) == (True, True)


def test_a_reset_while_the_source_sends_is_no_end(make):
    for _ in range(10):
        with Sink(reading=False) as sink, running(make("plain", sink.address)) as run:
            main, channel = main_with_channel(run)
            with main, channel:
                sender = threading.Thread(target=_send_until_broken, args=(channel,))
                sender.start()
                wait_for(lambda: run.proxy.forwarded > 1 << 17 and len(sink.sockets) == 2)
                reset(sink.sockets[1])
                sender.join()
            sink.sockets[0].close()
            assert run.outcome().connections[1].broken is Side.TARGET


def _send_until_broken(sock: socket.socket) -> None:
    try:
        while True:
            sock.sendall(bytes(1 << 16))
    except ConnectionError:
        return


# ---- what does not go through --------------------------------------------------------------------


def test_a_target_that_refuses_ends_it(make):
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = parse_address(f"tcp:127.0.0.1:{server.getsockname()[1]}")
    said: list[str] = []
    with running(make("plain", target, log=said.append)) as run:
        with _REFUSED, run.dial() as sock:
            sock.recv(1)
        outcome = run.outcome()
    refused = f"connection 0: target {target}: Connection refused"
    assert outcome.problems == [refused, "no main stream on 0 connections"]
    assert said == [refused]


def test_a_target_that_goes_away_ends_it(make):
    with Sink() as sink, running(make("plain", sink.address)) as run:
        with run.dial() as main:
            main.sendall(MAIN)
            sink.wait(0, 8)
            sink.__exit__()
            with _REFUSED, run.dial() as channel:
                channel.recv(1)
        outcome = run.outcome()
    assert outcome.problems == [f"connection 1: target {sink.address}: Connection refused"]


@pytest.mark.parametrize("mode", MODES)
def test_silence_ends_it(mode, make):
    with Sink() as sink, running(make(mode, sink.address, timeout=0.3)) as run:
        main, channel = main_with_channel(run)
        with main, channel:
            channel.sendall(INIT)
            outcome = run.outcome()
            with pytest.raises(ConnectionResetError):
                main.recv(1)
            assert sink.wait_end(0) == "reset"
    assert outcome.problems[0] == "no byte on any of 2 open connections for 0.3 s"
    assert [c.broken for c in outcome.connections] == [Side.PROXY, Side.PROXY]


def test_a_probe_is_no_migration_and_waiting_has_no_end(make):
    with Sink() as sink, running(make("plain", sink.address, timeout=0.2)) as run:
        run.dial().close()
        time.sleep(0.5)
        assert not run.over
        replay(run, [MAIN, CHANNEL])
        outcome = run.outcome()
    assert outcome.problems == []
    assert [c.kind for c in outcome.connections] == ["unknown", "main", "multifd"]


def test_channels_without_a_main_stream_are_no_migration(make):
    with Sink() as sink, running(make("plain", sink.address)) as run:
        replay(run, [CHANNEL])
        outcome = run.outcome()
    assert outcome.problems == ["no main stream on 1 connections"]


def test_a_main_stream_that_stops_is_a_problem_where_it_is_read(make):
    with Sink() as sink, running(make("check", sink.address)) as run:
        replay(run, [MAIN])
        outcome = run.outcome()
    assert outcome.problems == ["the main stream stopped before its end"]


def test_connections_beyond_the_limit_are_refused(make):
    said: list[str] = []
    with (
        Sink() as sink,
        running(make("plain", sink.address, max_connections=2, log=said.append)) as run,
    ):
        main, channel = main_with_channel(run)
        with main, channel, run.dial() as more:
            assert more.recv(1) == b""
        outcome = run.outcome()
    assert outcome.refused == 1
    assert outcome.problems == said == ["connection 2 is refused: 2 are the limit"]


def test_ten_thousand_connections_take_no_more_than_the_limit(make):
    with Sink() as sink, running(make("plain", sink.address, max_connections=20)) as run:
        kept = [run.dial() for _ in range(20)]
        kept[0].sendall(MAIN)
        wait_for(lambda: len(sink.sockets) == 20)
        threads, files = threading.active_count(), descriptors()
        for _ in range(10_000 - 20):
            run.dial().close()
        assert threading.active_count() <= threads + 4  # those of the last one kept
        assert descriptors() <= files + 8
        for sock in kept:
            sock.close()
        outcome = run.outcome()
    assert len(outcome.connections) == 20
    assert outcome.refused >= 9_900
    assert outcome.problems == ["connection 20 is refused: 20 are the limit"]


# ---- the verb ------------------------------------------------------------------------------------


def proxy_process(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    code = "from multifd_proto.cli import main; main()"
    command = [sys.executable, "-c", code, "proxy", "tcp:127.0.0.1:0", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert process.stderr
    line = process.stderr.readline()
    assert line.startswith("listening on tcp:127.0.0.1:"), line
    return process, line.split()[2]


def served(arguments, streams):
    """Run the verb with a source that replays streams; return what it printed and its status."""
    process, uri = proxy_process(*arguments)
    with process:
        replay_to(uri, streams)
        out, err = process.communicate(timeout=20)
    return out, err, process.returncode


def replay_to(uri, streams):
    sockets = [dial(parse_address(uri), 0, 10) for _ in streams]
    for sock, stream in zip(sockets, streams, strict=True):
        sock.sendall(stream)
    time.sleep(0.2)  # a source closes when all has arrived
    for sock in sockets:
        sock.close()


def test_the_verb_tells_all_in_json(tmp_path):
    streams = recorded("q11_1-none")
    with Sink() as sink:
        arguments = [sink.address, "--check", "--json", "--record", tmp_path / "x.pcapng"]
        out, err, status = served(arguments, streams)
    data = json.loads(out)
    assert (status, data["status"], data["problems"]) == (0, "completed", [])
    assert [c["sent"] for c in data["connections"]] == [len(stream) for stream in streams]
    assert data["connections"][1]["syncs"] > 1
    assert data["check"]["verdict"] == "passed"
    assert err == ""
    seen, _ = read(tmp_path / "x.pcapng")
    assert [bytes(half.data) for half in seen if half.half.forward] == streams


def test_the_verb_reports_a_violation_by_its_status():
    streams = recorded("q11_1-none")
    streams[1] = streams[1][:4] + bytes(3) + b"\2" + streams[1][8:]
    with Sink() as sink:
        out, _, status = served([sink.address, "--check"], streams)
    assert "VIOLATED: 1 requirements (INIT-2)" in out
    assert out.endswith("THROUGH\n")
    assert status == 1


@pytest.mark.parametrize(("rule", "status"), [("packet=1:delay=0", 0), ("id=9,packet:drop", 4)])
def test_a_fault_that_never_found_its_place_is_told_by_the_status(rule, status):
    with Sink() as sink:
        out, _, ended = served([sink.address, "--fault", rule], recorded("q11_1-none"))
    assert ended == status
    assert (f"fault {rule}: never found its place" in out) == (status == 4)


def test_the_verb_says_when_it_did_not_go_through():
    with Sink() as sink:
        out, _, status = served([sink.address], [CHANNEL])
    assert out.endswith("NOT THROUGH: no main stream on 1 connections\n")
    assert status == 3


def test_the_verb_ends_on_an_interrupt_with_its_report_and_the_record(tmp_path):
    with Sink() as sink:
        process, uri = proxy_process(sink.address, "--record", tmp_path / "x.pcapng")
        with process, dial(parse_address(uri), 0, 10) as main:
            main.sendall(MAIN)
            sink.wait(0, 8)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert sink.wait_end(0) == "reset"
    assert "│ 0 │ main" in out
    assert err == "multifd proxy: interrupted\n"
    assert process.returncode == 130
    seen, reader = read(tmp_path / "x.pcapng")
    assert seen[0].data == MAIN
    assert seen[0].end
    assert reader.info.truncated == []


def test_the_record_of_a_killed_proxy_holds_what_the_target_has_received(tmp_path):
    with Sink() as sink:
        process, uri = proxy_process(sink.address, "--record", tmp_path / "x.pcapng")
        with process, dial(parse_address(uri), 0, 10) as main:
            main.sendall(MAIN + bytes(range(256)) * 1000)
            received = sink.wait(0, 8 + 256_000)
            process.kill()
    seen, _ = read(tmp_path / "x.pcapng")
    assert seen[0].data == received


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tcp:0:0", "tcp:x"], "Invalid value for 'TARGET': 'tcp:x' is no migration URI"),
        (["tcp:0:0", "exec:cat"], "'exec:cat': exec: cannot carry multifd channels"),
        (["tcp:0:0", "tcp:1:1", "--fault", "x"], "fault 'x' has no action, must be WHERE:ACTION"),
    ],
)
def test_wrong_usage_is_told(arguments, message):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_record_that_cannot_be_written_is_told_before_anything_is_forwarded(tmp_path):
    path = tmp_path / "none" / "x.pcapng"
    result = CliRunner().invoke(
        command, ["tcp:127.0.0.1:0", "tcp:127.0.0.1:1", "--record", str(path)]
    )
    assert str(result.exception) == f"{path}: No such file or directory"


# ---- real QEMU -----------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_a_real_migration_goes_through_and_its_record_is_the_memory(
    version, compression, qemu, make, tmp_path
):
    with real_pair(qemu(version), tmp_path, compression) as (source, destination):
        target = parse_address(f"tcp:127.0.0.1:{destination.listen()}")
        with running(make("record check", target)) as run:
            source.migrate(str(run.address))
            assert source.wait_migrated()["status"] == "completed"
            assert destination.wait_migrated()["status"] == "completed"
            outcome = run.outcome()
            judge = run.proxy._judge
    memory = (tmp_path / "source.ram").read_bytes()
    assert (tmp_path / "destination.ram").read_bytes() == memory
    assert outcome.problems == []
    assert [c.kind for c in outcome.connections] == ["main"] + ["multifd"] * 3
    assert judge
    assert not judge.conclude()[0].violated
    report, images = extracted(tmp_path / RECORD, tmp_path / "images")
    assert not report.violated
    assert report.exercised
    assert images == {b"ram0": memory}


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
@pytest.mark.parametrize("mode", ["plain", "check", "faults"])
def test_a_real_migration_goes_through_in_every_mode(version, mode, qemu, make, tmp_path):
    with real_pair(qemu(version), tmp_path, "none") as (source, destination):
        target = parse_address(destination.listen_uri(f"unix:{tmp_path}/target"))
        with running(make(mode, target, listen=parse_address(f"unix:{tmp_path}/x"))) as run:
            source.migrate(str(run.address))
            assert source.wait_migrated()["status"] == "completed"
            assert destination.wait_migrated()["status"] == "completed"
            outcome = run.outcome()
    memory = (tmp_path / "source.ram").read_bytes()
    assert (tmp_path / "destination.ram").read_bytes() == memory
    assert outcome.problems == []


@contextmanager
def real_pair(binary, folder, compression):
    """Start a source with memory of all kinds of pages, and a destination."""
    pages = [random.Random(n).randbytes(4096) if n % 3 else bytes(4096) for n in range(4096)]
    (folder / "source.ram").write_bytes(b"".join(pages))
    with ExitStack() as stack:
        ends = []
        for name in ("source", "destination"):
            end = guestless(
                binary, folder / f"{name}.ram", size=16 << 20, directory=folder, name=name,
                incoming=name == "destination",
            )  # fmt: skip
            configure(stack.enter_context(end), channels=3, compression=compression)
            ends.append(end)
        yield ends


def extracted(path, folder):
    """Return the verdict on a capture, and the memory in it."""
    folder.mkdir()
    made: list[Images] = []

    def images(session):
        if not made:
            made.append(Images(folder, session.checker.migration))
        return made[0]

    follower = Follower(decode=True, sinks=lambda session, _c: ImageSink(images(session)))
    for connection, event in follower.follow(CaptureReader([path])):
        if connection.session:
            images(connection.session).take_zeros(event)
    (session,) = follower.sessions
    made[0].close()
    blocks = {name: image.path.read_bytes() for name, image in made[0].blocks.items()}
    return session.checker.conclude(), blocks
