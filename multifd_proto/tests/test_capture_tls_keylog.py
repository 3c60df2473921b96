"""TLS secrets: key log files and those inside a pcapng."""

from __future__ import annotations

import pytest

from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls import keylog
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.capture.tls.keylog import KeyLog
from multifd_proto.conformance.credentials import issue
from multifd_proto.errors import CaptureError
from multifd_proto.tests.captures import Blocks, collect
from multifd_proto.tests.tls_sessions import converse, frames

RANDOM, SECRET = bytes(range(32)), bytes(range(48))
LINE = f"CLIENT_RANDOM {RANDOM.hex()} {SECRET.hex()}".encode()
KEY_LOG = 0x544C534B
DEMANDED = "holds no TLS secret, label, client random and secret in hex were demanded"


def log(*lines):
    found = KeyLog()
    found.add(lines, "keys")
    return found


# ---- key log files -----------------------------------------------------------------------------


def test_secrets_are_found_by_random_and_label():
    traffic = f"SERVER_TRAFFIC_SECRET_0 {RANDOM.hex().upper()} {SECRET[:32].hex()}\r\n".encode()
    found = log(b"# a comment", b"", LINE, traffic, b"EXPORTER_SECRET aa bb")
    assert found
    assert found.of(RANDOM) == {"CLIENT_RANDOM": SECRET, "SERVER_TRAFFIC_SECRET_0": SECRET[:32]}
    assert found.of(bytes(32)) == {}
    assert found.faults == []


@pytest.mark.parametrize(
    "line",
    [
        b"CLIENT_RANDOM",
        b"CLIENT_RANDOM " + RANDOM.hex().encode(),
        LINE + b" 00",
        LINE[:-1],
        LINE[:-2],
        LINE.replace(b"00", b"0x", 1),
        b"CLIENT_RANDOM 00 " + SECRET.hex().encode(),
        b"-----BEGIN CERTIFICATE-----",
        b"\xff\xfe\0",
    ],
)
def test_a_bad_line_is_told_with_its_number(line):
    found = log(LINE, line)
    assert found.of(RANDOM)
    assert found.faults == [f"keys: line 2 {DEMANDED}"]


def test_many_bad_lines_are_one_message():
    assert log(b"x y", b"z", LINE, b"").faults == [f"keys: line 1 (the first of 2) {DEMANDED}"]


def test_a_file_is_read_whatever_it_holds(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(LINE + b"\n" + bytes(5000))
    found = KeyLog()
    found.read(path)
    assert found.of(RANDOM)
    assert len(found.faults) == 1


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    with pytest.raises(CaptureError) as caught:
        KeyLog().read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_of_very_many_connections_the_latest_are_kept(monkeypatch):
    monkeypatch.setattr(keylog, "_MOST", 2)
    found = log(*(f"CLIENT_RANDOM {n:064x} {SECRET.hex()}".encode() for n in range(3)))
    assert [bool(found.of(n.to_bytes(32, "big"))) for n in range(3)] == [False, True, True]


# ---- inside a pcapng ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = issue(tmp_path_factory.mktemp("tls") / "credentials")
    return converse(folder, [(True, b"hello"), (False, b"world")])


def secrets(blocks, text, kind=KEY_LOG):
    size = len(text)
    return blocks.block(10, blocks.pack("II", kind, size) + text)


def decrypted(tmp_path, blocks):
    path = tmp_path / "c.pcapng"
    path.write_bytes(blocks.data)
    reader = Decrypted(CaptureReader([path]))
    return [seen.data for seen in collect(reader)], reader


@pytest.mark.parametrize("order", ["<", ">"])
def test_secrets_inside_decrypt(order, session, tmp_path):
    blocks = secrets(Blocks(order).interface(101), session.keylog)
    for packet in frames(session):
        blocks.packet(packet, packet.time // 1000)
    assert decrypted(tmp_path, blocks)[0] == [b"hello", b"world"]


@pytest.mark.parametrize("after", [0, 3, 5, 8])
def test_several_blocks_do_even_soon_after_the_handshake(after, session, tmp_path):
    blocks = Blocks().interface(101)
    lines = session.keylog.splitlines(keepends=True)
    for number, packet in enumerate(frames(session)):
        if number == after:
            for line in lines:
                secrets(blocks, line)
        blocks.packet(packet, packet.time // 1000)
    assert decrypted(tmp_path, blocks)[0] == [b"hello", b"world"]


def test_secrets_of_another_kind_are_passed_over(session, tmp_path):
    blocks = secrets(Blocks().interface(101), session.keylog, 0x57474B4C)  # WireGuard's
    for packet in frames(session):
        blocks.packet(packet, packet.time // 1000)
    seen, reader = decrypted(tmp_path, blocks)
    assert seen[0].startswith(b"\x16\x03")
    assert not reader.info.secrets


def test_a_block_that_claims_more_than_it_is_ends_where_it_ends(session, tmp_path):
    blocks = Blocks().interface(101)
    blocks.block(10, blocks.pack("II", KEY_LOG, 1 << 31) + session.keylog)
    for packet in frames(session):
        blocks.packet(packet, packet.time // 1000)
    assert decrypted(tmp_path, blocks)[0] == [b"hello", b"world"]


def test_a_block_without_room_for_secrets_is_refused(tmp_path):
    blocks = Blocks().interface(101).block(10, bytes(4))
    with pytest.raises(CaptureError) as caught:
        decrypted(tmp_path, blocks)
    assert str(caught.value).endswith(
        "block of type 10 at byte 48 is 16 bytes, a multiple of 4 from 20 on was demanded"
    )


def test_bad_lines_inside_name_the_file(tmp_path):
    blocks = secrets(Blocks().interface(101), b"nonsense and more\n")
    _, reader = decrypted(tmp_path, blocks)
    place = f"{tmp_path}/c.pcapng: secrets inside: line 1"
    assert reader.info.secrets.faults == [f"{place} {DEMANDED}"]
