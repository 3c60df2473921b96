"""Connections that are too few, too many, silent or none of multifd: each ends, and is told of."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from multifd_proto.conformance.credentials import issue
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.senders import SLACK, TIMEOUT, Run, nothing_left, serving
from multifd_proto.wire.schema import MultiFDInit

INIT = MultiFDInit().build()
PEEKS, BY_ORDER = {"dialect": "10.0"}, {"dialect": "7.2"}


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left():
        yield


def incomplete(came: str) -> str:
    return f"set-up is incomplete after {TIMEOUT:g} s: {came}"


def anonymous(run: Run) -> str:
    """Return the error without the ports of this machine."""
    return re.sub(r" \(127\.0\.0\.1:\d+\)", "", run.error or "")


# ---- silent ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "nothing"),
        (b"\x11", "1 of its first 4 bytes"),
        (b"QEV", "3 of its first 4 bytes"),
        (INIT[:4], "4 of its first 4 bytes"),
        (INIT[:5], "5 of its first 64 bytes"),
        (INIT[:24], "24 of its first 64 bytes"),
        (INIT[:63], "63 of its first 64 bytes"),
    ],
    ids=["nothing", "1 byte", "3 bytes", "magic", "5 bytes", "24 bytes", "63 bytes"],
)
def test_a_connection_that_says_less_than_an_init_is_told_of(data: bytes, said: str) -> None:
    with serving(timeout=TIMEOUT, script=PEEKS) as run:
        run.script.open().send(data)
    came = f"no main stream and 0 of 2 channels came; connection 0 sent {said}"
    assert anonymous(run) == incomplete(came)
    assert TIMEOUT <= run.seconds < TIMEOUT + SLACK


@pytest.mark.parametrize("length", [0, 1, 63])
def test_half_an_init_is_told_of_where_the_order_decides(length: int) -> None:
    with serving(timeout=TIMEOUT, script=BY_ORDER) as run:
        run.script.main()
        run.script.open().send(INIT[:length])
    sent = f"{length} of its first 64 bytes" if length else "nothing"
    came = f"the main stream and 0 of 2 channels came; connection 1 sent {sent}"
    assert anonymous(run) == incomplete(came)


def test_an_init_that_comes_in_drops_is_given_up() -> None:
    with serving(timeout=TIMEOUT) as run:
        wire = run.script.open()
        for byte in INIT[:8]:
            wire.send(bytes([byte]))
            time.sleep(0.05)
    assert re.fullmatch(
        incomplete(
            r"no main stream and 0 of 2 channels came; connection 0 sent \d of its first .*"
        ),
        anonymous(run),
    )
    assert run.seconds < TIMEOUT + SLACK


@pytest.mark.parametrize("data", [b"", b"GE", INIT[:40]], ids=len)
def test_a_silent_stranger_keeps_nobody_out(data: bytes) -> None:
    with serving(timeout=2) as run:
        for _ in range(5):
            run.script.open().send(data)
        main, channels = run.script.setup()
        main.end()
        run.script.mark()
        main.finish()
        for wire in (main, *channels):
            wire.close()
    assert run.error is None


def test_a_silent_stranger_keeps_nobody_out_where_the_order_decides() -> None:
    with serving(timeout=2, script=BY_ORDER) as run:
        main = run.script.main()
        for length in (0, 1, 40):
            run.script.open().send(INIT[:length])
        channels = [run.script.channel(number) for number in range(2)]
        main.start()
        run.script.mark()
        main.end()
        run.script.mark()
        main.finish()
        for wire in (main, *channels):
            wire.close()
    assert run.error is None


def test_a_stranger_that_outlasts_its_time_does_not_end_a_migration() -> None:
    with serving(timeout=TIMEOUT) as run:
        run.script.open().send(INIT[:40])
        main, (first, _) = run.script.setup()
        main.part()
        for number in range(8):
            first.pages([number])
            time.sleep(TIMEOUT / 4)
        run.script.mark()
        run.script.finish()
    assert run.error is None


# ---- too few -------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [PEEKS, BY_ORDER])
def test_too_few_channels_are_counted(script: dict[str, str]) -> None:
    with serving(timeout=TIMEOUT, script=script, given={"channels": 4}) as run:
        run.script.setup(3)
    assert run.error == incomplete("the main stream and 3 of 4 channels came")
    assert run.seconds < TIMEOUT + SLACK


def test_a_main_stream_that_lacks_is_told_of() -> None:
    with serving(timeout=TIMEOUT) as run:
        run.script.channel(0).sync()
        run.script.channel(1).sync()
    assert run.error == incomplete("no main stream and 2 of 2 channels came")
    assert run.seconds < TIMEOUT + SLACK


# ---- too many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [PEEKS, BY_ORDER])
def test_surplus_connections_are_closed_and_counted(script: dict[str, str]) -> None:
    with serving(script=script) as run:
        main, _ = run.script.setup()
        time.sleep(0.1)
        surplus = [run.script.open().send(INIT) for _ in range(3)]
        assert [wire.receive() for wire in surplus] == [b""] * 3
        assert main
        run.script.finish()
    assert run.error is None
    assert run.received.warnings == ("surplus connections that were closed: 3",)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (2, "INIT-12: id is 2, must be below 2"),
        (255, "INIT-12: id is 255, must be below 2"),
        (1, "INIT-13: id is 1, must be that of no other channel"),
    ],
)
def test_a_channel_whose_id_is_not_free_ends_the_migration(number: int, said: str) -> None:
    with serving() as run:
        run.script.main()
        run.script.channel(1)
        time.sleep(0.05)
        run.script.channel(number)
    assert run.error == f"stream 2 @0x0 {said}"
    assert run.seconds < SLACK


def test_a_second_main_stream_is_refused() -> None:
    with serving() as run:
        run.script.main().start()
        time.sleep(0.05)
        run.script.main().start()
    said = "connection is a second main stream, must be a multifd channel"
    assert run.error == f"stream 1 @0x0 CHAN-4: {said}"


def test_ten_thousand_connections_are_survived(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with serving(f"unix:{path}", timeout=20) as run:
        for _ in range(19):
            run.script.open()
        for _ in range(10_000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
        time.sleep(0.1)
        run.script.close()
        time.sleep(0.2)
        run.script.setup()
        run.script.finish()
    assert run.error is None
    (warning,) = run.received.warnings
    assert int(warning.removeprefix("surplus connections that were closed: ")) > 9_900


def test_connections_that_stay_do_not_pile_up() -> None:
    with serving(timeout=0.8) as run:
        strangers = [run.script.open() for _ in range(100)]
        busy = threading.active_count()
    assert strangers
    assert busy < 40
    assert anonymous(run).startswith("set-up is incomplete after 0.8 s: no main stream and 0 of 2")
    assert run.received.warnings == ("surplus connections that were closed: 81",)


# ---- of no kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0", bytes(64)])
def test_other_first_bytes_are_refused(start: bytes) -> None:
    with serving() as run:
        run.script.open().send(start)
    seen = start[:4].hex(" ")
    said = f"start of a connection is {seen}, must be 51 45 56 4d or 11 22 33 44"
    assert run.error == f"stream 0 @0x0 CHAN-6: {said}"
    assert run.requirement == "CHAN-6"
    assert run.seconds < SLACK


@pytest.mark.parametrize("length", [4, 5, 63])
def test_an_init_that_ends_early_ends_the_migration(length: int) -> None:
    with serving() as run:
        run.script.open().send(INIT[:length]).close()
    early = f"{64 - length} bytes early"
    said = f"end of the stream is {early}, must be between two packets"
    assert run.error == f"stream 0 @{length:#x} CHAN-11: {said}"


def test_a_reset_during_an_init_is_named() -> None:
    with serving() as run:
        wire = run.script.open().send(INIT[:10])
        time.sleep(0.1)
        wire.reset()
    assert anonymous(run) == "connection 0: Connection reset by peer"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"magic": 1}, "INIT-9: magic is 0x00000001, must be 0x11223344"),
        ({"version": 2}, "INIT-10: version is 2, must be 1"),
    ],
)
def test_a_wrong_init_is_refused_where_the_order_decides(values: dict[str, int], said: str) -> None:
    with serving(script=BY_ORDER) as run:
        run.script.main()
        run.script.channel(0, **values)
    assert run.error == f"stream 1 @0x0 {said}"


# ---- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> TlsCredentials:
    return TlsCredentials(issue(tmp_path_factory.mktemp("tls") / "one"))


def test_a_plain_source_is_refused_by_a_receiver_with_tls(credentials: TlsCredentials) -> None:
    with serving(tls=credentials) as run:
        run.script.channel(0)
    assert anonymous(run) == "connection 0: TLS handshake: wrong version number"
    assert run.seconds < SLACK


def test_a_source_with_tls_is_refused_by_a_plain_receiver(credentials: TlsCredentials) -> None:
    with serving(script={"tls": credentials.client()}) as run, suppress(Exception):
        run.script.main()
    assert run.requirement == "CHAN-6"
    assert "start of a connection is 16 03 01" in (run.error or "")


def test_a_source_without_certificate_is_refused(credentials: TlsCredentials) -> None:
    context = credentials.client()
    bare = type(context)(context.protocol)
    bare.load_verify_locations(credentials.folder / "ca-cert.pem")
    with serving(tls=credentials, script={"tls": bare}) as run:
        run.script.main().start()
    assert anonymous(run) == "connection 0: TLS handshake: peer did not return a certificate"


def test_a_source_need_not_have_a_certificate_that_is_not_demanded(
    credentials: TlsCredentials,
) -> None:
    context = credentials.client()
    bare = type(context)(context.protocol)
    bare.load_verify_locations(credentials.folder / "ca-cert.pem")
    lax = TlsCredentials(credentials.folder, verify_peer=False)
    with serving(tls=lax, script={"tls": bare}) as run:
        run.script.setup()
        run.script.finish()
    assert run.error is None


def test_a_source_of_another_authority_is_refused(
    credentials: TlsCredentials, tmp_path: Path
) -> None:
    other = TlsCredentials(issue(tmp_path / "other"))
    with serving(tls=credentials, script={"tls": other.client()}) as run, suppress(Exception):
        run.script.main()
    assert anonymous(run).startswith("connection 0: TLS handshake: ")
    assert run.seconds < SLACK


def test_a_handshake_that_stalls_is_told_of(credentials: TlsCredentials) -> None:
    with serving(tls=credentials, timeout=TIMEOUT) as run:
        run.script.open().send(b"\x16\x03\x01")
    came = "no main stream and 0 of 2 channels came; connection 0 is in its TLS handshake"
    assert anonymous(run) == incomplete(came)
    assert run.seconds < TIMEOUT + SLACK


def test_half_an_init_inside_tls_is_told_of(credentials: TlsCredentials) -> None:
    with serving(tls=credentials, timeout=TIMEOUT, script={"tls": credentials.client()}) as run:
        run.script.main()
        run.script.open().send(INIT[:10])
    came = "the main stream and 0 of 2 channels came; connection 1 sent 10 of its first 64 bytes"
    assert anonymous(run) == incomplete(came)
    assert run.seconds < TIMEOUT + SLACK
