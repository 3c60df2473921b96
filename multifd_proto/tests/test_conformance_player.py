"""The player: what receivers of all kinds do is told for what it is, in bounded time."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import pytest

from multifd_proto.capture.follow import Follower
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.conformance.observation import Aftermath, Observation, Reaction
from multifd_proto.conformance.peers import parse_receiver
from multifd_proto.conformance.player import Budgets, play
from multifd_proto.conformance.recording import record
from multifd_proto.conformance.script import (
    MAIN,
    Absent,
    Arrive,
    Complete,
    DeviceState,
    Ended,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Reset,
    Script,
    ScriptError,
    Step,
    Sync,
)
from multifd_proto.conformance.stage import Stage, content
from multifd_proto.conformance.target import MACHINE, MEMORY, Description, Sense, Setup, State
from multifd_proto.machine.events import InitReceived, PacketReceived
from multifd_proto.peers.address import Address
from multifd_proto.peers.templates import template_for
from multifd_proto.tests.senders import nothing_left
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.return_path import SHUT, reply, shut_status
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

BEGUN: tuple[Step, ...] = (
    Open(wire=MAIN), Main(part="start"), Open(wire="0"), Init(wire="0"), Open(wire="1"),
    Init(wire="1"), Sync(wire="0"), Sync(wire="1"), Main(part="mark"),
)  # fmt: skip
SENT: tuple[Step, ...] = (Pages(wire="0", normal=(200,)), Arrive(page=200))
PAGE = 4096
QUICK = Budgets(connect=1.0, react=0.2, complete=0.3, answer=0.1, death=0.05, afterwards=0.05)


class Puppet:
    """A receiver that does what a test tells it."""

    def __init__(self, handler: Callable[[Puppet, socket.socket], None], answers: State) -> None:
        self.handler, self.answers = handler, answers
        self.memory = bytearray(MEMORY)
        self.death: str | None = None
        self.crashed = False
        self.over = threading.Event()
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("tcp", "127.0.0.1", self.listener.getsockname()[1])

    def __enter__(self) -> Self:
        self.threads.append(threading.Thread(target=self._accept))
        self.threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.over.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._handle, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            self.handler(self, connection)
            self.over.wait(5)

    def read(self, block: bytes, offset: int, length: int) -> bytes | None:
        return bytes(self.memory[offset : offset + length])

    def state(self, timeout: float) -> State:
        return self.answers

    def reason(self) -> tuple[str, ...]:
        return ("no reason",)

    def log(self) -> str:
        return ""


def take(puppet: Puppet, connection: socket.socket) -> Iterator[bytes]:
    """Read all, and yield what has come so far."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
        yield data


def swallow(puppet: Puppet, connection: socket.socket) -> None:
    for _ in take(puppet, connection):
        pass


def write_page(number: int, data: bytes) -> Callable[[Puppet, socket.socket], None]:
    def handler(puppet: Puppet, connection: socket.socket) -> None:
        for so_far in take(puppet, connection):
            if len(so_far) > PAGE:
                puppet.memory[number * PAGE : number * PAGE + len(data)] = data

    return handler


def description(**values: Any) -> Description:
    dialect = dialect_of("10.0")
    given: dict[str, Any] = {
        "senses": frozenset(Sense), "around": template_for(dialect), "roles": frozenset(),
        "blocks": {b"ram0": MEMORY},
    } | values  # fmt: skip
    return Description("puppet", "1", dialect, **given)


@contextmanager
def playing(
    handler: Callable[[Puppet, socket.socket], None],
    *steps: Step,
    answers: State = State.RUNNING,
    peer: Description | None = None,
) -> Iterator[Observation]:
    with nothing_left(), Puppet(handler, answers) as puppet:
        yield play(puppet, peer or description(), Script(steps), Setup(), QUICK)


# ---- reactions -----------------------------------------------------------------------------------


def test_a_page_in_memory_is_acceptance():
    with playing(write_page(200, content(200, 0, PAGE)), *BEGUN, *SENT) as seen:
        assert seen.reaction is Reaction.ACCEPTED
        assert seen.stood == "page 200 in memory"
        assert seen.image == ()
        assert seen.seen


def test_silence_is_no_acceptance_and_no_refusal():
    with playing(swallow, *BEGUN, *SENT) as seen:
        assert seen.reaction is Reaction.HUNG
        assert seen.stood == "page 200 in memory, for 0.2 s"
        assert seen.aftermath is Aftermath.UNKNOWN


def test_a_receiver_that_never_reads_holds_nobody_up():
    def lazy(puppet: Puppet, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        puppet.over.wait(5)

    started = time.monotonic()
    flood = [Pages(wire="0", normal=tuple(range(128))) for _ in range(32)]
    with playing(lazy, *BEGUN, *flood, *SENT) as seen:
        assert seen.reaction is Reaction.HUNG
    assert time.monotonic() - started < 12  # two wires are given time to go out, 5 s each


@pytest.mark.parametrize("how", ["ended", "reset"])
def test_the_end_of_the_wire_is_a_refusal(how):
    def close(puppet: Puppet, connection: socket.socket) -> None:
        for data in take(puppet, connection):
            if len(data) > PAGE:
                break
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with playing(close, *BEGUN, Pages(wire="0", normal=(1, 2), lands=False), *SENT) as seen:
        assert seen.reaction is Reaction.REJECTED
        assert list(seen.ended) == ["0"]
        assert seen.reason == ("no reason",)
        assert seen.image == ()


@pytest.mark.parametrize(
    ("death", "crashed", "reaction"),
    [
        ("signal SIGSEGV", True, Reaction.CRASHED),
        ("exit status 1", False, Reaction.REJECTED),
        ("exit status 134", True, Reaction.CRASHED),
    ],
)
def test_a_death_is_told_from_a_refusal(death, crashed, reaction):
    def die(puppet: Puppet, connection: socket.socket) -> None:
        for data in take(puppet, connection):
            if len(data) > PAGE:
                break
        connection.close()  # a process that dies closes first
        time.sleep(0.02)
        puppet.death, puppet.crashed = death, crashed

    with playing(die, *BEGUN, *SENT, answers=State.SILENT) as seen:
        assert seen.reaction is reaction
        assert seen.death == death


def test_who_is_not_there_is_not_judged():
    with Puppet(swallow, State.RUNNING) as puppet:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            puppet.address = Address("tcp", "127.0.0.1", gone.getsockname()[1])
        seen = play(puppet, description(), Script(BEGUN), Setup(), QUICK)
    assert seen.reaction is Reaction.UNREACHED
    assert seen.stood == f"step 0: {puppet.address}: Connection refused"
    assert [exchange.kind for exchange in seen.exchanges] == ["refused"]


def test_a_wire_that_is_not_open_is_the_scripts_fault():
    with playing(swallow, Init(wire="0")) as seen:
        assert seen.reaction is Reaction.UNREACHED
        assert seen.stood == "step 0: wire '0' is not open"


def test_all_wires_have_to_end_where_all_are_named():
    def main_stays(puppet: Puppet, connection: socket.socket) -> None:
        if connection.recv(4) == b"QEVM":
            puppet.over.wait(5)
        connection.shutdown(socket.SHUT_RDWR)

    with playing(main_stays, *BEGUN, Ended(wires=("0", "1"))) as seen:
        assert seen.reaction is Reaction.REJECTED
    with playing(main_stays, *BEGUN, Ended(wires=("0", "1", MAIN))) as seen:
        assert seen.reaction is Reaction.HUNG
        assert set(seen.ended) == {"0", "1"}


def test_the_script_goes_on_after_an_end_that_it_waits_for():
    steps = (*BEGUN, Open(wire="7"), Raw(wire="7", hex="00"), Ended(wires=("7",)), Pause(seconds=0))

    def strict(puppet: Puppet, connection: socket.socket) -> None:
        if connection.recv(1) == b"\0":
            connection.close()
        else:
            write_page(200, content(200, 0, PAGE))(puppet, connection)

    with playing(strict, *steps, *SENT) as seen:
        assert seen.reaction is Reaction.ACCEPTED


def test_a_silent_monitor_after_the_end_is_a_wedge():
    with playing(swallow, *BEGUN, *SENT, answers=State.SILENT) as seen:
        assert seen.aftermath is Aftermath.WEDGED


# ---- memory --------------------------------------------------------------------------------------


def test_pages_that_must_not_land_are_looked_for():
    steps = (*BEGUN, Pages(wire="0", normal=(7,), lands=False), Ended(wires=("0",)))

    def write_and_close(puppet: Puppet, connection: socket.socket) -> None:
        for data in take(puppet, connection):
            if len(data) > PAGE:
                puppet.memory[7 * PAGE : 8 * PAGE] = content(7, 0, PAGE)
                connection.close()
                return

    with playing(write_and_close, *steps) as seen:
        assert seen.reaction is Reaction.REJECTED
        assert seen.image == ("ram0 at 0x7000: 0000000800005eed, nothing was to be written there",)


def test_a_page_with_other_content_is_told():
    steps = (*BEGUN, Pages(wire="1", normal=(3,)), *SENT)
    with playing(write_page(200, content(200, 0, PAGE)), *steps) as seen:
        assert seen.reaction is Reaction.ACCEPTED
        assert seen.image == ("ram0 at 0x3000: zero, must be 0000000400005eed",)


def test_a_page_before_its_time_is_told():
    steps = (
        *BEGUN,
        Pages(wire="0", normal=(200,)),
        Absent(page=200, seconds=0.2),
        Arrive(page=200),
    )
    with playing(write_page(200, content(200, 0, PAGE)), *steps) as seen:
        assert seen.early == ("page 200 is in memory before its time",)


# ---- completion ----------------------------------------------------------------------------------

BLIND = description(senses=frozenset())


@pytest.mark.parametrize(
    ("status", "reaction"), [(0, Reaction.ACCEPTED), (1, Reaction.REJECTED), (None, Reaction.HUNG)]
)
def test_who_shows_nothing_else_tells_it_on_the_return_path(status, reaction):
    def answer(puppet: Puppet, connection: socket.socket) -> None:
        for data in take(puppet, connection):
            if data.startswith(b"QEVM") and len(data) > 500 and status is not None:
                connection.sendall(reply(SHUT, status.to_bytes(4, "big")))

    with playing(answer, *BEGUN, *SENT, peer=BLIND, answers=State.UNKNOWN) as seen:
        assert seen.reaction is reaction
        assert seen.exchanges[1].data.count(bytes.fromhex("08 0001 0000")) == 1  # OPEN_RETURN_PATH


@pytest.mark.parametrize(
    ("answers", "reaction"),
    [
        (State.COMPLETED, Reaction.ACCEPTED),
        (State.FAILED, Reaction.REJECTED),
        (State.RUNNING, Reaction.HUNG),
        (State.SILENT, Reaction.HUNG),
    ],
)
def test_what_the_receiver_says_counts(answers, reaction):
    with playing(swallow, *BEGUN, Complete(), answers=answers) as seen:
        assert seen.reaction is reaction


def test_a_status_of_a_return_path_is_found_behind_other_answers():
    assert shut_status(reply(2, bytes(4)) + reply(7) + reply(SHUT, bytes(4))) == 0
    assert shut_status(reply(2, bytes(4)) + reply(SHUT, bytes(4))[:-1]) is None
    assert shut_status(b"") is None


def test_the_reference_completes():
    peer = parse_receiver("builtin:")
    steps = (*BEGUN, *SENT, Main(part="part"), Sync(wire="0"), Sync(wire="1"), Main(part="mark"))
    with nothing_left(), peer.receive(Setup()) as running:
        seen = play(running, peer.describe(), Script((*steps, Complete())), Setup())
    assert (seen.reaction, seen.aftermath, seen.image) == (Reaction.ACCEPTED, Aftermath.CLEAN, ())


# ---- messages ------------------------------------------------------------------------------------


def stage(**values: Any) -> Stage:
    return Stage(Script((), **values), description(), MACHINE)


def test_a_message_in_parts_is_the_message():
    whole = stage().build(Pages(wire="0", normal=(1, 2), salt=3)).data
    parted = stage()
    parts = [
        parted.build(Pages(wire="0", normal=(1, 2), salt=3, skip=skip, first=first))
        for skip, first in ((0, 12), (12, 500), (500, None))
    ]
    assert b"".join(part.data for part in parts) == whole
    assert parts[1].what == "packet of 2 normal and 0 zero pages, number 0, bytes 12 to 500"
    assert {page for _, page in parted.landed} == {1 * PAGE, 2 * PAGE}


def test_a_part_of_a_message_lands_nothing():
    begun = stage()
    begun.build(Pages(wire="0", normal=(1,), first=2000))
    assert begun.landed == {}
    assert begun.doubtful == {(b"ram0", PAGE)}


def test_a_wires_number_is_its_channels_id():
    assert MultiFDInit.parse(stage().build(Init(wire="12b")).data).id == 12
    given = stage().build(Init(wire="1", fields={"id": 255, "uuid": "00" * 16}))
    assert MultiFDInit.parse(given.data) == MultiFDInit(id=255)
    assert given.what == f"init of channel 1, id 255, uuid {'00' * 16}"


def test_first_offsets_are_replaced():
    built = stage().build(Pages(wire="0", normal=(1, 2), fields={"offset": [5]}))
    assert MultiFDPacket.parse(built.data[:1344]).offset[:3] == (5, 2 * PAGE, 0)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            Init(wire="0", fields={"color": 1}),
            "init of channel 0: field 'color' is unknown, must be of MultiFDInit_t",
        ),
        (Init(wire="0", fields={"uuid": "xyz"}), "uuid: 'xyz' must be hex"),
        (Raw(wire="0", hex="0"), "raw: '0' must be hex"),
        (
            Main(part="tail"),
            "main: part is 'tail', must be one of header, start, zeros, mark, part, end, finish",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(step, message):
    with pytest.raises(ScriptError) as error:
        stage().build(step)
    assert str(error.value) == message


def test_a_value_that_does_not_fit_is_refused():
    with pytest.raises(ScriptError, match=r"^device state of vfio, flags -1: "):
        stage().build(DeviceState(wire="0", fields={"flags": -1}))


# ---- the capture ---------------------------------------------------------------------------------


def test_what_went_over_the_wires_is_a_capture(tmp_path):
    path = tmp_path / "case.pcapng"
    with playing(swallow, *BEGUN, *SENT, Reset(wire="1")) as seen:
        record(seen.exchanges, path, "PKT-1/case")
    found = [type(event) for _, event in Follower().follow(CaptureReader([path]))]
    assert found.count(InitReceived) == 2
    assert found.count(PacketReceived) == 3
