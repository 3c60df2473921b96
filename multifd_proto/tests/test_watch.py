"""The live view: what it says is what has gone through, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from click.testing import CliRunner

from multifd_proto.cli import watch
from multifd_proto.errors import PeerError
from multifd_proto.machine.parameters import MigrationParameters
from multifd_proto.machine.sending import SourceParameters
from multifd_proto.machine.verdict import Verdict
from multifd_proto.peers.address import parse_address
from multifd_proto.peers.lab import configure, guestless
from multifd_proto.peers.proxy.faults import parse_fault
from multifd_proto.peers.receive.receiver import Receiver
from multifd_proto.peers.send.ram_images import RamImages
from multifd_proto.peers.send.sender import Options, Sender
from multifd_proto.peers.statistics import total
from multifd_proto.tests.proxied import Sink, recorded, wait_for
from multifd_proto.tests.watching import WatchedRun, rows, text, until, watched
from multifd_proto.views.live_screens import Box, Question
from multifd_proto.views.live_values import State
from multifd_proto.wire.dialect import dialect_of
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import MultiFDInit

PAGE, PAGES, CHANNELS, ROUNDS = 4096, 2048, 3, 4
MAIN = b"QEVM\0\0\0\3"


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = set(threading.enumerate())
    yield
    wait_for(lambda: set(threading.enumerate()) <= before, "the end of all threads")


@contextmanager
def destination():
    """Our receiver, at work in a thread."""
    parameters = MigrationParameters(
        dialect=dialect_of("10.0"), page_size=PAGE, channels=CHANNELS, compression=METHODS[0]
    )
    with Receiver(parse_address("tcp:127.0.0.1:0"), parameters, timeout=10.0) as receiver:
        thread = Thread(target=receiver.run)
        thread.start()
        yield receiver
        thread.join()


@contextmanager
def source(address, folder, bandwidth):
    """Our sender, at work in a thread; what it has sent is in the list at the end."""
    pages = [random.Random(n).randbytes(PAGE) if n % 4 else bytes(PAGE) for n in range(PAGES)]
    (folder / "ram").write_bytes(b"".join(pages))
    with RamImages({b"ram0": [folder / "ram"]}, rounds=ROUNDS, dirty=0.2) as ram:
        options = Options(max_bandwidth=bandwidth, timeout=10.0)
        parameters = SourceParameters(dialect_of("10.0"), CHANNELS)
        sender, sent = Sender(address, parameters, ram, options=options), []
        thread = Thread(target=lambda: sent.append(sender.run()))
        thread.start()
        yield sent
        thread.join()


def view(run: WatchedRun, steps):
    """Show a migration without a terminal, and take steps while it is shown."""

    async def show():
        async with run.app.run_test(size=(120, 40)) as pilot:
            await steps(pilot)

    asyncio.run(show())


def over(app):
    return lambda: app.history.now.state.over


# ---- what it says --------------------------------------------------------------------------------


def test_the_view_of_a_whole_migration_says_what_was_sent(tmp_path):
    async def steps(pilot):
        app = run.app
        assert "○ waiting for a source" in text(app)[0]
        with source(run.address, tmp_path, 4 << 20) as sent:
            await until(pilot, lambda: rows(app, "rounds"), "a round")
            assert "● running" in text(app)[0]
            assert f"{run.address} → {run.target}" in text(app)[0]
            assert "✓ nothing is violated so far" in text(app)[2]
            assert app.history.rate() > 1e6
            await until(pilot, over(app), "the end")
        (result,) = sent
        assert result.completed
        main, *channels = rows(app, "connections")
        assert (main["id"], main["packets"], main["last"]) == ("main", "", "ended")
        assert main["SYNCs"] == str(ROUNDS + 2)  # its marks
        for row, counted in zip(channels, result.channels, strict=True):
            assert row["id"] == str(counted.id)
            names = ("packets", "SYNCs", "normal", "zero")
            said = tuple(int(row[name]) for name in names)
            assert said == (counted.packets, counted.syncs, counted.normal, counted.zero)
        rounds, sums = rows(app, "rounds"), total(result.channels)
        assert [row["round"] for row in rounds] == [str(n) for n in range(ROUNDS + 2)]
        for name, count in (("normal", sums.normal), ("zero", sums.zero)):
            assert sum(int(row[name]) for row in rounds) == count
        again = sum(int(row["again"]) for row in rounds)
        assert again == sums.normal + sums.zero - PAGES > 0
        assert f"{again} pages again" in text(app)[2].replace(",", "")
        assert "✓ went through" in text(app)[0]
        assert rows(app, "findings") == []

    with destination() as receiver, watched(receiver.address) as run:
        view(run, steps)
        run.watched.close()
        result = run.watched.result()
    assert result.status() == 0


def test_a_fault_is_found_while_the_migration_runs_and_enter_shows_the_requirement(tmp_path):
    async def steps(pilot):
        app = run.app
        with source(run.address, tmp_path, 2 << 20):
            await until(pilot, lambda: rows(app, "findings"), "a finding")
            assert app.history.now.state is State.RUNNING
            (found,) = (row for row in rows(app, "findings") if row["id"] == "PKT-16")
            assert found[""] == "✗"
            assert "channel 1 @" in found["first"]
            assert "next_packet_size is " in found["first"]
            assert "✗ VIOLATED so far: PKT-16" in text(app)[2]
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, Box), "the requirement")
            await pilot.pause()
            shown = " ".join(" ".join(text(app)).replace("│", " ").split())
            assert load()["PKT-16"].text in shown
            await pilot.press("escape")
            await until(pilot, over(app), "the end")
        assert any("fault id=1,packet=2:next_packet_size=+1: " in line for line in text(app))
        counts.update({row["id"]: row["times"] for row in rows(app, "findings")})

    counts: dict[str, str] = {}
    rule = parse_fault("id=1,packet=2:next_packet_size=+1")
    with destination() as receiver, watched(receiver.address, rules=(rule,)) as run:
        view(run, steps)
        run.watched.close()
        result = run.watched.result()
    report = result.report
    assert report
    found = report.of(Verdict.FAILED) + report.of(Verdict.DEVIATION)
    assert counts == {r.requirement.id: f"{r.count}x" for r in found}
    assert result.status() == 1


def test_violations_of_a_recorded_source_that_was_made_wrong_are_counted():
    streams = recorded("q11_1-none")
    streams[1] = streams[1][:4] + bytes(3) + b"\2" + streams[1][8:]

    async def steps(pilot):
        replaying = Thread(target=run.replay, args=(streams,))
        replaying.start()
        await until(pilot, over(run.app), "the end")
        replaying.join()
        (found,) = (row for row in rows(run.app, "findings") if row[""] == "✗")
        assert (found["id"], found["times"]) == ("INIT-2", "1x")
        assert "✗ VIOLATED: INIT-2 1x" in text(run.app)[2]

    with Sink() as sink, watched(sink.address) as run:
        view(run, steps)


def test_a_stalled_channel_shows(monkeypatch):
    monkeypatch.setattr("multifd_proto.views.live_history.STALLED", 0.5)

    async def steps(pilot):
        with run.dial() as main, run.dial() as channel:
            main.sendall(MAIN)
            channel.sendall(MultiFDInit(id=5).build())
            app = run.app
            await until(pilot, lambda: len(rows(app, "connections")) == 2, "the connections")
            await until(
                pilot, lambda: "!" in rows(app, "connections")[1]["last"], "a stalled channel"
            )
            assert rows(app, "connections")[1]["id"] == "5"
            channel.sendall(bytes(1))
            await until(
                pilot, lambda: "!" not in rows(app, "connections")[1]["last"], "no stall any more"
            )
        await until(pilot, over(app), "the end")
        assert "✗ did not go through" in text(app)[0]
        assert "✗ the main stream stopped before its end" in text(app)[2]

    with Sink() as sink, watched(sink.address) as run:
        view(run, steps)


def test_encrypted_connections_are_said_to_be_so():
    hello = b"\x16\x03\x01\x02\x00" + bytes(300)

    async def steps(pilot):
        run.replay([hello, hello])
        await until(pilot, over(run.app), "the end")
        assert [row["id"] for row in rows(run.app, "connections")] == ["tls", "tls"]
        assert "encrypted (TLS): nothing of it can be judged" in text(run.app)[2]

    with Sink() as sink, watched(sink.address) as run:
        view(run, steps)


def test_a_target_that_refuses_ends_it_with_the_reason():
    async def steps(pilot):
        with suppress(PeerError), run.dial():  # the proxy may be faster to close than we to open
            await until(pilot, over(run.app), "the end")
        await until(pilot, over(run.app), "the end")
        assert "✗ did not go through" in text(run.app)[0]
        assert "Connection refused" in text(run.app)[2]

    with Sink() as sink:
        nobody = sink.address
    with watched(nobody) as run:
        view(run, steps)
        run.watched.close()
        assert run.watched.result().status() == 3


def test_a_judge_that_dies_does_not_end_the_migration(tmp_path):
    async def steps(pilot):
        with source(run.address, tmp_path, 4 << 20) as sent:
            await until(pilot, lambda: rows(run.app, "rounds"), "a round")
            run.judge._child.kill()
            await until(pilot, over(run.app), "the end")
        assert sent[0].completed
        assert any("the judge has died: nothing more is judged" in line for line in text(run.app))

    with destination() as receiver, watched(receiver.address) as run:
        view(run, steps)
        run.watched.close()
        with pytest.raises(Exception, match="the judge has died"):
            run.watched.result()


# ---- keys ----------------------------------------------------------------------------------------


def test_quitting_asks_while_a_migration_runs_and_breaks_it(tmp_path):
    async def steps(pilot):
        app = run.app
        with source(run.address, tmp_path, 1 << 20) as sent:
            await until(pilot, lambda: rows(app, "rounds"), "a round")
            await pilot.press("q")
            await until(pilot, lambda: isinstance(app.screen, Question), "the question")
            await pilot.pause()
            assert any("Quitting breaks all its connections" in line for line in text(app))
            await pilot.press("n")
            await until(pilot, lambda: not isinstance(app.screen, Question), "no question")
            assert app.is_running
            await pilot.press("ctrl+c")
            await until(pilot, lambda: isinstance(app.screen, Question), "the question")
            await pilot.press("y")
            await until(pilot, lambda: not app.is_running, "the end of the view")
            run.watched.close()
        assert not sent[0].completed

    with destination() as receiver, watched(receiver.address) as run:
        view(run, steps)
        result = run.watched.result()
    assert result.outcome.interrupted
    assert result.status() == 130


def test_nobody_is_asked_before_there_is_a_migration():
    async def steps(pilot):
        await pilot.press("q")
        await until(pilot, lambda: not run.app.is_running, "the end of the view")

    with Sink() as sink, watched(sink.address) as run:
        view(run, steps)
        run.watched.close()
        assert run.watched.result().status() == 130


def test_a_paused_view_stands_still_and_then_catches_up(tmp_path):
    async def steps(pilot):
        app = run.app
        with source(run.address, tmp_path, 2 << 20):
            await until(pilot, lambda: rows(app, "rounds"), "a round")
            await pilot.press("p")
            await pilot.pause()
            assert "paused" in text(app)[0]
            before, sent = rows(app, "connections"), app.history.sent
            await until(pilot, lambda: app.history.sent > sent + (1 << 19), "half a MiB")
            assert rows(app, "connections") == before
            await pilot.press("p")
            await pilot.pause()
            assert rows(app, "connections") != before
            await pilot.press("q", "y")
            await until(pilot, lambda: not app.is_running, "the end of the view")
            run.watched.close()

    with destination() as receiver, watched(receiver.address) as run:
        view(run, steps)


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (120, 40), (200, 60), (40, 10)])
def test_every_table_has_its_place_whatever_the_size(size):
    streams = recorded("q10_0-zlib")

    async def show():
        async with run.app.run_test(size=(120, 40)) as pilot:
            run.replay(streams)
            await until(pilot, over(run.app), "the end")
            await pilot.resize_terminal(*size)
            await pilot.pause()
            lines = text(run.app)
            assert len(lines) == size[1]
            assert "went through" in lines[0]
            if size != (40, 10):
                shown = "\n".join(lines)
                for what in ("connections", "rounds", "what does not hold", "log", "quit"):
                    assert what in shown
                assert all(f"\n{row['id']:<5} " in shown for row in rows(run.app, "connections"))
            await pilot.press("question_mark")
            await until(pilot, lambda: isinstance(run.app.screen, Box), "help")

    with Sink() as sink, watched(sink.address) as run:
        asyncio.run(show())


# ---- the verb ------------------------------------------------------------------------------------


def test_without_a_terminal_it_names_what_needs_none():
    result = CliRunner().invoke(watch.command, ["tcp:127.0.0.1:0", "tcp:127.0.0.1:1"])
    assert result.exit_code == 2
    assert result.output.endswith(
        "Error: watch needs a terminal; without one use: multifd proxy --check --json\n"
    )


# ---- real QEMU -----------------------------------------------------------------------------------


@pytest.mark.qemu
def test_the_view_of_a_real_migration_says_what_qemu_says(qemu, tmp_path):
    pages = [random.Random(n).randbytes(PAGE) if n % 3 else bytes(PAGE) for n in range(4 * PAGES)]
    (tmp_path / "source.ram").write_bytes(b"".join(pages))

    def end(name):
        return guestless(
            qemu("10.0"), tmp_path / f"{name}.ram", size=PAGE * len(pages), directory=tmp_path,
            name=name, incoming=name == "destination",
        )  # fmt: skip

    async def steps(pilot):
        elsewhere = asyncio.to_thread  # a QEMU has an event loop of its own
        await elsewhere(source.migrate, str(run.address))
        await until(pilot, lambda: rows(run.app, "rounds"), "a round")
        assert "● running" in text(run.app)[0]
        await elsewhere(source.set_parameters, {"max-bandwidth": 1 << 34})
        answer = await elsewhere(source.wait_migrated)
        assert answer["status"] == "completed"
        assert (await elsewhere(target.wait_migrated))["status"] == "completed"
        await until(pilot, over(run.app), "the end")
        main, *channels = rows(run.app, "connections")
        assert main["id"] == "main"
        assert [row["id"] for row in channels] == ["0", "1", "2", "3"]
        ram = answer["ram"]
        assert sum(int(row["normal"]) for row in channels) == ram["normal"]
        assert sum(int(row["zero"]) for row in channels) == ram["duplicate"]
        counted = sum(c.sent for c in run.app.history.now.connections if c.kind == "multifd")
        assert counted == ram["multifd-bytes"]
        assert {row["SYNCs"] for row in channels} == {str(len(rows(run.app, "rounds")))}

    with end("source") as source, end("destination") as target:
        configure(source, channels=4, max_bandwidth=8 << 20)
        configure(target, channels=4)
        address = parse_address(target.listen_uri("tcp:127.0.0.1:0"))
        with watched(address) as run:
            view(run, steps)
            run.watched.close()
            result = run.watched.result()
    assert (tmp_path / "destination.ram").read_bytes() == b"".join(pages)
    assert result.status() == 0
