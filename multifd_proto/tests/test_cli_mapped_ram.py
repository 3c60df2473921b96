"""`multifd mapped-ram` as its users meet it: in a process of its own."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from multifd_proto.peers.mapped_ram import MappedRamFile
from multifd_proto.tests.mainstreams import REAL
from multifd_proto.wire.main_records import Configuration, MainHeader

PAGE = 4096
MIB = 1 << 20


def multifd(*words: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from multifd_proto.cli import main; main()", "mapped-ram"]
        + [str(word) for word in words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    chance = random.Random(5)
    pages = (chance.randbytes(PAGE) if chance.random() < 0.7 else bytes(PAGE) for _ in range(600))
    path.write_bytes(b"".join(pages))
    return path


@pytest.fixture
def saved(tmp_path: Path, image: Path) -> Path:
    path = tmp_path / "vm.mig"
    words = ("--write", f"pc.ram={image}", "--write", f"/rom@etc/acpi={image}", "--writers", "2")
    assert multifd(path, *words)[::2] == (0, "")
    return path


def report(*words: object) -> tuple[int, dict]:  # type: ignore[type-arg]
    status, out, err = multifd(*words, "--json")
    assert err == ""
    assert out.count("\n") == 1
    return status, json.loads(out)


def failed(found: dict) -> list[str]:  # type: ignore[type-arg]
    return [r["id"] for r in found["requirements"] if r["verdict"] == "failed"]


def test_blocks_and_verdicts_are_shown(saved):
    status, out, err = multifd(saved)
    assert (status, err) == (0, "")
    assert out.startswith(f"{saved}: machine 'none', ")
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "│" in line]
    present, zero = int(rows[0][-2]), int(rows[0][-1])
    assert present + zero == 600
    assert rows[0] == ["pc.ram", "0x258000", "4096", "0x84", "0x100000", str(present), str(zero)]
    assert [row[0] for row in rows] == ["pc.ram", "/rom@etc/acpi"]
    assert out.splitlines()[-3:] == [
        "passed: MAIN-1 MAIN-2 MAIN-3 MAIN-5 MAIN-6 MAIN-11 MAPR-1 MAPR-2 MAPR-3 MAPR-4",
        "not exercised: MAPR-5",
        "CONFORMING",
    ]


def test_json_has_the_same(saved, image):
    status, found = report(saved)
    assert status == 0
    assert found["verdict"] == "passed"
    assert found["machine"] == "none"
    assert found["size"] == saved.stat().st_size
    block = found["ramblocks"][0]
    assert block["present_pages"] + block["zero_pages"] == 600
    with MappedRamFile(saved) as file:
        header = file.blocks[0].block.header
    assert (block["bitmap_offset"], block["pages_offset"]) == (
        header.bitmap_offset, header.pages_offset,
    )  # fmt: skip
    verdicts = {r["id"]: r["verdict"] for r in found["requirements"]}
    assert verdicts["MAPR-3"] == "passed"
    assert verdicts["MAPR-5"] == "not exercised"


def test_blocks_are_extracted_to_files_of_their_names(tmp_path, saved, image):
    status, out, _ = multifd(saved, "--extract", tmp_path / "new" / "ram")
    assert status == 0
    names = sorted(path.name for path in (tmp_path / "new" / "ram").iterdir())
    assert names == ["_rom@etc_acpi.ram", "pc.ram.ram"]
    for name in names:
        assert (tmp_path / "new" / "ram" / name).read_bytes() == image.read_bytes()
        assert f"ram/{name}: " in out


def test_names_that_make_the_same_file_are_told_apart(tmp_path, image):
    path = tmp_path / "vm.mig"
    assert multifd(path, "--write", f"a/b={image}", "--write", f"a_b={image}")[0] == 0
    assert report(path, "--extract", tmp_path / "ram")[1]["extracted"] == [
        {"ramblock": "a/b", "file": str(tmp_path / "ram" / "a_b.ram")},
        {"ramblock": "a_b", "file": str(tmp_path / "ram" / "a_b~2.ram")},
    ]


def test_images_are_compared(saved, image):
    words = ("--compare", f"pc.ram={image}", "--compare", f"/rom@etc/acpi={image}")
    status, out, _ = multifd(saved, *words)
    assert status == 0
    assert f"pc.ram equals {image}\n/rom@etc/acpi equals {image}\n" in out
    with image.open("r+b") as file:
        file.seek(300 * PAGE + 1)
        file.write(b"\x99\x98")
    status, out, _ = multifd(saved, *words)
    assert status == 1
    assert f"pc.ram differs from {image}, first in page 300 @0x12c000\n" in out
    status, found = report(saved, *words)
    assert status == 1
    assert found["compared"][0] == {
        "ramblock": "pc.ram", "image": str(image), "equal": False,
        "first_difference": 300 * PAGE,
    }  # fmt: skip
    status, _, err = multifd(saved, "--compare", f"ram={image}")
    assert (status, err) == (
        2, f"multifd: {saved}: has no block 'ram', only: pc.ram, /rom@etc/acpi\n",
    )  # fmt: skip


def test_an_existing_file_is_replaced_by_force_alone(saved, image):
    before = saved.read_bytes()
    status, _, err = multifd(saved, "--write", f"other={image}")
    assert status == 2
    assert f"Error: {saved} exists: --force replaces it\n" in err
    assert saved.read_bytes() == before
    status, found = report(saved, "--write", f"other={image}", "--force", "--dialect", "11.1")
    assert status == 0
    assert [block["ramblock"] for block in found["ramblocks"]] == ["other"]


def test_a_stream_that_begins_later_is_written_and_read(tmp_path, image):
    path = tmp_path / "vm.mig"
    assert multifd(path, "--write", f"ram0={image}", "--offset", 5000)[0] == 0
    status, found = report(path, "--offset", 5000, "--compare", f"ram0={image}")
    assert (status, found["offset"], found["compared"][0]["equal"]) == (0, 5000, True)
    status, _, err = multifd(path)
    assert status == 2
    assert err == f"multifd: {path}: @0x0 begins with b'\\x00\\x00\\x00\\x00', must be b'QEVM'\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--write", "ram0"), "'ram0' is no RAM block with its image, must be NAME=IMAGE"),
        (("--write", "=x"), "'=x' is no RAM block with its image, must be NAME=IMAGE"),
        (("--write", "a=x", "--extract", "y"), "--write makes a file, --extract and --compare"),
        (("--write", "a=x", "--write", "a=y"), "--write has a RAM block twice"),
        (("--write", "a=x", "--dialect", "8.2"), "8.2 has no mapped-ram, 9.0 and newer have"),
        (("--write", "a=/no/image"), "multifd: /no/image: cannot be read: No such file"),
    ],
)
def test_wrong_usage_is_told(tmp_path, words, said):
    status, out, err = multifd(tmp_path / "new", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_migration_is_told(tmp_path):
    assert multifd(tmp_path) == (2, "", f"multifd: {tmp_path}: is a directory, must be a file\n")
    pcap = tmp_path / "x.pcap"
    pcap.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    status, _, err = multifd(pcap)
    assert status == 2
    assert "@0x0 begins with b'\\xd4\\xc3\\xb2\\xa1', must be b'QEVM'" in err


def test_a_migration_without_mapped_ram_is_nothing_to_do_it_on(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(REAL["10.0"])
    assert multifd(path) == (
        4, "", f"multifd: {path}: a stream of machine 'none' without mapped-ram\n",
    )  # fmt: skip
    status, found = report(path)
    assert (status, found["mapped_ram"], found["verdict"]) == (4, False, "not exercised")


def test_names_of_blocks_cannot_command_the_terminal(tmp_path, image):
    path = tmp_path / "vm.mig"
    assert multifd(path, "--write", f"[/]\x1b[2J\n={image}")[0] == 0
    status, out, err = multifd(path, "--extract", tmp_path / "ram")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.count(r"[/]\x1b[2J\n") == 2
    assert [p.name for p in (tmp_path / "ram").iterdir()] == ["_____2J_.ram"]


def test_faults_are_listed_with_their_places(tmp_path, saved):
    with MappedRamFile(saved) as file:
        block = file.blocks[0].block
    end = (1 << 63) + block.used_length
    with saved.open("r+b") as changed:
        changed.seek(block.end - 8)
        changed.write(struct.pack(">Q", 1 << 63))
    status, out, err = multifd(saved, "--extract", tmp_path / "ram")
    assert (status, err) == (1, "")
    where = f"within the file, {saved.stat().st_size:#x} bytes"
    assert out.splitlines()[-5:] == [
        "MAPR-1 header (MUST) failed:",
        f"  @{block.place:#x}: end of the pages of block 'pc.ram' is {end:#x}, must be {where}",
        "passed: MAPR-2",
        "not exercised: MAIN-1 MAIN-2 MAIN-3 MAIN-5 MAIN-6 MAIN-11 MAPR-3 MAPR-4 MAPR-5",
        "VIOLATED",
    ]
    assert "cannot be read" in out
    assert list((tmp_path / "ram").iterdir()) == []
    status, _, err = multifd(saved, "--compare", f"pc.ram={saved}")
    assert (status, err) == (2, f"multifd: {saved}: block 'pc.ram' cannot be read from it\n")


@pytest.mark.parametrize("kept", [6, 30, 90, 131, MIB, 2 * MIB, -1, -1500])
def test_truncated_files_violate_a_requirement(saved, kept):
    os.truncate(saved, kept if kept > 0 else saved.stat().st_size + kept)
    status, found = report(saved)
    assert status == 1
    assert found["verdict"] == "failed"
    assert set(failed(found)) <= {"MAIN-11", "MAPR-1"}


def test_an_interrupted_save_is_not_taken_for_empty_memory(tmp_path):
    path = tmp_path / "begun"
    path.write_bytes(
        MainHeader().build() + Configuration(b"none", capabilities=("mapped-ram",)).build()
    )
    status, out, _ = multifd(path)
    assert status == 1
    assert "MAIN-11 whole records (MUST) failed:\n" in out
    assert "what is left of the file is 0 bytes, must be the end of the stream\n" in out
