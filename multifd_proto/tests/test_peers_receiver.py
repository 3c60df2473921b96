"""Good sources, over every transport, in every dialect, by every method."""

from __future__ import annotations

import _thread
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import pytest

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import PeerError
from multifd_proto.machine.verdict import Report, Verdict
from multifd_proto.peers import lab
from multifd_proto.peers.address import Address, parse_address
from multifd_proto.peers.receive.channel import ChannelReader
from multifd_proto.peers.receive.receiver import MAIN_FILE, Receiver
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.captures import Talk, write_pcap
from multifd_proto.tests.senders import (
    BLOCK,
    METHOD,
    OPEN_RETURN_PATH,
    PAGE,
    PING,
    Run,
    Script,
    nothing_left,
    page,
    parameters,
    serving,
)
from multifd_proto.wire.dialect import DIALECTS
from multifd_proto.wire.ram_records import RamZero
from multifd_proto.wire.schema import PAGE_SIZES, page_count


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def three_rounds(script: Script, channels: int = 2) -> dict[int, bytes]:
    """Play a migration; return what its pages are at the end."""
    main, wires = script.setup(channels)
    size = script.page_size
    main.part()
    for number, wire in enumerate(wires):
        wire.pages([2 * number, 2 * number + 1])
    script.mark()
    main.part()
    wires[-1].pages([0], salt=7)
    script.mark()
    script.finish()
    memory = {number: page(number, size) for number in range(2 * channels)}
    return memory | {0: page(7, size)}


def assert_memory(run: Run, pages: dict[int, bytes], block: bytes = BLOCK) -> None:
    size, memory = run.script.page_size, run.memory[block]
    for number in range(len(memory) // size):
        expected = pages.get(number, bytes(size))
        assert memory[number * size : (number + 1) * size] == expected, f"page {number}"


# ---- what comes, whoever it comes from -----------------------------------------------------------


@pytest.mark.parametrize("method", METHOD)
def test_pages_of_every_method_arrive(method: str) -> None:
    with serving(script={"method": method}) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)


@pytest.mark.parametrize("dialect", [d.name for d in DIALECTS])
def test_pages_of_every_dialect_arrive(dialect: str) -> None:
    with serving(script={"dialect": dialect}) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)
    assert run.received.rounds == 4


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_pages_of_every_size_arrive(size: int) -> None:
    with serving(script={"page_size": size}) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_pages_of_any_number_of_channels_arrive(channels: int) -> None:
    with serving(given={"channels": channels}) as run:
        pages = three_rounds(run.script, channels)
    assert run.error is None
    assert_memory(run, pages)
    assert [channel.id for channel in run.received.channels] == list(range(channels))


def test_what_came_is_counted() -> None:
    with serving() as run:
        three_rounds(run.script)
    first, second = run.received.channels
    assert (first.packets, first.syncs, first.normal, first.zero) == (5, 4, 2, 0)
    assert (second.packets, second.syncs, second.normal) == (6, 4, 3)
    assert second.bytes == 6 * (320 + 8 * page_count(PAGE)) + 3 * PAGE
    assert run.received.machine == "none"
    assert run.received.main_bytes == len(run.script.wires[0].sent)
    assert run.received.warnings == ()
    assert 0 < run.received.seconds < 5


def test_a_full_packet_in_any_order_arrives() -> None:
    order = [*range(63, -1, -2), *range(0, 64, 2)]
    with serving() as run:
        main, (first, _) = run.script.setup()
        main.part()
        first.pages(order)
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {number: page(number) for number in range(64)})


def test_every_block_has_its_own_pages() -> None:
    blocks = {b"empty": 0, BLOCK: 4 * PAGE, b"pc.bios": 2 * PAGE}
    with serving(script={"blocks": blocks}) as run:
        main, (first, _) = run.script.setup()
        main.part()
        first.pages([1]).pages([0, 1], salt=9, ramblock=b"pc.bios".ljust(256, b"\0"))
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {1: page(1)})
    assert_memory(run, {0: page(9), 1: page(10)}, b"pc.bios")
    assert run.memory[b"empty"] == b""


@pytest.mark.parametrize("method", METHOD)
def test_a_page_that_was_written_becomes_zero_by_a_packet(method: str) -> None:
    with serving(script={"method": method}) as run:
        main, (first, second) = run.script.setup()
        main.part()
        first.pages([0, 1, 2])
        run.script.mark()
        main.part()
        second.pages([5], [1, 9])
        first.pages([], [2])
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {0: page(0), 5: page(5)})


@pytest.mark.parametrize("dialect", ["7.2", "10.0"])
def test_a_page_that_was_written_becomes_zero_by_the_main_stream(dialect: str) -> None:
    with serving(script={"dialect": dialect}) as run:
        main, (first, _) = run.script.setup()
        main.part()
        first.pages([0, 1, 2, 3])
        run.script.mark()
        main.part().records(RamZero(BLOCK, (PAGE, 2 * PAGE)), RamZero(BLOCK, (9 * PAGE,)))
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {0: page(0), 3: page(3)})


def test_legacy_marks_are_the_ends_of_sections() -> None:
    with serving(script={"modern": False}) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)
    assert run.received.rounds == 4


def test_channels_come_first_and_the_main_stream_last() -> None:
    with serving() as run:
        script = run.script
        script.channel(1)
        script.channel(0)
        script.main().start()
        script.mark()
        script.finish()
    assert run.error is None


def test_a_source_comes_later_than_the_timeout() -> None:
    with serving(timeout=0.2) as run:
        threading.Event().wait(0.5)
        main = run.script.main().start()
        threading.Event().wait(0.1)
        run.script.channel(0)
        run.script.channel(1)
        run.script.mark()
        assert main
        run.script.finish()
    assert run.error is None


def test_a_stranger_that_comes_and_goes_before_harms_nobody() -> None:
    with serving(timeout=1) as run:
        run.script.open().close()
        run.script.open().send(b"GET").close()
        three_rounds(run.script)
    assert run.error is None


# ---- what QEMU takes -----------------------------------------------------------------------------


def test_pages_of_a_sync_packet_are_loaded_before_it_counts() -> None:
    """SYNC-12: senders of 8.2 and older put pages there, and an empty packet behind."""
    with serving(script={"dialect": "7.2"}) as run:
        main, (first, second) = run.script.setup()
        main.part()
        stale = {"ramblock": BLOCK.ljust(256, b"\1"), "next_packet_size": 4096}
        first.pages([3], flags=1).send(first.head(**stale))
        second.sync(**stale, offset=(1 << 60,) * 9)
        main.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {3: page(3)})


def test_what_a_receiver_must_not_look_at_is_not_looked_at() -> None:
    """INIT-14, PKT-29, PKT-32, PAY-17, and bits of `flags` that mean nothing."""
    with serving() as run:
        script = run.script
        main = script.main()
        first = script.channel(0, unused1=b"\xff" * 7, unused2=b"\xff" * 32)
        script.channel(1)
        main.start()
        script.mark()
        main.part()
        reserved: dict[str, Any] = {
            "unused32": b"\xff" * 4,
            "unused64": b"\xff" * 24,
            "packet_num": 1 << 63,
        }
        first.pages([1], **reserved, next_packet_size=77, flags=1 << 31 | 0x80)
        head, payload = first.packet([2])
        first.send(head[:-8] + b"\xff" * 8, payload)  # the last offset, of no page
        first.send(first.head(ramblock=b"\xff" * 256, offset=(1,) * 5, next_packet_size=99))
        script.mark()
        script.finish()
    assert run.error is None
    assert_memory(run, {1: page(1), 2: page(2)})


def test_a_name_without_nul_ends_at_its_255th_byte() -> None:
    name = b"n" * 255
    with serving(script={"blocks": {name: 4 * PAGE}}) as run:
        main, (first, _) = run.script.setup()
        main.part()
        first.pages([1], [2], ramblock=name + b"x")
        run.script.mark()
        run.script.finish()
    assert run.error is None
    assert_memory(run, {1: page(1)}, name)


def test_the_last_sync_of_senders_of_9_2_needs_no_mark() -> None:
    with serving(script={"dialect": "9.2"}) as run:
        main, channels = run.script.setup()
        main.end()
        run.script.mark()
        for channel in channels:
            channel.sync()
        main.finish()
        run.script.close()
    assert run.error is None
    assert run.received.rounds == 2


# ---- what a receiver answers and saves -----------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "ack"),
    [("7.2", ""), ("8.1", "0007 0000"), ("10.0", "0007 0000"), ("11.1", "")],
)
def test_the_return_path_is_answered(dialect: str, ack: str) -> None:
    with serving(script={"dialect": dialect}) as run:
        main, _ = run.script.setup(2, OPEN_RETURN_PATH, PING)
        main.end()
        run.script.mark()
        main.finish()
        for channel in run.script.channels:
            channel.close()
        main.socket.shutdown(socket.SHUT_WR)
        answer = main.receive()
    assert run.error is None
    pong, shut = "0002 0004 00000001", "0001 0004 00000000"
    assert answer == bytes.fromhex(ack + pong + shut)


def test_without_a_return_path_nothing_is_answered() -> None:
    with serving() as run:
        main, channels = run.script.setup()
        main.end()
        run.script.mark()
        main.finish()
        for wire in run.script.wires:
            wire.socket.shutdown(socket.SHUT_WR)
        assert [wire.receive() for wire in (main, *channels)] == [b"", b"", b""]
    assert run.error is None


def test_memory_main_stream_and_device_state_are_saved(tmp_path: Path) -> None:
    with serving(save=tmp_path, script={"blocks": {BLOCK: 4 * PAGE, b"../etc/x": PAGE}}) as run:
        main, (first, second) = run.script.setup()
        main.part()
        first.pages([1]).device_state(b"one", instance_id=3).device_state(b"two", instance_id=3)
        second.pages([0], ramblock=b"../etc/x".ljust(256, b"\0")).device_state(bytes(200_000))
        run.script.mark()
        run.script.finish()
    assert run.error is None
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert saved == {
        "pc.ram.ram": bytes(PAGE) + page(1) + bytes(2 * PAGE),
        "_etc_x.ram": page(0),
        MAIN_FILE: bytes(main.sent),
        "vfio-3-device_state.bin": b"one",
        "vfio-3-device_state~2.bin": b"two",
        "vfio-0-device_state.bin": bytes(200_000),
    }
    assert [channel.device_state for channel in run.received.channels] == [2, 1]


def test_device_state_is_refused_where_no_device_takes_it() -> None:
    with serving(device_state=False) as run:
        main, (first, _) = run.script.setup()
        main.part()
        at = len(first.sent)
        first.device_state(b"x", b"0000:00:02.0/vfio", instance_id=3)
    seen = "device is '0000:00:02.0/vfio', instance 3, must be one that takes state from channels"
    assert run.error == f"channel 0 @{at:#x} DEV-5: {seen}"


def test_device_state_is_dropped_where_nothing_is_saved() -> None:
    with serving() as run:
        main, (first, _) = run.script.setup()
        main.part()
        first.device_state(b"x" * 200_000)
        run.script.mark()
        run.script.finish()
    assert run.error is None


# ---- the verdict ---------------------------------------------------------------------------------


def checked(script: Script, path: Path) -> Report:
    """Judge what a script has sent as `multifd check` does, from a capture."""
    talks = [Talk(port=40000 + number).handshake() for number in range(len(script.wires))]
    for talk, wire in zip(talks, script.wires, strict=True):
        talk.stream(bytes(wire.sent), 1400)
        talk.send("FA", len(wire.sent)).send("FA", 0, forward=False)
    write_pcap(path, sorted((f for talk in talks for f in talk.frames), key=lambda f: f.time))
    size = script.page_size
    given = parameters(dialect=script.dialect.name, page_size=size, method=script.method)
    follower = Follower(given, decode=True)
    for _ in follower.follow(CaptureReader([path])):
        pass
    (session,) = follower.sessions
    return session.checker.conclude()


def findings(report: Report) -> dict[str, tuple[Verdict, int, list[str]]]:
    return {
        result.requirement.id: (
            result.verdict,
            result.count,
            sorted(violation.message for violation in result.violations),
        )
        for result in report.results
        if result.requirement.id != "MAIN-8"  # in a capture, channels show later than here
    }


@pytest.mark.parametrize("wrong", [{}, {"unused64": b"\1" * 24}, {"next_packet_size": 5}])
def test_the_report_is_that_of_check_on_the_same_bytes(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    with serving(check=True) as run:
        main, (first, second) = run.script.setup()
        main.part()
        first.pages([0, 1], [7], **wrong)
        second.pages([4])
        run.script.mark()
        run.script.finish()
    assert run.error is None
    report = run.received.report
    assert report
    assert report.violated == bool(wrong)
    assert findings(report) == findings(checked(run.script, tmp_path / "a.pcap"))


def test_without_check_nothing_is_judged() -> None:
    with serving() as run:
        three_rounds(run.script)
    assert run.received.report is None


# ---- transports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp::0", "tcp:localhost:0"])
def test_tcp(uri: str) -> None:
    with serving(uri) as run:
        host = {"tcp::0": "127.0.0.1"}.get(uri, run.receiver.address.host)
        run.script.address = Address("tcp", host, run.receiver.address.port)
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)


def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with serving(f"unix:{path}") as run:
        assert path.is_socket()
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)
    assert not path.exists()


def test_fd_of_a_socket_that_listens(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        with serving(f"fd:{listener.fileno()}") as run:
            run.script.address = Address("unix", str(tmp_path / "sock"))
            pages = three_rounds(run.script)
        assert run.error is None
        assert_memory(run, pages)


def test_fd_of_connected_sockets() -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    uri = "fd:" + ",".join(str(mine.fileno()) for mine, _ in pairs)
    with serving(uri) as run:
        for mine, _ in pairs:
            mine.close()
        theirs = tuple(their.fileno() for _, their in pairs)
        run.script.address = Address("fd", fds=theirs)
        main, channels = run.script.setup()
        for _, their in pairs:
            their.close()
        assert main
        assert channels
        run.script.finish()
    assert run.error is None


def test_vsock() -> None:
    uri = "vsock:1:0"
    if not _has_vsock_loopback():
        pytest.skip("this kernel has no loopback for vsock")
    with serving(uri) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert_memory(run, pages)


def _has_vsock_loopback() -> bool:
    try:
        with socket.socket(socket.AF_VSOCK) as one, socket.socket(socket.AF_VSOCK) as two:
            one.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            one.listen()
            two.settimeout(0.2)
            two.connect((1, one.getsockname()[1]))
            return True
    except OSError:
        return False


@pytest.mark.parametrize("method", ["none", "zstd"])
def test_tls(method: str, tmp_path: Path) -> None:
    credentials = TlsCredentials(issue(tmp_path / "tls"))
    script = {"tls": credentials.client(), "method": method}
    with serving(tls=credentials, script=script, check=True) as run:
        pages = three_rounds(run.script)
    assert run.error is None
    assert run.received.warnings == ()
    assert run.received.report
    assert not run.received.report.violated
    assert_memory(run, pages)


NO_NOTIFY = (
    "TLS-5: end of the stream is without close_notify, should be after close_notify, which sources"
    " send since 10.0"
)


@pytest.mark.parametrize(("dialect", "error"), [("9.2", ""), ("10.0", NO_NOTIFY)])
def test_tls_without_close_notify_is_refused_where_the_dialect_demands_it(
    dialect: str, error: str, tmp_path: Path
) -> None:
    credentials = TlsCredentials(issue(tmp_path / "tls"))
    script = {"tls": credentials.client(), "dialect": dialect}
    with serving(tls=credentials, script=script) as run:
        main, _ = run.script.setup(1 + 1)
        main.end()
        run.script.mark()
        main.finish()
        run.script.close(notify=False)
    assert bool(run.error) is bool(error)
    assert (run.error or "").endswith(error)
    assert run.received.warnings == ()


# ---- ending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
def test_another_thread_can_interrupt(connected: bool) -> None:
    with serving(timeout=30) as run:
        if connected:
            run.script.setup()
        run.receiver.interrupt()
    assert run.error == "interrupted"
    run.receiver.interrupt()  # has nothing to do any more


def test_a_defect_of_the_receiver_is_told_from_a_fault_of_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defect = ZeroDivisionError("of ours")
    escaped: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: escaped.append(args.exc_value))

    def fail(*_: object) -> NoReturn:
        raise defect

    monkeypatch.setattr(ChannelReader, "run", fail)
    with serving() as run:
        run.script.main()
        run.script.channel(0)
    failure = run.received.failure
    assert failure
    assert failure.message.endswith(": its thread has failed")
    assert failure.defect is defect
    assert escaped == [defect]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    credentials = TlsCredentials(issue(tmp_path / "tls"))
    receiver = Receiver(Address("unix", str(path)), parameters(), tls=credentials, timeout=30)
    with receiver:
        script = Script(receiver.address, tls=credentials.client())

        def connect() -> None:
            script.main()
            script.channel(0)
            script.tls = None
            script.open()  # stands in its handshake
            threading.Event().wait(0.1)
            _thread.interrupt_main()

        thread = threading.Thread(target=connect)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            receiver.run()
        thread.join()
        script.close()
    assert not path.exists()


def test_a_receiver_that_never_runs_leaves_nothing_behind(tmp_path: Path) -> None:
    with Receiver(Address("unix", str(tmp_path / "sock")), parameters()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_credentials_that_cannot_be_used_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PeerError) as error:
        Receiver(parse_address("tcp::0"), parameters(), tls=TlsCredentials(tmp_path))
    assert str(error.value) == f"{tmp_path}/ca-cert.pem: TLS credentials lack this file"


def test_a_folder_that_cannot_be_written_to_is_said_so(tmp_path: Path) -> None:
    (tmp_path / MAIN_FILE).mkdir()
    with serving(save=tmp_path) as run:
        run.script.setup()
    assert run.error == f"{tmp_path}/{MAIN_FILE}: Is a directory"


def test_the_source_never_closes() -> None:
    with serving(timeout=0.3) as run:
        main, _ = run.script.setup()
        main.end()
        run.script.mark()
        main.finish()
        run.join()
    assert run.error is None
    assert run.received.warnings == ("the source did not close its connections",)


def test_the_source_resets_its_connections_at_the_end() -> None:
    with serving() as run:
        main, channels = run.script.setup(2, OPEN_RETURN_PATH)
        main.end()
        run.script.mark()
        main.finish()
        threading.Event().wait(0.1)
        for wire in (*channels, main):
            wire.reset()
    assert run.error is None


# ---- real sources ------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("release", ["5.2", "7.2", "10.0", "11.1"])
def test_memory_of_a_real_source_arrives(
    release: str, tls: bool, tmp_path: Path, qemu: Callable[[str], Path]
) -> None:
    credentials = TlsCredentials(issue(tmp_path / "tls")) if tls else None
    memory, size = tmp_path / "memory", 32 << 20
    memory.write_bytes(random.Random(release).randbytes(size // 2) + bytes(size // 2))
    creds = credentials.folder if credentials else None
    given = parameters(dialect=release, channels=3, uuid=UUID(lab.UUID).bytes)
    address = Address("tcp", "127.0.0.1")
    with (
        lab.guestless(
            qemu(release), memory, size=size, directory=tmp_path, tls_creds=creds
        ) as source,
        Receiver(address, given, check=True, tls=credentials, timeout=20) as receiver,
    ):
        lab.configure(source, channels=3, tls=tls)
        source.execute("migrate", {"uri": str(receiver.address)})
        received = receiver.run()
        assert lab.outcome(source).status == "completed"
        assert received.failure is None
        assert bytes(receiver.memory.blocks[lab.RAM.encode()].view) == memory.read_bytes()
    assert received.report
    assert not received.report.violated
    assert received.warnings == ()
