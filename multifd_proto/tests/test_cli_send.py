from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from multifd_proto.cli.send import command
from multifd_proto.errors import PeerError
from multifd_proto.peers.templates import template_of
from multifd_proto.tests.mainstreams import REAL
from multifd_proto.tests.sink import PONG, SHUT, Sink, answer_by, take
from multifd_proto.wire.block_names import file_name
from multifd_proto.wire.dialect import dialect_of

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image"
    file.write_bytes(b"\1" * (100 * 4096) + bytes(28 * 4096))
    return file


def test_a_completed_migration_is_told_as_a_table(image):
    with Sink(take).listening() as sink:
        done = run(sink.uri, "--ram", f"ram0={image}", "--channels", 1)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[3].split("│")[1:-1] == [
        "       0 ",
        "       4 ",
        "     3 ",
        "    100 ",
        "   28 ",
        " 414976 ",
    ]
    assert lines[-2].startswith("100 normal and 28 zero pages, main stream of 1.1 KiB, ")
    assert lines[-1] == "COMPLETED: the destination has loaded it"
    assert done.stderr == ""


def test_a_completed_migration_is_told_as_json(image):
    with Sink(take).listening() as sink:
        done = run(
            sink.uri, "--ram", f"ram0={image}", "--uuid", UUID, "--dialect", "7.2", "--json",
            "--compression", "zstd", "--level", "3", "--pages-per-packet", 32,
        )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (told["status"], told["error"], told["shut"], told["pong"]) == (
        "completed",
        None,
        0,
        True,
    )
    assert (told["normal"], told["duplicate"]) == (100, 28)
    streams = sink.sent()
    assert told["multifd-bytes"] == sum(map(len, streams.channels))
    assert told["main-bytes"] == len(streams.main)
    assert [channel["id"] for channel in told["channels"]] == [0, 1]
    assert all(bytes.fromhex(UUID.replace("-", "")) == stream[8:24] for stream in streams.channels)
    assert streams.memory(4096, dialect_of("7.2")) == {b"ram0": image.read_bytes()}


def test_a_failed_migration_ends_with_status_3_and_its_reason(image):
    with Sink(answer_by(PONG, SHUT[:-1] + b"\1")).listening() as sink:
        plain = run(sink.uri, "--ram", f"ram0={image}")
        as_json = run(sink.uri, "--ram", f"ram0={image}", "--json")
    why = "main stream, return path @0x8: the destination has failed: SHUT is 0x1, must be 0"
    assert (plain.exit_code, as_json.exit_code) == (3, 3)
    assert plain.stdout.splitlines()[-1] == f"FAILED: {why}"
    assert json.loads(as_json.stdout)["error"] == why


def test_rounds_orders_and_limits_are_passed_on(image):
    with Sink(take).listening() as sink:
        done = run(
            sink.uri, "--ram", f"ram0={image}", "--rounds", 3, "--dirty", 25, "--order",
            "scattered", "--zero-pages", "none", "--max-bandwidth", "100M", "--json",
            "--no-return-path",
        )  # fmt: skip
    told = json.loads(done.stdout)
    assert (told["normal"], told["duplicate"]) == (128 + 2 * 32, 0)
    assert told["channels"][0]["syncs"] == 5
    assert (told["pong"], told["shut"]) == (False, None)
    assert sink.sent().memory(4096, dialect_of("11.1")) == {b"ram0": image.read_bytes()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ram", "ram0"], "'ram0' is no RAM block, must be NAME=FILE[,FILE...]"),
        (["--ram", "ram0=a,"], "'ram0=a,' is no RAM block, must be NAME=FILE[,FILE...]"),
        (["--ram", "a={image}", "--level", "1"], "none has no compression levels, level is 1"),
        (
            ["--ram", "a={image}", "--compression", "zlib", "--level", "10"],
            "compression level of zlib is 10, must be 0 to 9",
        ),
        (
            ["--ram", "a={image}", "--pages-per-packet", "129"],
            "pages in a packet is 129, must be 1 to 128",
        ),
        (
            ["--ram", "a={image}", "--zero-copy", "--compression", "zlib"],
            "zero copy needs plain connections and no compression",
        ),
        (
            ["--ram", "a={image}", "--ram", "a={image}"],
            "a RAM block is given twice, must be given once, with all its files",
        ),
        (["--ram", "a={image}", "--max-bandwidth", "fast"], "'fast' is no size"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments, message, image):
    done = run("tcp::1", *(argument.format(image=image) for argument in arguments))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_memory_is_taken_from_beside_a_recorded_main_stream(tmp_path):
    recorded = tmp_path / "main.stream"
    recorded.write_bytes(REAL["10.0"])
    (block,) = template_of(REAL["10.0"]).blocks
    saved = tmp_path / file_name(block.name)
    saved.write_bytes(os.urandom(block.used_length))
    with Sink(take).listening() as sink:
        done = run(sink.uri, "--main-stream", recorded, "--dialect", "10.0")
    assert done.exit_code == 0
    assert sink.sent().memory(4096, dialect_of("10.0")) == {block.name: saved.read_bytes()}


def test_memory_that_a_recorded_main_stream_does_not_have_is_an_error(image, tmp_path):
    recorded = tmp_path / "main.stream"
    recorded.write_bytes(REAL["10.0"])
    done = run("tcp::1", "--ram", f"wrong={image}", "--main-stream", recorded)
    assert isinstance(done.exception, PeerError)
    assert str(done.exception).startswith(
        "RAM blocks of the recorded main stream: 'wrong' is not in it, 'ram0' of "
    )
    done = run("tcp::1", "--main-stream", recorded)
    assert str(done.exception) == "no RAM block is given, must be one or more"
