"""TLS in captures: what Python's own TLS encrypts is decrypted, and what is lost is a gap."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multifd_proto.capture.events import End, Gap, Opened
from multifd_proto.capture.info import TlsFate
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls import decrypt as stage
from multifd_proto.capture.tls.hello import Opening
from multifd_proto.capture.tls.plaintext import UNSURE
from multifd_proto.capture.tls.suites import SUITES
from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import CaptureError
from multifd_proto.machine.check import Checker
from multifd_proto.peers.tls import TlsCredentials
from multifd_proto.tests.captures import EPOCH, read, write_pcap
from multifd_proto.tests.tls_sessions import (
    Session,
    converse,
    decrypt_frames,
    frame,
    frames,
    pieces,
)


def suites():
    """Return the suites of TLS 1.2 that Python's OpenSSL has for the certificates here."""
    context = ssl.create_default_context()
    context.set_ciphers("ECDHE:!PSK:!ARIA:!CAMELLIA:!NULL:!aNULL:@SECLEVEL=0")
    names = [c["name"] for c in context.get_ciphers() if c["protocol"] in ("TLSv1.2", "TLSv1.0")]
    return sorted(name for name in names if name != "ECDHE-ECDSA-DES-CBC3-SHA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return issue(tmp_path_factory.mktemp("tls") / "credentials")


def text(count, size, seed=0):
    """Return writes of the client: as many, all different."""
    return [(True, random.Random(seed + n).randbytes(size)) for n in range(count)]


def ends(seen):
    return [(s.end.offset, s.end.reset, s.end.by_peer) if s.end else None for s in seen]


# ---- whole sessions ----------------------------------------------------------------------------


@pytest.mark.parametrize("tls13", [True, False])
def test_both_directions_are_decrypted(tls13, folder, tmp_path):
    writes = [(True, b"hello"), (False, b"who is there"), (True, bytes(40000)), (False, b"x")]
    session = converse(folder, writes, tls13=tls13)
    (there, back), reader = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert (there.data, back.data) == (session.text(True), session.text(False))
    assert ends([there, back]) == [(40005, False, False), (13, False, False)]
    assert there.half.tls
    assert (there.half.bytes, there.half.missing) == (40005, 0)
    assert str(there.half.source) == "10.0.0.1:40000"
    assert there.half.anchored
    assert reader.info.tls == {TlsFate.DECRYPTED: 1}


@pytest.mark.parametrize("suite", suites())
def test_every_suite_of_python_is_decrypted(suite, folder, tmp_path):
    credentials = folder if "ECDSA" in suite else rsa(tmp_path)
    ciphers = f"{suite}:@SECLEVEL=0"
    session = converse(credentials, text(3, 5000), tls13=False, ciphers=ciphers)
    assert session.suite == suite
    (there, _), _ = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert there.data == session.text(True)


def rsa(tmp_path):
    import trustme

    folder = tmp_path / "rsa"
    folder.mkdir()
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    for end in ("server", "client"):
        leaf = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
        leaf.private_key_pem.write_to_path(folder / f"{end}-key.pem")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{end}-cert.pem")
    return folder


def test_the_suites_are_those_that_openssl_calls_so():
    kinds = {"gcm": "GCM", "ccm": "CCM", "chacha": "POLY1305", "cbc": "SHA"}
    context = ssl.create_default_context()
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    found = 0
    for known in context.get_ciphers():
        suite = SUITES.get(known["id"] & 0xFFFF)
        if suite:
            found += 1
            name = known["name"]
            assert kinds[suite.cipher] in name
            assert (suite.hash == "sha384") == name.endswith("SHA384")
            assert f"{suite.key * 8}" == str(known["strength_bits"])
            assert ("CCM8" in name) == (suite.tag == 8)
    assert found > 60


def test_times_are_those_of_the_last_byte_of_a_record(folder, tmp_path):
    session = converse(folder, [(True, bytes(16000))])
    packets = frames(session, 1000)
    (there, _), _ = decrypt_frames(tmp_path, packets, session.keylog)
    assert [event.time for event in there.events] == [packets[-3].time, packets[-2].time]


def test_close_notify_ends_a_direction_and_a_reset_after_it_does_not(folder, tmp_path):
    session = converse(folder, text(1, 100), close=True)
    packets = frames(session, fin=False)
    packets.append(frame(False, 10**6, b"", "R", number=len(packets)))
    (there, back), _ = decrypt_frames(tmp_path, packets, session.keylog)
    assert ends([there, back])[0] == (100, False, False)


def test_without_close_notify_the_end_is_that_of_the_connection(folder, tmp_path):
    session = converse(folder, text(1, 100))
    packets = frames(session, fin=False)
    packets.append(frame(False, 10**6, b"", "R", number=len(packets)))
    (there, _), _ = decrypt_frames(tmp_path, packets, session.keylog)
    assert ends([there])[0] == (100, True, True)


def test_what_is_unwanted_is_skipped(folder, tmp_path):
    session = converse(folder, text(8, 1000))
    path = write_pcap(tmp_path / "tls.pcap", frames(session), 101)
    reader = stage.Decrypted(CaptureReader([path]))
    reader.info.secrets.add(session.keylog.splitlines(), "keys")
    wanted = []
    for event in reader:
        if isinstance(event, Opened):
            event.half.unwanted_until = 2500
        elif event.half.forward and not isinstance(event, End):
            wanted.append((type(event).__name__, event.offset))
    assert wanted[:4] == [("Skipped", 0), ("Skipped", 1000), ("Skipped", 2000), ("Data", 2500)]


def test_a_server_that_asks_for_another_hello_is_followed(folder, tmp_path):
    session = converse(folder, text(3, 1000), curve="secp384r1")
    retry = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    assert retry in session.wire[1][1]
    (there, _), _ = decrypt_frames(tmp_path, frames(session, 300), session.keylog)
    assert there.data == session.text(True)


def test_a_handshake_in_tiny_segments_is_followed(folder, tmp_path):
    session = converse(folder, text(1, 30), tls13=False)
    (there, _), _ = decrypt_frames(tmp_path, frames(session, 4), session.keylog)
    assert there.data == session.text(True)


def test_connections_that_have_ended_are_forgotten(folder, tmp_path):
    session = converse(folder, text(1, 30))
    _, reader = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert (reader._held, reader._plain, reader._bytes) == ({}, {}, 0)


# ---- what cannot be decrypted passes -----------------------------------------------------------


def passes(session, tmp_path, keylog, fate, packets=None):
    packets = packets or frames(session)
    seen, reader = decrypt_frames(tmp_path, packets, keylog)
    raw, _ = read(tmp_path / "tls.pcap")
    assert [s.data for s in seen] == [s.data for s in raw]
    assert ends(seen) == ends(raw)
    assert not any(s.half.tls for s in seen)
    assert reader.info.tls == {fate: 1}


def test_without_secrets_tls_passes(folder, tmp_path):
    session = converse(folder, text(3, 1000))
    passes(session, tmp_path, b"", TlsFate.NO_SECRETS)


@pytest.mark.parametrize("tls13", [True, False])
def test_secrets_that_do_not_fit_are_refused(tls13, folder, tmp_path):
    session = converse(folder, text(3, 1000), tls13=tls13)
    lines = [line.split() for line in session.keylog.splitlines() if line[:1] != b"#"]
    wrong = b"\n".join(b" ".join((a, b, c[::-1])) for a, b, c in lines)
    passes(session, tmp_path, wrong, TlsFate.UNFIT)


def test_a_connection_that_began_before_the_capture_passes(folder, tmp_path):
    session = converse(folder, text(3, 1000))
    start = session.handshake + 2
    packets = frames(session, 1 << 16)[start:]
    seen, reader = decrypt_frames(tmp_path, packets, session.keylog)
    assert not reader.info.tls
    assert not any(s.half.tls for s in seen)


def test_a_handshake_with_a_hole_passes(folder, tmp_path):
    session = converse(folder, text(3, 1000))
    packets = frames(session, 100)
    del packets[3]
    passes(session, tmp_path, session.keylog, TlsFate.NO_HANDSHAKE, packets)


def test_old_versions_of_tls_pass(folder, tmp_path):
    session = converse(folder, text(3, 1000), tls13=False)
    hello = session.wire[1][1]
    place = hello.index(b"\x03\x03", 5)
    session.wire[1] = (False, hello[:place] + b"\x03\x02" + hello[place + 2 :])
    passes(session, tmp_path, session.keylog, TlsFate.UNSUPPORTED)


def test_what_is_no_tls_is_not_held_back(tmp_path):
    packets = [frame(True, -1, b"", "S"), frame(True, 0, b"\x11", number=1)]
    path = write_pcap(tmp_path / "c.pcap", packets, 101)
    reader = stage.Decrypted(CaptureReader([path]))
    assert [type(event).__name__ for event in islice(reader, 2)] == ["Opened", "Data"]
    assert not reader.info.tls


def test_no_more_is_held_back_than_the_bound(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "HOLD_ALL", 2500)  # less than a connection with a ClientHello
    session = converse(folder, text(3, 1000))
    passes(session, tmp_path, session.keylog, TlsFate.NO_HANDSHAKE)


def test_secrets_without_the_library_are_one_clear_line(folder, tmp_path, monkeypatch):
    session = converse(folder, text(1, 10))
    monkeypatch.setitem(sys.modules, "multifd_proto.capture.tls.protection", None)
    monkeypatch.delattr("multifd_proto.capture.tls.protection", raising=False)
    with pytest.raises(CaptureError) as caught:
        decrypt_frames(tmp_path, frames(session), session.keylog)
    assert str(caught.value) == ("TLS secrets need cryptography: pip install 'multifd-proto[tls]'")


# ---- loss --------------------------------------------------------------------------------------


def lose(packets, first, last):
    return packets[:first] + packets[last:]


@pytest.mark.parametrize("tls13", [True, False])
def test_a_hole_inside_a_record_loses_that_record_alone(tls13, folder, tmp_path):
    session = converse(folder, text(3, 10000), tls13=tls13)
    packets = frames(session)
    start = 2 + sum(-(-len(data) // 1448) for _, data in session.wire[: session.handshake])
    (there, _), _ = decrypt_frames(tmp_path, lose(packets, start + 9, start + 10), session.keylog)
    assert there.gaps == [(10000, 10000, "lost")]
    plain = session.text(True)
    assert pieces(there) == [(0, plain[:10000]), (20000, plain[20000:])]
    assert there.half.missing == 10000


@pytest.mark.parametrize("tls13", [True, False])
def test_a_hole_over_records_tells_how_much_plaintext_is_gone(tls13, folder, tmp_path):
    sizes = [100, 5000, 3, 16384, 700, 40, 1000]
    writes = [(True, random.Random(n).randbytes(size)) for n, size in enumerate(sizes)]
    session = converse(folder, writes, tls13=tls13)
    packets = frames(session, 50)
    start = 2 + sum(-(-len(data) // 50) for _, data in session.wire[: session.handshake])
    (there, _), _ = decrypt_frames(tmp_path, lose(packets, start + 20, start + 440), session.keylog)
    # the header of the second record was seen; the other three are known by their number
    assert there.gaps == [(100, 5000, "lost"), (5100, 3 + 16384 + 700, "lost")]
    assert pieces(there)[1:] == [(22187, writes[5][1]), (22227, writes[6][1])]


def test_a_large_hole_unlike_all_before_is_measured(folder, tmp_path):
    """The records that are gone are much smaller than those that were seen."""
    session = converse(folder, text(4, 16000) + text(6000, 20) + text(3, 500))
    packets = frames(session, 1 << 16)
    start = 2 + session.handshake
    packets = lose(packets, start + 4, start + 6004)
    (there, _), _ = decrypt_frames(tmp_path, packets, session.keylog)
    assert there.gaps == [(64000, 6000 * 20, "lost")]
    assert pieces(there)[-1] == (64000 + 6000 * 20 + 1000, session.plain[-1][1])


def test_a_hole_under_cbc_is_longer_than_any_packet(folder, tmp_path):
    session = converse(folder, text(6, 1000), tls13=False, ciphers="ECDHE-ECDSA-AES128-SHA256")
    packets = frames(session, 1 << 16)
    start = 2 + session.handshake
    (there, _), _ = decrypt_frames(tmp_path, lose(packets, start + 1, start + 3), session.keylog)
    ((offset, length, reason),) = there.gaps
    assert (offset, reason) == (1000, "lost")
    assert length >= 2000 + UNSURE - 100
    assert pieces(there)[1][1] == session.plain[3][1]


def test_snapped_records_are_gaps(folder, tmp_path):
    session = converse(folder, text(4, 1000))
    packets = frames(session, 1 << 16)
    start = 2 + session.handshake
    packets[start + 1 : start + 3] = [p.snapped(100) for p in packets[start + 1 : start + 3]]
    (there, _), _ = decrypt_frames(tmp_path, packets, session.keylog)
    assert there.gaps == [(1000, 1000, "snapped"), (2000, 1000, "snapped")]
    assert pieces(there)[-1] == (3000, session.plain[3][1])


def test_a_forged_record_is_a_gap(folder, tmp_path):
    session = converse(folder, text(5, 1000))
    client, data = session.wire[session.handshake + 2]
    session.wire[session.handshake + 2] = (client, data[:500] + b"!" + data[501:])
    if session.wire[session.handshake + 2][1] == data:
        pytest.skip("the byte was that already")
    (there, _), _ = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert there.gaps == [(2000, 1000, "lost")]
    plain = session.text(True)
    assert there.data == plain[:2000] + b"?" * 1000 + plain[3000:]


def test_after_a_record_that_is_never_found_all_is_a_gap(folder, tmp_path):
    session = converse(folder, text(80, 1000))
    kept = session.wire[: session.handshake + 1]
    noise = [(True, data[:5] + bytes(len(data) - 5)) for _, data in session.wire[len(kept) :]]
    session.wire = kept + noise
    (there, _), _ = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert there.data == session.plain[0][1] + b"?" * 79000
    assert there.end


def cut(draw_sizes, session):
    """Return packets of a session in segments of sizes that repeat."""
    packets, places, number = [], {True: 0, False: 0}, 0
    sizes = list(draw_sizes)
    for index, (forward, data) in enumerate(session.wire):
        while data:
            size = sizes[number % len(sizes)]
            packets.append((index, forward, places[forward], data[:size]))
            places[forward] += len(data[:size])
            data, number = data[size:], number + 1
    return packets, places


WRITES = st.lists(
    st.tuples(st.booleans(), st.integers(8, 20000), st.integers(0, 1 << 30)), max_size=12
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    writes=WRITES,
    sizes=st.lists(st.integers(40, 9000), min_size=1, max_size=5),
    lost=st.sets(st.integers(0, 200), max_size=12),
    early=st.booleans(),
    swaps=st.lists(st.integers(0, 200), max_size=8),
    tls13=st.booleans(),
)
def test_what_is_decrypted_is_what_was_written(folder, writes, sizes, lost, early, swaps, tls13):
    said = [
        (client, random.Random(f"{n} {seed}").randbytes(size))
        for n, (client, size, seed) in enumerate(writes)
    ]
    session = converse(folder, said, tls13=tls13)
    packets, places = cut(sizes, session)
    kept = [
        frame(forward, offset, data)
        for number, (index, forward, offset, data) in enumerate(packets)
        if number not in lost or (index < session.handshake and not early)
    ]
    for place in swaps:
        kept[place : place + 2] = kept[place : place + 2][::-1]
    packed = [frame(True, -1, b"", "S"), frame(False, -1, b"", "SA"), *kept]
    packed += [frame(forward, places[forward], b"", "FA") for forward in (True, False)]
    for number, packet in enumerate(packed):
        packet.time = EPOCH + number * 15_625_000
    with tempfile.TemporaryDirectory() as scratch:
        seen, reader = decrypt_frames(Path(scratch), packed, session.keylog)
    if TlsFate.DECRYPTED not in reader.info.tls:
        assert early
        assert not any(s.half.tls for s in seen)
        return
    for half in seen:
        compare(half, session, exact=not (early or swaps))
        if not lost:
            assert half.data == session.text(half.half.forward)


def compare(seen, session: Session, *, exact: bool) -> None:
    """Data are what was written, at its place; behind keys that changed unseen it is a guess."""
    plain = session.text(seen.half.forward)
    sure = exact or not any(isinstance(e, Gap) and e.length >= UNSURE for e in seen.events)
    after = 0
    for offset, data in pieces(seen):
        place = plain.index(data, after)
        assert place == offset or not sure
        after = place + len(data)


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(
        st.tuples(*[st.integers(0, 1 << 20)] * 2, st.integers(0, 4), st.binary(max_size=4)),
        min_size=1,
        max_size=6,
    ),
    tls13=st.booleans(),
)
def test_nothing_raises_on_any_bytes(folder, changes, tls13):
    session = converse(folder, [(True, b"abc" * 500), (False, b"x")], tls13=tls13)
    wire = [(client, bytearray(part)) for client, part in session.wire]
    for item, place, size, data in changes:
        part = wire[item % len(wire)][1]
        place %= len(part) or 1
        part[place : place + size] = data
    session.wire = [(client, bytes(part)) for client, part in wire]
    with tempfile.TemporaryDirectory() as scratch:
        seen, _ = decrypt_frames(Path(scratch), frames(session), session.keylog)
    for half in seen:
        if half.half.tls:
            assert all(data in session.text(half.half.forward) for _, data in pieces(half))


@given(st.sampled_from([b"", b"\x16\x03\x03", b"\x16\x03\x03\0\x40\2\0\0\x3c"]), st.binary())
def test_no_hello_raises(start, data):
    opening = Opening()
    opening.feed(memoryview(start + data))
    assert not opening.hello or len(opening.hello.random) == 32


# ---- keys that change --------------------------------------------------------------------------


def test_key_updates_are_followed(folder, tmp_path):
    """`openssl s_client` sends KeyUpdate on command, as GnuTLS does after 2 ** 24.5 records."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl command")
    session = keyed_anew(openssl, folder, tmp_path)
    (there, _), _ = decrypt_frames(tmp_path, frames(session), session.keylog)
    assert there.data == session.text(True) == b"one\ntwo\nthree\n"
    assert there.gaps == []


def keyed_anew(openssl, folder, tmp_path) -> Session:
    """Record what `openssl s_client` sends when it is told to change its keys, twice."""
    session = Session()
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = TlsCredentials(folder, verify_peer=False).server()
    server = context.wrap_bio(into, out, server_side=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        command += ["-tls1_3", "-keylogfile", str(tmp_path / "keys")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            assert client.stdin
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                exchange(sock, into, out, session, server.do_handshake)
                session.handshake = len(session.wire)
                for word in (b"one\n", b"K\n", b"two\n", b"K\n", b"three\n"):
                    client.stdin.write(word)
                    client.stdin.flush()
                    if word == b"K\n":
                        take(sock, into, session)
                    else:
                        said = exchange(sock, into, out, session, lambda: server.read(100))
                        session.plain.append((True, said))
            client.kill()
    session.keylog = (tmp_path / "keys").read_bytes()
    return session


def take(sock, into, session):
    data = sock.recv(65536)
    assert data, "the client has gone"
    session.wire.append((True, data))
    into.write(data)


def exchange(sock, into, out, session, step):
    """Do a step of the server, with the bytes that it takes, and return what it gives."""
    while True:
        try:
            result, complete = step(), True
        except ssl.SSLWantReadError:
            result, complete = None, False
        if data := out.read():
            session.wire.append((False, data))
            sock.sendall(data)
        if complete:
            return result
        take(sock, into, session)


# ---- the verdict -------------------------------------------------------------------------------


@pytest.mark.parametrize(("decrypted", "seen"), [({0}, "1 of 2"), ({0, 1}, None), (set(), None)])
def test_plain_and_decrypted_connections_do_not_go_together(decrypted, seen):
    checker = Checker()
    checker.add_main(0)
    checker.add_channel(1)
    for stream in decrypted:
        checker.add_tls(stream, decrypted=True)
    (result,) = [r for r in checker.conclude().results if r.requirement.id == "TLS-1"]
    assert [v.fault.seen for v in result.violations] == ([seen] if seen else [])
