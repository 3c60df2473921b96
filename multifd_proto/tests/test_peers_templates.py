"""Templates of main streams: what is kept of a recording, what is refused, what is shipped."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.errors import PeerError
from multifd_proto.peers import templates
from multifd_proto.peers.templates import RELEASES, template_for, template_of
from multifd_proto.tests.mainstreams import REAL, build, records
from multifd_proto.wire.dialect import DIALECTS, dialect_of
from multifd_proto.wire.main_records import (
    Command,
    Configuration,
    Footer,
    MainHeader,
    Opaque,
    SectionEnd,
    SectionPart,
    SectionStart,
    StreamEnd,
    VmDescription,
)
from multifd_proto.wire.ram_records import (
    RamBlockEntry,
    RamEos,
    RamPage,
    RamSetup,
    RamZero,
)

SHIPPED = resources.files("multifd_proto.peers") / "templates"
RETURN_PATH = (Command(1), Command(2, b"\0\0\0\1"))
ADVISE = Command(3, (4096).to_bytes(8, "big") * 2)
SWITCHOVER = Command(11)
HEAD = (MainHeader(), Configuration(b"none"))
SETUP = RamSetup(8192, (RamBlockEntry(b"a", 4096), RamBlockEntry(b"b", 4096)))
START = (SectionStart(7, b"ram", 0, 4), SETUP, RamEos(), Footer(7))
PART = (SectionPart(7), RamZero(b"a", (0,)), RamEos(), Footer(7))
END = (SectionEnd(7), RamEos(), Footer(7))
DEVICE = (SectionStart(9, b"timer", 0, 2, full=True), Opaque(24), Footer(9))
TAIL = (StreamEnd(), VmDescription(30))


def refusal(stream):
    with pytest.raises(PeerError) as caught:
        template_of(stream)
    return str(caught.value)


# ---- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_a_template_has_all_of_a_real_stream_but_its_ram_sections(name):
    whole, template = REAL[name], template_of(REAL[name])
    start = whole.index(b"\x01\0\0\0" + bytes([template.ram_section_id]) + b"\x03ram")
    asked = build(RETURN_PATH) if name == "11.1-postcopy" else b""
    assert whole[:start] == template.prefix.replace(build([ADVISE]), asked + build([ADVISE]))
    assert whole.endswith(build([Footer(template.ram_section_id)]) + template.suffix)
    assert records(template.prefix)[0] == MainHeader()
    assert template.suffix.startswith(b"\x04\0\0\0\0\x05timer")
    assert template.ram_version == 4
    assert template.release is None


@pytest.mark.parametrize(
    ("name", "section_id", "modern", "switchover"),
    [
        ("5.2", 2, False, b""),
        ("7.2", 2, False, b""),
        ("10.0", 1, True, build([SWITCHOVER])),
        ("11.1", 1, True, build([SWITCHOVER])),
        ("11.1-ignore-shared", 1, True, build([SWITCHOVER])),
    ],
)
def test_releases_differ(name, section_id, modern, switchover):
    template = template_of(REAL[name])
    assert template.ram_section_id == section_id
    assert template.modern == modern
    assert template.switchover == switchover


def test_the_block_list_is_kept():
    assert template_of(REAL["10.0"]).blocks == (RamBlockEntry(b"ram0", 1 << 20),)
    assert template_of(REAL["11.1-ignore-shared"]).blocks == (
        RamBlockEntry(b"ram0", 1 << 20, guest_address=0),
    )
    assert template_of(build([*HEAD, *START, *END, *TAIL])).blocks == SETUP.blocks


def test_sections_before_and_after_those_of_ram_are_kept():
    template = template_of(build([*HEAD, *DEVICE, *START, *PART, *END, *DEVICE, *DEVICE, *TAIL]))
    assert template.prefix == build([*HEAD, *DEVICE])
    assert template.suffix == build([*DEVICE, *DEVICE, *TAIL])


def test_a_stream_without_a_description_is_enough():
    assert template_of(build([*HEAD, *START, *END, StreamEnd()])).suffix == b"\0"


def test_commands_that_ask_for_an_answer_are_left_out():
    template = template_of(build([*HEAD, *RETURN_PATH, ADVISE, *START, *END, *TAIL]))
    assert template.prefix == build([*HEAD, ADVISE])


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "@0x0: the stream is over, without START of ram"),
        (build([*HEAD, *DEVICE, *TAIL]), "@0x65: the stream is over, without START of ram"),
        (build([*HEAD, *START]), "@0x4b: the stream is over, without END of ram"),
        (build([*HEAD, *START, *END]), "@0x5d: the stream is over, without end of the stream"),
        (b"QEVX", "@0x0: the stream ends inside a record or section: 0x4, must be 8"),
        (b"GET / HTTP/1.1", "@0x0: the stream does not begin with QEVM: b'GET ', must be b'QEVM'"),
        (
            build([*HEAD, *START, *PART[:1], RamPage(b"a", 0, 4096), *PART[2:], *END, *TAIL]),
            "@0x50: RamPage between START and END of ram cannot be kept",
        ),
        (
            build([*HEAD, *START, Command(4), *END, *TAIL]),
            "@0x4b: POSTCOPY_LISTEN between START and END of ram cannot be kept",
        ),
        (
            build([*HEAD, *START, Command(99), *END, *TAIL]),
            "@0x4b: command 99 between START and END of ram cannot be kept",
        ),
        (
            build([*HEAD, SectionStart(8, b"vfio", 0, 1), Footer(8), *START, SectionPart(8)])
            + build([Footer(8), *END, *TAIL]),
            "@0x62: SectionPart between START and END of ram cannot be kept",
        ),
        (
            build([*HEAD, *START, *DEVICE, *END, *TAIL]),
            "@0x4b: SectionStart between START and END of ram cannot be kept",
        ),
    ],
)
def test_what_is_no_template_is_refused(stream, message):
    assert refusal(stream) == f"recorded main stream {message}"


def test_no_part_of_a_real_stream_is_taken_for_the_whole():
    stream = REAL["10.0"]
    no_description = len(stream) - len(build([VmDescription(823)]))
    for length in set(range(len(stream))) - {no_description}:
        assert refusal(stream[:length]).startswith("recorded main stream @0x")
    assert stream.startswith(template_of(stream[:no_description]).prefix)


@given(st.sampled_from(sorted(REAL)), st.integers(0, 400), st.binary(max_size=8), st.booleans())
def test_whatever_else_it_is_it_is_refused_in_one_line(name, at, damage, keep_length):
    stream = REAL[name]
    damaged = stream[:at] + damage + stream[at + len(damage) * keep_length :]
    try:
        said, kept = "", template_of(damaged).suffix
    except PeerError as error:
        said, kept = str(error), b""
    assert re.fullmatch("(recorded main stream @0x[0-9a-f]+: .+)?", said)
    assert damaged.endswith(kept)


# ---- what is shipped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "release"),
    [
        *(("4.0", "5.2"), ("5.0", "5.2"), ("7.0", "7.2"), ("8.1", "7.2"), ("seed", "7.2")),
        *(("9.2", "7.2"), ("10.0", "10.0"), ("10.1", "10.0"), ("11.0", "10.0"), ("11.1", "11.1")),
    ],
)
def test_a_dialect_gets_the_newest_release_that_is_not_newer(dialect, release):
    assert template_for(dialect_of(dialect)).release == release


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_has_a_template_that_marks_rounds_as_it_does(dialect):
    template = template_for(dialect)
    assert template.modern == dialect.flush_mark
    assert bool(template.switchover) == (dialect.index >= dialect_of("10.0").index)
    assert template.prefix == build(HEAD)


@pytest.mark.parametrize("release", RELEASES)
def test_a_shipped_stream_is_that_of_its_release(release):
    shipped = json.loads((SHIPPED / f"{release}.json").read_text())
    assert shipped["qemu"].startswith(f"{release}.")
    template = template_of(bytes.fromhex(shipped["stream"]), release)
    assert template == template_for(dialect_of(release))
    assert template.suffix == template_of(REAL[release]).suffix


def test_nothing_else_is_shipped():
    assert {file.name for file in SHIPPED.iterdir()} == {f"{r}.json" for r in RELEASES}


# ---- recording ---------------------------------------------------------------------------------


def test_a_release_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIFD_QEMU_DIR", str(tmp_path))
    done = CliRunner().invoke(templates.main, ["10.0", "--into", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.output == "error: no QEMU 10.0: python -m multifd_proto.peers.debian 10.0\n"


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
def test_qemu_still_sends_what_is_shipped(release, qemu, tmp_path):
    qemu(release)
    done = CliRunner().invoke(templates.main, [release, "--into", str(tmp_path)])
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / f"{release}.json").read_text())
    assert done.output == f"QEMU {again['qemu']}: {len(again['stream']) // 2} bytes\n"
    shipped = json.loads((SHIPPED / f"{release}.json").read_text())
    assert template_of(bytes.fromhex(again["stream"])) == template_of(
        bytes.fromhex(shipped["stream"])
    )
