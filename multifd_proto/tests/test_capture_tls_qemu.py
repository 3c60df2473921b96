"""TLS migrations between real QEMUs: with their secrets they decode to what QEMU traced."""

from __future__ import annotations

import json
import shutil

import pytest
import zstandard
from click.testing import CliRunner

from multifd_proto.capture.streams import CaptureReader
from multifd_proto.capture.tls.decrypt import Decrypted
from multifd_proto.cli import cli
from multifd_proto.peers.recipes import Recipe
from multifd_proto.peers.record import record
from multifd_proto.peers.traces import sent_packets
from multifd_proto.tests.conftest import missing
from multifd_proto.tests.test_capture_tls_keylog import DEMANDED
from multifd_proto.tests.test_real_captures import FOLDER, assert_equal, decoded

SHIPPED = FOLDER / "q10_0-tls.pcapng.zst"
TLS12 = "NORMAL:-VERS-TLS1.3"


def run(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


# ---- the shipped capture -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken_apart(tmp_path_factory):
    """Return the shipped capture without its secrets, and these."""
    folder = tmp_path_factory.mktemp("tls")
    data = zstandard.ZstdDecompressor().stream_reader(SHIPPED.read_bytes()).read()
    kept, place, secrets = b"", 0, b""
    while place < len(data):
        kind, size = (int.from_bytes(data[place + n : place + n + 4], "little") for n in (0, 4))
        if kind == 10:
            length = int.from_bytes(data[place + 12 : place + 16], "little")
            secrets += data[place + 16 : place + 16 + length]
        else:
            kept += data[place : place + size]
        place += size
    (folder / "bare.pcapng").write_bytes(kept)
    (folder / "keys").write_bytes(secrets)
    return folder / "bare.pcapng", folder / "keys"


def test_secrets_inside_a_capture_are_used_unasked():
    status, out, err = run("check", SHIPPED)
    assert (status, err) == (0, "")
    assert "\nCONFORMING: " in out


@pytest.mark.parametrize("verb", ["decode", "check", "summary", "extract"])
def test_every_verb_takes_a_key_log(verb, taken_apart, tmp_path):
    bare, keys = taken_apart
    options = ("-o", tmp_path / "ram") if verb == "extract" else ()
    inside = run(verb, SHIPPED, *options)
    assert run(verb, bare, "--keylog", keys, *options) == inside
    assert inside[0] == 0


def test_without_secrets_it_says_how_to_get_them(taken_apart):
    status, out, err = run("check", taken_apart[0])
    first, second = err.splitlines()
    assert (status, out) == (4, "")
    assert first == (
        "warning: 3 of 3 connections are encrypted (TLS): their bytes tell nothing without secrets "
        "(--keylog FILE; QEMU writes one if SSLKEYLOGFILE=FILE is in its environment)"
    )
    assert second.startswith("multifd: no migration in the input: ")


def test_secrets_of_something_else_are_said_to_be_so(taken_apart, tmp_path):
    bare, _ = taken_apart
    other = tmp_path / "other"
    other.write_text("nonsense\n" + f"CLIENT_RANDOM {'ab' * 32} {'cd' * 48}\n")
    status, _, err = run("check", bare, "--keylog", other)
    assert status == 4
    assert err.splitlines()[:3] == [
        f"warning: {other}: line 1 {DEMANDED}",
        "warning: 3 of 3 connections are encrypted (TLS): their bytes tell nothing",
        "warning: 3 of 3 TLS connections: their secrets are not known",
    ]


def test_a_key_log_for_some_connections_decrypts_those(taken_apart, tmp_path):
    bare, keys = taken_apart
    lines = keys.read_text().splitlines()
    last = lines[-1].split()[1]
    some = tmp_path / "some"
    some.write_text("\n".join(line for line in lines if last not in line))
    status, out, err = run("check", bare, "--keylog", some, "--json")
    verdicts = {r["id"]: r["verdict"] for r in json.loads(out)["requirements"]}
    assert (status, verdicts["TLS-1"]) == (0, "passed")
    assert err.splitlines() == [
        "warning: 1 of 3 connections are encrypted (TLS): their bytes tell nothing",
        "warning: 1 of 3 TLS connections: their secrets are not known",
    ]


def test_secrets_that_do_not_fit_are_said_to_be_so(taken_apart, tmp_path):
    bare, keys = taken_apart
    wrong = tmp_path / "wrong"
    words = [line.split() for line in keys.read_text().splitlines() if line[:1] != "#"]
    wrong.write_text("".join(f"{label} {random} {s[::-1]}\n" for label, random, s in words))
    status, _, err = run("check", bare, "--keylog", wrong)
    assert status == 4
    assert "warning: 3 of 3 TLS connections: the secrets for them do not fit\n" in err


# ---- live --------------------------------------------------------------------------------------


@pytest.fixture
def editcap():
    if not shutil.which("editcap"):
        missing("no editcap (Debian: wireshark-common)")


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("version", "priority"),
    [
        ("5.2", "NORMAL"),
        ("7.2", "NORMAL"),
        ("10.0", "NORMAL"),
        ("10.0", TLS12),
        ("10.0", "NORMAL:-CIPHER-ALL:+AES-128-GCM"),
        ("10.0", "NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305"),
        ("10.0", f"{TLS12}:-CIPHER-ALL:+AES-256-CBC"),
        ("11.1", "NORMAL"),
        ("11.1", TLS12),
        ("11.1", f"{TLS12}:-CIPHER-ALL:+CHACHA20-POLY1305"),
    ],
)
def test_a_migration_over_tls_decodes_to_its_trace(
    version, priority, qemu, tcpdump, editcap, tmp_path
):
    qemu(version)
    recipe = Recipe("live", version, version, 2, pages=64, rounds=3, tls=priority)
    record(recipe, tmp_path)
    path = tmp_path / "live.pcapng.zst"
    reader = Decrypted(CaptureReader([path]))
    said = sent_packets((tmp_path / "live.src.trace").read_text())
    assert_equal(decoded(reader), said)
    status, out, err = run("check", path)
    assert (status, err) == (0, "")
    assert "\nCONFORMING: " in out
    status, out, _ = run("extract", path, "-o", tmp_path / "ram")
    assert (status, "every page came" in out) == (0, True)
    memory = zstandard.ZstdDecompressor().stream_reader((tmp_path / "live.ram.zst").read_bytes())
    assert (tmp_path / "ram" / "pc.ram.ram").read_bytes() == memory.read()
