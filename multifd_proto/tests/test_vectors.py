"""The committed test vectors: their form, and that the specification judges each as stated."""

import gzip
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.capture.events import Data
from multifd_proto.capture.streams import CaptureReader
from multifd_proto.machine.rule import RULES
from multifd_proto.machine.rules.payload import FAULTS
from multifd_proto.views import vector_form
from multifd_proto.views.vector_form import DIRECTORY, Document, committed, pack, render, unpack
from multifd_proto.views.vector_judge import disagreements
from multifd_proto.views.vectors import main, suites
from multifd_proto.wire.payload import METHODS
from multifd_proto.wire.requirements import Level, load

FILES = dict(committed())
SCHEMA = json.loads((DIRECTORY / "schema.json").read_text(encoding="utf-8"))
TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip
every_file = pytest.mark.parametrize("name", FILES)


def breaches(value: Any, schema: Any, place: str) -> list[str]:
    """Where `value` breaks a JSON Schema, of which this knows what ours is made of."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    wrong = [] if isinstance(value, tuple(TYPES[kind] for kind in kinds)) else ["type"]
    wrong += ["const"] if value != schema.get("const", value) else []
    wrong += ["enum"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        wrong.append("pattern")
    if isinstance(value, int) and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
    ):
        wrong.append("bounds")
    if isinstance(value, list) and len(value) < schema.get("minItems", 0):
        wrong.append("minItems")
    out = [f"{place}: {what}" for what in wrong]
    if isinstance(value, list):
        for n, item in enumerate(value):
            out += breaches(item, schema.get("items", {}), f"{place}[{n}]")
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        out += [f"{place}: lacks {key}" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            if key not in known and others is False:
                out.append(f"{place}: unknown {key}")
            else:
                out += breaches(item, known.get(key, others or {}), f"{place}.{key}")
    return out


def groups(kind: str) -> list[Document]:
    return [g for d in FILES.values() if d["suite"].startswith(kind) for g in d["groups"]]


def vectors_of(document: Document) -> list[Document]:
    return [test for group in document["groups"] for test in group["tests"]]


ALL = [test for document in FILES.values() for test in vectors_of(document)]


@every_file
def test_every_vector_is_judged_as_stated(name: str) -> None:
    assert list(disagreements(FILES[name])) == []


@every_file
def test_files_keep_the_schema(name: str) -> None:
    assert breaches(FILES[name], SCHEMA, name) == []
    assert name == FILES[name]["suite"] + ".json"
    assert (DIRECTORY / name).stat().st_size < 64 * 1024


@pytest.mark.parametrize(
    ("key", "value", "breach"),
    [
        ("schema", "multifd-vectors-2", "x.schema: const"),
        ("suite", 5, "x.suite: type"),
        ("groups", [], "x.groups: minItems"),
        ("more", 1, "x: unknown more"),
    ],
)
def test_the_schema_refuses(key: str, value: object, breach: str) -> None:
    document = {**FILES["init.json"], key: value}
    assert breaches(document, SCHEMA, "x") == [breach]


@every_file
def test_flags_are_explained(name: str) -> None:
    document = FILES[name]
    assert {flag for test in vectors_of(document) for flag in test["flags"]} == set(
        document["notes"]
    )


def test_ids_are_unique() -> None:
    ids = [test["id"] for test in ALL]
    assert len(set(ids)) == len(ids)


def test_there_is_a_file_for_every_method() -> None:
    assert {f"payload-{method.name}.json" for method in METHODS} <= set(FILES)


def test_requirements_fit_results() -> None:
    for test in ALL:
        assert (test["result"] == "valid") == (test["requirement"] is None), test["id"]
        if test["result"] == "invalid":
            assert load()[test["requirement"]].level is Level.MUST, test["id"]


def test_what_one_message_can_break_has_a_vector() -> None:
    shown = {test["requirement"] for test in ALL}
    of_one = {r for r in RULES if r.split("-")[0] in ("INIT", "PKT", "PAY", "DEV", "MAIN")}
    # these are about several packets of several channels
    assert of_one - shown == {"PKT-21", "PKT-22", "PKT-23"}
    assert set(FAULTS) <= shown


def test_a_broken_stream_ends_its_group() -> None:
    for group in groups("payload"):
        for test in group["tests"][:-1]:
            assert test["result"] == "valid", test["id"]


def memory_is(fields: Document, memory: bytes) -> bool:
    if "pages" in fields:
        return unpack(fields["pages"]) == memory
    return bool(hashlib.sha256(memory).hexdigest() == fields["pages_sha256"])


def pagewise(payload: bytes, pages: int, page_size: int, wbits: int) -> bytes:
    lengths = struct.unpack_from(f">{pages}I", payload)
    rest, out = payload[4 * pages :], b""
    for length in lengths:
        part, rest = rest[:length], rest[length:]
        out += part if length == page_size else zlib.decompress(part, wbits)
    return out


def standard(method: str, page_size: int) -> Callable[[bytes, int], bytes]:
    """A decoder for one channel, made of nothing but the compression library."""
    inflate = zlib.decompressobj().decompress
    unzstd = zstandard.ZstdDecompressor().decompressobj().decompress
    return {
        "none": lambda payload, _: payload,
        "zlib": lambda payload, _: inflate(payload),
        "zstd": lambda payload, _: unzstd(payload),
        "qpl": lambda payload, pages: pagewise(payload, pages, page_size, -15),
        "uadk": lambda payload, pages: pagewise(payload, pages, page_size, 15),
        "qatzip": lambda payload, _: gzip.decompress(payload),
    }[method]


def test_payloads_decode_without_our_decoders() -> None:
    for group in groups("payload"):
        decode = standard(group["method"], group["page_size"])
        for test in group["tests"]:
            if test["result"] == "valid":
                memory = decode(unpack(test["hex"]), test["fields"]["normal_pages"])
                assert memory_is(test["fields"], memory), test["id"]


@pytest.mark.parametrize("group", groups("payload-recorded"), ids=lambda g: g["capture"])
def test_recorded_payloads_are_in_their_capture(group: Document) -> None:
    streams: dict[int, bytes] = {}
    path = DIRECTORY.parent / "captures" / f"{group['capture']}.pcap.zst"
    for event in CaptureReader([path]):
        if isinstance(event, Data) and event.half.forward:
            number = event.half.stream
            streams[number] = streams.get(number, b"") + bytes(event.data)
    (channel,) = (
        data
        for data in streams.values()
        if data.startswith(b"\x11\x22\x33\x44") and data[24] == group["channel"]
    )
    places = [channel.find(unpack(test["hex"])) for test in group["tests"]]
    assert places[0] > 0
    assert places == sorted(places)


def test_what_is_written_anew_says_the_same() -> None:
    for made in suites():
        there = FILES[f"{made['suite']}.json"]
        assert made["notes"] == there["notes"]
        for new, old in zip(vectors_of(made), vectors_of(there), strict=True):
            same = ("id", "comment", "result", "requirement", "flags")
            assert [new[key] for key in same] == [old[key] for key in same]


def test_check_agrees() -> None:
    result = CliRunner().invoke(main, ["--check"])
    assert (result.exit_code, result.output) == (0, f"{len(ALL)} tests, 0 judged otherwise\n")


def test_check_names_what_it_judges_otherwise(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(json.dumps(FILES["init.json"]))
    document["groups"][0]["tests"][0]["result"] = "invalid"
    document["groups"][0]["tests"][1]["fields"]["id"] = 9
    (tmp_path / "init.json").write_text(render(document))
    monkeypatch.setattr(vector_form, "DIRECTORY", tmp_path)
    result = CliRunner().invoke(main, ["--check"])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "init.json init-1: result is invalid, judged valid"
    assert lines[1].startswith("init.json init-2: fields is ")
    assert lines[2] == f"{len(vectors_of(document))} tests, 2 judged otherwise"


@every_file
def test_files_are_as_they_are_written(name: str) -> None:
    assert (DIRECTORY / name).read_text(encoding="utf-8") == render(FILES[name])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\x11\x22", "1122"),
        (bytes(7), "00" * 7),
        (b"\x11" + bytes(8) + b"\xff", "11 00*8 ff"),
    ],
)
def test_run_length_hex(data: bytes, text: str) -> None:
    assert pack(data) == text
    assert unpack(text) == data


@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 40))))
def test_run_length_hex_round_trip(runs: list[tuple[bytes, int]]) -> None:
    data = b"".join(part * times for part, times in runs)
    assert unpack(pack(data)) == data
